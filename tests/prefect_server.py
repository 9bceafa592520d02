"""A real Prefect server, and on request the deployments and a worker, for tests: own port, all state in one folder.

    with prefect_installation(tmp_path, deploy=True, worker=True) as installation:
        installation.client().read_deployments()

Everything that was started is ended, also when the test fails. `home` (SRPO_HOME of the runs) is `<folder>/home`, the output of
the processes is in `<folder>/home/prefect/*.log`.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient

from flows.server.environment import server_environment, state_folder
from flows.server.processes import CHECKOUT, Process, end_server, end_workers, start_process, wait_for_server

HOST = "127.0.0.1"
# A schedule or a deployment that is new is looked at within a second, not within a minute.
QUICK = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
}


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Installation:
    """A running server; see `prefect_installation`."""

    def __init__(self, home: Path, server: Process, environment: Mapping[str, str]) -> None:
        self.home = home
        self.server = server
        self.worker: Process | None = None
        self.environment = dict(environment)  # for subprocesses: their runs, commands and clients use this server
        self.api_url = self.environment["PREFECT_API_URL"]
        self.ui_url = self.api_url.removesuffix("/api")

    def client(self) -> SyncPrefectClient:
        """A client of this server, to be used in `with` or as it is."""
        return SyncPrefectClient(self.api_url)

    def run(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """`python -m <arguments>` in the checkout against this server, such as `run("prefect", "deployment", "ls")`."""
        return subprocess.run(
            [sys.executable, "-m", *arguments], env=self.environment, cwd=CHECKOUT, capture_output=True, text=True, check=check
        )

    def deploy(self) -> None:
        """The work pool, and everything in prefect.yaml."""
        self.run("prefect", "work-pool", "create", "local", "--type", "process", "--overwrite")
        self.run("prefect", "--no-prompt", "deploy", "--all")

    def start_worker(self) -> Process:
        """A worker of the pool `local`; one at a time."""
        arguments = ("worker", "start", "--pool", "local", "--name", "worker")
        self.worker = start_process("worker", arguments, self.environment, state_folder(self.home) / "worker.log")
        return self.worker

    def stop(self) -> None:
        """End the worker and the server with all that they started."""
        if self.worker is not None:
            end_workers([self.worker])
        end_server(self.server)


@contextmanager
def prefect_installation(
    folder: Path, *, deploy: bool = False, worker: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[Installation]:
    """A server on a free port; `settings` are environment variables for all its processes."""
    home, port = folder / "home", free_port()
    given = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SRPO_"))}
    environment = server_environment(home, HOST, port, "", given | QUICK | dict(settings or {}))
    command = ("server", "start", "--host", HOST, "--port", str(port))
    server = start_process("server", command, environment, state_folder(home) / "server.log")
    installation = Installation(home, server, environment)
    try:
        wait_for_server(server, installation.api_url)
        if deploy:
            installation.deploy()
        if worker:
            installation.start_worker()
        yield installation
    finally:
        installation.stop()
