"""The model judge against a real local server: every fault ends in the right verdict, error or further attempt."""

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from srpo_core.errors import InputError, WorkFailed
from srpo_core.judging import judging_queue
from srpo_core.judging.api_judge import ApiJudge
from srpo_core.judging.judge_presets import find_preset
from srpo_core.judging.judges import JudgeGame, Verdict, is_server_fault, outcome_of, read_api_key, resolve_base_url
from srpo_core.judging.judging_queue import ask_judge
from srpo_core.records import user_prompt
from srpo_core.settings.judges import ApiJudgeSettings
from storage.request_rate import SharedRate
from tests.judge_server import JudgeServer, faults_in_turn, overlap_label, overlap_score

SOURCE = "the red fox jumped over the lazy dog near the river"
GOOD, BAD = "red fox jumped over lazy dog", "completely unrelated words about nothing"


class Replies(dict[str, dict[str, Any]]):
    """A reply store in memory."""

    def find(self, request_hash: str) -> dict[str, Any] | None:
        return self.get(request_hash)

    def keep(self, record: dict[str, Any]) -> None:
        assert record["request_hash"] not in self, "a reply was paid for twice"
        self[record["request_hash"]] = record


def game(candidate: str = GOOD, opponent: str = BAD, order: str = "as_is", source: str = SOURCE, repeat: int = 0) -> JudgeGame:
    name = f"{candidate}|{opponent}|{order}|{source}|{repeat}"
    return JudgeGame(name, user_prompt(source), source, candidate, candidate, "gold:0", opponent, order, repeat)  # type: ignore[arg-type]


def games(count: int) -> list[JudgeGame]:
    return [game(source=f"{SOURCE} {n}") for n in range(count)]


def api_settings(url: str, **changes: Any) -> ApiJudgeSettings:
    values: dict[str, Any] = {"model": "test-judge", "base_url": url, "timeout_seconds": 5, "max_concurrency": 8}
    return ApiJudgeSettings(**(values | changes))


def ask(asked: JudgeGame | Sequence[JudgeGame], settings: ApiJudgeSettings, replies: Replies | None = None) -> list[Verdict]:
    """Judge one after the other."""

    async def run() -> list[Verdict]:
        async with ApiJudge(settings, Replies() if replies is None else replies, name="judge", backoff_seconds=0.01) as judge:
            return [await judge.judge(one) for one in ([asked] if isinstance(asked, JudgeGame) else asked)]

    return asyncio.run(run())


def ask_together(
    asked: Sequence[JudgeGame], settings: ApiJudgeSettings, replies: Replies | None = None, **options: Any
) -> dict[str, Verdict]:
    """Judge through the queue; a verdict handed on twice fails."""
    verdicts: dict[str, Verdict] = {}

    def keep(one: JudgeGame, verdict: Verdict) -> None:
        assert one.game_id not in verdicts, "a verdict was counted twice"
        verdicts[one.game_id] = verdict

    async def run() -> None:
        options["backoff_seconds"] = 0.01
        async with ApiJudge(settings, Replies() if replies is None else replies, name="judge", **options) as judge:
            await ask_judge(judge, asked, keep, max_concurrency=settings.max_concurrency)

    try:
        asyncio.run(run())
    except WorkFailed as error:
        error.verdicts = verdicts  # type: ignore[attr-defined]
        raise
    return verdicts


@pytest.mark.parametrize(
    ("candidate", "opponent", "order", "outcome", "score"),
    [
        (GOOD, BAD, "as_is", "win", 1.0),
        (GOOD, BAD, "swapped", "win", 1.0),
        (BAD, GOOD, "as_is", "loss", 0.0),
        (BAD, GOOD, "swapped", "loss", 0.0),
    ],
)
@pytest.mark.parametrize("schema", ["honour", "ignore", "refuse"])
def test_the_verdict_is_the_candidates_in_either_order(
    candidate: str, opponent: str, order: str, outcome: str, score: float, schema: str
) -> None:
    with JudgeServer(schema=schema) as server:
        [verdict] = ask(game(candidate, opponent, order), api_settings(server.url))
    assert (verdict.outcome, verdict.score, verdict.unscored_reason) == (outcome, score, None)


