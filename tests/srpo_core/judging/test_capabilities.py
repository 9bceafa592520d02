"""What a server honours is found by asking, and the ladder goes down to what it honours, never further."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from srpo_core.errors import InputError, WorkFailed
from srpo_core.judging.api_judge import ApiJudge
from srpo_core.judging.capabilities import Capabilities, most_probe_requests, probe
from srpo_core.judging.chat_client import Answer, ParameterRefused, RequestFailed
from srpo_core.judging.judge_presets import find_preset
from srpo_core.judging.judges import API_ERROR, Verdict
from tests.judge_server import JudgeServer
from tests.srpo_core.judging.test_judges import Replies, api_settings, game, games


def prepare(server: JudgeServer, replies: Replies | None = None, asked: int = 0, **settings: Any) -> tuple[Any, list[Verdict]]:
    """What a judge knows of the server after it prepared itself, and its verdicts on some games."""

    async def run() -> tuple[Capabilities | None, list[Verdict]]:
        own = Replies() if replies is None else replies
        async with ApiJudge(api_settings(server.url, **settings), own, name="judge", backoff_seconds=0.01) as judge:
            await judge.prepare()
            return judge.capabilities, [await judge.judge(one) for one in games(asked)]

    return asyncio.run(run())


@pytest.mark.parametrize("schema", ["honour", "ignore", "refuse"])
@pytest.mark.parametrize("choice", [True, False])
@pytest.mark.parametrize("logprobs", [True, False])
def test_what_a_server_does_is_what_the_probe_finds(schema: str, choice: bool, logprobs: bool) -> None:
    honours = ["seed", *["structured_outputs"] * choice, *["logprobs"] * logprobs]
    with JudgeServer(schema=schema, honours=honours) as server:
        found, _ = prepare(server)
        assert found["requests"] == len(server.probes) and server.requests == []
    assert found["json_schema"] == {"honour": "honoured", "ignore": "ignored", "refuse": "refused"}[schema]
    assert found["choice"] == ("not asked" if schema == "honour" else "honoured" if choice else "ignored")
    assert found["logprobs"] == ("honoured" if logprobs else "ignored")
    assert (found["seed"], found["temperature"]) == ("honoured", "accepted")
    assert (found["model_answered"], found["system_fingerprint"]) == ("test-judge", "fp_test")


@pytest.mark.parametrize(
    ("schema", "honours", "rung"),
    [
        ("honour", ["structured_outputs"], "json_schema"),
        ("refuse", ["structured_outputs"], "choice"),
        ("ignore", ["structured_outputs"], "choice"),
        ("refuse", [], "last_line"),
        ("ignore", [], "last_line"),
    ],
)
def test_games_are_asked_on_the_best_rung_that_is_honoured_and_say_which(schema: str, honours: list[str], rung: str) -> None:
    with JudgeServer(schema=schema, honours=honours) as server:
        _, verdicts = prepare(server, asked=3)
        fields = {"json_schema": {"response_format"}, "choice": {"structured_outputs"}, "last_line": set()}
        for body in server.requests:
            assert body.keys() - {"model", "messages", "temperature", "max_tokens"} == fields[rung]
    assert [(v.rung, v.score) for v in verdicts] == [(rung, 1.0)] * 3


def test_a_seed_that_changes_nothing_is_ignored() -> None:
    with JudgeServer(honours=[]) as server:
        assert prepare(server)[0]["seed"] == "ignored"
        assert sorted(body["seed"] for body in server.probes) == [1, 1, 1, 2]


@pytest.mark.parametrize("name", ["seed", "logprobs", "response_format"])
def test_a_refused_parameter_is_found_and_not_sent_again(name: str) -> None:
    with JudgeServer(refuses=[name]) as server:
        found, verdicts = prepare(server, asked=2)
        assert all(name not in body for body in server.requests)
    assert found["json_schema" if name == "response_format" else name] == "refused"
    assert [v.score for v in verdicts] == [1.0, 1.0]


def test_a_model_that_wants_the_limit_under_its_newer_name_gets_it() -> None:
    with JudgeServer(refuses=["max_tokens"]) as server:
        found, verdicts = prepare(server, asked=2)
        assert [(body.get("max_completion_tokens"), "max_tokens" in body) for body in server.requests] == [(512, False)] * 2
    assert found["limit_name"] == "max_completion_tokens" and verdicts[0].score == 1.0
    assert '"max_completion_tokens":512' in str(verdicts[0].parameters)


def test_a_refused_temperature_is_the_users_to_change() -> None:
    """It changes verdicts, so nothing else is sent in its stead."""
    with JudgeServer(refuses=["temperature"]) as server, pytest.raises(InputError, match="set judge.temperature to none"):
        prepare(server)
    with JudgeServer(refuses=["temperature"]) as server:
        assert prepare(server, temperature=None)[0]["temperature"] == "not asked"


def test_a_kept_probe_is_not_paid_for_again_on_the_same_day() -> None:
    replies = Replies()
    with JudgeServer(schema="refuse") as server:
        first, _ = prepare(server, replies)
        again, _ = prepare(server, replies)
        assert first == again and len(server.probes) == first["requests"]
        prepare(server, replies, model="another")
        assert len(server.probes) == 2 * first["requests"]


def test_a_reply_that_says_nothing_about_the_schema_does_not_demote_the_server() -> None:
    with JudgeServer(probe_script=lambda number, body: "empty" if number == 0 else None) as server:
        found, verdicts = prepare(server, asked=1)
        assert "response_format" in server.requests[0]
    assert found["json_schema"] == "unknown" and verdicts[0].rung == "json_schema"


def test_a_passing_fault_of_the_probe_leaves_the_first_rung_and_is_not_kept() -> None:
    replies = Replies()
    with JudgeServer(probe_script=lambda number, body: "500") as server:
        found, verdicts = prepare(server, replies, asked=1, max_attempts=1)
    assert found is None and verdicts[0].score == 1.0 and len(replies) == 1


def test_a_probe_of_an_account_without_quota_ends_the_run() -> None:
    with JudgeServer(probe_script=lambda number, body: "insufficient_quota") as server:
        with pytest.raises(WorkFailed, match="add credit"):
            prepare(server)
        assert len(server.probes) == 1


def test_no_server_is_one_sentence_and_no_wait_for_every_question_of_the_probe() -> None:
    with JudgeServer() as server:
        url = server.url
    server.requests.clear()

    async def run() -> None:
        async with ApiJudge(api_settings(url, max_attempts=1), Replies(), name="judge", backoff_seconds=0.01) as judge:
            await judge.prepare()

    with pytest.raises(WorkFailed, match="expected a judge at .*, found no connection"):
        asyncio.run(run())


def test_a_question_answered_on_one_rung_is_not_asked_again_on_another() -> None:
    """The server refused the schema yesterday and honours it today."""
    replies = Replies()
    with JudgeServer(schema="refuse") as server:
        prepare(server, replies, asked=3)
        server.schema = "honour"
        for key in [key for key, record in replies.items() if "request" not in record]:
            del replies[key]  # the probe of yesterday
        found, verdicts = prepare(server, replies, asked=3)
        assert found["json_schema"] == "honoured" and len(server.answered) == 3
    assert [v.rung for v in verdicts] == ["last_line"] * 3


def test_a_reply_kept_by_an_earlier_version_under_the_hash_of_what_was_sent_is_found() -> None:
    from srpo_core.judging.judge_requests import build_request, question_hash

    replies = Replies()
    with JudgeServer(schema="refuse") as server:
        settings = api_settings(server.url)

        async def run() -> Verdict | None:
            async with ApiJudge(settings, replies, name="judge") as judge:
                await judge.judge(game())
                [record] = replies.values()
                replies.clear()
                sent = build_request(judge._preset, settings, game(), "last_line")
                old = question_hash(sent, judge.address, 0)
                replies[old] = record | {"request_hash": old}
                return judge.find_verdict(game())

        verdict = asyncio.run(run())
    assert verdict is not None and verdict.score == 1.0


def test_eight_questions_where_all_is_refused_but_the_seed() -> None:
    with JudgeServer(refuses=["response_format", "logprobs", "max_tokens"]) as server:
        found, _ = prepare(server)
        assert found["requests"] == len(server.probes) == 8 < most_probe_requests(api_settings(server.url))


def test_the_worst_server_costs_as_many_questions_as_are_planned_for() -> None:
    """It refuses four things one by one, then the rest for a reason of its own, and two of them again."""
    fails = lambda number, body: "400" if number == 4 else None  # noqa: E731
    with JudgeServer(refuses=["response_format", "logprobs", "max_tokens", "seed"], probe_script=fails) as server:
        found, _ = prepare(server)
        assert found["requests"] == len(server.probes) == most_probe_requests(api_settings(server.url)) == 9


def every_probe(structured: bool, max_tokens: int | None) -> Iterator[int]:
    """The number of requests of a probe for every course it can take: each thing is accepted, refused by name, or fails."""
    settings = api_settings("http://nowhere", structured=structured, max_tokens=max_tokens)
    courses: list[list[int]] = [[]]
    while courses:
        course, choices = courses.pop(), list[int]()

        async def ask(request: Any, course: list[int] = course, choices: list[int] = choices) -> Answer:
            names = [name for name in ("response_format", "seed", "logprobs", "max_tokens") if name in request]
            tried_out = request.get("temperature") == 1.0 or "extra_body" in request
            faults = [] if tried_out else [ParameterRefused(name, "") for name in names]
            faults += [] if tried_out else [RequestFailed(f"{API_ERROR}BadRequestError", "")]  # type: ignore[list-item]
            taken = course[len(choices)] if len(choices) < len(course) else 0
            choices.append(len(faults))
            if taken:
                raise faults[taken - 1]
            return Answer({"choices": [{"message": {"content": "words"}, "finish_reason": "stop"}]}, None, 0.0, 1)

        yield asyncio.run(probe(ask, find_preset(settings.preset), settings))["requests"]
        for place in range(len(course), len(choices)):
            courses += [[*course, *[0] * (place - len(course)), fault + 1] for fault in range(choices[place])]


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("max_tokens", [512, None])
def test_no_course_of_a_probe_takes_more_requests_than_planned_for_and_one_takes_as_many(
    structured: bool, max_tokens: int | None
) -> None:
    planned = most_probe_requests(api_settings("http://nowhere", structured=structured, max_tokens=max_tokens))
    assert max(every_probe(structured, max_tokens)) == planned
