"""Progress of a worker as lines on standard output, one JSON object each, which the launching task turns into bars and logs."""

import json
import sys
import time
from typing import Any

LAUNCHED_BY = "SRPO_LAUNCHED_BY"  # environment variable: process id of whoever started the launcher
MARK = "@srpo "  # what distinguishes a progress line from anything else a library prints


class ProgressLines:
    """Prints at most one line a `period` for a job, and always the last."""

    def __init__(self, job: str, total: int, unit: str, *, enabled: bool, period: float = 0.5) -> None:
        """`enabled`: whether this process is the one that reports."""
        self.job, self.total, self.unit, self.enabled, self.period = job, total, unit, enabled, period
        self._printed_at = 0.0

    def show(self, done: int, values: dict[str, Any] | None = None) -> None:
        """Report that `done` of the total are done."""
        now = time.monotonic()
        if not self.enabled or (done < self.total and now - self._printed_at < self.period):
            return
        self._printed_at = now
        line = {"job": self.job, "done": done, "total": self.total, "unit": self.unit, "values": values or {}}
        _print(line)


def print_failure(message: str, status: int) -> None:
    """Report the one sentence that explains why the work cannot go on; `status`: 1 the work failed, 2 unusable input."""
    _print({"failure": message, "status": status})


def _print(line: dict[str, Any]) -> None:
    # One write with its newline: processes share the file, and print would write the newline apart.
    sys.stdout.write(f"{MARK}{json.dumps(line)}\n")
    sys.stdout.flush()
