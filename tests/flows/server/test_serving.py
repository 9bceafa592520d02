"""`srpo serve` as a person starts it: what is on the server then, who looks after its runs, how it is refused and how it ends."""

import signal
import time
from datetime import UTC
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType
from prefect.states import Pending, Running

from flows.server import serving
from flows.server.automations import SILENT, STRANDED, Windows, ensure_guards, find_automations, guards
from flows.server.deployments import DEVICE_QUEUE, OTHER_QUEUE, POOL, TAG
from flows.server.environment import state_folder
from flows.server.left_runs import tell_of_left_runs
from flows.server.processes import Process
from flows.server.serving import Installation
from flows.server.set_up import find_queue
from srpo_core.errors import WorkFailed
from tests.flows.server.live_server import beat, run_in, state_of, stored
from tests.flows.server.serve_process import start_serving
from tests.waiting import wait_for

ON_DEVICE = {"demo", "tldr", "chat", "weekly-retrain", "train-sft", "reference", "train", "generate"}


def test_it_says_where_the_ui_is_and_what_to_do_next(served):
    text = served.output.read_text()
    api = served.environment["PREFECT_API_URL"]
    assert [line for line in (f"UI        {api[:-4]}", f"export PREFECT_API_URL={api}", "srpo doctor") if line not in text] == []
    assert len(text.splitlines()) <= 12


def test_it_waits_until_the_server_has_heard_of_the_new_worker_and_not_only_of_the_one_before(monkeypatch, tmp_path):
    (tmp_path / "worker.log").write_text("no such pool")
    name = serving._name_on_server("worker")
    heard = iter([{}, {name: "before"}, {name: "now"}])
    monkeypatch.setattr(serving, "_heartbeats", lambda _: next(heard))
    monkeypatch.setattr(serving, "LOOK_SECONDS", 0.01)
    process: Any = SimpleNamespace(poll=lambda: None, returncode=1)
    worker = Process("worker", process, tmp_path / "worker.log", "mark")
    serving._wait_until_online(Installation(tmp_path, {}), [worker], {name: "before"})
    assert not list(heard)
    process.poll = lambda: 1
    with pytest.raises(WorkFailed, match="expected the worker to go on, found it ended with status 1: no such pool"):
        serving._wait_until_online(Installation(tmp_path, {}), [worker], {})


def test_all_state_of_the_server_lies_in_the_home(served):
    names = {path.name for path in state_folder(served.home).iterdir()}
    assert {"prefect.db", "profiles.toml", "server.log", "worker.log", "serve.lock"} <= names


def test_the_scheduler_has_made_runs_of_the_weekly_deployment(client):
    weekly = stored(client)
    runs = [run for run in client.read_flow_runs() if run.deployment_id == weekly.id]
    assert len(runs) >= 3
    assert all(run.auto_scheduled and run.state.name == "Scheduled" for run in runs)
    berlin = {(run.expected_start_time.astimezone(UTC).weekday(), run.expected_start_time.minute) for run in runs}
    assert berlin == {(0, 0)}  # Mondays, 04:00 in Berlin is 02:00 or 03:00 UTC
    assert {run.work_queue_name for run in runs} == {DEVICE_QUEUE}


def test_every_deployment_is_ready_in_its_queue(client, wanted):
    def unready() -> list[str]:
        return [one.name for one in client.read_deployments() if one.status != "READY"]

    wait_for(lambda: not unready(), 30, f"READY: {unready()}")
    queues = {one.name: (one.work_pool_name, one.work_queue_name) for one in client.read_deployments()}
    assert set(queues) == {one.name for one in wanted}
    assert {queues[name] for name in ON_DEVICE} == {(POOL, DEVICE_QUEUE)}
    assert queues["publish"] == queues["ingest"] == (POOL, OTHER_QUEUE)
    limits = {name: find_queue(client, name).concurrency_limit for name in (DEVICE_QUEUE, OTHER_QUEUE)}
    assert limits == {DEVICE_QUEUE: 1, OTHER_QUEUE: None}