@pytest.mark.parametrize("preset", ["tldr-concise", "tldr", "article-concise", "dialogue", "mtbench-pair"])
@pytest.mark.parametrize("structured", [True, False])
def test_every_two_label_preset_reaches_the_server_and_back(preset: str, structured: bool) -> None:
    with JudgeServer() as server:
        [verdict] = ask(game(), api_settings(server.url, preset=preset, structured=structured))
        assert ("response_format" in server.requests[0]) == structured
    assert (verdict.outcome, verdict.label) == ("win", "A")


def test_a_tie_of_the_judge_is_half_a_win_in_both_orders() -> None:
    with JudgeServer() as server:
        server.reply_text = lambda body: "Equal.\n[[A=B]]"  # type: ignore[method-assign]
        verdicts = ask([game(), game(order="swapped")], api_settings(server.url, preset="arena-hard", structured=False))
    assert [(v.outcome, v.score, v.label) for v in verdicts] == [("tie", 0.5, "A=B")] * 2


def test_everything_worth_keeping_of_a_reply_is_kept() -> None:
    replies = Replies()
    prices = {"price_per_million_prompt_tokens": 2.0, "price_per_million_completion_tokens": 8.0}
    with JudgeServer(model="test-judge-2025") as server:
        [verdict] = ask(game(), api_settings(server.url, **prices), replies)
    [kept] = replies.values()
    words = sum(len(turn["content"].split()) for turn in server.requests[0]["messages"])
    assert verdict.model_answered == "test-judge-2025"
    assert (verdict.prompt_tokens, verdict.completion_tokens) == (words, 10)
    assert verdict.cost == pytest.approx((words * 2 + 10 * 8) / 1e6)
    assert verdict.request_hash == kept["request_hash"] and verdict.seconds == kept["seconds"] > 0
    assert verdict.reply == kept["response"]["choices"][0]["message"]["content"]
    assert kept["request"] == server.requests[0] and kept["base_url"] == server.url
    assert kept["response"]["system_fingerprint"] == "fp_test" and kept["request_id"] == "request-1" and kept["attempts"] == 1


def test_cost_is_unknown_without_both_prices() -> None:
    with JudgeServer() as server:
        [verdict] = ask(game(), api_settings(server.url, price_per_million_prompt_tokens=1.0))
    assert verdict.cost is None


def test_optional_parameters_are_not_sent_when_none() -> None:
    with JudgeServer() as server:
        ask(game(), api_settings(server.url, temperature=None, max_tokens=None))
        assert server.requests[0].keys() == {"model", "messages", "response_format"}


TRANSIENT = ["429", "429_retry_after", "500", "reset_mid_body", "truncated_body", "error_in_200", "timeout"]


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_transient_fault_is_tried_again_and_then_scored(fault: str) -> None:
    replies = Replies()
    with JudgeServer(faults_in_turn([fault])) as server:
        [verdict] = ask(game(), api_settings(server.url, timeout_seconds=0.5 if fault == "timeout" else 5), replies)
        assert len(server.requests) == 2
    assert verdict.outcome == "win"
    assert [record["attempts"] for record in replies.values()] == [2]


REASONS = {
    "429": "api_error:RateLimitError",
    "500": "api_error:InternalServerError",
    "reset_mid_body": "api_error:APIConnectionError",
    "truncated_body": "api_error:InvalidResponse",
    "error_in_200": "api_error:InvalidResponse",
    "timeout": "api_error:APITimeoutError",
}


