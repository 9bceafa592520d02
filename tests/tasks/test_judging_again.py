"""Judging once more: failed calls, stored replies read anew, repeats, budgets, and what is planned before anything is sent."""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from srpo_core.errors import InputError, WorkFailed
from srpo_core.judging import verdict_parsing
from srpo_core.judging.judges import is_failed_call
from srpo_core.judging.request_limits import Spent
from srpo_core.settings.judges import BudgetSettings, RuleJudgeSettings
from storage.artifact import Artifact, find_artifact, open_artifact
from storage.reply_ledger import ReplyLedger, find_reply
from storage.schemas import COMPLETIONS, GAMES
from tasks import judge_identity
from tasks.deciding import decide_games
from tasks.judging import Match, judge_completions, reread_replies, retry_failed_calls
from tasks.judging_plan import plan_judging
from tests.judge_server import JudgeServer, _Handler, faults_in_turn
from tests.srpo_core.judging.test_judges import games as plain_games
from tests.tasks.judged_texts import completion_row, good_summary, write_artifact, write_completions, write_prompts
from tests.tasks.test_judging import _start_judging, api


def rows_of(artifact: Artifact) -> list[dict[str, Any]]:
    return artifact.read(GAMES).to_pylist()


def inputs(home: Path, count: int, **options: Any) -> tuple[Artifact, list[Artifact]]:
    prompts = write_prompts(home, count)
    return write_completions(home, [prompts], **options), [prompts]


# Failed calls, once more


def test_only_failed_calls_are_asked_again_and_every_other_verdict_stays(tmp_path: Path) -> None:
    """Fourteen games: two calls fail, one reply is empty. The empty reply is an answer and stays."""
    completions, prompts = inputs(tmp_path, 7)
    with JudgeServer(faults_in_turn([None, "400", None, "400", "empty"])) as server:
        judge = api(server.url, max_concurrency=1)
        first = judge_completions(completions, prompts, judge, tmp_path)
        before = rows_of(first)
        match = Match(completions, prompts, judge)
        second = retry_failed_calls(match, tmp_path)
        assert len(server.requests) == 14 + 2
        assert retry_failed_calls(match, tmp_path).digest == second.digest and len(server.requests) == 16
    after = rows_of(second)
    assert (second.counts["scored"], second.counts["unscored"], second.counts["unscored:empty_reply"]) == (13, 1, 1)
    assert [row["game_id"] for row in after] == [row["game_id"] for row in before]
    assert [a == b for a, b in zip(after, before, strict=True)] == [not is_failed_call(b["unscored_reason"]) for b in before]
    assert second.path == first.path and second.digest != first.digest
    assert sorted(p.name for p in second.path.glob("*.parquet")) == ["part-00000-1.parquet"]
    assert judge_completions(completions, prompts, judge, tmp_path).digest == second.digest


def test_the_old_games_stay_until_the_new_ones_are_complete(tmp_path: Path) -> None:
    completions, prompts = inputs(tmp_path, 3)
    with JudgeServer(faults_in_turn([None, "400", "400", None, None, None, None, "insufficient_quota"])) as server:
        judge = api(server.url, max_concurrency=1)
        first = judge_completions(completions, prompts, judge, tmp_path)
        with pytest.raises(WorkFailed, match="add credit"):
            retry_failed_calls(Match(completions, prompts, judge), tmp_path)
        assert find_artifact(tmp_path, "games", first.fingerprint).digest == first.digest  # type: ignore[union-attr]
        assert rows_of(open_artifact(first.path)) == rows_of(first)
        retry_failed_calls(Match(completions, prompts, judge), tmp_path)
        assert len(server.requests) == 6 + 2 + 1  # the verdict won before the quota ended is not asked for again


def test_there_must_be_something_to_ask_again(tmp_path: Path) -> None:
    completions, prompts = inputs(tmp_path, 1)
    with pytest.raises(InputError, match="expected complete games .* without --retry-failed"):
        retry_failed_calls(Match(completions, prompts, api("http://127.0.0.1:9/v1")), tmp_path)
    with pytest.raises(InputError, match="expected an api judge, .* found rule"):
        retry_failed_calls(Match(completions, prompts, RuleJudgeSettings()), tmp_path)


