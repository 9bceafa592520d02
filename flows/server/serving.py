"""`serve`: a server, what has to be on it, and its workers, until someone ends it; then all of it ends in order.

With a server given (PREFECT_API_URL, and it answers) only the rest is done there. Two on one home would schedule everything
twice, so a home is served by one at a time.
"""

import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from flows.server.deployments import DEVICE_QUEUE, OTHER_QUEUE, POOL, read_deployments
from flows.server.environment import address, state_folder, write_profile
from flows.server.processes import Process, answers, end_server, end_workers, start_process, wait_for_server
from srpo_core.errors import InputError, WorkFailed

LOOK_SECONDS = 0.5
ONLINE_SECONDS = 60.0  # for the workers' first sign of life; after it, `srpo doctor` tells the rest


class Installation(NamedTuple):
    """What is to be served."""

    home: Path
    environment: Mapping[str, str]  # of flows/server/environment.py
    host: str = ""  # where an own server listens; empty = the server of the environment is used
    port: int = 0
    devices: int | None = None  # None = as many as the limit that is there
    with_worker: bool = True

    @property
    def api_url(self) -> str:
        """The server's address for programs."""
        return self.environment["PREFECT_API_URL"]

    @property
    def ui_url(self) -> str:
        """Its address for people."""
        return self.environment.get("PREFECT_UI_URL") or self.api_url.removesuffix("/api")


def serve(installation: Installation, say: Callable[[str], None]) -> None:
    """Start everything, tell what to do next, and wait; returns at once where nothing is left to run.

    Raises InputError for a port that is taken, a home that is being served, more devices than are seen or a wrong prefect.yaml,
    and WorkFailed when a process ends by itself. However it ends, every process has ended when it returns.
    """
    _hang_up_is_an_end()
    if installation.with_worker:
        _choose_devices(installation.devices or 1, installation.environment)
    with ExitStack() as running:
        running.enter_context(_only_one(installation))
        server = running.enter_context(_server(installation)) if installation.host else None
        read_deployments()  # while the server starts
        if server is not None:
            wait_for_server(server, installation.api_url)
        devices, before = _set_up(installation), _heartbeats(installation)
        workers = running.enter_context(_workers(installation, devices)) if installation.with_worker else []
        _wait_until_online(installation, workers, before)
        say(_welcome(installation, workers))
        _watch([*([server] if server else []), *workers])


def _hang_up_is_an_end() -> None:
    """A terminal that is closed ends everything in order too, unless `nohup` says otherwise."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))


def _set_up(installation: Installation) -> int:
    """Everything on the server; how many devices its queue says there are."""
    from flows.server.set_up import find_queue, open_client, set_up

    with open_client(installation.environment) as client:
        set_up(client, installation.environment, installation.devices)
        queue = find_queue(client, DEVICE_QUEUE)
    return (queue.concurrency_limit if queue is not None else None) or 1


@contextmanager
def _server(installation: Installation) -> Iterator[Process]:
    _require_free(installation.host, installation.port)
    arguments = ["server", "start", "--host", installation.host, "--port", str(installation.port)]
    log = state_folder(installation.home) / "server.log"
    write_profile(installation.home, installation.environment)
    server = start_process("server", arguments, installation.environment, log)
    try:
        yield server
    finally:
        with _undisturbed():
            end_server(server)


@contextmanager
def _workers(installation: Installation, devices: int) -> Iterator[list[Process]]:
    workers: list[Process] = []
    try:
        for name, queues, environment in _plan_workers(devices, installation.environment):
            log = state_folder(installation.home) / f"{name}.log"
            arguments = ["worker", "start", "--pool", POOL, "--name", _name_on_server(name), *queues]
            workers.append(start_process(name, arguments, environment, log))
        yield workers
    finally:
        with _undisturbed():
            end_workers(workers)


def _plan_workers(devices: int, environment: Mapping[str, str]) -> Iterator[tuple[str, list[str], Mapping[str, str]]]:
    """Name, options and environment of each: one for everything, or one per device that sees this device alone, and one more."""
    if devices == 1:
        yield "worker", [], environment
        return
    for device in _choose_devices(devices, environment):
        options = ["--work-queue", DEVICE_QUEUE, "--limit", "1"]
        yield f"worker-device-{device}", options, {**environment, "CUDA_VISIBLE_DEVICES": device}
    yield "worker-default", ["--work-queue", OTHER_QUEUE], environment


def _choose_devices(number: int, environment: Mapping[str, str]) -> list[str]:
    """The first so many of CUDA_VISIBLE_DEVICES, or of the machine where it is not set. Raises InputError when it names fewer."""
    visible = [one.strip() for one in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    if visible and number > len(visible):
        raise InputError(
            f"expected {number} devices (--devices, or the limit of the queue {DEVICE_QUEUE}), found {len(visible)} in "
            f"CUDA_VISIBLE_DEVICES={','.join(visible)}; give --devices {len(visible)}, or let more be seen"
        )
    return visible[:number] or [str(index) for index in range(number)]


def _name_on_server(name: str) -> str:
    return f"{socket.gethostname()}-{name}"


def _heartbeats(installation: Installation) -> dict[str, object]:
    """When the server last heard of each worker of the pool, by the worker's name there."""
    from flows.server.pages import read_all
    from flows.server.set_up import open_client

    with open_client(installation.environment) as client:
        found = read_all(client.read_workers_for_work_pool, work_pool_name=POOL)
    return {one.name: one.last_heartbeat_time for one in found}


