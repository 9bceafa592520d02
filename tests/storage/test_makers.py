"""Which run made an artifact, of several that used it."""

from pathlib import Path
from typing import Any

import pytest

from storage.artifact import Artifact
from storage.lineage import trace_lineage
from storage.makers import Makers
from storage.results_db import publish_snapshot, run_query
from tests.homes import put_preferences, put_run


def at(time: str) -> str:
    return f"2026-01-01T{time}:00+00:00"


def made(time: str, prefect_run: str | None = None) -> Artifact:
    return Artifact(
        Path("home/policies/f"),
        {"stage": "policies", "fingerprint": "f", "digest": "d", "created_at": at(time), "prefect_run": prefect_run},
    )


def used_by(run_id: str, began: str | None, recorded: str | None, *, digest: str = "d", prefect_run: str | None = None) -> Any:
    stages = [{"stage": "policies", "fingerprint": "f", "digest": digest}]
    times = {"started_at": began and at(began), "recorded_at": recorded and at(recorded)}
    return {"run_id": run_id, "stages": stages, "prefect_run": prefect_run} | times


@pytest.mark.parametrize(
    ("artifact", "runs", "maker"),
    [
        (made("10:30"), [used_by("later", "11:00", "12:00"), used_by("then", "10:00", "11:00")], "then"),
        (made("10:30"), [used_by("before", "08:00", "09:00"), used_by("again", "10:00", "11:00")], "again"),  # deleted between
        (made("10:30"), [used_by("second", "10:20", "11:00"), used_by("first", "10:10", "11:00")], "first"),
        (made("10:30", "b"), [used_by("a", "10:10", "11:00"), used_by("b", "10:20", "11:00", prefect_run="b")], "b"),
        (made("10:30"), [used_by("another", "10:00", "11:00", digest="other")], None),
        (made("10:30"), [used_by("later", "11:00", "12:00")], None),  # by a command of its own
        (made("10:30"), [used_by("old", None, None)], "old"),  # a record that says no times
    ],
)
def test_it_is_the_one_at_work_when_the_artifact_was_completed(artifact: Artifact, runs: list[Any], maker: str | None) -> None:
    found = Makers(runs).run_of(artifact)
    assert (found and found["run_id"]) == maker


def test_a_run_that_ended_within_the_second_of_its_last_artifact_made_it() -> None:
    artifact = Artifact(Path("home/policies/f"), made("10:30").manifest | {"created_at": "2026-01-01T10:30:00.900000+00:00"})
    assert Makers([used_by("r", "10:00", "10:30")]).run_of(artifact) is not None


def test_lineage_and_sql_name_the_same_run(tmp_path: Path) -> None:
    one = put_preferences(tmp_path)
    for run_id, began in (("older", "2020-01-01T00:00:00+00:00"), ("maker", one.manifest["created_at"])):
        recorded = began if run_id == "older" else "2999-01-01T00:00:00+00:00"
        put_run(tmp_path, run_id, [one], started_at=began, recorded_at=recorded)
    publish_snapshot(tmp_path, lambda comparisons: {})
    assert run_query(tmp_path, "SELECT run_id FROM made_by").to_pylist() == [{"run_id": "maker"}]
    assert trace_lineage(tmp_path, one.fingerprint).nodes[f"preferences/{one.fingerprint}"].run_id == "maker"