def test_a_call_that_failed_before_a_run_was_ended_is_asked_again_by_the_next(tmp_path: Path) -> None:
    completions, prompts = inputs(tmp_path, 4)
    with JudgeServer(faults_in_turn([None, "400", None, "insufficient_quota"])) as server:
        judge = api(server.url, max_concurrency=1)
        with pytest.raises(WorkFailed, match="add credit"):
            judge_completions(completions, prompts, judge, tmp_path)
        assert judge_completions(completions, prompts, judge, tmp_path).counts["scored"] == 8
        assert len(server.requests) == 4 + 6


# Stored replies, read again


def test_reading_stored_replies_again_sends_nothing_and_changes_nothing(tmp_path: Path) -> None:
    completions, prompts = inputs(tmp_path, 4)
    with JudgeServer(faults_in_turn([None, "400", "two_verdicts"])) as server:
        judge = api(server.url, max_concurrency=1)
        first = judge_completions(completions, prompts, judge, tmp_path)
        before = rows_of(first)
        second = reread_replies(Match(completions, prompts, judge), tmp_path)
        assert len(server.requests) == 8
    assert rows_of(second) == before and second.counts == first.counts
    assert second.info == first.info | {"first_complete_at": first.manifest["created_at"]}
    assert reread_replies(Match(completions, prompts, judge), tmp_path).info == second.info


