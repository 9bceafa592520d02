"""Which of very many pairs are the same pair, and what all their votes say together, in flat memory.

Light records (id, position, votes) are spread over bucket files by id, so that equal ids meet in one bucket; each bucket is
summed on its own and its sums are laid down at the position of the first occurrence, from where they are read in order.
"""

from pathlib import Path
from typing import Any

import numpy as np

VOTES_PER_BUCKET = 250_000  # 10 MB of records
RECORD = np.dtype([("id", "<u8"), ("position", "<i8"), ("favour", "<f8"), ("votes", "<i8")])
TALLY = np.dtype([("favour", "<f8"), ("votes", "<i8"), ("occurrences", "<i4")])

Array = np.ndarray[Any, Any]


class VoteTally:
    """Add all rows in order, `close`, then `read` the sums; its files lie in `folder`, which the caller removes."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        """`num_rows` rows will be added."""
        folder.mkdir(parents=True, exist_ok=True)
        self._num_buckets = max(1, -(-num_rows // VOTES_PER_BUCKET))
        self._num_rows = num_rows
        self._folder = folder
        self._position = 0
        for bucket in range(self._num_buckets):
            self._bucket(bucket).write_bytes(b"")

    def add(self, pair_ids: list[str], preference_for_a: Array, num_votes: Array) -> None:
        """Add rows: pair ids of 16 hex digits, P(text a preferred to b) with a, b in sorted order, and votes; each (rows,)."""
        records = np.empty(len(pair_ids), RECORD)
        records["id"] = np.frombuffer(bytes.fromhex("".join(pair_ids)), dtype=">u8")
        records["position"] = np.arange(self._position, self._position + len(pair_ids))
        records["favour"] = preference_for_a * num_votes
        records["votes"] = num_votes
        self._position += len(pair_ids)
        buckets = records["id"] % np.uint64(self._num_buckets)
        for bucket in np.unique(buckets):
            with self._bucket(int(bucket)).open("ab") as handle:
                records[buckets == bucket].tofile(handle)

    def close(self) -> None:
        """Sum each bucket and lay the sums down by position."""
        if self._position != self._num_rows:
            raise ValueError(f"expected {self._num_rows} rows, {self._position} were added")
        with (self._folder / "tally").open("wb") as handle:
            handle.truncate(self._num_rows * TALLY.itemsize)
        for bucket in range(self._num_buckets):
            self._sum_bucket(np.fromfile(self._bucket(bucket), RECORD))
            self._bucket(bucket).unlink()

    def read(self, start: int, stop: int) -> Array:
        """Sums of the rows from `start` to `stop`: favour = votes for text a; occurrences 0 marks a later duplicate."""
        with (self._folder / "tally").open("rb") as handle:
            handle.seek(start * TALLY.itemsize)
            return np.fromfile(handle, TALLY, count=stop - start)

    def _sum_bucket(self, records: Array) -> None:
        if not len(records):
            return
        records = records[np.lexsort((records["position"], records["id"]))]
        starts = np.flatnonzero(np.r_[True, records["id"][1:] != records["id"][:-1]])
        sums = np.empty(len(starts), TALLY)
        sums["favour"] = np.add.reduceat(records["favour"], starts)
        sums["votes"] = np.add.reduceat(records["votes"], starts)
        sums["occurrences"] = np.diff(np.r_[starts, len(records)])
        tally = np.memmap(self._folder / "tally", dtype=TALLY, mode="r+")
        tally[records["position"][starts]] = sums
        tally.flush()

    def _bucket(self, bucket: int) -> Path:
        return self._folder / f"bucket-{bucket}"
