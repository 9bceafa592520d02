"""Failure as an operator sees it: messages, events, what is tried again, what a cancel does, and what runs again afterwards.

The first half runs flows in this process against the shared server; the second half has a server and a worker of its own, whose
processes are killed.
"""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from prefect import flow, runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_API_URL

from flows.endings import ending_of
from flows.ingest import ingest_pairs
from flows.judge import judge_revisions
from flows.presets import resolve_settings
from flows.recorded_run import run_with_record
from flows.under_prefect import cancellation, events, stage_tasks
from flows.under_prefect.forms import form
from flows.under_prefect.stage_tasks import as_prefect_task
from srpo_core.errors import InputError, WorkFailed
from srpo_core.settings.data import NewsroomSettings, PreferenceSourceSettings
from storage.artifact import list_artifacts
from storage.runs import find_run, read_runs
from tasks.new_pairs import count_first_seen
from tasks.preferences import ingest_preferences
from tests.flows.test_evaluation_sets import sets_of
from tests.judge_server import JudgeServer, faults_in_turn
from tests.prefect_server import Installation, prefect_installation
from tests.tasks.test_judging import api
from tests.waiting import wait_for

WRITTEN_DOWN_SECONDS = 12  # the server keeps events for up to five seconds before it writes them down


@pytest.fixture
def client(server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as connection:
        yield connection


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_tasks, "FIRST_DELAY_SECONDS", 0.05)


def events_about(client: SyncPrefectClient, name: str, resource: str = "") -> list[ReceivedEvent]:
    page = client.read_events(EventFilter(event=EventNameFilter(name=[name])), limit=50)
    return [one for one in page.events if resource in one.resource.id]


def told_of_pairs(client: SyncPrefectClient, fingerprint: str, home: Path) -> list[ReceivedEvent]:
    """The events about these pairs in this home: other homes of the tests have the same."""
    about = events_about(client, events.PREFERENCES_INGESTED, fingerprint)
    return [one for one in about if one.payload["home"] == str(home)]


