"""The flows run under a Prefect server: what a person sees of a run there, what a failure says, what is tried again.

One server and one tiny newsroom run serve all tests; the stage flows then find that run's own artifacts.
"""

import base64
import json
import logging
import re
import time
import xml.dom.minidom
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from prefect import flow, tags
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.logging.handlers import APILogHandler

from flows.equal_compute import compare_at_equal_compute
from flows.generate import generate_revisions
from flows.ingest import ingest_pairs
from flows.judge import judge_revisions
from flows.presets import resolve_settings
from flows.publish import publish_home
from flows.reference import compute_reference_rows
from flows.run import run_pipeline
from flows.train import train_policy, train_supervised
from flows.under_prefect import run_tags, stage_tasks
from flows.under_prefect.stage_tasks import as_prefect_task, is_transient
from srpo_core.errors import InputError, WorkFailed
from srpo_core.settings.data import PreferenceSourceSettings
from srpo_core.settings.judges import ApiJudgeSettings
from storage.artifact import find_artifact
from storage.errors import UnusableInput
from storage.results_db import run_query
from storage.runs import read_runs
from tests.judge_server import JudgeServer

TINY = [
    "newsroom={num_demonstrations: 400, num_pairs: 120, num_prompts: 10}",
    "resources={num_processes: 1, threads_per_process: 1}",
    "generation.num_revisions=1",
    "methods=[srpo]",
    "diagnostics=null",
]
SETTINGS = resolve_settings("demo", None, TINY)


class Run(NamedTuple):
    """The run all tests look at."""

    home: Path
    flow_run_id: UUID
    record: dict[str, Any]

    def ids(self, stage: str) -> list[str]:
        return [one["fingerprint"] for one in self.record["stages"] if one["stage"] == stage]


@pytest.fixture(scope="session")
def run(server, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with tags("nightly"):
        state = run_pipeline(SETTINGS, str(home), return_state=True)
    assert state.is_completed(), state.message
    (record,) = read_runs(home)
    return Run(home, UUID(record["prefect_run"]), record)


@pytest.fixture
def client(run):
    with get_client(sync_client=True) as connection:
        yield connection


def tasks_of(client: SyncPrefectClient, flow_run_id: UUID) -> list[Any]:
    return client.read_task_runs(task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[flow_run_id])))


def artifacts_of(client: SyncPrefectClient, run: Run) -> list[Any]:
    """Of this run alone: flows of other tests may have used the server before."""
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.flow_run_id]))
    return client.read_artifacts(artifact_filter=wanted)


def artifacts_named(client: SyncPrefectClient, key: str) -> list[Any]:
    return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def test_a_run_is_named_by_preset_methods_and_data_and_recorded_with_its_flow_run(run, client):
    flow_run = client.read_flow_run(run.flow_run_id)
    assert flow_run.name == "demo: srpo on newsroom"
    assert run.record["state"] == "completed"
    assert run.record["settings"] == SETTINGS.model_dump(mode="json")


def test_a_run_is_found_by_its_tags_and_keeps_those_it_had(run, client):
    """The run was started with the tag that a deployment would have given it."""
    flow_run = client.read_flow_run(run.flow_run_id)
    assert flow_run.tags == ["nightly", "preset:demo", "method:srpo", "judge:rule", "data:newsroom"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"name": "tldr", "methods": ["srpo", "dpo"]}, "tldr: srpo, dpo on newsroom"),
        ({"preferences": {"paths": ["hub:openai/summarize_from_feedback@ab12:comparisons/train"]}}, "on summarize_from_feedback"),
        ({"preferences": {"paths": ["/data/a.jsonl", "b/*.parquet", "c", "d"]}}, "run: srpo on a.jsonl, *.parquet, 2 more"),
        ({"preferences": {"paths": 7}, "methods": "dpo", "name": None}, "run: dpo on 7"),
        ("no settings at all", "run: srpo on newsroom"),
    ],
)
def test_names_of_runs_stay_short_and_never_fail(settings, name):
    assert run_tags.run_name(settings).endswith(name)


def test_every_stage_is_a_task_with_a_telling_name(run, client):
    names = {one.name for one in tasks_of(client, run.flow_run_id)}
    assert {"ingest prompts: mix", "train policies: srpo", "judge completions: sft on id", "write report"} <= names


