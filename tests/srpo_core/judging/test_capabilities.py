"""What a server honours is found by asking, and the ladder goes down to what it honours, never further."""

import asyncio
from typing import Any

import pytest

from srpo_core.errors import InputError, WorkFailed
from srpo_core.judging.api_judge import ApiJudge
from srpo_core.judging.capabilities import Capabilities
from srpo_core.judging.judges import Verdict
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