def pairs_file(folder: Path, *numbers: int) -> Path:
    path = folder / "pairs.jsonl"
    rows = [{"prompt": f"Why {n}?", "chosen": f"So {n}.", "rejected": "No."} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- what a failed run says ---------------------------------------------------------------------------------------------


def test_an_error_nobody_foresaw_fails_with_stage_and_kind_in_one_line_and_its_traceback_in_the_log(
    server: None, caplog: pytest.LogCaptureFixture
) -> None:
    def train_policies() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`")

    @form("broken", "broken")
    def broken() -> None:
        as_prefect_task(train_policies)()

    with caplog.at_level(logging.ERROR):
        state: State[Any] = broken(return_state=True)  # type: ignore[assignment]
    assert state.is_failed()
    assert state.message == "train policies: RuntimeError: CUDA error: device-side assert triggered"
    assert "Traceback (most recent call last)" in caplog.text and "TORCH_USE_CUDA_DSA" in caplog.text


def test_an_error_outside_of_any_stage_is_one_line_too(server: None, caplog: pytest.LogCaptureFixture) -> None:
    @form("broken-flow", "broken")
    def broken() -> None:
        raise ZeroDivisionError("division by zero")

    with caplog.at_level(logging.ERROR):
        state: State[Any] = broken(return_state=True)  # type: ignore[assignment]
    assert (state.is_failed(), state.message) == (True, "ZeroDivisionError: division by zero")
    assert "test_failures.py" in caplog.text


@pytest.mark.parametrize(
    ("message", "stage", "reason"),
    [
        ("train policies: WorkFailed: no memory", "train policies", "WorkFailed: no memory"),
        ("ZeroDivisionError: division by zero", None, "ZeroDivisionError: division by zero"),
        ("expected a key: none was found", None, "expected a key: none was found"),
    ],
)
def test_a_failure_is_told_with_a_stage_only_where_its_message_begins_with_one(
    server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, message: str, stage: str | None, reason: str
) -> None:
    def train_policies() -> None:
        pass

    @form("working", "working")
    def working() -> None:
        as_prefect_task(train_policies)()

    working()
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "announce", lambda name, *, resource, payload, key: sent.append(payload))
    run: Any = type("Run", (), {"id": "r", "name": "r", "parameters": {"home": str(tmp_path)}})
    events.tell_of_failure(working, run, State[Any](type=StateType.FAILED, message=message))
    assert (sent[0]["stage"], sent[0]["reason"], sent[0]["message"]) == (stage, reason, message)


@pytest.mark.parametrize(
    ("error", "state", "sentence"),
    [
        (InputError("expected a cat, found a dog; give a cat"), "failed", "expected a cat, found a dog; give a cat"),
        (KeyError("pair_id"), "failed", "KeyError: 'pair_id'"),
        (MemoryError(), "failed", "MemoryError"),
        (KeyboardInterrupt(), "cancelled", "interrupted by Ctrl-C"),
        (SystemExit(143), "cancelled", "ended by SIGTERM"),
    ],
)
def test_a_record_tells_what_failed_from_what_a_person_ended(error: BaseException, state: str, sentence: str) -> None:
    ending = ending_of(error)
    assert ending.state == state and ending.sentence.startswith(sentence)


def test_a_record_names_the_stage_that_failed_first_and_keeps_what_was_made_before(tmp_path: Path) -> None:
    source = PreferenceSourceSettings(paths=[str(pairs_file(tmp_path, 1, 2))])

    def find_contamination() -> None:
        raise OSError(28, "No space left on device")

    def body(stage: Any) -> None:
        stage(ingest_preferences)(source, tmp_path)
        stage(find_contamination)()

    with pytest.raises(OSError):
        run_with_record(body, source, tmp_path, lambda stage: stage)
    (record,) = read_runs(tmp_path)
    assert record["state"] == "failed"
    assert record["failure"].startswith("find contamination: the system refused: No space left on device; mend that")
    assert [one["stage"] for one in record["stages"]] == ["preferences"]
    assert record["started_at"] <= record["recorded_at"]


def test_a_retried_prefect_run_goes_on_with_its_record(tmp_path: Path) -> None:
    """A new attempt has the same Prefect run: one run is one record, which says since when."""
    source = NewsroomSettings.model_validate({})
    attempts: list[str] = []

    def body(stage: Any) -> None:
        attempts.append("try")
        if len(attempts) == 1:
            raise WorkFailed("the disk is full")

    with pytest.raises(WorkFailed):
        run_with_record(body, source, tmp_path, lambda stage: lambda *_: None, prefect_run="a", deployment="weekly")
    first = find_run(tmp_path, "a")
    again = run_with_record(body, source, tmp_path, lambda stage: lambda *_: None, prefect_run="a", deployment="weekly")
    (record,) = read_runs(tmp_path)
    assert first is not None and record["run_id"] == again == first["run_id"]
    assert (record["state"], record["failure"], record["started_at"]) == ("completed", None, first["started_at"])
    run_with_record(body, source, tmp_path, lambda stage: lambda *_: None, prefect_run="b")
    assert len(read_runs(tmp_path)) == 2, "another Prefect run is another run"


# --- events -------------------------------------------------------------------------------------------------------------


def test_new_pairs_and_failures_are_told_once_with_what_an_automation_needs(client: SyncPrefectClient, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for numbers in ((1, 2, 3), (1, 2, 3), (1, 2, 3, 4, 5)):  # the second finds all complete
        ingest_pairs(PreferenceSourceSettings(paths=[str(pairs_file(tmp_path, *numbers))], domain="chat"), str(home))
    failed: State[Any] = ingest_pairs(  # type: ignore[assignment]
        PreferenceSourceSettings(paths=[str(tmp_path / "nothing.jsonl")]), str(home), return_state=True
    )
    first, second = list_artifacts(home, "preferences")
    told = wait_for(lambda: events_about(client, events.RUN_FAILED, str(failed.state_details.flow_run_id)), WRITTEN_DOWN_SECONDS)
    (event,) = told
    assert event.payload["stage"] == "ingest preferences" and event.payload["reason"].startswith("expected a file")
    assert event.payload["message"] == failed.message
    for artifact, new in ((first, 3), (second, 2)):
        (event,) = wait_for(lambda wanted=artifact: told_of_pairs(client, wanted.fingerprint, home), WRITTEN_DOWN_SECONDS)
        assert event.resource.id == f"srpo.preferences.{artifact.fingerprint}"
        assert event.payload == {
            "fingerprint": artifact.fingerprint,
            "pairs": artifact.counts["pairs"],
            "new_pairs": new,
            "domain": "chat",
            "home": str(home),
        }
        assert any(one.id.startswith("prefect.flow-run.") for one in event.related)
    assert [count_first_seen(home, one) for one in (first, second)] == [3, 2]


def test_the_same_event_is_sent_once_also_by_another_process(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"policy-{time.time_ns()}"
    told = {"resource": f"srpo.policy.{key}", "payload": {"policy_id": key}, "key": key}
    assert events.announce(events.POLICY_PROMOTED, **told)
    assert not events.announce(events.POLICY_PROMOTED, **told)
    wait_for(lambda: events_about(client, events.POLICY_PROMOTED, key), WRITTEN_DOWN_SECONDS)
    monkeypatch.setattr(events, "_announced", set())  # what another process knows
    assert not events.announce(events.POLICY_PROMOTED, **told)
    assert events.announce(events.POLICY_REJECTED, **told), "another event about the same is another event"


def test_an_absent_server_stops_nothing_and_without_one_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: dict[str, Any] = {"resource": "srpo.policy.p", "payload": {}, "key": "p"}
    monkeypatch.setattr(events, "_has_server", lambda: False)
    assert not events.announce(events.POLICY_PROMOTED, **told) and not caplog.messages
    monkeypatch.setattr(events, "_has_server", lambda: True)

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(events, "_send_once", unreachable)
    with caplog.at_level(logging.WARNING, "srpo"):
        assert not events.announce(events.POLICY_PROMOTED, **told)
    assert "was not sent: refused" in caplog.text


# --- what is tried again ------------------------------------------------------------------------------------------------


def test_a_judge_that_is_down_for_a_while_is_tried_again_and_nothing_is_paid_for_twice(
    client: SyncPrefectClient, tmp_path: Path, quick_retries: None
) -> None:
    (completions,), _ = sets_of(tmp_path, 15)
    faults = [None] * 5 + ["500"] * 20
    with JudgeServer(faults_in_turn(faults)) as server:
        judge = api(server.url, max_attempts=1, max_concurrency=1)
        state: State[Any] = judge_revisions([completions.fingerprint], judge, home=str(tmp_path), return_state=True)  # type: ignore[assignment]
        assert state.is_completed(), state.message
        assert len(server.answered) == 30 and len(server.requests) == 50
    (games,) = list_artifacts(tmp_path, "games")
    assert games.counts["scored"] == 30


def test_the_next_try_waits_longer_and_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def task(**options: Any) -> Callable[[Any], Any]:
        asked.update(options)
        return lambda stage: stage

    def reach_the_hub() -> None:
        pass

    monkeypatch.setattr(stage_tasks, "task", task)
    as_prefect_task(reach_the_hub)()
    assert (asked["retry_delay_seconds"](asked["retries"]), asked["retry_jitter_factor"]) == ([10, 20, 40], 0.5)


def test_a_refused_key_is_not_tried_again_and_says_what_to_correct(
    client: SyncPrefectClient, tmp_path: Path, quick_retries: None
) -> None:
    (completions,), _ = sets_of(tmp_path, 2)
    with JudgeServer(lambda number, body: "401", probe_script=lambda number, body: "401") as server:
        judge = api(server.url, max_concurrency=1)
        state: State[Any] = judge_revisions([completions.fingerprint], judge, home=str(tmp_path), return_state=True)  # type: ignore[assignment]
        assert len(server.probes) + len(server.requests) == 1
    assert state.is_failed() and "correct the key" in str(state.message)


# --- cancelling, in one process -----------------------------------------------------------------------------------------


def cancel_soon(facts: dict[str, Any], condition: Callable[[], object]) -> None:
    """From another thread: once the condition holds, cancel the flow run that `facts` names as the UI does, and note when."""
    api_url = PREFECT_API_URL.value()

    def work() -> None:
        wait_for(condition)
        facts["at"] = time.monotonic()
        with SyncPrefectClient(api_url) as own:
            own.set_flow_run_state(facts["id"], State(type=StateType.CANCELLING), force=True)

    threading.Thread(target=work, daemon=True).start()


def test_a_cancel_ends_judging_with_requests_in_flight_within_seconds(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker is there. Two sets are judged side by side; answers take longer than anybody wants to wait."""
    completions, _ = sets_of(tmp_path, 10, 10)
    facts: dict[str, Any] = {}
    over = threading.Event()
    with JudgeServer() as server:
        server.script = lambda number, body: over.wait(30) and None if number >= 6 else None  # type: ignore[func-returns-value]
        cancel_soon(facts, lambda: len(server.answered) >= 6 and "id" in facts)
        watched = cancellation.ends_when_cancelled

        def note() -> Any:
            facts["id"] = runtime.flow_run.id
            return watched()

        monkeypatch.setattr(stage_tasks, "ends_when_cancelled", note)
        judge = api(server.url, max_concurrency=4, timeout_seconds=60)
        names = [one.fingerprint for one in completions]
        state: State[Any] = judge_revisions(names, judge, home=str(tmp_path), return_state=True)  # type: ignore[assignment]
        assert time.monotonic() - facts["at"] < 10
        over.set()
    assert state.is_cancelled() and "run it again, or Retry" in str(state.message)
    assert not list_artifacts(tmp_path, "games")


def test_no_signal_is_sent_once_a_flow_is_over(server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread may have asked the server just before; by the time it hears the answer the run is done."""
    sent: list[int] = []
    asked = threading.Event()

    def slow_answer(_: Any) -> State[Any]:
        asked.set()
        time.sleep(0.5)
        return State(type=StateType.CANCELLING)

    monkeypatch.setattr(cancellation, "PERIOD", 0.05)
    monkeypatch.setattr(cancellation, "_read_state", slow_answer)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))

    @flow
    def brief() -> None:
        with cancellation.ends_when_cancelled():
            asked.wait(10)

    brief()
    time.sleep(0.8)
    assert not sent


def test_the_watch_says_whether_it_sent_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    watch = cancellation._Watch(uuid4())
    cancelling: State[Any] = State(type=StateType.CANCELLING)
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    assert not watch._end(cancelling) and not sent, "nothing would turn the signal into an exception"
    monkeypatch.setattr(signal, "getsignal", lambda number: print)
    assert watch._end(cancelling) and sent == [signal.SIGTERM]
    watch.stop()
    assert not watch._end(cancelling) and len(sent) == 1


@pytest.mark.parametrize("kind", [StateType.CANCELLING, StateType.CANCELLED, StateType.CRASHED])
def test_a_run_that_was_cancelled_or_taken_for_dead_ends_itself(monkeypatch: pytest.MonkeyPatch, kind: StateType) -> None:
    sent: list[int] = []
    monkeypatch.setattr(cancellation, "PERIOD", 0.01)
    monkeypatch.setattr(cancellation, "_read_state", lambda _: State[Any](type=kind))
    monkeypatch.setattr(signal, "getsignal", lambda number: print)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    watch = cancellation._Watch(uuid4())
    looking = threading.Thread(target=watch.look, daemon=True)
    looking.start()
    looking.join(10)
    watch.stop()
    assert sent == [signal.SIGTERM]


# --- a server, a worker, and what kills them ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with prefect_installation(tmp_path_factory.mktemp("installation"), deploy=True, worker=True) as made:
        yield made


class Training:
    """A run of the deployment `demo` with a training that takes far longer than the test, begun."""

    def __init__(self, installation: Installation, *, seed: int, num_processes: int = 1) -> None:
        self.home, self.client = installation.home, installation.client()
        settings = resolve_settings(
            "demo",
            None,
            [
                "newsroom={num_demonstrations: 200, num_pairs: 200, num_prompts: 10}",
                f"resources={{num_processes: {num_processes}, threads_per_process: 1, checkpoint_every: 1000000, log_every: 1}}",
                "methods=[srpo]",
                "diagnostics=null",
                f"training={{seed: {seed}, num_epochs: 3000, pairs_per_step: 8}}",
            ],
        )
        deployment = self.client.read_deployment_by_name("run/demo")
        asked = {"settings": settings.model_dump(mode="json"), "home": str(self.home)}
        self.id = self.client.create_flow_run_from_deployment(deployment.id, parameters=asked).id
        self.begun = time.time()

    @property
    def run(self) -> FlowRun:
        return self.client.read_flow_run(self.id)

    def steps(self) -> list[int]:
        """The steps that the workers of this run have told of, over all attempts."""
        done = []
        for path in (self.home / "policies").rglob("output.log"):
            if path.stat().st_mtime >= self.begun:
                lines = path.read_text().splitlines()
                done += [json.loads(line[6:])["done"] for line in lines if '"job": "srpo"' in line and '"steps"' in line]
        return done

    def wait_for_steps(self) -> None:
        def look() -> bool:
            state = self.run.state
            assert state is None or not state.is_final(), state.message
            return bool(self.steps())

        wait_for(look, 120)

    def engine(self) -> psutil.Process:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "prefect.engine" in process.cmdline() and process.environ().get("PREFECT__FLOW_RUN_ID") == str(self.id):
                    return process
        raise AssertionError("no engine")

    def checkpoints(self) -> list[Path]:
        return [path for path in (self.home / "policies").rglob("step-*") if path.stat().st_mtime >= self.begun]

    def cancel(self) -> None:
        self.client.set_flow_run_state(self.id, State(type=StateType.CANCELLING), force=True)

    def final_state(self) -> State[Any]:
        wait_for(lambda: self.run.state is not None and self.run.state.is_final())
        state = self.run.state
        assert state is not None
        return state


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_worker(installation: Installation, but: psutil.Process) -> None:
    """SIGKILL to the worker and what it runs, but for the engine, whose training goes on."""
    worker = installation.worker
    assert worker is not None
    leader = psutil.Process(worker.process.pid)
    spared = {but, *but.children(recursive=True)}
    for process in (set(leader.children(recursive=True)) | {leader}) - spared:
        process.kill()
    worker.process.wait()


@pytest.mark.slow
def test_a_cancel_with_a_dead_worker_ends_training_in_time_and_a_retry_goes_on_from_its_checkpoint(
    installation: Installation,
) -> None:
    training = Training(installation, seed=1)
    training.wait_for_steps()
    engine = training.engine()
    workers = engine.children(recursive=True)
    assert workers
    kill_worker(installation, but=engine)
    time.sleep(1)
    assert living([engine, *workers]) == [engine, *workers], "the run does not die with its worker"
    began = time.monotonic()
    training.cancel()
    wait_for(lambda: not living(workers))
    assert time.monotonic() - began < 10
    state = training.final_state()
    assert state.is_cancelled() and "Retry, to go on from there" in str(state.message)
    (checkpoint,) = training.checkpoints()
    (record,) = [one for one in read_runs(training.home) if one["prefect_run"] == str(training.id)]
    assert record["state"] == "cancelled" and record["failure"].startswith("train policies: cancelled")
    wait_for(lambda: not living([engine]))

    installation.start_worker()
    step = int(checkpoint.name.removeprefix("step-"))
    known = len(training.steps())
    training.client.set_flow_run_state(training.id, State(type=StateType.SCHEDULED, name="AwaitingRetry"))
    wait_for(lambda: len(training.steps()) > known, 120)
    assert training.run.run_count == 2
    assert min(training.steps()[known:]) > step, "it begins behind the checkpoint"
    training.cancel()
    assert training.final_state().is_cancelled()
    (again,) = [one for one in read_runs(training.home) if one["prefect_run"] == str(training.id)]
    assert again["run_id"] == record["run_id"]


@pytest.mark.slow
def test_the_death_of_a_runs_process_is_told_by_its_worker(installation: Installation) -> None:
    """Nothing in the process can tell that it was killed; the worker calls the flow's hook in a process of its own."""
    training = Training(installation, seed=2)
    training.wait_for_steps()
    training.engine().kill()
    state = training.final_state()
    assert state.is_crashed() and "-9" in str(state.message)
    (event,) = wait_for(lambda: events_about(training.client, events.RUN_FAILED), WRITTEN_DOWN_SECONDS)
    (record,) = [one for one in read_runs(training.home) if one["prefect_run"] == str(training.id)]
    assert event.resource.id == f"srpo.run.{record['run_id']}" and record["state"] == "dead"
    assert (event.payload["state"], event.payload["stage"], event.payload["reason"]) == ("Crashed", None, state.message)
    assert {"flow-run", "deployment"} <= {one.role for one in event.related}
