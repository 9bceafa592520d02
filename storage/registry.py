"""Who is champion, since when and on which evidence: `<home>/registry/entries.jsonl`, which only ever grows.

One line is one entry, numbered from 1 without gaps and forced to disk before it counts. Every entry has a key that no other has:
recording it again, as a resumed run does, gives the entry that is there. A last line torn by a crash is no entry; the next
writer moves it to a file of its own beside the record, so that nothing vanishes.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.artifact import Artifact, canonical_json, find_artifact
from storage.errors import BrokenArtifact, UnusableInput
from storage.lease import lease
from storage.schemas import REGISTRY

ENTRIES = "entries.jsonl"
EVENTS = ("looked", "promoted", "rejected", "rolled_back")
REQUIRED = {"entry", "at", "event", "policy_id", "champion_id", "previous_champion_id", "reason", "cumulative_level", "key"}
ANY = object()  # whoever is champion now
logger = logging.getLogger("srpo.registry")

Row = dict[str, Any]


def registry_path(home: Path) -> Path:
    """The file with the entries; it need not exist."""
    return home / "registry" / ENTRIES


def read_registry(home: Path) -> list[Row]:
    """All entries, oldest first; a torn last line is none. Raises BrokenArtifact for any other line that is no entry."""
    return _parse(registry_path(home))[0]


def champion(home: Path) -> str | None:
    """The id of the policy that is champion now; None = there is none."""
    entries = read_registry(home)
    return entries[-1]["champion_id"] if entries else None


def find_champion(home: Path) -> Artifact | None:
    """The champion's policy; None = there is no champion. Raises UnusableInput when its artifact is gone."""
    holder = champion(home)
    found = None if holder is None else find_artifact(home, "policies", holder)
    if holder is not None and found is None:
        raise UnusableInput(f"expected the champion policies/{holder} in {home}, found it gone; `srpo promote` another")
    return found


def champion_entry(home: Path) -> Row | None:
    """The entry that made the present champion; None = there is no champion."""
    entries = read_registry(home)
    changes = [one for one in entries if one["champion_id"] != one["previous_champion_id"]]
    return changes[-1] if changes and changes[-1]["champion_id"] is not None else None


def rollback_target(home: Path) -> str | None:
    """Who would be champion after a rollback now; None = nobody."""
    entries = read_registry(home)
    return _champion_before(entries) if entries and entries[-1]["champion_id"] is not None else None


def find_entry(home: Path, key: str) -> Row | None:
    """The entry recorded under `key`, or None."""
    return next((one for one in read_registry(home) if one["key"] == key), None)


def undecided_looks(home: Path) -> list[Row]:
    """The looks at the confirmation set that no decision about their policy followed, oldest first: a person is asked, or the run
    died."""
    entries = read_registry(home)
    decided = {one["policy_id"]: one["entry"] for one in entries if one["event"] in ("promoted", "rejected")}
    return [one for one in entries if one["event"] == "looked" and decided.get(one["policy_id"], 0) < one["entry"]]


def record_look(home: Path, key: str, level_of: Callable[[int, float], float], about: Mapping[str, Any]) -> Row:
    """Take the next look at the confirmation set, before anything is seen of it; the entry of `key` where it was taken before.

    `level_of(number, spent)` gives the error level of look `number` (from 1) when `spent` is what all looks before it took.
    `about`: policy_id, reason, by and whatever else of an entry's columns is known.
    """
    with _writing(home) as entries:
        found = _find(entries, key)
        if found is not None:
            return found
        number = 1 + max((one["comparison"] or 0 for one in entries), default=0)
        level = level_of(number, entries[-1]["cumulative_level"] if entries else 0.0)
        return _append(home, entries, {**about, "event": "looked", "key": key, "comparison": number, "level": level})


def record_decision(home: Path, key: str, event: str, about: Mapping[str, Any], *, against: Any = ANY) -> Row:
    """Record that a policy is promoted or rejected, once; the entry of `key` where that is done.

    `against`: the champion that was compared with. Raises UnusableInput when another one holds the place by now.
    """
    with _writing(home) as entries:
        found = _find(entries, key)
        if found is not None:
            return found
        holder = entries[-1]["champion_id"] if entries else None
        if against is not ANY and against != holder:
            raise UnusableInput(
                f"expected champion {against or 'none'}, with whom {about['policy_id']} was compared, found {holder or 'none'}: "
                "another one took the place meanwhile; run the retraining again"
            )
        return _append(home, entries, {**about, "event": event, "key": key})


