"""From a win rate, a verdict or a run back to its sources, and the same by SQL."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage import parquet, schemas
from storage.artifact import Artifact, list_artifacts
from storage.errors import UnusableInput
from storage.lineage import Lineage, sql_of, trace_lineage
from storage.listing import artifact_rows, run_rows
from storage.lookup import artifacts_named, find_record
from storage.pins import pin
from storage.registry import record_decision
from storage.results_db import publish_snapshot, run_query
from tests.homes import graded, put, put_completions, put_games, put_policy, put_preferences, put_prompts

SHA = "ab" * 32


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source file, pairs, a reference, a policy judged on two sets, and a run that made the policy and its games."""
    place = tmp_path_factory.mktemp("home")
    source = put(
        place,
        "sources",
        {"part": ([], schemas.PREFERENCES)},
        settings={"sha256": SHA, "name": "pairs.jsonl"},
        info={"source": "/data/pairs.jsonl", "format": "columns"},
    )
    template = put_preferences(place)
    preferences = put(
        place,
        "preferences",
        {"part": (list(template.rows()), schemas.PREFERENCES)},
        settings={"domain": "news"},
        parents={"source-00000": source},
    )
    sft = put_policy(place, "sft", "sft", {})
    began = datetime.now(UTC)
    srpo = put_policy(place, "srpo", "srpo", {"preferences": preferences, "reference": sft}, beta=0.1)
    used: list[Artifact] = [sft, srpo]
    for name in ("id", "long"):
        prompts = put_prompts(place, name, "news", 4)
        used += [put_completions(place, srpo, prompts, 1)]
        used += [put_games(place, used[-1], prompts, graded)]
    record = {"run_id": "20260101-run", "state": "completed", "settings": {"name": "weekly"}, "prefect_run": "flow-run-1"}
    record |= {"started_at": began.isoformat(), "git_commit": "abc"}
    record |= {"recorded_at": (datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="seconds")}
    record["stages"] = [{"stage": one.stage, "fingerprint": one.fingerprint, "digest": one.digest} for one in used]
    (place / "runs").mkdir()
    parquet.write_json(place / "runs" / "20260101-run.json", record)
    publish_snapshot(place, lambda comparisons: {})
    return place


def of(home: Path, stage: str, **settings: Any) -> Artifact:
    (found,) = (one for one in list_artifacts(home, stage) if settings.items() <= one.settings.items())
    return found


def policy(home: Path) -> Artifact:
    return of(home, "policies", method="srpo")


STARTS: dict[str, Callable[[Path], tuple[str, str | None]]] = {
    "policy": lambda home: (policy(home).fingerprint, None),
    "win rate": lambda home: (policy(home).fingerprint, "id"),
    "games": lambda home: (list_artifacts(home, "games")[0].fingerprint, None),
    "game": lambda home: (str(run_query(home, "SELECT game_id FROM games LIMIT 1")["game_id"][0]), None),
    "run": lambda home: ("20260101-run", None),
}


def traced(home: Path, start: str) -> Lineage:
    name, eval_set = STARTS[start](home)
    return trace_lineage(home, name, eval_set)


@pytest.mark.parametrize("start", STARTS)
def test_every_way_back_ends_at_the_file_with_its_hash_and_is_the_same_by_sql(home: Path, start: str) -> None:
    found = traced(home, start)
    sources = [source for node in found.nodes.values() for source in node.sources]
    assert {"sha256": SHA, "name": "pairs.jsonl", "path": "/data/pairs.jsonl"} in sources
    rows = run_query(home, sql_of(found)).to_pylist()
    assert {f"{row['stage']}/{row['fingerprint']}" for row in rows} == set(found.nodes)
    edges = run_query(home, "SELECT child_stage, child, parent_name, parent_stage, parent FROM lineage").to_pylist()
    inside = {
        (f"{edge['child_stage']}/{edge['child']}", edge["parent_name"], f"{edge['parent_stage']}/{edge['parent']}")
        for edge in edges
        if f"{edge['child_stage']}/{edge['child']}" in found.nodes
    }
    assert inside == {tuple(edge) for edge in found.edges}


def test_a_win_rate_begins_at_the_games_of_its_set_alone(home: Path) -> None:
    (root,) = traced(home, "win rate").roots
    names = {node.name for node in traced(home, "win rate").nodes.values()}
    assert root.startswith("games/") and "id" in names and "long" not in names


def test_a_run_begins_at_what_nothing_else_in_it_was_made_from(home: Path) -> None:
    assert {root.split("/")[0] for root in traced(home, "run").roots} == {"games"}


def test_who_made_it_is_the_run_at_work_then_and_not_one_that_only_used_it(home: Path) -> None:
    nodes = traced(home, "run").nodes
    made = nodes[f"policies/{policy(home).fingerprint}"]
    assert (made.run_id, made.prefect_run) == ("20260101-run", "flow-run-1") and made.settings["method"] == "srpo"
    assert nodes[f"policies/{of(home, 'policies', method='sft').fingerprint}"].run_id is None  # used, and made before


