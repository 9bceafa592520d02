"""Ask a judge about many games at once: one request first to see that it is there, then as many in flight as allowed.

Every verdict is handed on as it arrives. A judge that goes down is noticed and the run ends, so that an outage of minutes does
not turn thousands of games into unscored ones.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from srpo_core.errors import JudgeIsDown
from srpo_core.judging.judges import Games, Judge, JudgeGame, Verdict, is_failed_call, is_server_fault

PATIENCE = 20  # failed calls in a row after which the judge counts as down
LOG_SECONDS = 5.0
logger = logging.getLogger("srpo.judge")

Keep = Callable[[JudgeGame, Verdict], None]
Report = Callable[[int, int], None]  # (games decided, games in all), every LOG_SECONDS and at the end


async def ask_judge(
    judge: Judge,
    games: Games,
    keep: Keep,
    *,
    max_concurrency: int,
    answered_before: int = 0,
    has_answered: bool = False,
    report: Report | None = None,
) -> None:
    """Decide `games`, read one by one as they are needed, and hand each verdict to `keep` at once.

    `answered_before` counts replies of earlier attempts at the same work; a judge that `has_answered` just now needs no first
    request by itself; `report` is told how far it is, none = a line in the log. Raises WorkFailed when the judge cannot be
    reached, goes down, or answers nothing; what was handed on by then stays handed on.
    """
    if len(games):
        await _Queue(judge, games, keep, answered_before, report).run(max_concurrency, has_answered)


def judge_is_down(judge: Judge, found: str) -> JudgeIsDown:
    """The sentence for a judge that does not answer."""
    return JudgeIsDown(
        f"expected a judge at {judge.address}, found {found} ({judge.last_fault}); "
        "start the server or correct judge.base_url and run again: stored replies are not asked for twice"
    )


class _Queue:
    """The state the concurrent askers share; all of them run in one event loop."""

    def __init__(self, judge: Judge, games: Games, keep: Keep, answered_before: int, report: Report | None) -> None:
        self._judge = judge
        self._waiting = iter(games)
        self._keep = keep
        self._total = len(games)
        self._done = 0
        self._answered = answered_before
        self._faults_in_a_row = 0
        self._failure: Exception | None = None
        self._started = time.monotonic()
        self._report = report or self._log

    async def run(self, max_concurrency: int, has_answered: bool) -> None:
        """Ask everything, or raise the failure that ended it once the requests in flight have come back."""
        if not has_answered:
            await self._ask_next()
        if self._failure is None and self._faults_in_a_row and "APIConnectionError" in self._judge.last_fault:
            raise judge_is_down(self._judge, "no connection")
        ticker = asyncio.create_task(self._report_on())
        try:
            await asyncio.gather(*(self._work() for _ in range(min(max_concurrency, self._total))))
        finally:
            ticker.cancel()
        if self._failure is not None:
            raise self._failure
        if self._answered == 0 and self._faults_in_a_row == self._total:
            raise judge_is_down(self._judge, f"no reply to any of {self._total} games")
        self._report(self._done, self._total)

    async def _work(self) -> None:
        while self._failure is None and await self._ask_next():
            pass

    async def _ask_next(self) -> bool:
        """Decide one more game; False when there is none. All workers take from one iterator."""
        try:
            game = next(self._waiting, None)
            if game is None:
                return False
            verdict = await self._judge.judge(game)
            self._keep(game, verdict)
        except Exception as error:  # the other askers finish what is in flight and paid for, then it is raised
            self._failure = self._failure or error
            return False
        self._done += 1
        self._answered += not is_failed_call(verdict.unscored_reason)
        self._faults_in_a_row = self._faults_in_a_row + 1 if is_server_fault(verdict.unscored_reason) else 0
        if self._faults_in_a_row >= PATIENCE:
            self._failure = self._failure or judge_is_down(self._judge, f"{PATIENCE} failed calls in a row")
        return True

    async def _report_on(self) -> None:
        while True:
            await asyncio.sleep(LOG_SECONDS)
            self._report(self._done, self._total)

    def _log(self, done: int, total: int) -> None:
        rate = done / max(time.monotonic() - self._started, 1e-9)
        left = round((total - done) / rate) if rate else 0
        logger.info("judged %d of %d games (%.1f/s, %d:%02d left)", done, total, rate, left // 60, left % 60)
