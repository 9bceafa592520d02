"""`srpo serve` as a process of its own, with everything in one folder, for tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from prefect.client.orchestration import SyncPrefectClient

from flows.server.processes import CHECKOUT, MARK
from tests.prefect_server import QUICK, free_port
from tests.waiting import wait_for

START_SECONDS = 240.0
SETTINGS = {"PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S", "OPENAI_API_KEY": "no-key"}


class Served(NamedTuple):
    """A running `srpo serve`."""

    process: "subprocess.Popen[bytes]"
    home: Path
    output: Path
    environment: dict[str, str]  # for what talks to its server

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(self.environment["PREFECT_API_URL"])

    def started(self) -> list[psutil.Process]:
        """Every process that came of it."""
        return [child for child in psutil.process_iter() if str(self.home) in _home_of(child) and child.pid != self.process.pid]


def _home_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("SRPO_HOME", "") if process.environ().get(MARK) else ""
    except (psutil.Error, OSError):
        return ""


def start_serving(folder: Path, *options: str, port: int | None = None, api_url: str = "") -> Served:
    """`srpo serve` in a folder, on a free port, or for the server at `api_url`; returns at once."""
    folder.mkdir(parents=True, exist_ok=True)
    home, output, port = folder / "home", folder / "output.txt", port or free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SRPO_"))}
    given, where = ({"PREFECT_API_URL": api_url}, []) if api_url else ({}, ["--port", str(port)])
    own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_PROFILES_PATH": str(folder / "profiles.toml")}
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve", "--home", str(home), *where, *options],
            env={**kept, **own, **QUICK, **SETTINGS, **given},
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )
    return Served(process, home, output, {**kept, **own, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"})


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Served]:
    """`srpo serve` in a folder once everything is up; what is left of it at the end is ended."""
    served = start_serving(folder, *options)
    try:
        wait_until_served(served)
        yield served
    finally:
        end(served)


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_until_served(served: Served) -> None:
    def said() -> bool:
        assert served.process.poll() is None, served.output.read_text()
        return "Ctrl-C ends everything" in served.output.read_text()

    wait_for(said, START_SECONDS, "srpo serve")


def end(served: Served) -> None:
    """Whatever a test left: the process itself ends its own, and what it could not is killed."""
    if served.process.poll() is None:
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(60)
    for left in served.started():
        left.kill()