def test_the_server_knows_which_task_fed_which_and_no_value(run, client):
    """Inputs are stored as ids of the task runs they came from: no settings, no paths, no rows."""
    tasks = {one.name: one for one in tasks_of(client, run.flow_run_id)}
    inputs = [given for one in tasks.values() for values in one.task_inputs.values() for given in values]
    assert {given.input_type for given in inputs} == {"task_run"}
    (reference,) = tasks["train policies: srpo"].task_inputs["reference"]
    assert reference.id == tasks["train reference"].id


def test_the_markdown_artifact_holds_the_table_curves_that_draw_and_links(run, client):
    text = next(one.data for one in artifacts_of(client, run) if one.key == "win-rates")
    assert "| policy | set | OOD | draft | rev. 1 | n |" in text
    assert f"[flow run]({run.record['prefect_page']})" in text
    assert str(run.flow_run_id) in run.record["prefect_page"]
    assert "240 games, 240 scored, 0 unscored" in text
    assert all(f"{run.home}/{stage['stage']}/{stage['fingerprint']}" in text for stage in run.record["stages"])
    assert f"{run.home}/runs/{run.record['run_id']}.json" in text
    pictures = re.findall(r"!\[[^]]*\]\(data:image/svg\+xml;base64,([^)]*)\)", text)
    assert len(pictures) == 3  # id, long, mix
    for picture in pictures:
        drawn = xml.dom.minidom.parseString(base64.b64decode(picture)).documentElement
        assert drawn.namespaceURI == "http://www.w3.org/2000/svg"


def test_the_sql_in_the_artifact_gives_the_table_artifact(run, client):
    artifacts = {one.key: one for one in artifacts_of(client, run)}
    sql = re.search(r"```sql\n(.*?)```", artifacts["win-rates"].data, re.DOTALL)
    rows, told = artifacts["win-rates-table"].data, artifacts["win-rates-table"].description
    assert sql is not None
    assert "a row for each policy, evaluation set and revision" in told and "page win-rates" in told and "SELECT" not in told
    assert (json.loads(rows) if isinstance(rows, str) else rows) == run_query(run.home, sql[1]).to_pylist()
    assert len(run_query(run.home, sql[1])) == 2 * 3 * 2  # policies, evaluation sets, revisions


def test_device_work_shows_its_progress_up_to_the_end(run, client):
    progress = {one.key: one.data for one in artifacts_of(client, run) if one.type == "progress"}
    assert {"sft", "reference", "train-srpo", "generate-srpo-on-mix"} <= set(progress)
    assert set(progress.values()) == {100.0}
    (told,) = [one.description for one in artifacts_of(client, run) if one.key == "train-srpo"]
    assert re.match(r"step 3/3: .*loss \d", told)


def test_what_the_run_took_is_told_by_stage_and_was_all_made_by_it(run, client):
    text = next(one.data for one in artifacts_of(client, run) if one.key == "win-rates")
    lines = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in text.splitlines() if " s | " in line}
    timed = {one["stage"]: one for one in run.record["timings"]}
    assert timed["train policies"]["seconds"] > 0 and len(timed["train policies"]["artifacts"]) == 1
    assert lines["train policies"][1:3] == ["1", "0"] and lines["judge completions"][1:3] == ["6", "0"]
    assert int(lines["generate completions"][4].replace(",", "")) > 0  # tokens


def test_every_artifact_is_an_asset_that_names_what_it_was_made_from(run):
    """Events arrive in batches; games name the completions and prompts they judge, and come with their counts."""
    prefix = {
        "event": {"prefix": ["prefect.asset.materialization"]},
        "any_resource": {"id": [f"srpo://games/{run.ids('games')[0]}"]},
    }
    with get_client(sync_client=True) as client:
        (event,) = _events(client, prefix, 1)
        made = _events(
            client,
            {"event": prefix["event"], "any_resource": {"id": [f"prefect.flow-run.{run.flow_run_id}"]}},
            len(run.record["stages"]) + 1,
        )
    games = find_artifact(run.home, "games", run.ids("games")[0])
    assert games is not None
    upstream = {one["prefect.resource.id"] for one in event["related"] if one["prefect.resource.role"] == "asset"}
    assert upstream == {f"srpo://{one['stage']}/{one['fingerprint']}" for one in games.manifest["parents"].values()}
    assert any(one.startswith("srpo://completions/") for one in upstream)
    assert event["payload"]["counts"] == games.counts
    made_ids = {one["resource"]["prefect.resource.id"] for one in made}
    assert {f"srpo://{one['stage']}/{one['fingerprint']}" for one in run.record["stages"]} <= made_ids
    assert any(one.startswith("srpo://sources/") for one in made_ids), "made on the way to the merge that the stage returns"


