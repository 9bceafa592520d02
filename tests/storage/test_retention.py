"""What gc lets go: never what the champion, a pin, a recent run or a living process stands on, and never an ancestor of those.

Homes are drawn at random: artifacts of several stages and ages with earlier ones as parents, runs, pins and champions over them.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import deletion
from storage.artifact import STAGES, Artifact, find_artifact, hash_of, list_artifacts
from storage.deletion import clean_home
from storage.errors import BrokenArtifact, UnusableInput
from storage.lease import lease, try_lease
from storage.pins import pin, read_pins, unpin
from storage.registry import record_decision, record_look, record_rollback
from storage.retention import CleaningPlan, plan_cleaning

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime.now(UTC)
DAYS = 30
OLD, YOUNG = 40, 2  # days before NOW
ORDER = ("sources", "preferences", "policies", "reference", "completions", "games")


def no_stores(policy: Artifact) -> set[str]:
    return set()


RULE: dict[str, Any] = {"days": DAYS, "stores_of": no_stores, "now": NOW}


def put(home: Path, stage: str, index: int, parents: list[str], age: float = OLD, info: dict[str, Any] | None = None) -> str:
    """A complete artifact as a manifest says it, made `age` days ago; "stage/fingerprint"."""
    name = f"{stage}/{hash_of([stage, index])}"
    folder = home / name
    folder.mkdir(parents=True)
    (folder / "part-00000-0.bin").write_bytes(b"x" * 100)
    listed = {
        f"parent-{i}": {"stage": p.split("/")[0], "fingerprint": p.split("/")[1], "digest": p} for i, p in enumerate(parents)
    }
    manifest = {"stage": stage, "fingerprint": folder.name, "digest": name, "settings": {}, "parents": listed, "counts": {}}
    manifest |= {"files": [], "info": info or {}, "created_at": (NOW - timedelta(days=age)).isoformat()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return name


def put_run(home: Path, run_id: str, names: list[str], age: float, prefect_run: str | None = None) -> None:
    stages = [{"stage": name.split("/")[0], "fingerprint": name.split("/")[1], "digest": name} for name in names]
    when = (NOW - timedelta(days=age)).isoformat()
    (home / "runs").mkdir(exist_ok=True)
    record = {"run_id": run_id, "state": "completed", "settings": {}, "stages": stages, "recorded_at": when}
    record |= {"prefect_run": prefect_run}
    (home / "runs" / f"{run_id}.json").write_text(json.dumps(record))


def promote(home: Path, policy: str, key: str, run_id: str | None = None) -> None:
    about = {"policy_id": policy.split("/")[1], "reason": "better", "by": "command", "run_id": run_id}
    record_decision(home, key, "promoted", about)


def names(home: Path) -> set[str]:
    return {f"{one.stage}/{one.fingerprint}" for stage in STAGES for one in list_artifacts(home, stage)}


def parents_of(home: Path, name: str) -> list[str]:
    manifest = json.loads((home / name / "manifest.json").read_text())
    return [f"{parent['stage']}/{parent['fingerprint']}" for parent in manifest["parents"].values()]


class Drawn(NamedTuple):
    """A random home, small enough for hundreds of them."""

    artifacts: list[tuple[str, list[int], bool]]  # stage, numbers of earlier ones it was made from, whether made recently
    pinned: list[int]
    run: list[int]  # used by a recent run
    champions: list[int]  # policies promoted one after the other


@st.composite
def homes(draw: st.DrawFn) -> Drawn:
    count = draw(st.integers(1, 12))
    artifacts = []
    for index in range(count):
        stage = draw(st.sampled_from(ORDER))
        parents = draw(st.lists(st.integers(0, index - 1), max_size=3, unique=True)) if index else []
        artifacts.append((stage, parents, draw(st.integers(0, 9)) == 0))
    several = st.lists(st.integers(0, count - 1), max_size=2, unique=True)
    policies = [index for index, (stage, _, _) in enumerate(artifacts) if stage == "policies"]
    champions = draw(st.lists(st.sampled_from(policies), max_size=3)) if policies else []
    return Drawn(artifacts, draw(several), draw(several), champions)


def build(home: Path, drawn: Drawn) -> list[str]:
    made: list[str] = []
    for index, (stage, parents, young) in enumerate(drawn.artifacts):
        made.append(put(home, stage, index, [made[p] for p in parents], YOUNG if young else OLD))
    pin(home, [made[index] for index in drawn.pinned], "because")
    put_run(home, "recent", [made[index] for index in drawn.run], YOUNG)
    put_run(home, "long-ago", made, OLD)
    for number, index in enumerate(drawn.champions):
        promote(home, made[index], f"key-{number}")
    return made


def wanted(drawn: Drawn, made: list[str]) -> set[str]:
    """By definition: what is recent, pinned, used or champion, and judgements of champions; then all parents."""
    keep = {*drawn.pinned, *drawn.run, *(i for i, (_, _, young) in enumerate(drawn.artifacts) if young)}
    history: list[int] = []
    for index in drawn.champions:
        history += [index] if history[-1:] != [index] else []
    judged = set(history[-2:])
    for index, (stage, parents, _) in enumerate(drawn.artifacts):  # parents come first, so one pass is enough
        if stage not in ("policies", "reference") and judged & set(parents):
            judged.add(index)
    keep |= judged
    for index in reversed(range(len(made))):
        if index in keep:
            keep |= set(drawn.artifacts[index][1])
    return {made[index] for index in keep}


@settings(max_examples=60, deadline=None)
@given(homes())
def test_what_stays_is_what_the_rule_says_and_a_second_time_nothing_goes(drawn: Drawn) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        made = build(home, drawn)
        announced = {item.name for item in plan_cleaning(home, **RULE).going}
        gone = clean_home(home, **RULE)
        assert names(home) == wanted(drawn, made) == set(made) - announced
        assert {item.name for item in gone.going} == announced and all(item.reason for item in gone.staying)
        assert all((home / parent).is_dir() for name in names(home) for parent in parents_of(home, name))
        assert clean_home(home, **RULE).going == []


class Killed(BaseException):
    """Stands for a SIGKILL: nothing behind it runs."""


@settings(max_examples=100, deadline=None)
@given(homes(), st.integers(0, 8))
def test_killed_anywhere_it_leaves_no_artifact_without_its_parents(drawn: Drawn, after: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        home = Path(folder)
        made = build(home, drawn)
        before = {name: parents_of(home, name) for name in made}
        left, move = iter(range(after)), os.rename

        def rename(source: Path, target: Path) -> None:
            if next(left, None) is None:
                raise Killed
            move(source, target)

        patch.setattr(deletion.os, "rename", rename)
        try:
            clean_home(home, **RULE)
        except Killed:
            assert all(set(before[name]) <= names(home) for name in names(home))
        patch.undo()
        clean_home(home, **RULE)
        assert names(home) == wanted(drawn, made) and not (home / deletion.TRASH).exists()


class TestRoots:
    """Single reasons to stay, each in a home where everything is old."""

    def stay(self, home: Path, **rule: Any) -> dict[str, str]:
        return {item.name: item.reason for item in plan_cleaning(home, **(RULE | rule)).staying}

    def test_the_champion_its_evidence_and_who_a_rollback_brings_back_stay_and_others_go(self, tmp_path: Path) -> None:
        policies = [put(tmp_path, "policies", index, []) for index in range(4)]
        games = [put(tmp_path, "games", i, [put(tmp_path, "completions", i, [p])]) for i, p in enumerate(policies)]
        for index in (0, 1, 2):
            promote(tmp_path, policies[index], str(index))
        reasons = self.stay(tmp_path)
        assert reasons[policies[2]] == "champion" and reasons[policies[1]] == "champion before"
        assert {games[1], games[2]} <= set(reasons) and not {policies[0], policies[3], games[0], games[3]} & set(reasons)
        record_rollback(tmp_path, "back", {"by": "command", "reason": "worse"})
        reasons = self.stay(tmp_path)
        assert reasons[policies[1]] == "champion" and reasons[policies[0]] == "champion before"
        assert policies[2] not in reasons

    def test_a_challenger_that_waits_for_approval_stays_with_its_texts_until_it_is_decided_on(self, tmp_path: Path) -> None:
        pairs = put(tmp_path, "preferences", 0, [])
        waiting, other = put(tmp_path, "policies", 0, [pairs]), put(tmp_path, "policies", 1, [])
        texts = [put(tmp_path, "completions", index, [one]) for index, one in enumerate((waiting, other))]
        games = [put(tmp_path, "games", index, [one]) for index, one in enumerate(texts)]
        put_run(tmp_path, "long-ago", [waiting, texts[1]], OLD, prefect_run="suspended")
        about = {"policy_id": waiting.split("/")[1], "by": "retrain", "reason": "screening passed", "prefect_run": "suspended"}
        look = record_look(tmp_path, "look", lambda number, spent: 0.03, about)
        reasons = self.stay(tmp_path)
        assert set(reasons) == {pairs, waiting, texts[0], games[0], texts[1], other}  # its opponent's texts, too
        assert reasons[waiting] == "challenger, undecided" and "entry 1 of the registry" in reasons[games[0]]
        record_decision(tmp_path, "decision", "rejected", about | {"comparison": look["comparison"], "level": look["level"]})
        assert self.stay(tmp_path) == {}

    def test_a_look_whose_run_died_keeps_nothing_once_the_next_look_at_it_is_decided_on(self, tmp_path: Path) -> None:
        about = {"policy_id": put(tmp_path, "policies", 0, []).split("/")[1], "by": "retrain", "reason": "screening passed"}
        first, second = (record_look(tmp_path, key, lambda number, spent: 0.01, about) for key in ("look 1", "look 2"))
        assert first["comparison"] != second["comparison"] and self.stay(tmp_path)
        record_decision(tmp_path, "decision", "rejected", about | {"comparison": second["comparison"], "level": 0.01})
        assert self.stay(tmp_path) == {}

    def test_what_the_run_used_that_made_the_champion_stays_however_old_the_run(self, tmp_path: Path) -> None:
        policy, table = put(tmp_path, "policies", 0, []), put(tmp_path, "diagnostics", 0, [])
        put_run(tmp_path, "long-ago", [policy, table], OLD)
        promote(tmp_path, policy, "key", "long-ago")
        assert self.stay(tmp_path)[table] == "evidence of the champion"

    def test_pins_hold_until_they_are_taken_away(self, tmp_path: Path) -> None:
        parent = put(tmp_path, "preferences", 0, [])
        name = put(tmp_path, "policies", 0, [parent])
        pin(tmp_path, [name], "for the paper")
        assert read_pins(tmp_path) == {name: "for the paper"}
        assert self.stay(tmp_path) == {name: "pinned: for the paper", parent: f"needed by {name}"}
        assert unpin(tmp_path, [name, parent]) == [name] and self.stay(tmp_path) == {}

    def test_another_pin_keeps_those_before_it(self, tmp_path: Path) -> None:
        first, second = (put(tmp_path, "games", index, []) for index in range(2))
        pin(tmp_path, [first], "for the paper")
        pin(tmp_path, [second], "for the talk")
        assert read_pins(tmp_path) == {first: "for the paper", second: "for the talk"}

    def test_a_run_that_began_long_ago_and_ended_lately_is_recent(self, tmp_path: Path) -> None:
        used = put(tmp_path, "games", 0, [])
        put_run(tmp_path, "long", [used], YOUNG)
        record = tmp_path / "runs" / "long.json"
        began = {"started_at": (NOW - timedelta(days=OLD)).isoformat()}
        record.write_text(json.dumps(json.loads(record.read_text()) | began))
        assert self.stay(tmp_path) == {used: "used by run long"}

    def test_frozen_games_and_their_looks_always_stay(self, tmp_path: Path) -> None:
        kept = {put(tmp_path, "sentinels", 0, []), put(tmp_path, "sentinel_looks", 0, [])}
        assert set(self.stay(tmp_path)) == kept

    def test_days_move_the_line(self, tmp_path: Path) -> None:
        put(tmp_path, "games", 0, [], age=5)
        assert self.stay(tmp_path, days=6) and not self.stay(tmp_path, days=4)
        with pytest.raises(UnusableInput, match="-1"):
            plan_cleaning(tmp_path, days=-1, stores_of=no_stores)

    def test_rows_of_a_reference_stay_with_it_and_go_with_it(self, tmp_path: Path) -> None:
        name = put(tmp_path, "policies", 0, [])
        for key in ("of-policy", "of-nobody"):
            (tmp_path / "reference_rows" / key).mkdir(parents=True)
            file = tmp_path / "reference_rows" / key / "part-00000-0.parquet"
            file.write_bytes(b"rows")
            os.utime(file, (0, 0))
        pin(tmp_path, [name], "why")
        assert self.stay(tmp_path, stores_of=lambda one: {"of-policy"}).keys() == {name, "reference_rows/of-policy"}
        unpin(tmp_path, [name])
        clean_home(tmp_path, **(RULE | {"stores_of": lambda one: {"of-policy"}}))
        assert list((tmp_path / "reference_rows").iterdir()) == []

    def test_unfinished_leftovers_go_when_old_and_stay_while_written(self, tmp_path: Path) -> None:
        for index, age in ((0, OLD), (1, OLD), (2, YOUNG)):
            file = tmp_path / "policies" / f"{index:016d}" / "checkpoint"
            file.parent.mkdir(parents=True)
            file.write_text("x")
            os.utime(file, ((NOW - timedelta(days=age)).timestamp(),) * 2)
        with lease(tmp_path / "policies" / f"{1:016d}"):
            reasons = self.stay(tmp_path)
            assert reasons == {f"policies/{1:016d}": "being written", f"policies/{2:016d}": "changed recently"}
            assert [item.name for item in clean_home(tmp_path, **RULE).going] == [f"policies/{0:016d}"]

    def test_what_cannot_be_read_stops_everything(self, tmp_path: Path) -> None:
        put(tmp_path, "games", 0, [])
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "torn.json").write_text('{"run_id"')
        with pytest.raises(BrokenArtifact, match="torn.json"):
            clean_home(tmp_path, **RULE)
        assert names(tmp_path)

    def test_replies_runs_and_registry_are_never_touched(self, tmp_path: Path) -> None:
        promote(tmp_path, put(tmp_path, "policies", 0, []), "key")
        put_run(tmp_path, "long-ago", [], OLD)
        ledger = tmp_path / "reply_ledger" / "replies-1.jsonl"
        ledger.parent.mkdir()
        ledger.write_text("{}\n")
        os.utime(ledger, (0, 0))
        clean_home(tmp_path, **(RULE | {"days": 0}))
        assert ledger.exists() and (tmp_path / "runs/long-ago.json").exists() and (tmp_path / "registry/entries.jsonl").exists()


FINDING = """
import sys, time
from pathlib import Path
from storage.artifact import find_artifact
print(find_artifact(Path(sys.argv[1]), *sys.argv[2].split("/")) is not None, flush=True)
time.sleep(60)
"""


def test_what_another_process_found_stays_with_its_ancestors_until_that_process_ends(tmp_path: Path) -> None:
    grandparent = put(tmp_path, "sources", 0, [])
    parent = put(tmp_path, "preferences", 0, [grandparent])
    child = put(tmp_path, "policies", 0, [parent])
    finder = subprocess.Popen([sys.executable, "-c", FINDING, str(tmp_path), parent], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert finder.stdout is not None and finder.stdout.readline() == "True\n"
        plan = clean_home(tmp_path, **RULE)
        assert [item.name for item in plan.going] == [child] and names(tmp_path) == {parent, grandparent}
        assert {item.name: item.reason for item in plan.staying}[parent] == "in use by a process"
    finally:
        finder.kill()
        finder.wait()
    assert len(clean_home(tmp_path, **RULE).going) == 2 and names(tmp_path) == set()


def test_who_looks_for_an_artifact_that_is_being_deleted_waits_and_finds_none(tmp_path: Path) -> None:
    name = put(tmp_path, "policies", 0, [])
    with deletion.reserve(tmp_path, [name]) as free:
        assert free == {name}
        finder = subprocess.Popen(
            [sys.executable, "-c", FINDING, str(tmp_path), name], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        try:
            time.sleep(1.0)
            assert deletion._take_away(tmp_path, plan_cleaning(tmp_path, **RULE).going[0])
        except BaseException:
            finder.kill()
            raise
    try:
        assert finder.stdout is not None and finder.stdout.readline() == "False\n"
    finally:
        finder.kill()
        finder.wait()


def test_an_artifact_that_arrives_during_the_planning_keeps_its_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run found the parent, wrote a child and ended between the first look at the home and the locks."""
    parent = put(tmp_path, "preferences", 0, [])
    plans: list[CleaningPlan] = []

    def planning(home: Path, **rule: Any) -> CleaningPlan:
        plans.append(plan_cleaning(home, **rule))
        if len(plans) == 1:
            put(home, "policies", 0, [parent], age=0)
        return plans[-1]

    monkeypatch.setattr(deletion, "plan_cleaning", planning)
    assert [item.name for item in plan_cleaning(tmp_path, **RULE).going] == [parent]
    assert clean_home(tmp_path, **RULE).going == [] and parent in names(tmp_path)