def test_another_parser_is_another_question_answered_from_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that learned to read replies without a label line: the old games stay, the new ones stand beside them."""
    completions, prompts = inputs(tmp_path, 4)
    with JudgeServer(lambda number, body: "no_label" if number < 3 else None) as server:
        judge = api(server.url, max_concurrency=1)
        first = judge_completions(completions, prompts, judge, tmp_path)
        url_calls = len(server.requests)
    assert first.counts["unscored:parse_failure"] == 3
    parse = verdict_parsing.parse_verdict

    def lenient(reply: str, form: Any, judged: Any = ()) -> Any:
        return parse(reply.replace("Both have their merits.", 'Preferred: "A"'), form, judged)

    monkeypatch.setattr("srpo_core.judging.reply_reading.parse_verdict", lenient)
    monkeypatch.setattr(judge_identity, "PARSER_VERSION", 2)
    second = reread_replies(Match(completions, prompts, judge), tmp_path)
    assert second.fingerprint != first.fingerprint and second.counts["scored"] == 8 and len(server.requests) == url_calls
    assert open_artifact(first.path).digest == first.digest
    assert second.info["judge"] == first.info["judge"]


def test_games_without_a_stored_reply_are_unscored_and_can_be_asked_for(tmp_path: Path, caplog: Any) -> None:
    completions, prompts = inputs(tmp_path, 3)
    with JudgeServer(lambda number, body: "insufficient_quota" if number == 4 else None) as server:
        judge = api(server.url, max_concurrency=1)
        match = Match(completions, prompts, judge)
        with pytest.raises(InputError, match="stored replies for these games .* found none for any of 6"):
            reread_replies(match, tmp_path)
        with pytest.raises(WorkFailed):
            judge_completions(completions, prompts, judge, tmp_path)
        with caplog.at_level(logging.WARNING, logger="srpo.judge"):
            partial = reread_replies(match, tmp_path)
        assert partial.counts["unscored:api_error:no_reply_stored"] == 2 and "--retry-failed asks for them" in caplog.text
        assert retry_failed_calls(match, tmp_path).counts["scored"] == 6
        assert len(server.requests) == 5 + 2


# Repeats


def test_repeats_are_asked_really_and_stand_apart(tmp_path: Path) -> None:
    completions, prompts = inputs(tmp_path, 3)
    with JudgeServer() as server:
        once = judge_completions(completions, prompts, api(server.url), tmp_path)
        thrice = judge_completions(completions, prompts, api(server.url, repeats=3), tmp_path)
        sent = Counter(json.dumps(body) for body in server.requests)
    assert set(sent.values()) == {3}  # the first look of the three was paid for before
    rows = rows_of(thrice)
    assert Counter(row["repeat_index"] for row in rows) == {0: 6, 1: 6, 2: 6} and len({row["game_id"] for row in rows}) == 18
    assert [row["game_id"] for row in rows if row["repeat_index"] == 0] == [row["game_id"] for row in rows_of(once)]
    assert once.fingerprint != thrice.fingerprint and once.info["judge"] == thrice.info["judge"]
    assert len({row["request_hash"] for row in rows}) == 18


# Rows, and what was written before


def test_a_row_tells_how_its_verdict_came_about(tmp_path: Path) -> None:
    prompts = [write_prompts(tmp_path, 2)]
    completions = write_completions(tmp_path, prompts, revisions=1, texts=[good_summary(0), "gold"])
    prompts = [write_prompts(tmp_path, 2, golds=["gold "])]
    completions = write_completions(tmp_path, prompts, revisions=1, texts=[good_summary(0), "gold"])
    with JudgeServer(schema="refuse") as server:
        artifact = judge_completions(completions, prompts, api(server.url, temperature=0.5), tmp_path)
    asked = [row for row in rows_of(artifact) if not row["identical"]]
    assert len(asked) == 4 and artifact.counts["identical"] == 4
    for row in asked:
        assert (row["rung"], row["judge_model"], row["system_fingerprint"]) == ("last_line", "test-judge", "fp_test")
        assert json.loads(row["parameters"]) == {"temperature": 0.5, "max_tokens": 512}
        assert row["prompt_hash"] == artifact.settings["judge"]["preset_hash"]
        assert row["request_id"] == find_reply(tmp_path, row["request_hash"])["request_id"]  # type: ignore[index]
    assert all(row["rung"] is None and row["score"] == 0.5 for row in rows_of(artifact) if row["identical"])
    assert artifact.info["capabilities"]["json_schema"] == "refused" and artifact.info["spent"]["requests"] > 4


# Budget


def test_each_manifest_has_what_its_own_games_took_though_the_budget_is_shared(tmp_path: Path) -> None:
    prompts = [write_prompts(tmp_path, 3)]
    both = [write_completions(tmp_path, prompts, policy=name, texts=[good_summary(number)]) for number, name in enumerate("ab")]
    spent = Spent()
    with JudgeServer() as server:
        games = [judge_completions(one, prompts, api(server.url), tmp_path, spent=spent) for one in both]
        assert [one.info["spent"]["requests"] for one in games] == [6 + len(server.probes), 6]
    assert spent.requests == sum(one.info["spent"]["requests"] for one in games)
    assert spent.tokens == sum(one.info["spent"]["tokens"] for one in games) > games[1].info["spent"]["tokens"] > 0


def test_calls_that_are_tried_again_are_added_to_what_the_others_took(tmp_path: Path) -> None:
    completions, prompts = inputs(tmp_path, 3)
    with JudgeServer(lambda number, body: "400" if number == 4 else None) as server:
        match = Match(completions, prompts, api(server.url, max_concurrency=1))
        first = judge_completions(completions, prompts, match.settings, tmp_path)
        again = retry_failed_calls(match, tmp_path)
        assert again.info["spent"]["requests"] == len(server.requests) + len(server.probes)
    assert (first.info["requests_answered"], again.info["requests_answered"]) == (5, 6)
    assert again.info["first_complete_at"] == first.manifest["created_at"]


def test_a_spent_budget_ends_the_run_in_one_sentence_and_the_next_run_goes_on(tmp_path: Path) -> None:
    completions, prompts = inputs(tmp_path, 10)
    with JudgeServer() as server:
        judge = api(server.url, budget=BudgetSettings(max_requests=12), max_concurrency=4)
        with pytest.raises(WorkFailed, match="within judge.budget .max_requests 12., found 12 requests"):
            judge_completions(completions, prompts, judge, tmp_path)
        assert len(server.requests) + len(server.probes) == 12
        assert not list((tmp_path / "games").glob("*/manifest.json"))
        artifact = judge_completions(completions, prompts, judge, tmp_path)
        assert len(server.requests) == 20 and len(server.probes) == 4
    unlimited = judge_completions(completions, prompts, api(server.url), tmp_path)
    assert artifact.counts["scored"] == 20 and unlimited.path == artifact.path


def test_one_budget_holds_for_all_stages_of_a_run(tmp_path: Path) -> None:
    completions = [inputs(tmp_path, 4, policy=name, texts=[name])[0] for name in ("one", "two")]
    prompts = [write_prompts(tmp_path, 4)]
    spent = Spent()
    with JudgeServer() as server:
        judge = api(server.url, budget=BudgetSettings(max_requests=15))
        judge_completions(completions[0], prompts, judge, tmp_path, spent=spent)
        with pytest.raises(WorkFailed, match="found 15 requests"):
            judge_completions(completions[1], prompts, judge, tmp_path, spent=spent)
        assert len(server.requests) + len(server.probes) == 15


# Plan


def test_a_plan_counts_what_would_be_sent_and_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight prompts, three revisions: the second equals the first (repeated), the third equals the gold (identical)."""
    monkeypatch.delenv("NO_KEY", raising=False)
    prompts = [write_prompts(tmp_path, 8, golds=["gold"])]
    completions = write_completions(tmp_path, prompts, revisions=2, texts=["the same", "the same", "gold"])
    prices = {"price_per_million_prompt_tokens": 2.0, "price_per_million_completion_tokens": 10.0}
    judge = api("https://judge.invalid/v1", api_key_variable="NO_KEY", max_tokens=100, **prices)
    [plan] = plan_judging([Match(completions, prompts, judge)], tmp_path)
    assert (plan.games, plan.identical, plan.repeated, plan.stored, plan.requests) == (48, 16, 16, 0, 16)
    assert plan.probe_requests_at_most == 9 and plan.completion_tokens_at_most == (16 + 9) * 100
    assert 16 * 200 < plan.prompt_tokens_estimated < 16 * 500 and 25 * 900 < plan.prompt_tokens_at_most < 25 * 2000
    assert plan.cost_estimated == pytest.approx((plan.prompt_tokens_estimated * 2 + 1600 * 10) / 1e6)
    assert plan.cost_at_most == pytest.approx((plan.prompt_tokens_at_most * 2 + 2500 * 10) / 1e6)
    unpriced = plan_judging([Match(completions, prompts, api("https://judge.invalid/v1", max_tokens=None))], tmp_path)[0]
    assert unpriced.cost_estimated is unpriced.cost_at_most is unpriced.completion_tokens_at_most is None
    assert list(tmp_path.glob("games/*")) == list(tmp_path.glob("reply_ledger/*")) == []