def _events(client: SyncPrefectClient, wanted: dict[str, Any], at_least: int) -> list[dict[str, Any]]:
    until = time.monotonic() + 20
    while True:
        found = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 50}).json()["events"]
        if len(found) >= at_least or time.monotonic() > until:
            return found
        time.sleep(0.5)


def test_what_stages_log_reaches_the_runs_log(run, client):
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.flow_run_id]))
    until = time.monotonic() + 15  # the client sends lines in batches
    lines: list[str] = []
    while time.monotonic() < until and not any("write report" in line for line in lines):
        lines = [log.message for log in client.read_logs(wanted, limit=200) if log.name.startswith("srpo")]
        time.sleep(0.5)
    assert any(re.match(r"sft step 6/6: .*loss \d", line) for line in lines)
    assert any(line.startswith("sft: everything the workers print is in ") for line in lines)
    assert any("0 of 120 pairs overlap" in line for line in lines)
    assert sum(line.startswith("small model:") for line in lines) == 1  # not twice


def test_stages_leave_the_logger_as_it_was(run):
    assert not any(isinstance(handler, APILogHandler) for handler in logging.getLogger("srpo").handlers)


def test_a_stage_flow_makes_what_the_pipeline_makes_and_so_finds_it_complete(run):
    home = str(run.home)
    world = find_artifact(run.home, "newsroom", run.ids("newsroom")[0])
    assert world is not None
    demonstrations = {"path": str(world.path / "demonstrations.jsonl")}
    (preferences,), prompts, (_, sft, srpo) = run.ids("preferences"), run.ids("prompts"), run.ids("policies")
    work = {"resources": SETTINGS.resources, "home": home}
    trained = train_supervised(
        SETTINGS.model, None, demonstrations, SETTINGS.supervised, SETTINGS.template, SETTINGS.generation, **work
    )
    assert trained == sft
    assert [compute_reference_rows(sft[:8], preferences, "trie", **work)] == run.ids("reference")
    assert train_policy(sft, preferences, prompts, SETTINGS.method_settings()[0], **work) == srpo
    completions = generate_revisions(srpo, prompts, SETTINGS.generation, **work)
    assert completions == run.ids("completions")[3:]
    assert judge_revisions(completions, SETTINGS.judge, home=home) == run.ids("games")[3:]


def test_the_flow_of_a_stage_ends_with_a_page_of_what_it_found_or_made(run, client):
    """The completions of the test before were there already; ids, counts and the next command are those of the artifacts."""
    (completions,) = {one.data for one in artifacts_named(client, "made-completions") if str(run.home) in one.data}
    for fingerprint in run.ids("completions")[3:]:
        assert f"`{fingerprint}`, complete already, made" in completions
        assert f"Next: `srpo judge --completions {fingerprint} --home {run.home}`" in completions
    assert "| completions | 20 |" in completions
    srpo = find_artifact(run.home, "policies", run.ids("policies")[2])
    (policies,) = {one.data for one in artifacts_named(client, "made-policies") if run.ids("policies")[2] in one.data}
    parents = [f"- {role}: `{one['stage']}/{one['fingerprint']}`" for role, one in srpo.manifest["parents"].items()]
    assert len(parents) >= 2 and all(parent in policies for parent in parents)


def test_the_flow_of_equal_compute_compares_revisions_with_drafts(run, client):
    asked = {"num_samples": 2, "select": ["judge"]}
    policy, prompts, judge = run.ids("policies")[-1], run.ids("prompts")[:1], SETTINGS.judge.model_dump()
    work = {"settings": asked, "generation": SETTINGS.generation, "home": str(run.home)}
    state = compare_at_equal_compute(policy[:8], prompts, judge, **work, return_state=True)
    (made,) = state.result()
    assert client.read_flow_run(state.state_details.flow_run_id).name == "equal compute: srpo on id"
    artifact = find_artifact(run.home, "equal_compute", made)
    assert artifact is not None and artifact.manifest["parents"]["policy"]["fingerprint"] == policy