def record_rollback(
    home: Path, key: str, about: Mapping[str, Any], *, to: int | None = None, check: Callable[[str | None], None] = lambda _: None
) -> Row:
    """Give the place back to the champion before the present one, or to who held it after entry number `to`.

    `check` is given who would be champion, and raises if that cannot be. Raises UnusableInput when there is no champion, no such
    entry, or when it would change nothing.
    """
    with _writing(home) as entries:
        found = _find(entries, key)
        if found is not None:
            return found
        present = entries[-1]["champion_id"] if entries else None
        target = _champion_before(entries) if to is None else _champion_after(entries, to)
        if target == present:
            raise UnusableInput(
                f"expected an entry with another champion than {present or 'none'}, found the same one after entry {to}; "
                "`srpo champion` lists the entries"
            )
        check(target)
        return _append(home, entries, {**about, "event": "rolled_back", "key": key, "policy_id": present, "champion_id": target})


def _champion_before(entries: list[Row]) -> str | None:
    """Who held the place before the present champion won it; going back twice goes further back, not forth again."""
    history: list[str | None] = [None]
    for one in entries:
        if one["champion_id"] == history[-1]:
            continue
        if one["event"] == "rolled_back" and one["champion_id"] in history:
            last = len(history) - 1 - history[::-1].index(one["champion_id"])
            del history[last + 1 :]
        else:
            history.append(one["champion_id"])
    if len(history) < 2:
        raise UnusableInput("expected a champion to roll back, found none in the registry; `srpo promote` makes one")
    return history[-2]


def _champion_after(entries: list[Row], number: int) -> str | None:
    if not 1 <= number <= len(entries):
        raise UnusableInput(
            f"expected the number of an entry between 1 and {len(entries)}, found {number}; `srpo champion` lists the entries"
        )
    return entries[number - 1]["champion_id"]


def _find(entries: list[Row], key: str) -> Row | None:
    return next((one for one in entries if one["key"] == key), None)


@contextmanager
def _writing(home: Path) -> Iterator[list[Row]]:
    """Hold the registry's lease, with a torn last line set aside; gives the entries."""
    path = registry_path(home)
    with lease(path.parent):
        entries, whole = _parse(path)
        if path.exists() and whole < path.stat().st_size:
            _set_aside(path, whole)
        yield entries


def _set_aside(path: Path, whole: int) -> None:
    """Move what follows the first `whole` bytes, a line that a crash tore, into a file of its own."""
    with path.open("r+b") as handle:
        handle.seek(whole)
        torn = handle.read()
        aside = path.with_name(f"torn-{datetime.now(UTC):%Y%m%d-%H%M%S}-{whole}.txt")
        with aside.open("wb") as kept:
            kept.write(torn)
            kept.flush()
            os.fsync(kept.fileno())
        handle.truncate(whole)
        os.fsync(handle.fileno())
    logger.warning("the last line of %s was torn by a crash and is no entry; it now lies in %s", path, aside)


def _append(home: Path, entries: list[Row], values: Mapping[str, Any]) -> Row:
    if values["event"] not in EVENTS:
        raise ValueError(f"unknown event {values['event']!r}")
    present = entries[-1]["champion_id"] if entries else None
    after = {"promoted": values["policy_id"], "rolled_back": values.get("champion_id")}
    row = dict.fromkeys(REGISTRY.names) | {
        **values,
        "entry": len(entries) + 1,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "champion_id": after.get(values["event"], present),
        "previous_champion_id": present,
        "cumulative_level": (entries[-1]["cumulative_level"] if entries else 0.0) + _newly_spent(values),
    }
    if set(row) != set(REGISTRY.names):
        raise ValueError(f"expected the columns of an entry, found also {sorted(set(row) - set(REGISTRY.names))}")
    _write_line(registry_path(home), row)
    entries.append(row)
    return row


def _newly_spent(values: Mapping[str, Any]) -> float:
    """A look spends its level; the decision that follows names the same look and spends nothing more."""
    return float(values["level"]) if values["event"] == "looked" else 0.0


def _write_line(path: Path, row: Row) -> None:
    """Append the whole line and force it to disk, or leave the file as it was."""
    line = canonical_json(row).encode() + b"\n"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        start, written = os.fstat(handle).st_size, 0
        try:
            while written < len(line):
                written += os.write(handle, line[written:])
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, start)
            raise
    finally:
        os.close(handle)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _parse(path: Path) -> tuple[list[Row], int]:
    """The entries, and how many bytes of the file they take: less than its size when the last line is torn."""
    entries: list[Row] = []
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    for line in content[:whole].split(b"\n")[:-1]:
        entries.append(_entry(line, len(entries) + 1, path))
    return entries, whole


def _entry(line: bytes, number: int, path: Path) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not set(row) >= REQUIRED or row["entry"] != number:
        raise BrokenArtifact(
            f"expected entry {number} in line {number} of {path}, found other bytes: the record was changed by hand or damaged; "
            "restore it from a copy"
        )
    return dict.fromkeys(REGISTRY.names) | row
