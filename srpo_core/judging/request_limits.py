"""What a run may still send: a hard budget of requests, tokens and money, and a rate shared with others.

Before a request is sent its largest possible size is set aside, so that requests in flight are counted and the budget is never
exceeded; what was set aside and not used comes back with the answer. A request whose answer never came may have been billed, so
all that was set aside for it counts as spent.
"""

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from srpo_core.config import ApiJudgeSettings
from srpo_core.errors import WorkFailed
from srpo_core.judging.judge_requests import Request, estimate_tokens, most_tokens
from srpo_core.judging.judges import RequestRate
from srpo_core.judging.reply_reading import cost_of


class BudgetSpent(WorkFailed):
    """The next request could exceed the budget."""


@dataclass
class Spent:
    """What one run has spent so far; several stages of a run may share it."""

    requests: int = 0  # sent, further attempts included
    tokens: int = 0
    cost: float = 0.0  # in the currency of the judge's prices; 0 without prices


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
        self._settings = settings
        self._budget = settings.budget
        self._rate = rate
        self._aside = Spent()  # set aside for the requests in flight
        self._changed = asyncio.Condition()
        self._turn = asyncio.Lock()

    async def admit(self, request: Request) -> Admission:
        """Wait until `request` may be sent. Raises BudgetSpent when it may not, whatever those in flight turn out to use."""
        admission = self._size(request)
        async with self._changed:
            while not self._fits(admission, self._aside):
                if not self._aside.requests or not self._fits(admission, Spent()):
                    raise self._refusal(admission)
                await self._changed.wait()
            self.spent.requests += 1
            self._set_aside(admission, 1)
        if self._rate is not None:
            async with self._turn:  # a place is taken by one caller at a time, so that a killed run leaves one unused
                await asyncio.sleep(self._rate.reserve(admission.estimate))
        return admission

    async def settle(self, admission: Admission, prompt_tokens: int | None = None, completion_tokens: int | None = None) -> None:
        """Count what the request used; unknown counts are those set aside."""
        known = prompt_tokens is not None and completion_tokens is not None
        used = (prompt_tokens or 0) + (completion_tokens or 0) if known else admission.tokens
        cost = cost_of(self._settings, prompt_tokens, completion_tokens)
        async with self._changed:
            self._set_aside(admission, -1)
            self.spent.tokens += used
            self.spent.cost += admission.cost if cost is None else cost
            self._changed.notify_all()
        if self._rate is not None and known:
            self._rate.settle(used - admission.estimate)

    def _size(self, request: Request) -> Admission:
        prompt, completion = most_tokens(request), self._settings.max_tokens or 0
        return Admission(prompt + completion, cost_of(self._settings, prompt, completion) or 0.0, estimate_tokens(request))

    def _set_aside(self, admission: Admission, sign: int) -> None:
        self._aside.requests += sign
        self._aside.tokens += sign * admission.tokens
        self._aside.cost += sign * admission.cost

    def _fits(self, admission: Admission, aside: Spent) -> bool:
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