@pytest.mark.parametrize(("fault", "reason"), REASONS.items())
def test_a_lasting_fault_is_unscored_after_the_last_attempt_and_not_kept(fault: str, reason: str) -> None:
    replies = Replies()
    with JudgeServer(lambda number, body: fault) as server:
        [verdict] = ask(
            game(), api_settings(server.url, max_attempts=2, timeout_seconds=0.3 if fault == "timeout" else 5), replies
        )
        assert len(server.requests) == 2
    assert (verdict.outcome, verdict.score, verdict.unscored_reason) == ("unscored", None, reason)
    assert replies == {} and is_server_fault(reason)


@pytest.mark.parametrize(
    ("fault", "reason"), [("400", "api_error:BadRequestError"), ("429_retry_in_an_hour", "api_error:RateLimitError")]
)
def test_a_fault_that_waiting_will_not_cure_is_not_tried_again(fault: str, reason: str) -> None:
    with JudgeServer(lambda number, body: fault) as server:
        [verdict] = ask(game(), api_settings(server.url))
        assert len(server.requests) == 1
    assert verdict.unscored_reason == reason


def test_the_server_says_how_long_to_wait() -> None:
    with JudgeServer(faults_in_turn(["429_retry_after"])) as server:
        started = time.monotonic()
        ask(game(), api_settings(server.url))
        assert time.monotonic() - started > 0.3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("empty", "empty_reply"),
        ("null", "empty_reply"),
        ("refusal", "refusal"),
        ("content_filter", "refusal"),
        ("length", "truncated"),
        ("two_verdicts", "ambiguous"),
        ("no_label", "parse_failure"),
        ("broken_json_content", "parse_failure"),
        ("wrong_value", "parse_failure"),
    ],
)
def test_a_reply_without_a_verdict_is_unscored_kept_and_not_asked_again(fault: str, reason: str) -> None:
    replies = Replies()
    with JudgeServer(lambda number, body: fault) as server:
        verdicts = ask([game(), game()], api_settings(server.url), replies)
        assert len(server.requests) == 1
    assert [(v.outcome, v.score, v.unscored_reason) for v in verdicts] == [("unscored", None, reason)] * 2
    assert len(replies) == 1 and verdicts[0].prompt_tokens is not None


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("insufficient_quota", WorkFailed, "quota.*add credit and run again"),
        ("401", WorkFailed, "accept the key in OPENAI_API_KEY.*incorrect API key"),
        ("404", WorkFailed, "expected model 'test-judge'.*no such model"),
        ("temperature_refused", InputError, "to accept temperature = 0.0.*set judge.temperature to none"),
    ],
)
def test_a_fault_of_the_account_or_the_settings_ends_the_run_at_once(fault: str, error: type[Exception], words: str) -> None:
    with JudgeServer(lambda number, body: fault) as server:
        with pytest.raises(error, match=words):
            ask_together(games(30), api_settings(server.url))
        assert len(server.requests) == 1


def test_quota_that_runs_out_midway_keeps_every_verdict_and_invents_none() -> None:
    replies = Replies()
    with JudgeServer(lambda number, body: "insufficient_quota" if number >= 12 else None, delay=0.01) as server:
        with pytest.raises(WorkFailed, match="stored replies are not asked for twice") as caught:
            ask_together(games(40), api_settings(server.url), replies)
        verdicts = caught.value.verdicts  # type: ignore[attr-defined]
        assert len(verdicts) == len(replies) == len(server.answered) == 12
        assert {v.outcome for v in verdicts.values()} == {"win"}
        assert len(server.requests) <= 12 + 8


def test_a_refused_schema_is_asked_for_once_and_remembered() -> None:
    with JudgeServer(schema="refuse") as server:
        verdicts = ask(games(3), api_settings(server.url))
        assert ["response_format" in body for body in server.requests] == [True, False, False, False]
    assert [v.label for v in verdicts] == ["A"] * 3


