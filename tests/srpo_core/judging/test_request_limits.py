"""A budget is never exceeded, whatever is in flight; what was answered stays, and the rest is asked later."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from srpo_core.judging.judge_requests import estimate_tokens, most_tokens
from srpo_core.judging.request_limits import BudgetSpent, RequestLimits, Spent
from srpo_core.settings.judges import ApiJudgeSettings, BudgetSettings
from tests.judge_server import JudgeServer
from tests.srpo_core.judging.test_judges import Replies, api_settings, ask_together, games

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "x" * 400}]}


def with_budget(url: str = "http://127.0.0.1:1/v1", **budget: Any) -> ApiJudgeSettings:
    prices = {"price_per_million_prompt_tokens": 1e6, "price_per_million_completion_tokens": 2e6}
    return api_settings(url, budget=BudgetSettings(**budget), **prices)


def test_requests_stop_exactly_at_the_budget_and_go_on_in_the_next_run() -> None:
    replies = Replies()
    with JudgeServer(delay=0.01) as server:
        with pytest.raises(BudgetSpent, match=r"judge.budget \(max_requests 10\), found 10 requests, .*run again or raise"):
            ask_together(games(30), with_budget(server.url, max_requests=10), replies)
        assert len(server.requests) == len(replies) == 10
        with pytest.raises(BudgetSpent):
            ask_together(games(30), with_budget(server.url, max_requests=10), replies)
        verdicts = ask_together(games(30), with_budget(server.url, max_requests=10), replies)
        assert len(server.requests) == 30
    assert len(verdicts) == 30


def test_a_budget_that_no_request_fits_says_so_and_not_to_run_again() -> None:
    with JudgeServer() as server:
        with pytest.raises(
            BudgetSpent, match=r"one request within judge.budget \(max_tokens 9\), found that it may take up to \d+ tok"
        ):
            ask_together(games(3), with_budget(server.url, max_tokens=9))
        assert server.requests == []


def test_further_attempts_count_as_requests() -> None:
    with JudgeServer(lambda number, body: "500") as server:
        with pytest.raises(BudgetSpent):
            ask_together(games(3), with_budget(server.url, max_requests=5))
        assert len(server.requests) == 5


def test_tokens_that_were_set_aside_and_not_used_come_back() -> None:
    """Each request sets aside hundreds of tokens and uses few, so far more requests fit than by their largest size."""
    asked = games(20)
    with JudgeServer() as server:
        ask_together(asked[:1], with_budget(server.url))
        used = sum(len(turn["content"].split()) for turn in server.requests[0]["messages"]) + 10
        budget = 20 * used + 3000
        spent = Spent()
        ask_together(asked, with_budget(server.url, max_tokens=budget), spent=spent)
    assert spent.requests == 20 and spent.tokens <= budget


def test_money_is_counted_at_the_stated_prices_and_never_exceeded() -> None:
    spent = Spent()
    with JudgeServer() as server, pytest.raises(BudgetSpent, match="max_cost 9000.*, cost "):
        ask_together(games(60), with_budget(server.url, max_cost=9000), spent=spent)
    words = {sum(len(turn["content"].split()) for turn in body["messages"]) for body in server.requests}
    assert spent.cost == pytest.approx(sum(len(server.requests) * (w + 20) for w in words), rel=0.05)
    assert 4000 < spent.cost <= 9000


def test_a_request_without_counts_is_taken_to_have_used_all_that_was_set_aside() -> None:
    async def run() -> tuple[int, int]:
        limits = RequestLimits(with_budget(max_tokens=20_000))
        admission = await limits.admit(REQUEST)
        await limits.settle(admission)
        return limits.spent.tokens, admission.tokens

    spent, aside = asyncio.run(run())
    assert spent == aside > 0


@settings(max_examples=60, deadline=None)
@given(
    budget=st.integers(1500, 20_000),
    used=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 512), st.booleans()), min_size=1, max_size=40),
    in_flight=st.integers(1, 8),
)
def test_no_order_of_answers_leads_beyond_the_budget(budget: int, used: list[tuple[int, int, bool]], in_flight: int) -> None:
    """Requests of at most 448 + 512 tokens, some without a count; spent plus in flight never passes the budget."""

    async def run() -> RequestLimits:
        limits = RequestLimits(with_budget(max_tokens=budget))
        waiting = iter(used)

        async def work() -> None:
            for prompt, completion, known in waiting:
                admission = await limits.admit(REQUEST)
                assert limits.spent.tokens + limits._aside.tokens <= budget
                await asyncio.sleep(0)
                await limits.settle(admission, *((prompt, completion) if known else ()))
                assert limits.spent.tokens <= budget

        await asyncio.gather(*(work() for _ in range(in_flight)), return_exceptions=True)
        assert limits._aside.tokens == 0
        return limits

    limits = asyncio.run(run())
    if limits.spent.requests < len(used):  # stopped: the next one might not have fitted
        assert limits.spent.tokens + most_tokens(REQUEST) + 512 > budget


def test_a_budget_that_cannot_be_held_is_refused_with_the_setting_that_is_missing() -> None:
    with pytest.raises(ValidationError, match="both prices beside budget.max_cost"):
        ApiJudgeSettings(model="m", budget=BudgetSettings(max_cost=1))
    with pytest.raises(ValidationError, match="max_tokens beside a budget"):
        ApiJudgeSettings(model="m", max_tokens=None, budget=BudgetSettings(max_tokens=100))


def test_stages_of_one_run_share_what_is_spent() -> None:
    spent = Spent()
    with JudgeServer() as server:
        ask_together(games(6), with_budget(server.url, max_requests=10), spent=spent)
        with pytest.raises(BudgetSpent):
            ask_together(games(6), with_budget(server.url, max_requests=10), spent=spent)
        assert len(server.requests) == 10


@given(st.text(max_size=300))
def test_a_prompt_has_at_most_a_token_a_byte_and_about_one_for_four_characters(text: str) -> None:
    request = {"messages": [{"role": "user", "content": text}]}
    assert estimate_tokens(request) == len(text) // 4 + 1
    assert most_tokens(request) >= max(len(text.encode()), estimate_tokens(request))