def test_nobody_else_deletes_while_what_was_deleted_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another gc that began then would find its own folder for deleted things gone before it can move anything there."""
    put(tmp_path, "policies", 0, [])
    empty, held = deletion._empty_trash, []

    def emptying(home: Path) -> None:
        with try_lease(home / ".publishing") as free:
            held.append(not free)
        empty(home)

    monkeypatch.setattr(deletion, "_empty_trash", emptying)
    clean_home(tmp_path, **RULE)
    assert held == [True]


def test_what_someone_begins_to_write_after_the_planning_stays(tmp_path: Path) -> None:
    name = put(tmp_path, "policies", 0, [])
    (item,) = plan_cleaning(tmp_path, **RULE).going
    with lease(tmp_path / name):
        assert not deletion._take_away(tmp_path, item)
    assert names(tmp_path) == {name}


def test_a_lease_on_a_folder_that_was_deleted_meanwhile_is_one_on_the_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "policies" / "a"
    folder.mkdir(parents=True)
    waiting = "import pathlib, sys; from storage.lease import lease\nwith lease(pathlib.Path(sys.argv[1])): print('held')"
    with try_lease(folder) as held:
        assert held
        waiter = subprocess.Popen([sys.executable, "-c", waiting, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        folder.rename(tmp_path / "gone")
    assert waiter.communicate(timeout=20)[0] == "held\n" and (folder / ".lease").exists()


def test_find_artifact_still_finds_what_stays(tmp_path: Path) -> None:
    name = put(tmp_path, "policies", 0, [], age=YOUNG)
    clean_home(tmp_path, **RULE)
    assert find_artifact(tmp_path, *name.split("/")) is not None
