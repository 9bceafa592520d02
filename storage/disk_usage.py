"""How much room a folder takes and when anything in it last changed; links are not followed."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from storage.lease import LEASE


def size_on_disk(folder: Path) -> int:
    """Bytes of all files below a folder; files that vanish meanwhile do not count."""
    return sum(status.st_size for name, status in _files(folder) if name != LEASE)


def newest_change(folder: Path) -> datetime:
    """When a file below a folder was last written, or the folder made; looking at a lease is no change."""
    times = [status.st_mtime for name, status in _files(folder) if name != LEASE]
    try:
        return datetime.fromtimestamp(max(times, default=folder.stat().st_mtime), UTC)
    except FileNotFoundError:
        return datetime.now(UTC)


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(Path(entry.path))
                else:
                    yield entry.name, entry.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return