def test_for_a_server_that_is_there_it_changes_nothing_twice_and_keeps_what_a_person_has_set(served, client, tmp_path):
    weekly, queue = stored(client), find_queue(client, DEVICE_QUEUE)
    client.update_deployment_schedule(weekly.id, weekly.schedules[0].id, active=False)
    client.pause_deployment(stored(client, "publish/publish").id)
    client.update_work_queue(queue.id, concurrency_limit=3)
    before = sorted((one.name, one.id) for one in client.read_automations() if TAG in one.tags)
    try:
        again = start_serving(tmp_path, "--no-worker", api_url=served.environment["PREFECT_API_URL"])
        assert again.process.wait(240) == 0, again.output.read_text()
        assert f"using the Prefect server at {served.environment['PREFECT_API_URL']}" in again.output.read_text()
        assert sorted((one.name, one.id) for one in client.read_automations() if TAG in one.tags) == before
        assert [name for name, _ in before] == [STRANDED, SILENT]
        assert [schedule.active for schedule in stored(client).schedules] == [False]
        assert (stored(client).id, find_queue(client, DEVICE_QUEUE).concurrency_limit) == (weekly.id, 3)
        assert stored(client, "publish/publish").paused
    finally:
        client.update_deployment_schedule(weekly.id, weekly.schedules[0].id, active=True)
        client.resume_deployment(stored(client, "publish/publish").id)
        client.update_work_queue(queue.id, concurrency_limit=1)


def test_automations_that_were_switched_off_changed_or_doubled_are_mended(client):
    first = find_automations(client, SILENT)[0]
    client.pause_automation(first.id)
    client.create_automation(guards()[1])
    ensure_guards(client)
    for one in guards():
        (found,) = find_automations(client, one.name)
        assert (found.enabled, found.trigger.within, found.actions) == (True, one.trigger.within, one.actions)


def test_a_silent_run_and_one_that_never_begins_are_marked_and_one_that_beats_is_not(client):
    """With windows of 10 s, the least Prefect takes, instead of 90 s and 10 min."""
    ensure_guards(client, Windows(running=10, pending=10))
    try:
        with run_in(client, Running()) as silent, run_in(client, Running()) as alive, run_in(client, Pending()) as stranded:
            beat(client, silent)

            def both_ended() -> bool:
                beat(client, alive)
                time.sleep(1)
                return all(state_of(client, run.id).is_final() for run in (silent, stranded))

            wait_for(both_ended, 40, "the automations")
            for run, said in ((silent, "No sign of life for 10 s"), (stranded, "Not begun within")):
                state = state_of(client, run.id)
                assert (state.type, said in state.message, "Press Retry" in state.message) == (StateType.CRASHED, True, True)
            assert state_of(client, alive.id).is_running()
    finally:
        ensure_guards(client)


def test_a_run_left_by_a_server_that_was_away_for_long_is_marked_and_one_that_lives_is_not(client):
    """What the guards waited for is forgotten by then, as if these runs had never given a sign."""
    ensure_guards(client, Windows(running=10, pending=10))
    try:
        with run_in(client, Running()) as left, run_in(client, Running()) as alive:
            assert tell_of_left_runs(client) == 2

            def ended() -> bool:
                beat(client, alive)
                time.sleep(1)
                return state_of(client, left.id).is_final()

            wait_for(ended, 40, "the automation")
            assert "No sign of life for 10 s" in state_of(client, left.id).message
            assert state_of(client, alive.id).is_running()
    finally:
        ensure_guards(client)


def test_runs_that_had_not_begun_are_among_those_that_are_left(client):
    with run_in(client, Running()), run_in(client, Pending()):
        assert tell_of_left_runs(client) == 2


def test_a_home_that_is_served_and_a_port_that_is_taken_are_refused_in_one_sentence(served, tmp_path):
    port = int(served.environment["PREFECT_API_URL"].rsplit(":", 1)[1].removesuffix("/api"))
    other = start_serving(tmp_path, port=port)
    again = start_serving(served.home.parent)
    assert (other.process.wait(30), again.process.wait(30)) == (2, 2)
    assert f"set PREFECT_API_URL=http://127.0.0.1:{port}/api to use it" in other.output.read_text()
    assert f"srpo serve with process id {served.process.pid}" in again.output.read_text()
    assert [len(one.output.read_text().splitlines()) for one in (other, again)] == [1, 1]


def test_ctrl_c_ends_every_process_within_seconds(served):
    """The last test with this installation."""
    assert len(served.started()) >= 2
    began = time.monotonic()
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(30) == 128 + signal.SIGINT
    assert time.monotonic() - began < 15
    assert served.started() == []
    assert "Traceback" not in served.output.read_text()