def _wait_until_online(installation: Installation, workers: Sequence[Process], before: Mapping[str, object]) -> None:
    """Return once the server has heard of every worker since `before`: who is told to go on finds everything there."""
    until = time.monotonic() + ONLINE_SECONDS
    names = {_name_on_server(one.name) for one in workers}
    while names and time.monotonic() < until:
        _require_alive(workers)
        heard = _heartbeats(installation)
        names = {name for name in names if heard.get(name) in (None, before.get(name))}
        time.sleep(LOOK_SECONDS if names else 0)


def _watch(processes: Sequence[Process]) -> None:
    """Return when there is nothing to wait for. Raises WorkFailed when one of the processes ends by itself."""
    while processes:
        _require_alive(processes)
        time.sleep(LOOK_SECONDS)


def _require_alive(processes: Sequence[Process]) -> None:
    for one in processes:
        if one.ended:
            raise WorkFailed(
                f"expected the {one.name} to go on, found it ended with status {one.process.returncode}: {one.last_words()}; "
                f"its whole output is in {one.log}, and everything else has been ended"
            )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not leave processes behind: ending has its own time limits."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _only_one(installation: Installation) -> Iterator[None]:
    """Hold the home's lock while serving; the kernel frees it when the process dies."""
    folder = state_folder(installation.home)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "serve.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another srpo serve"
            raise InputError(
                f"expected nobody to serve {installation.home}, found {who}; use that one, end it, or name another --home"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"srpo serve with process id {os.getpid()} at {installation.ui_url}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _require_free(host: str, port: int) -> None:
    """Raises InputError when nobody can listen there."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        where = address(host, port)
        advice = f"set PREFECT_API_URL={where}/api to use it" if answers(f"{where}/api") else "name another with --host or --port"
        found = "a Prefect server there" if answers(f"{where}/api") else str(error.strerror or error)
        raise InputError(f"expected to listen on {host} port {port}, found {found}; {advice}") from error


def _welcome(installation: Installation, workers: Sequence[Process]) -> str:
    folder = state_folder(installation.home)
    lines = [
        f"UI        {installation.ui_url}",
        f"home      {installation.home}",
        f"logs      {folder}/*.log",
        "",
        "Next: open the UI, Deployments, demo, Run; or in another terminal",
        f"  export PREFECT_API_URL={installation.api_url}",
        "  prefect deployment run run/demo",
        "  srpo doctor",
    ]
    if len(workers) > 1:
        lines.insert(3, f"workers   {', '.join(one.name for one in workers)}")
    if not workers:
        lines.append("No worker was started; docs/prefect.md tells how to start one.")
    if installation.host or workers:
        lines.append("Ctrl-C ends everything; a running training saves a checkpoint first.")
    return "\n".join(lines)