def test_the_request_hash_knows_everything_that_is_sent_and_where() -> None:
    """Another prompt text, order, model, temperature, limit, schema, preset, server or repeat is another question."""
    replies = Replies()
    with JudgeServer() as server, JudgeServer() as elsewhere:
        ask(
            [game(), game(order="swapped"), game(BAD, GOOD + " x"), game(source="other"), game(repeat=1)],
            api_settings(server.url),
            replies,
        )
        for change in ({"model": "m2"}, {"temperature": 0.5}, {"max_tokens": 99}, {"structured": False}, {"preset": "tldr"}):
            ask(game(), api_settings(server.url, **change), replies)
        ask(game(), api_settings(elsewhere.url), replies)
        assert len(replies) == 11 and len(server.requests) == 10
        speed = {"timeout_seconds": 9, "max_concurrency": 1, "max_attempts": 1, "price_per_million_prompt_tokens": 1.0}
        ask(game(), api_settings(server.url + "/", **speed), replies)
        assert len(replies) == 11 and len(server.requests) == 10


def test_equal_requests_in_flight_are_sent_once() -> None:
    """A revision that changed nothing asks the same question; both games get the one reply."""
    same = [JudgeGame(**(vars(game()) | {"game_id": str(n)})) for n in range(10)]
    with JudgeServer(delay=0.05) as server:
        verdicts = ask_together([*games(1), *same], api_settings(server.url))
        assert len(server.requests) == 2
    assert len(verdicts) == 11 and {v.outcome for v in verdicts.values()} == {"win"}


def test_concurrency_is_used_and_bounded() -> None:
    with JudgeServer(delay=0.03) as server:
        ask_together(games(40), api_settings(server.url, max_concurrency=5))
        assert server.most_in_flight == 5


def test_requests_per_minute_hold_from_the_first_second(tmp_path: Path) -> None:
    """At 1,200 a minute one may start every 50 ms: 11 requests take half a second, however many may be in flight."""
    with JudgeServer() as server:
        started = time.monotonic()
        ask_together(games(11), api_settings(server.url), rate=SharedRate(tmp_path, "rate", requests_per_minute=1200))
        assert time.monotonic() - started > 0.45


def test_every_fault_at_once_loses_counts_twice_and_invents_no_verdict() -> None:
    """Faults by request text: each game's verdict is the one its own text deserves, or unscored for its own fault."""
    asked = [
        game(GOOD if n % 3 else BAD, BAD if n % 3 else GOOD, "as_is" if n % 2 else "swapped", f"{SOURCE} {n}") for n in range(120)
    ]
    plan = [None, "429", "500", "empty", None, "two_verdicts", "refusal", "400", None, "truncated_body", "no_label", "length"]
    seen: dict[str, int] = {}

    def script(number: int, body: dict[str, Any]) -> str | None:
        text = body["messages"][-1]["content"]
        n = int(text.split("near the river ")[1].split("\n")[0])
        first_try = seen.setdefault(text, number) == number
        fault = plan[n % len(plan)]
        return fault if first_try or fault not in TRANSIENT else None

    expected = {None: None, "429": None, "500": None, "truncated_body": None, "empty": "empty_reply", "two_verdicts": "ambiguous"}
    expected |= {"refusal": "refusal", "400": "api_error:BadRequestError", "no_label": "parse_failure", "length": "truncated"}
    replies = Replies()
    with JudgeServer(script, delay=0.002) as server:
        verdicts = ask_together(asked, api_settings(server.url), replies)
        for n, one in enumerate(asked):
            reason = expected[plan[n % len(plan)]]
            outcome = "unscored" if reason else "win" if n % 3 else "loss"
            assert (verdicts[one.game_id].outcome, verdicts[one.game_id].unscored_reason) == (outcome, reason)
        assert len(verdicts) == 120 and len(replies) == len(server.answered) == 110


def test_a_judge_that_is_not_there_fails_before_anything_is_asked() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(WorkFailed, match=rf"expected a judge at {url}, found no connection.*start the server") as caught:
        ask_together(games(50), api_settings(url, max_attempts=2))
    assert caught.value.verdicts.keys() <= {games(1)[0].game_id}  # type: ignore[attr-defined]


