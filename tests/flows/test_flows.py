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
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, TaskRunFilter, TaskRunFilterFlowRunId
from prefect.logging.handlers import APILogHandler
from prefect.testing.utilities import prefect_test_harness

from flows import retrain, stage_tasks
from flows.generate import generate_revisions
from flows.ingest import ingest_pairs
from flows.judge import judge_revisions
from flows.presets import resolve_settings
from flows.publish import publish_home
from flows.reference import compute_reference_rows
from flows.run import run_pipeline
from flows.stage_tasks import as_prefect_task, is_transient
from flows.train import train_policy, train_supervised
from srpo_core.config import PipelineSettings, PreferenceSourceSettings
from srpo_core.errors import InputError, WorkFailed
from storage.artifact import find_artifact
from storage.errors import UnusableInput
from storage.results_db import run_query
from storage.runs import read_runs, record_run

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
def server():
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def run(server, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
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


def test_a_run_is_named_by_preset_methods_and_data_and_recorded_with_its_flow_run(run, client):
    assert client.read_flow_run(run.flow_run_id).name == "demo: srpo on newsroom"
    assert run.record["state"] == "completed"
    assert run.record["settings"] == SETTINGS.model_dump(mode="json")


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
    text = next(one.data for one in client.read_artifacts() if one.key == "win-rates")
    assert "| policy | eval_set | is_ood | revision 0 | revision 1 | n |" in text
    assert "240 games, 240 scored, 0 unscored" in text
    assert all(f"{run.home}/{stage['stage']}/{stage['fingerprint']}" in text for stage in run.record["stages"])
    assert f"{run.home}/runs/{run.record['run_id']}.json" in text
    pictures = re.findall(r"!\[[^]]*\]\(data:image/svg\+xml;base64,([^)]*)\)", text)
    assert len(pictures) == 3  # id, long, mix
    for picture in pictures:
        drawn = xml.dom.minidom.parseString(base64.b64decode(picture)).documentElement
        assert drawn.namespaceURI == "http://www.w3.org/2000/svg"


def test_the_sql_in_the_artifact_gives_the_table_artifact(run, client):
    artifacts = {one.key: one for one in client.read_artifacts()}
    sql = re.search(r"```sql\n(.*?)```", artifacts["win-rates"].data, re.DOTALL)
    rows = artifacts["win-rates-table"].data
    assert sql is not None
    assert (json.loads(rows) if isinstance(rows, str) else rows) == run_query(run.home, sql[1]).to_pylist()
    assert len(run_query(run.home, sql[1])) == 2 * 3 * 2  # policies, evaluation sets, revisions


def test_device_work_shows_its_progress_up_to_the_end(run, client):
    progress = {one.key: one.data for one in client.read_artifacts() if one.type == "progress"}
    assert {"sft-sft", "reference-reference", "train-srpo", "generate-srpo-on-mix"} <= set(progress)
    assert set(progress.values()) == {100.0}


def test_what_stages_log_reaches_the_runs_log(run, client):
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.flow_run_id]))
    until = time.monotonic() + 15  # the client sends lines in batches
    lines: list[str] = []
    while time.monotonic() < until and not any("write report" in line for line in lines):
        lines = [log.message for log in client.read_logs(wanted, limit=200) if log.name.startswith("srpo")]
        time.sleep(0.5)
    assert any(line.startswith("sft: 6 of 6 steps") for line in lines)
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
        state = generate_revisions(policy, [], home=home, return_state=True)
        assert state.is_failed() and reason in state.message
        assert tasks_of(client, state.state_details.flow_run_id) == []


def test_settings_that_contradict_each_other_fail_the_run_with_their_sentence(run):
    asked = SETTINGS.model_dump() | {"preferences": {"paths": ["pairs.jsonl"]}}
    state = run_pipeline(asked, str(run.home), return_state=True)
    assert state.is_failed()
    assert "expected exactly one of newsroom and preferences, found both" in state.message


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


def test_retraining_without_new_pairs_ends_as_nothing_new(run, client):
    begun = time.monotonic()
    state = retrain.retrain_on_new_data(SETTINGS, str(run.home), return_state=True)
    assert (state.is_completed(), state.name) == (True, "NothingNew")
    assert run.record["run_id"] in state.message
    assert time.monotonic() - begun < 20
    assert len(read_runs(run.home)) == 1
    names = {one.name for one in tasks_of(client, state.state_details.flow_run_id)}
    assert names == {"write newsroom", "ingest preferences"}


def test_retraining_with_new_pairs_runs_the_pipeline(run, monkeypatch):
    more = SETTINGS.model_copy(update={"newsroom": SETTINGS.newsroom.model_copy(update={"num_pairs": 130})})
    monkeypatch.setattr(retrain, "run_and_show", lambda settings, home: f"run on {settings.newsroom.num_pairs} pairs")
    assert retrain.retrain_on_new_data(more, str(run.home)) == "run on 130 pairs"


def test_other_settings_are_new_work_and_another_spread_over_processes_is_not(run):
    (digest,) = [one["digest"] for one in run.record["stages"] if one["stage"] == "preferences"]
    preferences = find_artifact(run.home, "preferences", run.ids("preferences")[0])
    assert preferences is not None and preferences.digest == digest

    def changed(assignment: str) -> PipelineSettings:
        return resolve_settings("demo", None, [*TINY, assignment])

    assert retrain.is_same_work(run.record, SETTINGS, preferences)
    assert retrain.is_same_work(run.record, changed("resources.num_processes=2"), preferences)
    assert not retrain.is_same_work(run.record, changed("training.beta=0.2"), preferences)


def test_the_last_run_is_the_deployments_own_newest_completed_one(tmp_path):
    runs = (("1", "completed", "weekly"), ("2", "completed", "weekly"), ("3", "failed", "weekly"), ("4", "completed", "demo"))
    for run_id, state, deployment in runs:
        record_run(tmp_path, run_id, state=state, settings={}, artifacts=[], prefect_run=None, deployment=deployment)
    last = retrain.last_run_of(tmp_path, "weekly")
    assert last is not None and last["run_id"] == "2"
    assert retrain.last_run_of(tmp_path, "other") is None