@pytest.mark.parametrize("text", ["plain words", "\u6f22\u5b57" * 40], ids=["latin", "cjk"])
def test_the_most_that_a_plan_says_is_never_exceeded_and_the_estimate_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """The server bills a token for every byte and every reply as the longest, and refuses one thing at a time."""
    answer = _Handler._completion

    def bill(handler: _Handler, body: dict[str, Any], fault: str | None) -> dict[str, Any]:
        tokens = sum(len(turn["content"].encode()) for turn in body["messages"])
        return answer(handler, body, fault) | {"usage": {"prompt_tokens": tokens, "completion_tokens": 100}}

    monkeypatch.setattr(_Handler, "_completion", bill)
    completions, prompts = inputs(tmp_path, 4, texts=[text])
    prices = {"price_per_million_prompt_tokens": 2.0, "price_per_million_completion_tokens": 10.0, "max_tokens": 100}
    [plan] = plan_judging([Match(completions, prompts, api("http://127.0.0.1:9/v1", **prices))], tmp_path)
    assert plan.cost_estimated is not None and plan.cost_at_most is not None
    budget = BudgetSettings(
        max_requests=plan.requests + plan.probe_requests_at_most,
        max_tokens=plan.prompt_tokens_at_most + (plan.completion_tokens_at_most or 0),
        max_cost=plan.cost_at_most,
    )
    spent = Spent()
    with JudgeServer(refuses=["response_format", "logprobs", "max_tokens"]) as server:
        judge_completions(completions, prompts, api(server.url, budget=budget, **prices), tmp_path, spent=spent)
        assert len(server.requests) + len(server.probes) == spent.requests == 8 + 8
    assert plan.cost_estimated < spent.cost <= plan.cost_at_most


