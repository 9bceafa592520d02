"""What is left of an installation that ends while a training goes on, and another database. Takes minutes."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType

from flows.presets import resolve_settings
from flows.server.processes import end_workers
from flows.server.set_up import set_up
from tests.flows.server.serve_process import Served, serving
from tests.prefect_server import Installation, free_port, prefect_installation
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
# A training of minutes that can be ended in its first seconds.
LONG = [
    "newsroom={num_demonstrations: 40000, num_pairs: 500, num_prompts: 10}",
    "resources={num_processes: 1, threads_per_process: 1, log_every: 1, checkpoint_every: 5}",
    "methods=[srpo]",
    "diagnostics=null",
]


def start_training(installation: Served | Installation, home: Path) -> UUID:
    """A run of the deployment demo that has saved a checkpoint and goes on."""
    settings = resolve_settings("demo", None, LONG).model_dump(mode="json")
    with installation.client() as client:
        deployment = client.read_deployment_by_name("run/demo")
        run = client.create_flow_run_from_deployment(deployment.id, parameters={"settings": settings, "home": ""})

        def trains() -> bool:
            state = client.read_flow_run(run.id).state
            assert state is not None and not state.is_final(), state
            return any(home.glob("policies/*/checkpoints/*"))

        wait_for(trains, 300, "a first checkpoint")
    return run.id


def checkpoints(home: Path) -> list[Path]:
    return sorted(home.glob("policies/*/checkpoints/*"))


def state_of(installation: Served | Installation, run: UUID):
    with installation.client() as client:
        return client.read_flow_run(run).state


def test_sigterm_gives_a_training_its_checkpoint_and_the_run_its_end(tmp_path):
    with serving(tmp_path) as served:
        run = start_training(served, served.home)
        before = checkpoints(served.home)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 128 + signal.SIGTERM
        assert served.started() == []
        assert checkpoints(served.home) != before
    with serving(tmp_path, "--no-worker") as again:
        assert state_of(again, run).type == StateType.CRASHED


def test_a_worker_that_dies_ends_the_rest_with_one_sentence(tmp_path):
    with serving(tmp_path) as served:
        (worker,) = [one for one in served.started() if "worker" in one.cmdline()]
        said = served.output.read_text()
        worker.kill()
        assert served.process.wait(60) == 1
        assert served.started() == []
        (sentence,) = served.output.read_text().removeprefix(said).splitlines()
        assert "expected the worker to go on, found it ended with status -9" in sentence


def test_a_serve_that_is_killed_takes_its_processes_along_and_the_next_one_marks_the_run(tmp_path):
    with serving(tmp_path) as served:
        run = start_training(served, served.home)
        served.process.kill()
        wait_for(lambda: not served.started(), 40, "the end of every process")
    with serving(tmp_path) as again:
        wait_for(lambda: state_of(again, run).is_final(), 200, "the automation")
        assert state_of(again, run).is_crashed()


def test_a_run_whose_worker_and_process_were_killed_is_marked_in_two_minutes(tmp_path):
    """The automation alone, on a server with a worker by hand: 90 s without a heartbeat."""
    with prefect_installation(tmp_path) as installation:
        with installation.client() as client:
            set_up(client, installation.environment)
        worker = installation.start_worker()
        run = start_training(installation, installation.home)
        began = time.monotonic()
        worker.process.kill()
        for process in Served(worker.process, installation.home, worker.log, {}).started():
            if any("prefect.engine" in part for part in process.cmdline()):
                process.kill()
        wait_for(lambda: state_of(installation, run).is_final(), 150, "the automation")
        state = state_of(installation, run)
        assert (state.type, "No sign of life for 90 s" in state.message) == (StateType.CRASHED, True)
        assert 60 < time.monotonic() - began
        end_workers([worker])


def test_a_run_survives_the_death_of_its_worker(tmp_path):
    """Its output does not go through the worker, and its heartbeats are its own."""
    with prefect_installation(tmp_path) as installation:
        with installation.client() as client:
            set_up(client, installation.environment)
        worker = installation.start_worker()
        run = start_training(installation, installation.home)
        worker.process.kill()
        time.sleep(120)
        assert state_of(installation, run).is_running()
        end_workers([worker])


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL in a folder of its own, outside of pytest's, which another session may close to others; its URL."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    initdb = shutil.which("initdb") or next((str(place / "initdb") for place in reversed(programs)), None)
    if initdb is None:
        pytest.skip("needs PostgreSQL's initdb")
    port, place = free_port(), Path(initdb).parent
    who = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    with tempfile.TemporaryDirectory() as data:
        if who:
            shutil.chown(data, "postgres")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
        control = [*who, str(place / "pg_ctl"), "-D", data, "-w"]
        subprocess.run([*who, initdb, "-D", data, "-A", "trust", "-U", "srpo"], check=True, capture_output=True)
        subprocess.run([*control, "-o", options, "-l", f"{data}/log", "start"], check=True, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql+asyncpg://srpo@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "fast", "stop"], check=True, stdout=subprocess.DEVNULL)


def test_the_server_keeps_its_state_in_a_postgresql(tmp_path):
    with postgres() as url, serving(tmp_path / "serve", "--database", url) as served:
        with served.client() as client:
            wait_for(lambda: any(run.auto_scheduled for run in client.read_flow_runs()), 90, "a scheduled run")
        assert not (served.home / "prefect" / "prefect.db").exists()
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(60) == 128 + signal.SIGINT
