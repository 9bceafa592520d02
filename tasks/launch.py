"""The only place that starts a stage's processes: start `accelerate launch`, follow its output, end it with all its workers.

The processes write to a file, never to a pipe: a reader that dies cannot block training. They run in a session of their own, so
that a person's Ctrl-C reaches this process first, which then ends them with time for a checkpoint; the launcher and the workers
ask Linux to end them when their parent dies.
"""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import psutil

from srpo_core.errors import InputError, WorkFailed
from srpo_core.settings.resources import Resources
from srpo_core.workers.jobs import AnyJob, JobFile
from srpo_core.workers.progress import LAUNCHED_BY, MARK
from storage import parquet
from tasks.log_lines import below_home
from tasks.progress import ProgressDisplay
from tasks.worker_output import WorkerOutput

logger = logging.getLogger("srpo")
CHECKOUT = Path(__file__).resolve().parent.parent
GRACE_SECONDS = 20.0  # for a checkpoint after SIGTERM; Prefect kills a cancelled run after 30
POLL_SECONDS = 0.2
SMALLEST_MACHINE = 2  # processes that any machine may start: the demo does
TAIL_LINES = 15  # in the log, when a worker crashed
LAST_WORDS = 300  # characters of its last line that stand in the error


def run_jobs(stage: str, jobs: Sequence[AnyJob], resources: Resources, folder: Path) -> None:
    """Do the jobs in one `accelerate launch` and show their progress; `folder` gets the job file and the output.

    Raises InputError or WorkFailed with the worker's own sentence, or WorkFailed with its last line, the lines before in the log.
    """
    if not jobs:
        return
    check_processes(resources)
    folder.mkdir(parents=True, exist_ok=True)
    job_file, output = folder.resolve() / "jobs.json", folder / "output.log"
    _end(None, job_file)  # workers of an attempt whose parent was killed, still writing their last checkpoint
    parquet.write_json(job_file, JobFile(jobs=list(jobs), resources=resources).model_dump(mode="json"))
    with output.open("ab", buffering=0) as sink:
        offset = output.stat().st_size
        process = subprocess.Popen(
            _command(resources, job_file),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_dies_with(os.getpid()) if sys.platform == "linux" else None,
            env=_environment(resources),
            cwd=CHECKOUT,
        )
    try:
        failure = _follow(stage, process, output, offset)
    except BaseException:
        _end(process, job_file)
        raise
    if process.returncode == 0:
        return
    _end(None, job_file)  # what a launcher that was killed left behind
    if failure:
        raise (InputError if failure["status"] == 2 else WorkFailed)(failure["failure"])
    raise _crashed(stage, process.returncode, output, offset)


def _crashed(stage: str, status: int, output: Path, offset: int) -> WorkFailed:
    """The error for a worker that ended without a sentence of its own: how, its last words, and where all of them are."""
    tail = [line for line in _read_from(output, offset).splitlines() if line.strip()][-TAIL_LINES:]
    if tail:
        logger.error("%s: the last lines of %s are:\n%s", stage, below_home(output), "\n".join(tail))
    said = f"; its last line was: {tail[-1].strip()[:LAST_WORDS]}" if tail else ""
    return WorkFailed(f"{stage}: the worker {_how_it_ended(status)}{said} (all of its output is in {output})")


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    why = ", which a machine does that is short of memory; try smaller batches" if name == "SIGKILL" else ""
    return f"was ended by {name}{why}"


def _command(resources: Resources, job_file: Path) -> list[str]:
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    if resources.accelerate_config:
        launch += ["--config_file", str(find_config(resources.accelerate_config))]
    elif resources.num_processes == 1:
        # One process needs no launcher of its own: the same worker, three seconds of imports sooner.
        return [sys.executable, "-m", "srpo_core.workers", str(job_file)]
    else:
        launch += ["--num_processes", str(resources.num_processes), "--num_machines", "1", "--mixed_precision", "no"]
        # --multi_gpu also without one: it is accelerate's way to start several processes here, and they then meet by gloo.
        # With --cpu it starts a single process, whatever their number, unless MPI starts them.
        launch += ["--dynamo_backend", "no", "--main_process_port", "0", "--multi_gpu"]
    return [*launch, "-m", "srpo_core.workers", str(job_file)]


