"""The registry: entries are numbered, recorded once, never lost, and say who is champion."""

import json
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage import registry
from storage.errors import BrokenArtifact, UnusableInput
from storage.registry import (
    champion,
    champion_entry,
    find_champion,
    find_entry,
    read_registry,
    record_decision,
    record_look,
    record_rollback,
    registry_path,
    undecided_looks,
)
from storage.schemas import REGISTRY


def halved(number: int, spent: float) -> float:
    """Look 1 gets 1/2, look 2 gets 1/4 ..."""
    return 2.0**-number


def about(policy: str, **more: Any) -> dict[str, Any]:
    return {"policy_id": policy, "by": "retrain", "reason": "a reason", **more}


def promote(home: Path, policy: str, key: str | None = None) -> dict[str, Any]:
    return record_decision(home, key or f"promote {policy}", "promoted", about(policy))


def test_an_empty_home_has_no_champion_and_no_entries(tmp_path):
    assert (champion(tmp_path), champion_entry(tmp_path), read_registry(tmp_path)) == (None, None, [])
    assert not registry_path(tmp_path).parent.exists()  # looking creates nothing


def test_who_is_champion_follows_from_promotions_rejections_and_rollbacks(tmp_path):
    promote(tmp_path, "a")
    record_decision(tmp_path, "r", "rejected", about("b"))
    promote(tmp_path, "c")
    record_rollback(tmp_path, "back", {"by": "command", "reason": "worse in use"})
    rows = read_registry(tmp_path)
    assert [row["entry"] for row in rows] == [1, 2, 3, 4]
    assert [row["event"] for row in rows] == ["promoted", "rejected", "promoted", "rolled_back"]
    assert [row["policy_id"] for row in rows] == ["a", "b", "c", "c"]
    assert [row["previous_champion_id"] for row in rows] == [None, "a", "a", "c"]
    assert [row["champion_id"] for row in rows] == ["a", "a", "c", "a"]
    assert champion(tmp_path) == "a"
    entry = champion_entry(tmp_path)
    assert entry is not None and entry["entry"] == 4
    assert pa.Table.from_pylist(rows, schema=REGISTRY).num_rows == 4  # what the results database loads


def test_the_same_key_is_recorded_once_and_gives_the_entry_that_is_there(tmp_path):
    first = promote(tmp_path, "a", "run 1")
    again = record_decision(tmp_path, "run 1", "rejected", about("b"))
    assert again == first and len(read_registry(tmp_path)) == 1
    assert find_entry(tmp_path, "run 1") == first and find_entry(tmp_path, "run 2") is None


def test_looks_are_counted_and_spend_their_level_whatever_comes_of_them(tmp_path):
    one = record_look(tmp_path, "look a", halved, about("a"))
    assert record_look(tmp_path, "look a", halved, about("a")) == one  # a resumed run
    record_decision(tmp_path, "a", "rejected", about("a", comparison=1, level=0.5))
    two = record_look(tmp_path, "look b", halved, about("b"))  # whose run then dies
    three = record_look(tmp_path, "look c", halved, about("c"))
    assert [one["comparison"], two["comparison"], three["comparison"]] == [1, 2, 3]
    assert [row["cumulative_level"] for row in read_registry(tmp_path)] == [0.5, 0.5, 0.75, 0.875]
    assert champion(tmp_path) is None


def test_looks_that_no_decision_about_their_policy_followed_are_undecided(tmp_path):
    record_decision(tmp_path, "weak then", "rejected", about("a"))  # failed its screening that time, without a look
    for key, name in (("1", "a"), ("2", "b"), ("3", "b"), ("4", "c")):  # the run of the first look at b died
        record_look(tmp_path, f"look {key}", halved, about(name))
    record_decision(tmp_path, "b", "rejected", about("b", comparison=3, level=0.125))
    assert [one["policy_id"] for one in undecided_looks(tmp_path)] == ["a", "c"]


def test_a_champion_whose_files_are_gone_is_an_error_that_says_what_to_do(tmp_path):
    assert find_champion(tmp_path) is None
    promote(tmp_path, "gone")
    with pytest.raises(UnusableInput, match="expected the champion policies/gone .* `srpo promote` another"):
        find_champion(tmp_path)


def test_a_decision_against_a_champion_that_lost_the_place_meanwhile_is_refused(tmp_path):
    promote(tmp_path, "a")
    with pytest.raises(UnusableInput, match="expected champion none, with whom b was compared, found a"):
        record_decision(tmp_path, "b", "promoted", about("b"), against=None)
    assert champion(tmp_path) == "a"
    record_decision(tmp_path, "b", "promoted", about("b"), against="a")
    assert champion(tmp_path) == "b"