def test_a_plan_is_what_is_sent_then_nothing_then_the_failed_calls(tmp_path: Path) -> None:
    completions, prompts = inputs(tmp_path, 5)
    with JudgeServer(faults_in_turn(["400"])) as server:
        match = Match(completions, prompts, api(server.url, max_concurrency=1))
        [before] = plan_judging([match], tmp_path)
        judge_completions(*match[:3], tmp_path)
        assert before.requests == len(server.requests) == 10
        [after], [again] = plan_judging([match], tmp_path), plan_judging([match], tmp_path, retry_failed=True)
    assert (after.requests, after.stored, after.probe_requests_at_most) == (0, 10, 0)
    assert (again.requests, again.stored) == (1, 9)


def test_the_same_question_of_two_policies_is_planned_once(tmp_path: Path) -> None:
    prompts = [write_prompts(tmp_path, 3)]
    texts = [write_completions(tmp_path, prompts, policy=name, texts=["same"]) for name in ("a", "b")]
    judge = api("http://127.0.0.1:9/v1")
    plans = plan_judging([Match(one, prompts, judge) for one in texts], tmp_path)
    assert [(one.requests, one.repeated) for one in plans] == [(6, 0), (0, 6)]
    others = [write_completions(tmp_path, prompts, policy=name, texts=[name]) for name in ("c", "d")]
    plans = plan_judging([Match(one, prompts, judge) for one in others], tmp_path)
    assert [(one.requests, one.probe_requests_at_most) for one in plans] == [(6, 9), (6, 0)], "one probe serves both"
    rule = plan_judging([Match(texts[0], prompts, RuleJudgeSettings())], tmp_path)[0]
    assert (rule.games, rule.requests, rule.cost_at_most) == (6, 0, 0.0)


# Which text meets which


def test_sample_i_meets_the_opponents_sample_i_counted_round(tmp_path: Path) -> None:
    """Three samples against two: the third meets the first."""
    prompts = write_prompts(tmp_path, 2)
    rows = {}
    for policy, number in (("a", 3), ("b", 2)):
        rows[policy] = [
            completion_row(row["prompt_id"], f"{policy}{sample}", 0, f"{policy}{sample}") | {"sample_index": sample}
            for row in prompts.rows()
            for sample in reversed(range(number))
        ]
    candidates, opponents = (write_artifact(tmp_path, "completions", rows[policy], COMPLETIONS) for policy in ("a", "b"))
    played = list(Match(candidates, [prompts], RuleJudgeSettings(), opponents, 0).plan())
    assert [(one.candidate_text, one.opponent_text) for one in played[::2]] == [("a0", "b0"), ("a1", "b1"), ("a2", "b0")] * 2
    assert [one.order for one in played] == ["as_is", "swapped"] * 6
    assert [one.prompt_id for one in played] == sorted(one.prompt_id for one in played)


# Any games


def test_games_of_one_s_own_are_decided_in_their_order_also_from_a_mere_iterator(tmp_path: Path) -> None:
    with JudgeServer(delay=0.005) as server:
        asked = plain_games(12)
        folder = tmp_path / "journal"
        decided = list(decide_games(iter(asked), api(server.url), tmp_path, journal_folder=folder))
        assert [game for game, _ in decided] == asked and {verdict.score for _, verdict in decided} == {1.0}
        again = list(decide_games(asked, api(server.url), tmp_path, journal_folder=folder))
        assert len(server.requests) == 12 and [v for _, v in again] == [v for _, v in decided]


# Whatever happens


FAULTS = [None, None, None, "429", "500", "reset_mid_body", "truncated_body", "error_in_200", "400", "empty", "refusal"]
FAULTS += ["two_verdicts", "no_label", "length", "wrong_model", "429_retry_in_an_hour", "insufficient_quota", "401"]
UNUSABLE = {"empty": "empty_reply", "refusal": "refusal", "two_verdicts": "ambiguous", "no_label": "parse_failure"}
UNUSABLE |= {"length": "truncated"}