def test_the_flow_of_judging_takes_another_policys_completions_as_opponents(run, client):
    sft, srpo = run.ids("completions")[0], run.ids("completions")[3]
    opponents = {"completions": sft, "revision_index": 1}
    state = judge_revisions([srpo], SETTINGS.judge.model_dump(), opponents, home=str(run.home), return_state=True)
    (made,) = state.result()
    assert client.read_flow_run(state.state_details.flow_run_id).name == "judge: srpo on id by rule"
    artifact = find_artifact(run.home, "games", made)
    assert artifact is not None and artifact.manifest["parents"]["opponents"]["fingerprint"] == sft


def test_publishing_makes_the_database_anew(run):
    database = run.home / "results.duckdb"
    database.unlink()
    state = publish_home(str(run.home), return_state=True)
    assert (state.is_completed(), database.is_file()) == (True, True)


def test_bad_input_fails_the_run_with_stage_and_reason_in_one_sentence_and_is_not_tried_again(run, client, tmp_path):
    source = PreferenceSourceSettings(paths=[str(tmp_path / "nothing.jsonl")])
    state = ingest_pairs(source, str(tmp_path / "home"), return_state=True)
    assert state.is_failed()
    assert state.message.startswith("ingest preferences: expected ")
    assert "nothing.jsonl" in state.message and "\n" not in state.message
    (failed,) = tasks_of(client, state.state_details.flow_run_id)
    assert failed.run_count == 1
    with pytest.raises(InputError, match="ingest preferences"):
        ingest_pairs(source, str(tmp_path / "home"))


def test_an_unknown_id_and_a_remote_home_fail_before_any_stage_starts(run, client, tmp_path):
    for home, policy, reason in ((str(run.home), "ffff", "expected one complete artifact"), ("s3://bucket", "a", "remote home")):
        state = generate_revisions(policy, ["b"], home=home, return_state=True)
        assert state.is_failed() and reason in state.message
        assert tasks_of(client, state.state_details.flow_run_id) == []


def test_settings_that_contradict_each_other_fail_the_run_with_their_sentence(run):
    asked = SETTINGS.model_dump() | {"preferences": {"paths": ["pairs.jsonl"]}}
    state = run_pipeline(asked, str(run.home), return_state=True)
    assert state.is_failed()
    sentence = "expected exactly one of newsroom and preferences, found both"
    assert state.message == f"setting settings in the parameters of run: {sentence}"


def test_a_failed_connection_is_tried_again(run, client, monkeypatch):
    monkeypatch.setattr(stage_tasks, "FIRST_DELAY_SECONDS", 0.01)
    calls = []

    def reach_the_hub() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise WorkFailed("expected an answer from the hub, found none") from ConnectionResetError()
        return "reached"

    @flow
    def one_stage() -> str:
        return as_prefect_task(reach_the_hub)()

    assert one_stage() == "reached"
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("error", "cause", "transient"),
    [
        (ConnectionRefusedError(), None, True),
        (TimeoutError(), None, True),
        (WorkFailed("a process died"), None, False),
        (WorkFailed("the judge is gone"), ConnectionResetError(), True),
        (InputError("no such hub model"), ConnectionResetError(), False),
        (UnusableInput("no such home"), None, False),
        (FileNotFoundError("pairs.jsonl"), None, False),
        (RuntimeError("NaN"), ValueError("NaN"), False),
    ],
)
def test_only_connections_are_transient(error, cause, transient):
    error.__cause__ = cause
    assert is_transient(error) is transient


def test_asking_a_judge_over_http_shows_its_progress_and_what_it_took(run, client):
    """20 completions against one gold each, in both orders."""
    with JudgeServer() as judge_server:
        judge = ApiJudgeSettings(model="test-judge", base_url=judge_server.url, timeout_seconds=5)
        (games,) = judge_revisions(run.ids("completions")[3:4], judge, home=str(run.home))
    (page,) = [one for one in artifacts_named(client, "made-games") if games in one.data]
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[page.flow_run_id]))
    (progress,) = [one for one in client.read_artifacts(artifact_filter=wanted) if one.type == "progress"]
    assert (progress.key, progress.data) == ("judge-srpo-on-id", 100.0)
    made = find_artifact(run.home, "games", games)
    assert made is not None and f"It took {made.info['spent']['requests']} requests" in page.data
    assert f"`{games}`, made now" in page.data