def test_rolling_back_twice_goes_further_back_and_in_the_end_there_is_none(tmp_path):
    """a, b, c champions in turn: back to b, back to a, back to none; then nobody is left to roll back."""
    for policy in "abc":
        promote(tmp_path, policy)
    held = []
    for number in range(3):
        record_rollback(tmp_path, f"back {number}", {"by": "command", "reason": "trouble"})
        held.append(champion(tmp_path))
    assert held == ["b", "a", None]
    assert champion_entry(tmp_path) is None
    with pytest.raises(UnusableInput, match="found none"):
        record_rollback(tmp_path, "back 4", {"by": "command", "reason": "trouble"})


def test_after_a_rollback_a_new_promotion_is_rolled_back_to_who_held_the_place_before_it(tmp_path):
    promote(tmp_path, "a")
    promote(tmp_path, "b")
    record_rollback(tmp_path, "1", {"by": "command", "reason": "trouble"})
    promote(tmp_path, "c")
    record_rollback(tmp_path, "2", {"by": "command", "reason": "trouble"})
    assert champion(tmp_path) == "a"


def test_a_rollback_can_name_the_entry_whose_champion_is_wanted(tmp_path):
    for policy in "abc":
        promote(tmp_path, policy)
    for wrong, found in ((0, "found 0"), (4, "found 4"), (3, "found the same one")):
        with pytest.raises(UnusableInput, match=found):
            record_rollback(tmp_path, "to", {"by": "command", "reason": "trouble"}, to=wrong)
    record_rollback(tmp_path, "to", {"by": "command", "reason": "trouble"}, to=1)
    assert champion(tmp_path) == "a"


@pytest.mark.parametrize("torn", [b'{"entry":2,"event":"promo', b"\0" * 40, b'{"entry":2}'])
def test_a_torn_last_line_is_no_entry_and_is_kept_beside_the_record(tmp_path, caplog, torn):
    promote(tmp_path, "a")
    with registry_path(tmp_path).open("ab") as handle:
        handle.write(torn)
    assert champion(tmp_path) == "a"
    promote(tmp_path, "b")
    assert [row["policy_id"] for row in read_registry(tmp_path)] == ["a", "b"]
    (aside,) = registry_path(tmp_path).parent.glob("torn-*.txt")
    assert aside.read_bytes() == torn
    assert str(aside) in caplog.text


def test_a_line_changed_or_removed_by_hand_is_found(tmp_path):
    for policy in "abc":
        promote(tmp_path, policy)
    lines = registry_path(tmp_path).read_bytes().splitlines(keepends=True)
    for damaged in ([lines[0], lines[2]], [lines[0], b"{}\n", lines[2]], [lines[1], lines[0], lines[2]]):
        registry_path(tmp_path).write_bytes(b"".join(damaged))
        with pytest.raises(BrokenArtifact, match="was changed by hand or damaged"):
            read_registry(tmp_path)


def test_a_write_that_the_disk_refuses_leaves_the_record_as_it_was(tmp_path, monkeypatch):
    promote(tmp_path, "a")
    before = registry_path(tmp_path).read_bytes()

    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registry.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        promote(tmp_path, "b")
    monkeypatch.undo()
    assert registry_path(tmp_path).read_bytes() == before
    assert promote(tmp_path, "b")["entry"] == 2


def promote_several(home: Path, writer: int) -> None:
    for number in range(10):
        record_look(home, f"{writer} {number}", halved, about(f"{writer}-{number}"))


def test_writers_in_several_processes_and_threads_leave_no_gap(tmp_path):
    with get_context("fork").Pool(3) as pool, ThreadPoolExecutor(2) as threads:
        here = [threads.submit(promote_several, tmp_path, writer) for writer in (10, 11)]
        pool.starmap(promote_several, [(tmp_path, writer) for writer in range(3)])
        for one in here:
            one.result()
    rows = read_registry(tmp_path)
    assert [row["entry"] for row in rows] == list(range(1, 51))
    assert [row["comparison"] for row in rows] == list(range(1, 51))
    assert len({row["key"] for row in rows}) == 50


def test_evidence_is_kept_as_json(tmp_path):
    record_decision(tmp_path, "k", "rejected", about("a", evidence=json.dumps({"difference": 0.25})))
    assert json.loads(read_registry(tmp_path)[0]["evidence"]) == {"difference": 0.25}