def find_config(name: str) -> Path:
    """An accelerate config file, by a path from where the user stands or from the checkout."""
    for path in (Path(name).resolve(), CHECKOUT / name):
        if path.is_file():
            return path
    raise InputError(f"expected an accelerate config file at {name}, found none; the ones that ship are in srpo_core/accelerate")


def check_processes(resources: Resources) -> None:
    """Raise InputError for an accelerate file that is not there, or more processes than this machine has devices for."""
    if resources.accelerate_config:
        find_config(resources.accelerate_config)
        return
    devices = max(len(_gpus()), os.cpu_count() or 1, SMALLEST_MACHINE)
    if resources.num_processes > devices:
        raise InputError(
            f"expected resources.num_processes of at most {devices} on this machine of {os.cpu_count()} cores and {len(_gpus())} "
            f"GPUs, found {resources.num_processes}; each takes a model's memory"
        )


def _gpus() -> list[Path]:
    return [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]


def _environment(resources: Resources) -> dict[str, str]:
    cores = os.cpu_count() or 1
    threads = resources.threads_per_process or max(1, cores // resources.num_processes)
    quiet = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    quiet[LAUNCHED_BY] = str(os.getpid())
    if sys.platform == "linux" and not _gpus():
        # Processes of one machine meet on the loopback device: the name of the machine need not resolve to a reachable address.
        quiet["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return os.environ | quiet | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def _dies_with(parent: int) -> Callable[[], None]:
    """What a new process does first: ask for SIGTERM when its parent dies, and end if that has happened already."""

    def ask() -> None:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)

    return ask


def _follow(stage: str, process: "subprocess.Popen[bytes]", output: Path, offset: int) -> dict[str, Any] | None:
    """Show progress until the process ends; the failure it printed, if any: the sentence and the worker's own exit status.

    A launcher of several processes turns every status into 1.
    """
    failure: dict[str, Any] | None = None
    printed = WorkerOutput(stage, output)
    with ProgressDisplay(stage) as display, output.open("r", encoding="utf-8", errors="replace") as source:
        source.seek(offset)
        while True:
            ended = process.poll() is not None
            for line in _new_lines(source):
                message = _parse(line)
                if message is None:
                    printed.take(line)
                elif "failure" in message:
                    failure = message
                else:
                    display.update(message["job"], message["done"], message["total"], message["unit"], message["values"])
            if ended:
                break
            time.sleep(POLL_SECONDS)
    return failure


def _new_lines(source: TextIO) -> Iterator[str]:
    while True:
        place = source.tell()
        line = source.readline()
        if not line.endswith("\n"):
            source.seek(place)  # the rest of the line is still being written
            return
        yield line.rstrip("\n")


def _parse(line: str) -> dict[str, Any] | None:
    if not line.startswith(MARK):
        return None
    try:
        return json.loads(line[len(MARK) :])
    except ValueError:  # two ranks wrote at once
        return None


def _read_from(output: Path, offset: int) -> str:
    with output.open("rb") as handle:
        handle.seek(offset)
        return handle.read().decode("utf-8", errors="replace")


def _end(process: "subprocess.Popen[bytes] | None", job_file: Path) -> None:
    """SIGTERM to the launcher and all workers of the job file, time for a checkpoint, then SIGKILL.

    The launcher puts each worker into a session of its own, so a signal to its group alone would not reach them; workers are
    known by the job file in their arguments, also when their launcher is gone.
    """
    family = _workers(job_file)
    if process is not None and process.poll() is None:
        leader = psutil.Process(process.pid)
        family |= {leader, *leader.children(recursive=True)}
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(sign)
        deadline = time.monotonic() + GRACE_SECONDS
        while (family := {member for member in family if _is_alive(member)}) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 4)
    if process is not None:
        process.poll()


def _workers(job_file: Path) -> set[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return {process for process in found if str(job_file) in (process.info["cmdline"] or []) and process.pid != os.getpid()}


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
