"""What a run may still send: a hard budget of requests, tokens and money, and a rate shared with others.

Before a request is sent its largest possible size is set aside, so that requests in flight are counted and the budget is never
exceeded; what was set aside and not used comes back with the answer. A request whose answer never came may have been billed, so
all that was set aside for it counts as spent. Stages that judge side by side, each in an event loop and thread of its own, share
the budget and the number of requests in flight.
"""

import asyncio
import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from srpo_core.errors import WorkFailed
from srpo_core.judging.judge_requests import Request, estimate_tokens, most_tokens
from srpo_core.judging.judges import RequestRate
from srpo_core.judging.reply_reading import cost_of
from srpo_core.judging.shared_slots import SharedSlots
from srpo_core.settings.judges import ApiJudgeSettings

_LOOK_AGAIN = 0.02  # seconds; only who stands at the edge of the budget waits for the requests in flight


class BudgetSpent(WorkFailed):
    """The next request could exceed the budget."""


@dataclass
class Counted:
    """Requests and what they take."""

    requests: int = 0  # sent, further attempts included
    tokens: int = 0
    cost: float = 0.0  # in the currency of the judge's prices; 0 without prices

    def add(self, tokens: int, cost: float, requests: int = 0) -> None:
        """Count more; negative numbers give back."""
        self.requests += requests
        self.tokens += tokens
        self.cost += cost


@dataclass
class Spent(Counted):
    """What one run has spent so far; several stages of a run may share it, also at the same time."""

    aside: Counted = field(default_factory=Counted, repr=False, compare=False)  # set aside for the requests in flight
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)  # guards all counts, is held briefly
    _slots: dict[tuple[str, int], SharedSlots] = field(default_factory=dict, repr=False, compare=False)

    def slots(self, what: str, size: int) -> SharedSlots:
        """The places of which at most `size` are taken at once, by all who share this."""
        with self.lock:
            return self._slots.setdefault((what, size), SharedSlots(size))


class Admission(NamedTuple):
    """What was set aside for one request."""

    tokens: int
    cost: float
    estimate: int  # tokens as the rate counts them


class RequestLimits:
    """Budget and rate of one judge. One instance belongs to one event loop."""

    def __init__(self, settings: ApiJudgeSettings, spent: Spent | None = None, rate: RequestRate | None = None) -> None:
        """`spent` goes on counting where an earlier stage of the run stopped."""
        self.spent = spent or Spent()
        self.own = Counted()  # of these limits alone
        self._settings = settings
        self._budget = settings.budget
        self._rate = rate
        self._aside = self.spent.aside
        self._in_flight = self.spent.slots("in flight", settings.max_concurrency)
        self._turn = asyncio.Lock()

    async def admit(self, request: Request) -> Admission:
        """Wait until `request` may be sent. Raises BudgetSpent when it may not, whatever those in flight turn out to use."""
        admission = self._size(request)
        await self._in_flight.take()
        try:
            while not self._admit_now(admission):
                await asyncio.sleep(_LOOK_AGAIN)
        except BaseException:
            self._in_flight.give_back()
            raise
        try:
            if self._rate is not None:
                async with self._turn:  # a place is taken by one caller at a time, so that a killed run leaves one unused
                    await asyncio.sleep(self._rate.reserve(admission.estimate))
        except BaseException:  # ended before it was sent
            self._leave(admission, 0, 0.0, requests=-1)
            raise
        return admission

    async def settle(self, admission: Admission, prompt_tokens: int | None = None, completion_tokens: int | None = None) -> None:
        """Count what the request used; unknown counts are those set aside."""
        known = prompt_tokens is not None and completion_tokens is not None
        used = (prompt_tokens or 0) + (completion_tokens or 0) if known else admission.tokens
        cost = cost_of(self._settings, prompt_tokens, completion_tokens)
        self._leave(admission, used, admission.cost if cost is None else cost)
        if self._rate is not None and known:
            self._rate.settle(used - admission.estimate)

    def _admit_now(self, admission: Admission) -> bool:
        """Set the request's size aside if it fits; False where it may fit once others have come back. Raises BudgetSpent."""
        with self.spent.lock:
            if self._fits(admission, self._aside):
                self._aside.add(admission.tokens, admission.cost, 1)
                self.spent.add(0, 0.0, 1)
                self.own.add(0, 0.0, 1)
                return True
            if not self._aside.requests or not self._fits(admission, Counted()):
                raise self._refusal(admission)
            return False

    def _leave(self, admission: Admission, tokens: int, cost: float, *, requests: int = 0) -> None:
        """Take what was set aside back and count what was used instead."""
        with self.spent.lock:
            self._aside.add(-admission.tokens, -admission.cost, -1)
            for counted in (self.spent, self.own):
                counted.add(tokens, cost, requests)
        self._in_flight.give_back()

    def _size(self, request: Request) -> Admission:
        prompt, completion = most_tokens(request), self._settings.max_tokens or 0
        return Admission(prompt + completion, cost_of(self._settings, prompt, completion) or 0.0, estimate_tokens(request))

    def _fits(self, admission: Admission, aside: Counted) -> bool:
        """Requests in flight are among those spent already; their tokens and money are not."""
        budget, spent = self._budget, self.spent
        return (
            (budget.max_requests is None or spent.requests < budget.max_requests)
            and (budget.max_tokens is None or spent.tokens + aside.tokens + admission.tokens <= budget.max_tokens)
            and (budget.max_cost is None or spent.cost + aside.cost + admission.cost <= budget.max_cost * (1 + 1e-9))
        )

    def _refusal(self, admission: Admission) -> BudgetSpent:
        limits = {"requests": self._budget.max_requests, "tokens": self._budget.max_tokens, "cost": self._budget.max_cost}
        stated = ", ".join(f"max_{name} {value:g}" for name, value in limits.items() if value is not None)
        spent = f"{self.spent.requests} requests, {self.spent.tokens} tokens"
        spent += f", cost {self.spent.cost:.4g}" if self._budget.max_cost is not None else ""
        if not self.spent.requests:  # running again would stop at the same place
            size = f"up to {admission.tokens} tokens"
            size += f", cost {admission.cost:.4g}" if self._budget.max_cost is not None else ""
            return BudgetSpent(
                f"expected one request within judge.budget ({stated}), found that it may take {size}; raise the budget"
            )
        return BudgetSpent(
            f"expected the next request within judge.budget ({stated}), found {spent} spent in this run; "
            "run again or raise the budget: stored replies are not asked for twice"
        )
