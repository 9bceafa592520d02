"""Whether runs can be started and are looked after: the worker, the queues, the automations, and runs nobody works on."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    WorkerFilter,
    WorkerFilterStatus,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound

from flows.server.automations import (
    HEARTBEAT,
    MISSED_BEATS,
    PENDING_SECONDS,
    Windows,
    find_automations,
    guards,
    is_as_wanted,
)
from flows.server.check_line import Check, verdict
from flows.server.deployments import DEVICE_QUEUE, POOL, Deployment
from flows.server.environment import HEARTBEAT_VARIABLE
from flows.server.pages import read_all
from flows.server.set_up import QUEUES, find_queue

BY_SERVE = "`srpo serve` sets it right"
DEFAULT_HEARTBEAT_SECONDS = 180.0  # of Prefect
SILENT_SECONDS = 420.0  # a run of `srpo run`, which no automation looks after, has Prefect's own heartbeat
LATE_SECONDS = 300.0
CANCELLING_SECONDS = 120.0
ENDED_SECONDS = 60.0  # time for a last checkpoint
WORKERS = "srpo_core.workers"
RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"  # in the environment of a run's processes


def check_runs(client: SyncPrefectClient, wanted: Sequence[Deployment], windows: Windows) -> Iterator[Check]:
    """All of it; `wanted` are the deployments of prefect.yaml."""
    yield check_guards(client, windows)
    yield check_heartbeats(wanted, windows)
    yield check_worker(client)
    yield check_queues(client)
    runs = open_runs(client, {one.flow_name for one in wanted})
    yield check_silent_runs(client, runs)
    yield check_late_runs(runs)
    yield check_orphans(client)


def check_guards(client: SyncPrefectClient, windows: Windows) -> Check:
    """The automations are there, once, enabled, and do what they should."""
    faults = []
    for one in guards(windows):
        found = find_automations(client, one.name)
        if not found:
            faults.append(f"missing: {one.name!r}")
        elif len(found) > 1:
            faults.append(f"{len(found)} of {one.name!r}")
        elif not found[0].enabled:
            faults.append(f"switched off: {one.name!r}")
        elif not is_as_wanted(found[0], one):
            faults.append(f"changed: {one.name!r}")
    needed = f"without them a run whose process died stays Running for ever; {BY_SERVE}"
    return verdict("automations", faults, f"{len(guards(windows))}, enabled", needed)


def check_heartbeats(wanted: Sequence[Deployment], windows: Windows) -> Check:
    """Runs tell that they live several times within the window after which they are taken for dead."""
    beat = windows.running / MISSED_BEATS
    slow = sorted(one.name for one in wanted if _beat(one.entry) > beat)
    faults = [f"healthy runs of {', '.join(slow)} would be taken for dead: a beat less often than every {beat:.0f} s"]
    well = f"{MISSED_BEATS} or more within {windows.running:.0f} s"
    needed = f"job_variables.env.{HEARTBEAT_VARIABLE} in prefect.yaml, in seconds; 30 is the least"
    return verdict("heartbeats", faults if slow else [], well, needed)


def _beat(entry: Mapping[str, Any]) -> float:
    variables = ((entry.get("work_pool") or {}).get("job_variables") or {}).get("env") or {}
    return float(variables.get(HEARTBEAT_VARIABLE, DEFAULT_HEARTBEAT_SECONDS))


def check_worker(client: SyncPrefectClient) -> Check:
    """Someone takes runs from the pool."""
    try:
        online = client.read_workers_for_work_pool(
            POOL, worker_filter=WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE]))
        )
        paused = client.read_work_pool(POOL).is_paused
    except ObjectNotFound:
        return Check("worker", "broken", f"no work pool {POOL}", BY_SERVE)
    if paused:
        return Check("worker", "broken", f"the work pool {POOL} is paused", f"prefect work-pool resume {POOL}")
    faults = [] if online else [f"none online for the work pool {POOL}: runs wait as Late"]
    needed = f"srpo serve, or: prefect worker start --pool {POOL}"
    return verdict("worker", faults, ", ".join(one.name for one in online), needed)


def check_queues(client: SyncPrefectClient) -> Check:
    """The queues are there, none is paused, and that of the device has a limit."""
    found = {name: find_queue(client, name) for name in QUEUES}
    missing = [name for name, queue in found.items() if queue is None]
    paused = [name for name, queue in found.items() if queue is not None and queue.is_paused]
    if missing:
        return Check("queues", "broken", f"missing: {', '.join(missing)}", BY_SERVE)
    if paused:
        command = f"prefect work-queue resume {paused[0]} --pool {POOL}"
        return Check("queues", "broken", f"paused: {', '.join(paused)}; its runs wait", command)
    device = found[DEVICE_QUEUE]
    limit = device.concurrency_limit if device is not None else None
    if not limit:
        command = f"prefect work-queue set-concurrency-limit {DEVICE_QUEUE} 1 --pool {POOL}"
        found_text = f"{DEVICE_QUEUE} has {'no limit: runs share the device' if limit is None else 'the limit 0: no run begins'}"
        return Check("queues", "broken", found_text, command)
    return Check("queues", "ok", f"{DEVICE_QUEUE}: {limit} at a time")


def open_runs(client: SyncPrefectClient, flow_names: set[str]) -> list[FlowRun]:
    """Runs of these flows that are neither ended nor due later."""
    types = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.SCHEDULED]
    later = FlowRunFilterStateName(not_any_=["Scheduled"])
    return read_all(
        client.read_flow_runs,
        flow_filter=FlowFilter(name=FlowFilterName(any_=sorted(flow_names))),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types), name=later)),
    )


def check_silent_runs(client: SyncPrefectClient, runs: Sequence[FlowRun], seconds: float = SILENT_SECONDS) -> Check:
    """No run is in a state it should long have left; one that is at work was heard of within `seconds`."""
    running = [run for run in runs if _is(run, StateType.RUNNING) and _age(run) > seconds]
    heard = _heard(client, running, seconds)
    silent = [run for run in running if f"prefect.flow-run.{run.id}" not in heard]
    limits = {StateType.PENDING: PENDING_SECONDS + 60, StateType.CANCELLING: CANCELLING_SECONDS}
    waiting = [run for run in runs for kind, limit in limits.items() if _is(run, kind) and _age(run) > limit]
    stuck = [f"{run.name} is Running without a sign of life" for run in silent]
    stuck += [f"{run.name} is {run.state.name} for {_age(run) / 60:.0f} min" for run in waiting if run.state is not None]
    commands = [f"prefect flow-run cancel {run.id}" for run in [*silent, *waiting] if not _is(run, StateType.CANCELLING)]
    needed = "; ".join([*commands, "after 5 min of Cancelling the server ends a run; Retry continues from what is complete"])
    return verdict("open runs", stuck, f"{len(running)} at work for long, each heard of", needed)


def _heard(client: SyncPrefectClient, runs: Sequence[FlowRun], seconds: float) -> set[str]:
    """Resource ids of the runs that gave a sign of life within `seconds`."""
    since = EventOccurredFilter(since=datetime.now(UTC) - timedelta(seconds=seconds))
    heard = set()
    for ident in (f"prefect.flow-run.{run.id}" for run in runs):  # one by one: of many runs no page holds all beats
        wanted = EventFilter(event=EventNameFilter(name=[HEARTBEAT]), resource=EventResourceFilter(id=[ident]), occurred=since)
        if client.read_events(wanted, limit=1).events:
            heard.add(ident)
    return heard


def check_late_runs(runs: Sequence[FlowRun]) -> Check:
    """No run waits while nothing else goes on in its queue."""
    busy = {run.work_queue_name for run in runs if _is(run, StateType.RUNNING) or _is(run, StateType.PENDING)}
    late = [run for run in runs if run.state is not None and run.state.name == "Late" and _waited(run) > LATE_SECONDS]
    faults = [f"{run.name} waits in {run.work_queue_name} for {_waited(run) / 60:.0f} min" for run in late]
    faults = [text for run, text in zip(late, faults, strict=True) if run.work_queue_name not in busy]
    needed = "its worker is away, or takes no runs of this queue: see worker and queues"
    return verdict("late runs", faults, f"{len(late)} wait for others of their queue", needed)


def check_orphans(client: SyncPrefectClient) -> Check:
    """No process of this machine works on for a run that the server has ended."""
    working = dict(_working())
    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=_ids(working)))) if working else []
    ended = {str(run.id): run for run in runs if run.state is not None and run.state.is_final() and _age(run) > ENDED_SECONDS}
    faults = [f"process {pid} works for {ended[run].name}, which has ended" for pid, run in working.items() if run in ended]
    needed = "kill -TERM the process: it saves a checkpoint and ends"
    return verdict("processes", faults, f"{len(working)} at work, none for an ended run", needed)


def _working() -> Iterator[tuple[int, str]]:
    """Processes that do a stage's work for a run of Prefect, with the run's id."""
    for process in psutil.process_iter():
        try:
            if WORKERS in process.cmdline() and (run := process.environ().get(RUN_VARIABLE)):
                yield process.pid, run
        except (psutil.Error, OSError):
            continue


def _ids(working: Mapping[int, str]) -> list[Any]:
    from uuid import UUID

    return sorted({UUID(run) for run in working.values()})


def _is(run: FlowRun, kind: StateType) -> bool:
    return run.state is not None and run.state.type == kind


def _age(run: FlowRun) -> float:
    """Seconds the run has been in its state."""
    return (datetime.now(UTC) - run.state.timestamp).total_seconds() if run.state is not None else 0.0


def _waited(run: FlowRun) -> float:
    """Seconds since the run should have begun."""
    return (datetime.now(UTC) - run.expected_start_time).total_seconds() if run.expected_start_time else 0.0