def test_a_set_the_policy_was_not_judged_on_is_refused_by_naming_those_it_was(home: Path) -> None:
    with pytest.raises(UnusableInput, match=r"\(id, long\), found 'news'"):
        trace_lineage(home, policy(home).fingerprint, "news")
    with pytest.raises(UnusableInput, match="expected a policy beside --eval-set"):
        trace_lineage(home, "20260101-run", "id")


def test_what_was_deleted_since_is_named_and_ends_its_line(tmp_path: Path) -> None:
    preferences = put_preferences(tmp_path)
    child = put_policy(tmp_path, "srpo", "srpo", {"preferences": preferences})
    preferences.path.rename(tmp_path / "gone")
    found = trace_lineage(tmp_path, child.fingerprint)
    assert [node.present for node in found.nodes.values()] == [True, False] and len(found.edges) == 1


def test_the_worker_that_set_a_flow_run_is_remembered_by_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "flow-run-2")
    child = put_preferences(tmp_path)
    assert trace_lineage(tmp_path, child.fingerprint).nodes[f"preferences/{child.fingerprint}"].prefect_run == "flow-run-2"


def test_games_in_which_a_policy_was_the_opponent_alone_are_no_win_rate_of_it(tmp_path: Path) -> None:
    prompts = put_prompts(tmp_path, "id", "news", 2)
    own, other = (put_policy(tmp_path, name, "srpo", {}, seed=seed) for seed, name in enumerate(("own", "other")))
    texts = [put_completions(tmp_path, one, prompts, 0) for one in (own, other)]
    games = put_games(tmp_path, texts[0], prompts, lambda *_: 1.0, opponents=texts[1])
    assert trace_lineage(tmp_path, own.fingerprint, "id").roots == [f"games/{games.fingerprint}"]
    with pytest.raises(UnusableInput, match=r"\(none\), found 'id'"):
        trace_lineage(tmp_path, other.fingerprint, "id")


@pytest.mark.parametrize("stage", ["demonstrations", "prompts"])
def test_demonstrations_and_prompts_lead_to_the_file_they_were_read_from(tmp_path: Path, stage: str) -> None:
    identity, place = {"sha256": SHA, "name": "read.jsonl"}, "/data/read.jsonl"
    several = stage == "prompts"
    given = {"sources": [identity]} if several else identity
    made = put(tmp_path, stage, {}, settings=given, info={"sources": [place]} if several else {"source": place})
    (node,) = trace_lineage(tmp_path, made.fingerprint).nodes.values()
    assert node.sources == [identity | {"path": place}]


class TestChampion:
    """`champion` is an id, and entries of the registry have one."""

    @pytest.fixture
    def promoted(self, tmp_path: Path) -> tuple[Path, Artifact]:
        one = put_policy(tmp_path, "srpo", "srpo", {})
        about = {"policy_id": one.fingerprint, "reason": "better by .1", "by": "command", "evidence": json.dumps({"gain": 0.1})}
        record_decision(tmp_path, "key", "promoted", about)
        pin(tmp_path, [f"policies/{one.fingerprint}"], "for the paper")
        return tmp_path, one

    def test_it_is_shown_with_what_the_registry_says(self, promoted: tuple[Path, Artifact]) -> None:
        home, one = promoted
        record = find_record(home, "champion")
        assert record.name == f"policies/{one.fingerprint}" and record.values["champion"] is True
        assert record.values["registry"][0]["reason"] == "better by .1" and record.values["pinned"] == "for the paper"
        assert find_record(home, "registry/1").values["evidence"] == {"gain": 0.1}
        assert artifacts_named(home, "champion") == trace_lineage(home, "champion").roots == [record.name]

    def test_an_entry_of_the_registry_leads_to_the_policy_it_is_about(self, promoted: tuple[Path, Artifact]) -> None:
        home, one = promoted
        assert trace_lineage(home, "registry/1").roots == [f"policies/{one.fingerprint}"]

    def test_without_one_the_sentence_says_how_to_get_one(self, tmp_path: Path) -> None:
        with pytest.raises(UnusableInput, match="srpo promote"):
            find_record(tmp_path, "champion")
        with pytest.raises(UnusableInput, match="registry"):
            find_record(tmp_path, "registry/1")

    def test_the_list_marks_champion_and_pins_and_says_sizes(self, promoted: tuple[Path, Artifact]) -> None:
        home, one = promoted
        (row,) = artifact_rows(home, ["policies"])
        expected = sum(path.stat().st_size for path in one.path.iterdir() if path.name != ".lease")
        assert (row["champion"], row["pinned"], row["bytes"]) == (True, "for the paper", expected)


def test_runs_are_listed_with_state_and_failure(home: Path) -> None:
    (row,) = run_rows(home)
    assert (row["run_id"], row["state"], row["name"], row["artifacts"], row["failure"]) == (
        "20260101-run",
        "completed",
        "weekly",
        6,
        None,
    )
