"""Every reply a judge was ever paid for, by the hash of the request, in `<home>/reply_ledger/`.

The ledger outlives artifacts and fingerprints: a request found here is never sent again, by any run. Each process appends to a
file of its own, so several may write at once; reading merges all files. Failed calls are not replies and are never kept.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.errors import BrokenArtifact
from storage.journal import Journal, new_journal
from storage.offset_index import OffsetIndex

FOLDER = "reply_ledger"
_PREFIX = b'{"request_hash":"'  # the hash comes first in each line, so that indexing parses no JSON
_REFRESH_SECONDS = 1.0


class ReplyLedger:
    """Look up and keep replies. Holds one offset per reply in memory, never the replies."""

    def __init__(self, home: Path) -> None:
        """Open the ledger of `home`; nothing is created until a reply is kept."""
        self.folder = home / FOLDER
        self._index = OffsetIndex()
        self._read_to: dict[Path, int] = {}
        self._refreshed_at = float("-inf")
        self._journal: Journal | None = None

    def find(self, request_hash: str) -> dict[str, Any] | None:
        """The record kept under `request_hash`, by whichever process kept it first, or None."""
        return self._read(request_hash) if request_hash in self else None

    def __contains__(self, request_hash: str) -> bool:
        """Whether a record is kept under `request_hash`."""
        if request_hash not in self._index and time.monotonic() - self._refreshed_at > _REFRESH_SECONDS:
            self._refresh()
        return request_hash in self._index

    def keep(self, record: Mapping[str, Any]) -> None:
        """Append `record`; it needs a `request_hash` and the `response` received, else ValueError."""
        if not record.get("request_hash") or not isinstance(record.get("response"), dict):
            raise ValueError(f"expected a record with request_hash and response, found {sorted(record)}")
        if self._journal is None:
            self._journal = new_journal(self.folder, "replies")
        key = str(record["request_hash"])
        offset = self._journal.append({"request_hash": key} | dict(record))
        self._index.add(key, self._journal.path, offset)

    def close(self) -> None:
        """Force this process's file to disk and close it."""
        self._index.close()
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def __len__(self) -> int:
        """How many requests have a reply."""
        self._refresh()
        return len(self._index)

    def __enter__(self) -> Self:
        """The ledger itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close this process's file."""
        self.close()

    def _read(self, request_hash: str) -> dict[str, Any] | None:
        try:
            record = json.loads(self._index.line(request_hash) or b"")
            return record if record["request_hash"] == request_hash else None
        except (OSError, ValueError) as error:
            path, offset = self._index.place(request_hash) or (self.folder, 0)
            raise _broken(path, offset, error) from error

    def _refresh(self) -> None:
        """Index what was appended to any file since the last look."""
        own = self._journal.path if self._journal is not None else None  # what this process keeps is indexed as it is kept
        for path in sorted(self.folder.glob("replies-*.jsonl")):
            if path == own:
                continue
            start = self._read_to.get(path, 0)
            if path.stat().st_size > start:
                self._read_to[path] = self._index_lines(path, start)
        self._refreshed_at = time.monotonic()

    def _index_lines(self, path: Path, start: int) -> int:
        """Index the whole lines from `start` on and return where the last of them ends; a torn last line waits there."""
        with path.open("rb") as handle:
            handle.seek(start)
            offset = start
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                if not line.startswith(_PREFIX):
                    raise _broken(path, offset, "other bytes")
                key = line[len(_PREFIX) : line.index(b'"', len(_PREFIX))].decode("ascii")
                self._index.add(key, path, offset)
                offset += len(line)
        return offset


def find_reply(home: Path, request_hash: str) -> dict[str, Any] | None:
    """The stored record of one request (request, response, request id, seconds, attempts, time), or None."""
    with ReplyLedger(home) as ledger:
        return ledger.find(request_hash)


def _broken(path: Path, offset: int, found: object) -> BrokenArtifact:
    return BrokenArtifact(f"expected a reply at byte {offset} of {path}, found {found}; remove that line and run again")
