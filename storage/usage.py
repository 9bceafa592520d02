"""Which artifacts living processes use, so that none is deleted under them: locks on single bytes of `<home>/.in_use`.

Every artifact has its byte. Whoever finds, opens or writes one holds a shared lock on it until the process ends, however it
ends; who wants to delete needs the exclusive lock. The shared lock is taken before the manifest is looked at, so an artifact
that was found stays, and one that is just being deleted is waited for and then found gone. Locks belong to processes: one does
not protect an artifact from itself.
"""

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = ".in_use"
_files: dict[str, int] = {}  # home -> its open file; closing one would free all locks of this process on it
_opening = threading.Lock()


def mark_used(home: Path, stage: str, fingerprint: str) -> None:
    """Keep an artifact from being deleted by another process until this one ends; waits while it is being deleted."""
    handle = _open(home)
    if handle is not None:
        fcntl.lockf(handle, fcntl.LOCK_SH, 1, _place(f"{stage}/{fingerprint}"))


@contextmanager
def reserve(home: Path, names: Iterable[str]) -> Iterator[set[str]]:
    """Those of the artifacts ("stage/fingerprint") that no other process uses; until the end of the block none can begin to."""
    handle = _open(home)
    free: set[str] = set()
    try:
        for name in names:
            if handle is not None and _lock_alone(handle, name):
                free.add(name)
        yield free
    finally:
        for name in free:
            fcntl.lockf(handle, fcntl.LOCK_UN, 1, _place(name))  # type: ignore[arg-type]


def _lock_alone(handle: int, name: str) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(name))
    except (BlockingIOError, PermissionError):  # held by another; which of the two is raised differs by system
        return False
    return True


def _place(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)


def _open(home: Path) -> int | None:
    """The home's file of locks; None where this process may not write, and so may not delete either."""
    path = home / FILE
    with _opening:
        handle = _files.get(str(path))
        if handle is not None and not same_file(handle, path):  # the home was removed and made again
            os.close(handle)
            handle = None
        if handle is None:
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError:
                return None
        _files[str(path)] = handle
        return handle


def same_file(handle: int, path: Path) -> bool:
    """Whether `path` still is the file that was opened."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
