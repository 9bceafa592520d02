"""What a person sees of long work: a bar in a terminal, plain lines in a log, a progress artifact inside a Prefect run."""

import logging
import re
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger("srpo")
LOG_PERIOD = 5.0  # seconds between two plain lines of one job
SHORTEST_RATE = 1.0  # seconds of work before a rate means anything
SHOWN = ("loss", "generative_accuracy", "consistency_gap", "nll/draft")  # step metrics worth the width of a terminal


class ProgressDisplay:
    """Bars for the jobs of one stage; a context manager."""

    def __init__(self, stage: str) -> None:
        """`stage` names the work in log lines and artifacts."""
        self.stage = stage
        self.console = Console(stderr=True)
        self.bars: Progress | None = None
        self._ids: dict[str, TaskID] = {}
        self._logged: dict[str, float] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._artifact_ids: dict[str, Any] = {}

    def __enter__(self) -> "ProgressDisplay":
        if sys.stderr.isatty():
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

    def update(self, job: str, done: int, total: int, unit: str, values: dict[str, float] | None = None) -> None:
        """Show that `done` of `total` units of a job are done."""
        now = time.monotonic()
        began, done_then = self._began.setdefault(job, (now, done))
        rate = (done - done_then) / (now - began) if now - began >= SHORTEST_RATE else 0.0  # else a rate of noise
        text = " ".join(f"{name} {values[name]:.3g}" for name in SHOWN if values and name in values)
        speed = f"{rate:.4g} {unit}/s" if rate else ""
        if self.bars:
            if job not in self._ids:
                self._ids[job] = self.bars.add_task(job, total=total, rate="", values="")
            self.bars.update(self._ids[job], completed=done, total=total, rate=speed, values=text)
        elif done >= total or now - self._logged.get(job, 0.0) >= LOG_PERIOD:
            self._logged[job] = now
            left = f"{(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
            shown = [f"{job}: {done} of {total} {unit}", f"{rate:.4g}/s" if rate else "", left, text]
            logger.info(", ".join(part for part in shown if part))
        self._update_artifact(job, done, total, now)

    def _update_artifact(self, job: str, done: int, total: int, now: float) -> None:
        """Inside a Prefect run keep a progress artifact per job, at most once a LOG_PERIOD: each update is a server event."""
        if not inside_prefect_run():
            return
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        share = 100.0 * done / max(1, total)
        key = f"progress:{job}"
        try:
            if job not in self._artifact_ids:
                name = re.sub(r"[^a-z0-9]+", "-", f"{self.stage}-{job}".lower()).strip("-")  # all that a key may hold
                self._artifact_ids[job] = create_progress_artifact(share, key=name, description=f"{self.stage}: {job}")
            elif done >= total or now - self._logged.get(key, 0.0) >= LOG_PERIOD:
                self._logged[key] = now
                update_progress_artifact(self._artifact_ids[job], share)
        except Exception as error:  # noqa: BLE001  (a server that is away must not stop the work)
            logger.debug("progress artifact of %s not updated: %s", job, error)


def inside_prefect_run() -> bool:
    """Whether a Prefect flow or task run is under way in this thread; does not import Prefect by itself."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return FlowRunContext.get() is not None or TaskRunContext.get() is not None
