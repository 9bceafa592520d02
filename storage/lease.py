"""One writer at a time on a folder, by flock: the kernel frees the lease when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEASE = ".lease"


@contextmanager
def lease(folder: Path) -> Iterator[None]:
    """Hold the folder's writer lease; wait while another process holds it. The folder is made where it is missing."""
    handle = _hold(folder)
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def try_lease(folder: Path) -> Iterator[bool]:
    """Hold the lease of an existing folder if nobody else does; gives whether it is held."""
    handle = os.open(folder / LEASE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    except BlockingIOError:
        held = False
    try:
        yield held
    finally:
        os.close(handle)


def _hold(folder: Path) -> int:
    """The locked file; a folder that was deleted during the wait is made again, for its lease would protect nothing."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(folder / LEASE, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(handle), (folder / LEASE).stat()):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
