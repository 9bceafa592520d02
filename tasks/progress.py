"""What a person sees of long work: a bar in a terminal, plain lines in a log, a progress artifact inside a Prefect run."""

import logging
import math
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tasks.progress_artifacts import ProgressArtifacts, artifact_key

logger = logging.getLogger("srpo")
LOG_PERIOD = 5.0  # seconds between two plain lines of one job, and between two updates of its artifact
SHORTEST_RATE = 1.0  # seconds of work before a rate means anything
# Step metrics worth the width of a terminal, and what they are called there.
SHOWN = {
    "loss": "loss",
    "generative_margin": "margin",
    "generative_accuracy": "accuracy",
    "consistency_gap": "consistency gap",
    "nll/draft": "draft nll",
    "pairs": "pairs",
    "rejected_rows": "rejected rows",
}
PER_STEP = "_per_step"  # `pairs_per_step` says how many pairs a step is, so that the rate can be told in pairs
Values = Mapping[str, float]
_terminal = threading.Lock()  # a terminal has room for the bars of one stage; others beside it write lines


class ProgressDisplay:
    """Bars, lines and artifacts for the jobs of one stage; a context manager."""

    def __init__(self, stage: str, *, patience: float = 0.0) -> None:
        """`stage` names the work in lines and artifacts; what is done after `patience` seconds is not shown at all."""
        self.stage = stage
        self._from = time.monotonic() + patience
        self.console = Console(stderr=True)
        self.bars: Progress | None = None
        self._ids: dict[str, TaskID] = {}
        self._shown_at: dict[str, float] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._newest: dict[str, tuple[float, str]] = {}  # per cent and text of jobs that are not done
        self._artifacts = ProgressArtifacts() if inside_prefect_run() else None

    def __enter__(self) -> "ProgressDisplay":
        if sys.stderr.isatty() and _terminal.acquire(blocking=False):
            self.bars = Progress(
                TextColumn("{task.description:<24}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}", style="dim"),
                console=self.console,
            )
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.bars:
            self.bars.stop()
            _terminal.release()
        if self._artifacts is not None:
            for job, (percent, text) in self._newest.items():
                self._artifacts.show(artifact_key(self.stage, job), percent, f"stopped at {text}" if kind else text)
            self._artifacts.close()

    def update(self, job: str, done: int, total: int, unit: str, values: Values | None = None) -> None:
        """Show that `done` of `total` units of a job are done; total 0 = nobody knows how many there are.

        The metrics in `values` that SHOWN names are shown. A line or an artifact is updated once a LOG_PERIOD and at the end.
        """
        now = time.monotonic()
        began, done_then = self._began.setdefault(job, (now, done))
        if now < self._from:
            return
        rate = (done - done_then) / (now - began) if now - began >= SHORTEST_RATE else 0.0  # else a rate of noise
        if self.bars:
            self._move_bar(self.bars, job, done, total, _speed(rate, unit, values), _metrics(values))
        facts = _facts(done, total, unit, rate, values or {})
        share = 100.0 * done / total if total else 0.0
        is_done = bool(total) and done >= total
        self._newest[job] = (share, facts)
        if is_done or now - self._shown_at.get(job, -LOG_PERIOD) >= LOG_PERIOD:
            self._shown_at[job] = now
            self._show(job, facts, share)
        if is_done:
            self._newest.pop(job)

    def _move_bar(self, bars: Progress, job: str, done: int, total: int, rate: str, values: str) -> None:
        if job not in self._ids:
            self._ids[job] = bars.add_task(job, total=total or None, rate="", values="")
        bars.update(self._ids[job], completed=done, total=total or None, rate=rate, values=values)

    def _show(self, job: str, facts: str, share: float) -> None:
        if self.bars is None or self._artifacts is not None:  # the log of a Prefect run is read elsewhere than in this terminal
            logger.info("%s %s", job if job == self.stage else f"{self.stage} {job}", facts)
        if self._artifacts is not None:
            self._artifacts.show(artifact_key(self.stage, job), share, facts)


def _facts(done: int, total: int, unit: str, rate: float, values: Values) -> str:
    """Such as `step 120/375: 6 s left, 38 pairs/s, loss 0.51`: what tells most comes first, for a card in the UI is narrow."""
    place = f"{done:,}/{total:,}" if total else f"{done:,}"
    place = f"step {place}" if unit == "steps" else f"{place} {unit}"
    left = f"{_duration((total - done) / rate)} left" if rate > 0 and total > done else ""
    facts = ", ".join(part for part in (left, _speed(rate, unit, values), _metrics(values)) if part)
    return f"{place}: {facts}" if facts else place


def _speed(rate: float, unit: str, values: Values | None) -> str:
    """Units a second; of steps whose size is known, what they consist of."""
    if rate <= 0:
        return ""
    for name, size in (values or {}).items():
        if name.endswith(PER_STEP):
            return f"{rate * size:,.3g} {name.removesuffix(PER_STEP)}/s"
    return f"{rate:.3g} {unit}/s"


def _metrics(values: Values | None) -> str:
    known = {shown: values[name] for name, shown in SHOWN.items() if values and name in values}
    return ", ".join(f"{name} {_number(value)}" for name, value in known.items() if math.isfinite(value))


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value + 0.0:.3g}"  # no -0


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def inside_prefect_run() -> bool:
    """Whether a Prefect flow or task run is under way in this thread; does not import Prefect by itself."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return FlowRunContext.get() is not None or TaskRunContext.get() is not None
