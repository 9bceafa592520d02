"""`srpo doctor` on a live installation: each fault is made there, found by its check and by no other, and mended."""

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import BlockDocumentCreate, DeploymentScheduleCreate, DeploymentUpdate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Crashed, Late, Running

from flows.cli import main
from flows.server import deployment_checks, run_checks
from flows.server.automations import SILENT, STRANDED, Windows, ensure_guards, find_automations, guards
from flows.server.check_line import Check
from flows.server.deployment_checks import STEP, check_deployments, check_scheduler
from flows.server.deployments import DEVICE_QUEUE, FILE, POOL, TAG, Deployment
from flows.server.installation_checks import check_installation
from flows.server.key_checks import check_keys
from flows.server.processes import CHECKOUT
from flows.server.run_checks import check_heartbeats, check_runs, check_silent_runs, open_runs
from flows.server.set_up import find_queue
from tests.flows.server.live_server import beat, paused_queue, run_in, stored
from tests.flows.server.serve_process import SETTINGS
from tests.waiting import wait_for


def test_doctor_finds_everything_in_order(served, wanted, capsys, monkeypatch):
    for name, value in {**served.environment, **SETTINGS}.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    status = main(["doctor", "--home", str(served.home), "--json"])
    checks = {one["name"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert status == 0, checks
    names = "prefect.yaml deployments forms checkout scheduler automations heartbeats worker queues processes".split()
    assert {checks[name]["status"] for name in names} == {"ok"}
    assert time.monotonic() - began < 20  # below 10 on a machine that does nothing else


def test_doctor_finds_the_server_of_the_home_where_none_is_configured(served, capsys, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", "/nowhere")
    monkeypatch.setattr("flows.server.installation_checks.check_installation", lambda environment: iter(()))
    main(["doctor", "--home", str(served.home), "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    server, log = ([one for one in checks if one["name"] == name][0] for name in ("prefect server", "server log"))
    assert (server["status"], server["found"]) == ("ok", served.environment["PREFECT_API_URL"])
    assert log["status"] in ("ok", "absent")


def statuses(client: SyncPrefectClient, wanted: list[Deployment]) -> dict[str, str]:
    """The status of every check of the live server, by name."""
    checks = [*check_deployments(client, wanted, FILE.parent), *check_runs(client, wanted, Windows())]
    return {check.name: check.status for check in checks}


@contextmanager
def automation_gone(client: SyncPrefectClient) -> Iterator[None]:
    client.delete_automation(find_automations(client, SILENT)[0].id)
    yield
    ensure_guards(client)


@contextmanager
def automation_off(client: SyncPrefectClient) -> Iterator[None]:
    client.pause_automation(find_automations(client, STRANDED)[0].id)
    yield
    ensure_guards(client)


@contextmanager
def automation_doubled(client: SyncPrefectClient) -> Iterator[None]:
    client.create_automation(guards()[0])
    yield
    ensure_guards(client)


@contextmanager
def automation_changed(client: SyncPrefectClient) -> Iterator[None]:
    one = guards()[0]
    other = one.model_copy(update={"trigger": one.trigger.model_copy(update={"expect": {"prefect.flow-run.Completed"}})})
    client.update_automation(find_automations(client, SILENT)[0].id, other)
    yield
    ensure_guards(client)


@contextmanager
def window_changed(client: SyncPrefectClient) -> Iterator[None]:
    ensure_guards(client, Windows(running=45))
    yield
    ensure_guards(client)


@contextmanager
def changed(client: SyncPrefectClient, **values: Any) -> Iterator[None]:
    """The weekly deployment with other values, and back."""
    before = stored(client)
    client.update_deployment(before.id, DeploymentUpdate(**values))
    yield
    client.update_deployment(before.id, DeploymentUpdate(**{name: getattr(before, name) for name in values}))


@contextmanager
def at_another_time(client: SyncPrefectClient) -> Iterator[None]:
    weekly = stored(client)
    (before,) = weekly.schedules
    client.update_deployment_schedule(weekly.id, before.id, schedule=CronSchedule(cron="0 5 * * 1", timezone="Europe/Berlin"))
    yield
    client.update_deployment_schedule(weekly.id, before.id, schedule=before.schedule)


@contextmanager
def stale_range(client: SyncPrefectClient) -> Iterator[None]:
    schema = copy.deepcopy(stored(client).parameter_openapi_schema)
    schema["definitions"]["PromotionSettings"]["properties"]["margin"]["exclusiveMaximum"] = 2
    with changed(client, parameter_openapi_schema=schema):
        yield


@contextmanager
def no_limit(client: SyncPrefectClient, limit: int | None = None) -> Iterator[None]:
    queue = find_queue(client, DEVICE_QUEUE)
    client.update_work_queue(queue.id, concurrency_limit=limit)
    yield
    client.update_work_queue(queue.id, concurrency_limit=1)


@contextmanager
def paused_pool(client: SyncPrefectClient) -> Iterator[None]:
    client.update_work_pool(POOL, WorkPoolUpdate(is_paused=True))
    yield
    client.update_work_pool(POOL, WorkPoolUpdate(is_paused=False))


@contextmanager
def no_worker(client: SyncPrefectClient) -> Iterator[None]:
    (one,) = client.read_workers_for_work_pool(POOL)
    client.request("DELETE", f"/work_pools/{POOL}/workers/{one.name}")
    yield
    client.send_worker_heartbeat(POOL, one.name, heartbeat_interval_seconds=30)


FAULTS: dict[str, tuple[str, Callable[[SyncPrefectClient], Any]]] = {
    "an automation is missing": ("automations", automation_gone),
    "an automation is switched off": ("automations", automation_off),
    "healthy runs would be crashed": ("automations", window_changed),
    "the form is stale": ("forms", lambda client: changed(client, parameter_openapi_schema={"type": "object", "properties": {}})),
    "the parameters have changed": ("forms", lambda client: changed(client, parameters={"other": 1})),
    "the schedule has changed": ("forms", at_another_time),
    "an automation is there twice": ("automations", automation_doubled),
    "an automation waits for something else": ("automations", automation_changed),
    "a range in the form is stale": ("forms", stale_range),
    "another checkout": ("checkout", lambda client: changed(client, pull_steps=[{STEP: {"directory": "/elsewhere"}}])),
    "output through the worker": ("output of runs", lambda client: changed(client, job_variables={"stream_output": True})),
    "a queue is paused": ("queues", paused_queue),
    "runs share the device": ("queues", no_limit),
    "no run may begin on the device": ("queues", lambda client: no_limit(client, 0)),
    "the pool is paused": ("worker", paused_pool),
    "no worker": ("worker", no_worker),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_doctor_finds_a_fault_and_nothing_else(client, wanted, fault):
    name, make = FAULTS[fault]
    with make(client):
        found = statuses(client, wanted)
    assert {one for one, status in found.items() if status == "broken"} == {name}


def test_doctor_finds_that_the_scheduler_makes_no_runs(client, monkeypatch):
    """Its runs are deleted under a scheduler that works, which makes them again within a second."""
    weekly = {"weekly-retrain": stored(client)}

    def status_without_runs() -> str:
        for run in client.read_flow_runs():
            if run.auto_scheduled:
                client.delete_flow_run(run.id)
        return check_scheduler(client, weekly).status

    assert status_without_runs() == "ok"  # deployed a moment ago: they may still come
    monkeypatch.setattr(deployment_checks, "SCHEDULER_SECONDS", 0.0)
    wait_for(lambda: status_without_runs() == "broken", 30, "a look before they are there again")
    wait_for(lambda: check_scheduler(client, weekly).status == "ok", 30, "the scheduler")


def test_runs_that_are_overdue_do_not_speak_for_the_scheduler(client):
    weekly = {"weekly-retrain": stored(client)}
    wait_for(lambda: check_scheduler(client, weekly).found.startswith(tuple("123456789")), 30, "scheduled runs")
    assert check_scheduler(client, weekly, datetime.now(UTC) + timedelta(days=400)).status == "broken"


def test_a_run_that_tells_too_seldom_that_it_lives_is_named(wanted):
    job = {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "31"}}
    seldom = wanted[0]._replace(entry={**wanted[0].entry, "work_pool": {"job_variables": job}})
    assert check_heartbeats(wanted, Windows()).status == "ok"
    assert wanted[0].name in check_heartbeats([seldom, *wanted[1:]], Windows()).found


def test_what_has_left_the_file_and_is_still_scheduled_ends_by_the_commands_that_doctor_names(served, client, wanted):
    weekly = stored(client)
    left = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 6 * * 1"), slug="removed", active=True)
    client.create_deployment_schedules(weekly.id, [left])
    client.create_deployment(weekly.flow_id, "renamed", tags=[TAG], schedules=[left])

    def look() -> Check:
        return next(check for check in check_deployments(client, wanted, FILE.parent) if check.name == "deployments")

    broken = look()
    assert (broken.status, "renamed" in broken.found, "removed" in broken.found) == ("broken", True, True)
    for command in broken.needed.split("; "):
        subprocess.run([sys.executable, "-m", *command.split()], env=served.environment, check=True, capture_output=True)
    assert look().status == "ok"


def test_a_run_that_a_person_scheduled_is_no_work_of_the_scheduler():
    due: Any = SimpleNamespace(id=uuid4(), paused=False, schedules=[SimpleNamespace(active=True)], created=None)
    due.updated = datetime.now(UTC) - timedelta(days=1)

    def status(auto_scheduled: bool) -> str:
        run = SimpleNamespace(deployment_id=due.id, auto_scheduled=auto_scheduled)
        server: Any = SimpleNamespace(read_flow_runs=lambda **_: [run])
        return check_scheduler(server, {"weekly": due}).status

    assert (status(False), status(True)) == ("broken", "ok")


def test_doctor_finds_a_deployment_that_is_missing_and_one_that_is_left_over(client, wanted):
    weekly = stored(client)
    assert statuses(client, [one for one in wanted if one.name != "weekly-retrain"])["deployments"] == "broken"
    client.update_deployment(weekly.id, DeploymentUpdate(tags=[]))
    renamed = [one._replace(name="monthly") if one.name == "weekly-retrain" else one for one in wanted]
    try:
        assert statuses(client, renamed)["deployments"] == "broken"
    finally:
        client.update_deployment(weekly.id, DeploymentUpdate(tags=weekly.tags))


def test_doctor_names_a_misspelt_key_before_anything_else(served, tmp_path):
    (tmp_path / "flows").symlink_to(CHECKOUT / "flows")
    text = FILE.read_text(encoding="utf-8").replace("concurrency_limit: *one", "concurency_limit: *one", 1)
    (tmp_path / "prefect.yaml").write_text(text, encoding="utf-8")
    (check,) = check_installation(served.environment, tmp_path / "prefect.yaml")
    assert (check.name, check.status) == ("prefect.yaml", "broken")
    assert "did you mean concurrency_limit?" in check.found


def test_a_key_may_be_in_the_environment_or_a_block(served, client, wanted):
    assert check_keys(client, wanted, {}).status == "absent"
    assert check_keys(client, wanted, {"OPENAI_API_KEY": "secret"}).status == "ok"
    kind = client.read_block_type_by_slug("secret")
    schema = client.get_most_recent_block_schema_for_block_type(kind.id)
    data = BlockDocumentCreate(name="openai-api-key", data={"value": "secret"}, block_schema_id=schema.id, block_type_id=kind.id)
    block = client.create_block_document(data)
    try:
        check = check_keys(client, wanted, {})
        assert (check.status, "secret" in check.found.replace("Secret block", "")) == ("ok", False)
    finally:
        client.delete_block_document(block.id)


def test_the_key_asked_for_is_the_one_that_the_judge_names(client, wanted):
    judge = {"kind": "api", "model": "m", "api_key_variable": "ANOTHER_KEY"}
    named = [wanted[0]._replace(entry={"parameters": {"settings": {"judge": judge}}})]
    assert check_keys(client, named, {"OPENAI_API_KEY": "secret"}).found == "ANOTHER_KEY is neither set nor a Secret block"


# Runs nobody works on.


def found(client: SyncPrefectClient, wanted: list[Deployment], name: str) -> Check:
    return next(check for check in check_runs(client, wanted, Windows()) if check.name == name)


def test_doctor_finds_a_run_that_gives_no_sign_of_life(client):
    with run_in(client, Running()) as run:
        time.sleep(4)

        def look() -> Check:
            return check_silent_runs(client, open_runs(client, {"publish"}), seconds=4)

        assert (look().status, run.name in look().found) == ("broken", True)
        assert f"prefect flow-run cancel {run.id};" in look().needed
        wait_for(lambda: beat(client, run) or look().status == "ok", 10, "the heartbeat")


def test_doctor_finds_a_run_that_waits_for_nothing(client, wanted):
    with run_in(client, Late(scheduled_time=datetime.now(UTC) - timedelta(hours=1))) as run:
        assert run.name in found(client, wanted, "late runs").found


def test_doctor_finds_a_process_that_works_on_for_a_run_that_has_ended(client, wanted, monkeypatch):
    monkeypatch.setattr(run_checks, "ENDED_SECONDS", 0.0)
    with run_in(client, Crashed()) as run:
        orphan = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)", "srpo_core.workers"],
            env={**os.environ, run_checks.RUN_VARIABLE: str(run.id)},
        )
        try:
            check = found(client, wanted, "processes")
            assert (check.status, f"process {orphan.pid} works for {run.name}" in check.found) == ("broken", True)
        finally:
            orphan.kill()
            orphan.wait()


def test_a_process_of_a_run_that_goes_on_is_no_orphan(client, wanted, monkeypatch):
    monkeypatch.setattr(run_checks, "ENDED_SECONDS", 0.0)
    with run_in(client, Running()) as run:
        monkeypatch.setattr(run_checks, "_working", lambda: iter([(4711, str(run.id))]))
        check = found(client, wanted, "processes")
    assert (check.status, check.found) == ("ok", "1 at work, none for an ended run")


def test_a_late_run_behind_one_that_is_at_work_is_no_fault(client, wanted):
    waiting = Late(scheduled_time=datetime.now(UTC) - timedelta(hours=1))
    with run_in(client, Running()), run_in(client, waiting):
        check = found(client, wanted, "late runs")
    assert (check.status, check.found) == ("ok", "1 wait for others of their queue")


@pytest.mark.parametrize("kind", [StateType.PENDING, StateType.CANCELLING])
def test_doctor_finds_a_run_that_stays_pending_or_cancelling(kind):
    server: Any = None  # which is asked about running ones alone
    state = State[Any](type=kind, timestamp=datetime.now(UTC) - timedelta(hours=1))
    check = check_silent_runs(server, [FlowRun(flow_id=uuid4(), name="ghost", state=state)])
    assert (check.status, check.found) == ("broken", f"ghost is {state.name} for 60 min")
