"""The processes of an installation, a server and its workers: started with their output in a file, and ended with all theirs.

Each leads a session of its own, so that Ctrl-C in a terminal reaches `srpo serve` alone, which ends them in order; on Linux they
also end when `srpo serve` is killed. Does not import Prefect.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen
from uuid import uuid4

import psutil

from srpo_core.errors import WorkFailed

CHECKOUT = Path(__file__).resolve().parents[2]
MARK = "SRPO_STARTED_BY"  # in the environment of a process and of all that it starts, also when their parent is gone
START_SECONDS = 120.0  # the first start on a slow disk makes a hundred tables
CHECKPOINT_SECONDS = 25.0  # tasks/launch.py gives training 20 for a checkpoint
END_SECONDS = 10.0
POLL_SECONDS = 0.1
TAIL_LINES = 3


class Process(NamedTuple):
    """A process that was started, and the file its output goes to."""

    name: str  # server or worker
    process: "subprocess.Popen[bytes]"
    log: Path
    mark: str

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self.process.poll() is not None

    def last_words(self) -> str:
        """The end of its output, on one line."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " / ".join([line.strip() for line in lines if line.strip()][-TAIL_LINES:])


def start_process(name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    """`python -m prefect <arguments>` in the checkout, in a session of its own, its output in `log`.

    What `log` had goes to `<log>.1`: a service that starts again at once would lose what tells why it ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    mark = uuid4().hex
    with log.open("wb", buffering=0) as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(_hear_signals, os.getpid()),
            env={**environment, MARK: mark},
            cwd=CHECKOUT,
        )
    return Process(name, process, log, mark)


def _hear_signals(parent: int) -> None:
    """What a shell's `&` makes processes ignore is heard again, and on Linux the death of the parent is a SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before this could be asked for
            os._exit(128 + signal.SIGTERM)


def answers(api_url: str, timeout: float = 3.0) -> bool:
    """Whether a Prefect server answers there."""
    try:
        with urlopen(f"{api_url.rstrip('/')}/health", timeout=timeout) as reply:
            return 200 <= reply.status < 300
    except (OSError, ValueError):
        return False


def wait_for_server(server: Process, api_url: str, seconds: float = START_SECONDS) -> None:
    """Return once the server answers. Raises WorkFailed when it ends before, or does not answer in time."""
    until = time.monotonic() + seconds
    while not answers(api_url):
        if server.ended or time.monotonic() > until:
            how = f"it ended with status {server.process.returncode}" if server.ended else f"no answer for {seconds:.0f} s"
            raise WorkFailed(
                f"expected the Prefect server to answer at {api_url}, found that {how}: {server.last_words()}; "
                f"its whole output is in {server.log}"
            )
        time.sleep(POLL_SECONDS)


def end_workers(workers: Sequence[Process]) -> None:
    """End the runs of the workers with time for their checkpoints, then the workers and whatever is left of theirs.

    A worker that is told to stop kills its runs at once and leaves them `Running` for ever. So all are held first, and can start
    nothing new; each run then gets the signal itself, saves its checkpoint and tells the server that it ended.
    """
    held = [psutil.Process(worker.process.pid) for worker in workers if not worker.ended]
    _send(signal.SIGSTOP, held)
    _end([run for worker in workers for run in _runs(worker)], CHECKPOINT_SECONDS)
    _send(signal.SIGTERM, held)
    _send(signal.SIGCONT, held)
    _wait(held, END_SECONDS)
    _end([member for worker in workers for member in _family(worker)], END_SECONDS)
    for worker in workers:
        worker.process.poll()


def end_server(server: Process) -> None:
    """End the server and its processes."""
    _end(_family(server), END_SECONDS)
    server.process.poll()


def _family(leader: Process) -> list[psutil.Process]:
    """The process and all that came of it, known by the mark they inherit: an orphan has no parent to be found by."""
    return [process for process in psutil.process_iter() if _mark_of(process) == leader.mark]


def _runs(worker: Process) -> list[psutil.Process]:
    """The processes of a worker that lead a run: its children, and what lost its parent with the worker's own end."""
    family = {process.pid: process for process in _family(worker) if process.pid != worker.process.pid}
    return [process for process in family.values() if _parent_of(process) not in family]


def _mark_of(process: psutil.Process) -> str | None:
    with suppress(psutil.Error, OSError):
        return process.environ().get(MARK)
    return None


def _parent_of(process: psutil.Process) -> int | None:
    with suppress(psutil.Error):
        return process.ppid()
    return None


def _end(processes: Sequence[psutil.Process], seconds: float) -> None:
    """SIGTERM, `seconds` to follow it, then SIGKILL."""
    _send(signal.SIGTERM, processes)
    left = _wait(processes, seconds)
    _send(signal.SIGKILL, left)
    _wait(left, END_SECONDS)


def _send(sign: signal.Signals, processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(sign)


def _wait(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended; those that have not after `seconds`."""
    until = time.monotonic() + seconds
    left = list(processes)
    while (left := [one for one in left if _lives(one)]) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return left


def _lives(process: psutil.Process) -> bool:
    try:  # a zombie, whose parent is held and cannot take note of its end, has ended
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