def test_a_judge_that_goes_down_midway_ends_the_run() -> None:
    with JudgeServer(lambda number, body: "500" if number >= 30 else None) as server:
        with pytest.raises(WorkFailed, match="20 failed calls in a row") as caught:
            ask_together(games(200), api_settings(server.url, max_attempts=1))
        assert len(server.requests) <= 30 + 20 + 2 * 8  # replies overtake each other
    scored = [v for v in caught.value.verdicts.values() if v.outcome != "unscored"]  # type: ignore[attr-defined]
    assert len(scored) == 30


def test_requests_that_are_refused_one_by_one_do_not_count_as_an_outage() -> None:
    """Forty prompts in a row that are too long are forty unscored games, not a judge that is down."""
    with JudgeServer(lambda number, body: "400" if number < 40 else None) as server:
        verdicts = ask_together(games(60), api_settings(server.url))
    assert sum(v.unscored_reason == "api_error:BadRequestError" for v in verdicts.values()) == 40


def test_a_judge_that_answers_nothing_fails_instead_of_leaving_everything_unscored() -> None:
    with JudgeServer(lambda number, body: "500") as server, pytest.raises(WorkFailed, match="no reply to any of 5 games"):
        ask_together(games(5), api_settings(server.url, max_attempts=1))


def test_progress_is_logged_with_rate_and_time_left(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging_queue, "LOG_SECONDS", 0.05)
    with caplog.at_level(logging.INFO, logger="srpo.judge"), JudgeServer(delay=0.03) as server:
        ask_together(games(40), api_settings(server.url, max_concurrency=4))
    lines = [record.getMessage() for record in caplog.records if record.name == "srpo.judge"]
    assert len(lines) > 2 and lines[-1].startswith("judged 40 of 40 games (") and "0:00 left" in lines[-1]


def test_the_key_comes_from_the_named_variable_and_only_a_remote_server_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    for local in ("http://127.0.0.1:8000/v1", "http://localhost:1/v1", "http://[::1]:1/v1"):
        assert read_api_key(api_settings(local, api_key_variable="MY_KEY")) == "none"
    with pytest.raises(InputError, match="API key for https://judge.example/v1 in the environment variable MY_KEY, found none"):
        read_api_key(api_settings("https://judge.example/v1", api_key_variable="MY_KEY"))
    monkeypatch.setenv("MY_KEY", "secret")
    assert read_api_key(api_settings("https://judge.example/v1", api_key_variable="MY_KEY")) == "secret"


def test_the_address_is_resolved_once_and_without_a_trailing_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert resolve_base_url(ApiJudgeSettings(model="m")) == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://proxy/v1/")
    assert resolve_base_url(ApiJudgeSettings(model="m")) == "http://proxy/v1"
    assert resolve_base_url(api_settings("http://x/v1/")) == "http://x/v1"


def test_the_key_is_sent_and_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    replies = Replies()
    with JudgeServer() as server:
        ask(game(), api_settings(server.url), replies)
    assert "sk-very-secret" not in repr(replies)


def test_outcomes_by_score() -> None:
    assert [outcome_of(s) for s in (1.0, 0.51, 0.5, 0.49, 0.0)] == ["win", "win", "tie", "loss", "loss"]


def test_the_servers_own_overlap_verdict_is_what_the_tests_assume() -> None:
    """GOOD shares 6 of 6 words, 6/sqrt(6) = 2.45; BAD shares none."""
    assert overlap_score(SOURCE, GOOD) == pytest.approx(6 / 6**0.5) and overlap_score(SOURCE, BAD) == 0
    messages = find_preset("tldr").messages(user_prompt(SOURCE), BAD, GOOD)
    assert overlap_label({"messages": messages}) == "B"
