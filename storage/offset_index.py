"""Where the line of each key starts in a set of append-only files: offsets are held in memory, never keys or lines.

A hash table in two arrays, 16 bytes a slot: a dictionary of strings and integers would take several times as much. Keys are
known by their 64-bit hash alone, so whoever reads a line compares its key (two of a million keys share a hash once in ten
million tables).
"""

from array import array
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

_OPEN_FILES = 16
_OFFSET_BITS = 48  # the file's number stands above them, so that a place is one integer
_FIRST_SLOTS = 1024
_MOST_FULL = 0.6  # share of the slots; fuller tables search long


class OffsetIndex:
    """Lines by key. 27 to 53 bytes of memory a line."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._hashes, self._places = _empty(_FIRST_SLOTS), _empty(_FIRST_SLOTS)
        self._size = 0
        self._paths: list[Path] = []
        self._numbers: dict[Path, int] = {}
        self._handles: OrderedDict[int, BinaryIO] = OrderedDict()

    def add(self, key: str, path: Path, offset: int) -> None:
        """Remember where the line of `key` starts; the first place of a key stays its place."""
        number = self._numbers.get(path)
        if number is None:
            number = self._numbers[path] = len(self._paths)
            self._paths.append(path)
        slot = self._slot(_hash(key))
        if not self._hashes[slot]:
            self._hashes[slot], self._places[slot] = _hash(key), number << _OFFSET_BITS | offset
            self._size += 1
            if self._size > _MOST_FULL * len(self._hashes):
                self._grow()

    def place(self, key: str) -> tuple[Path, int] | None:
        """File and byte of the line of `key`, or None."""
        slot = self._slot(_hash(key))
        if not self._hashes[slot]:
            return None
        return self._paths[self._places[slot] >> _OFFSET_BITS], self._places[slot] & (1 << _OFFSET_BITS) - 1

    def line(self, key: str) -> bytes | None:
        """The line of `key` as it lies in the file, or None. Raises OSError when the file is gone."""
        found = self.place(key)
        if found is None:
            return None
        handle = self._open(found[0])
        handle.seek(found[1])
        return handle.readline()

    def __contains__(self, key: str) -> bool:
        """Whether a line of `key` is known."""
        return bool(self._hashes[self._slot(_hash(key))])

    def __len__(self) -> int:
        """How many keys have a line."""
        return self._size

    def close(self) -> None:
        """Close the files; reading opens them again."""
        while self._handles:
            self._handles.popitem()[1].close()

    def _slot(self, key_hash: int) -> int:
        """The slot of a hash, or the empty one where it would go."""
        mask = len(self._hashes) - 1
        slot = key_hash & mask
        while self._hashes[slot] and self._hashes[slot] != key_hash:
            slot = slot + 1 & mask
        return slot

    def _grow(self) -> None:
        hashes, places = self._hashes, self._places
        self._hashes, self._places = _empty(2 * len(hashes)), _empty(2 * len(hashes))
        for key_hash, place in zip(hashes, places, strict=True):
            if key_hash:
                slot = self._slot(key_hash)
                self._hashes[slot], self._places[slot] = key_hash, place

    def _open(self, path: Path) -> BinaryIO:
        number = self._numbers[path]
        if number not in self._handles:
            self._handles[number] = path.open("rb")
            if len(self._handles) > _OPEN_FILES:
                self._handles.popitem(last=False)[1].close()
        self._handles.move_to_end(number)
        return self._handles[number]


def _hash(key: str) -> int:
    """64 bits, never 0, which stands for an empty slot. Of this process only, like the table."""
    return hash(key) & (1 << 64) - 1 or 1


def _empty(slots: int) -> "array[int]":
    return array("Q", bytes(8 * slots))
