"""One writer at a time on a folder, by flock: the kernel frees the lease when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lease(folder: Path) -> Iterator[None]:
    """Hold the folder's writer lease; wait while another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lease", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