def _until_it_succeeds(work: Callable[[], Artifact], attempts: int) -> Artifact:
    """As a person runs it again after each error; each run meets one fault at least, so the attempts suffice."""
    for _ in range(attempts - 1):
        with suppress(WorkFailed):
            return work()
    return work()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(FAULTS), max_size=60), st.sampled_from(["honour", "ignore", "refuse"]))
@example([None] * 11 + ["429_retry_in_an_hour", "insufficient_quota"], "honour")  # the second run meets an error too
def test_no_script_of_faults_loses_doubles_or_invents_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, faults: list[str | None], schema: str
) -> None:
    """Run until complete. Each stored reply was sent once; each row says what its own reply says, or why there is none."""
    monkeypatch.setattr("tasks.deciding._FIRST_WAIT", 0.001)
    home = tmp_path_factory.mktemp("home")
    completions, prompts = inputs(home, 6)
    answered: Counter[str] = Counter()
    with JudgeServer(faults_in_turn(faults), schema=schema) as server:
        judge = api(server.url, max_concurrency=4)
        _until_it_succeeds(lambda: judge_completions(completions, prompts, judge, home), len(faults) + 1)
        artifact = _until_it_succeeds(lambda: retry_failed_calls(Match(completions, prompts, judge), home), len(faults) + 1)
        answered.update(json.dumps(body) for body in server.answered)
    rows = rows_of(artifact)
    assert len(rows) == 12 == len({row["game_id"] for row in rows})
    assert set(answered.values()) <= {1}
    for row in rows:
        record = find_reply(home, row["request_hash"])
        if record is None:
            assert is_failed_call(row["unscored_reason"]) and row["score"] is None
        else:
            text = record["response"]["choices"][0]["message"]["content"]
            assert row["score"] == (None if row["unscored_reason"] else 1.0)
            assert (row["unscored_reason"] is None) == bool(text and row["label"] and row["label"] in text)
    assert len(answered) == sum(not is_failed_call(row["unscored_reason"]) for row in rows)
    assert sum(n for name, n in artifact.counts.items() if name.startswith("unscored:")) == artifact.counts["unscored"]


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 45), min_size=1, max_size=2))
def test_a_kill_at_any_moment_asks_for_no_stored_verdict_again(
    tmp_path_factory: pytest.TempPathFactory, moments: list[int]
) -> None:
    """Killed after so many requests, once or twice; at most the requests in flight are lost, and nothing is counted twice."""
    home = tmp_path_factory.mktemp("home")
    prompts = write_prompts(home, 25)
    completions = write_completions(home, [prompts])
    with JudgeServer(delay=0.02) as server:
        for moment in moments:
            at_start = len(server.requests)
            child = _start_judging(home, server.url, completions, prompts)
            while len(server.requests) - at_start < moment and child.poll() is None:
                time.sleep(0.002)
            child.kill()  # nothing happens to one that is done already
            child.communicate()
            time.sleep(0.1)  # let the server finish what it had taken
            with ReplyLedger(home) as ledger:
                stored = len(ledger) - bool(len(ledger))
            assert stored <= len(server.requests) <= stored + 8 * len(moments)
        at_kill = len(server.requests)
        child = _start_judging(home, server.url, completions, prompts)
        output, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        assert len(server.requests) - at_kill == 50 - stored
    rows = rows_of(open_artifact(Path(output.strip())))
    assert len({row["game_id"] for row in rows}) == len(rows) == 50 and {row["score"] for row in rows} == {1.0}


def test_two_runs_on_one_home_share_the_rate(tmp_path: Path) -> None:
    """1,200 a minute over two sets of completions judged at once: 32 requests take 31 times 50 ms at least."""
    prompts = [write_prompts(tmp_path, 8)]
    texts = [write_completions(tmp_path, prompts, policy=name, texts=[f"{name} words"]) for name in ("a", "b")]
    with JudgeServer() as server:
        judge = api(server.url, requests_per_minute=1200)
        judge_completions(write_completions(tmp_path, prompts, policy="c", texts=["probe"]), prompts, judge, tmp_path)
        began, sent = time.monotonic(), len(server.requests)
        threads = [threading.Thread(target=judge_completions, args=(one, prompts, judge, tmp_path)) for one in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) - sent == 32
    assert time.monotonic() - began > 31 * 0.05
