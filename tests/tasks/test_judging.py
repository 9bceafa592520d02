"""The judging stage: the right games, the right numbers, and no verdict lost, doubled or invented whatever happens."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srpo_core.errors import InputError, WorkFailed
from srpo_core.records import user_prompt
from srpo_core.settings.judges import ApiJudgeSettings, RuleJudgeSettings
from storage.artifact import Artifact, open_artifact
from storage.journal import list_journals, read_journal
from storage.reply_ledger import ReplyLedger, find_reply
from storage.schemas import GAMES
from tasks.judge_identity import fingerprint_settings, judge_name
from tasks.judging import judge_completions
from tests.judge_server import JudgeServer, faults_in_turn
from tests.tasks import judged_texts
from tests.tasks.judged_texts import good_summary, poor_summary, write_completions, write_prompts

ROOT = Path(__file__).parent.parent.parent
RULE = RuleJudgeSettings()


def api(url: str, **changes: Any) -> ApiJudgeSettings:
    values: dict[str, Any] = {"model": "test-judge", "base_url": url, "timeout_seconds": 5, "max_attempts": 2}
    return ApiJudgeSettings(**(values | changes))


def games(artifact: Artifact) -> list[dict[str, Any]]:
    return artifact.read(GAMES).to_pylist()


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str, str]]:
    """A rule whose probability is the share of the candidate's words; counts how often each question is computed."""
    asked: Counter[tuple[str, str, str]] = Counter()

    def probability(document: str, candidate: str, opponent: str) -> float:
        asked[document, candidate, opponent] += 1
        return len(candidate.split()) / (len(candidate.split()) + len(opponent.split()))

    monkeypatch.setitem(sys.modules, "srpo_core.newsroom", SimpleNamespace(preference_probability=probability))
    return asked


def test_the_rule_judge_scores_both_orders_from_one_computation(tmp_path: Path, rule: Counter[Any]) -> None:
    """Six words against five, nine and six: 6/11, 6/15, 6/12."""
    prompts = write_prompts(tmp_path, 3, golds=["a b c d e", "a b c d e f g h i", "a b c d e f"])
    completions = write_completions(tmp_path, [prompts])
    artifact = judge_completions(completions, [prompts], RULE, tmp_path)
    rows = games(artifact)
    by_opponent = {
        (r["opponent"], r["order"]): (r["outcome"], r["score"]) for r in rows if r["prompt_id"] == rows[0]["prompt_id"]
    }
    for order in ("as_is", "swapped"):
        assert by_opponent["gold:0", order] == ("win", 6 / 11)
        assert by_opponent["gold:1", order] == ("loss", 6 / 15)
        assert by_opponent["gold:2", order] == ("tie", 0.5)
    assert len(rows) == 3 * 3 * 2 and set(rule.values()) == {1} and len(rule) == 9
    assert artifact.counts == {"prompts_without_gold": 0, "identical": 0, "games": 18, "scored": 18, "unscored": 0}
    assert {r["judge"] for r in rows} == {"rule"} and {r["request_hash"] for r in rows} == {None}
    assert artifact.stage == "games" and artifact.info["judge"] == "rule"


def test_the_document_is_the_last_user_turn(tmp_path: Path, rule: Counter[Any]) -> None:
    prompts = write_prompts(tmp_path, 1)
    judge_completions(write_completions(tmp_path, [prompts]), [prompts], RULE, tmp_path)
    [(document, candidate, opponent)] = rule
    assert document.startswith("document0 ") and (candidate, opponent) == (good_summary(0), poor_summary(0))


def test_a_large_rule_judged_set_takes_seconds(tmp_path: Path, rule: Counter[Any]) -> None:
    """A quarter of the demo's games (3 sets of 200 prompts, 6 revisions, both orders) well within its share of the time."""
    prompts = [write_prompts(tmp_path, 200, eval_set=name) for name in ("id", "long", "mix")]
    completions = write_completions(tmp_path, prompts, revisions=5)
    started = time.monotonic()
    artifact = judge_completions(completions, prompts, RULE, tmp_path)
    assert artifact.counts["games"] == 7200
    assert time.monotonic() - started < 5


def test_the_newsrooms_own_probability_is_what_the_rule_judge_reports(tmp_path: Path) -> None:
    newsroom = pytest.importorskip("srpo_core.newsroom")
    document = "Major fire, Oslo, 17. Minor strike, Rome, 25. Major flood, Lima, 11."
    names = {"prompt_id": "p", "eval_set": "n", "domain": "n", "cluster_id": "c"}
    row = names | {"prompt": user_prompt(document), "gold": ["fire, Oslo, 17."]}
    prompts = judged_texts.write_artifact(tmp_path, "prompts", [row], judged_texts.PROMPTS)
    candidate = "fire, Oslo, 17. flood, Lima, 11."
    completion = judged_texts.completion_row("p", "policy", 0, candidate)
    completions = judged_texts.write_artifact(tmp_path, "completions", [completion], judged_texts.COMPLETIONS)
    exact = newsroom.preference_probability(document, candidate, "fire, Oslo, 17.")
    rows = games(judge_completions(completions, [prompts], RULE, tmp_path))
    assert [r["score"] for r in rows] == [exact, exact] and exact > 0.5


def test_an_api_judge_fills_every_column_and_keeps_every_reply(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 10)
    completions = write_completions(tmp_path, [prompts])
    with JudgeServer() as server:
        prices = {"price_per_million_prompt_tokens": 1.0, "price_per_million_completion_tokens": 2.0}
        settings = api(server.url, **prices)
        artifact = judge_completions(completions, [prompts], settings, tmp_path)
        assert len(server.requests) == 20
    rows = games(artifact)
    assert {r["outcome"] for r in rows} == {"win"} and {r["score"] for r in rows} == {1.0}
    assert Counter((r["order"], r["label"]) for r in rows) == {("as_is", "A"): 10, ("swapped", "B"): 10}
    assert len({r["game_id"] for r in rows}) == 20
    for row in rows:
        record = find_reply(tmp_path, row["request_hash"])
        assert record is not None
        assert json.loads(record["response"]["choices"][0]["message"]["content"])["preferred"] == row["label"]
        assert row["model_answered"] == "test-judge" and row["seconds"] > 0 and row["judge"] == judge_name(settings)
        assert row["cost"] == pytest.approx((row["prompt_tokens"] + 2 * row["completion_tokens"]) / 1e6)
    assert artifact.counts["scored"] == 20 and artifact.counts["answered_by_other_model"] == 0
    assert artifact.info["requests_answered"] == 20 and artifact.info["capabilities"]["json_schema"] == "honoured"
    assert list_journals(artifact.path) == []


def test_a_complete_artifact_is_found_without_the_server_or_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = write_prompts(tmp_path, 2)
    completions = write_completions(tmp_path, [prompts])
    with JudgeServer() as server:
        first = judge_completions(completions, [prompts], api(server.url), tmp_path)
    again = judge_completions(completions, [prompts], api(first.settings["judge"]["base_url"]), tmp_path)
    assert again.path == first.path and again.digest == first.digest


def test_only_what_changes_numbers_enters_the_fingerprint() -> None:
    base = api("http://127.0.0.1:1/v1")
    speed = ("max_concurrency", "max_attempts", "timeout_seconds", "requests_per_minute")
    for name in (*speed, "price_per_million_prompt_tokens", "price_per_million_completion_tokens"):
        assert fingerprint_settings(base.model_copy(update={name: 3})) == fingerprint_settings(base)
    changes: dict[str, Any] = {"model": "m", "preset": "tldr", "temperature": 0.5, "max_tokens": 9, "structured": False}
    changes["base_url"] = "http://b"
    for name, value in changes.items():
        changed = base.model_copy(update={name: value})
        assert fingerprint_settings(changed) != fingerprint_settings(base) and judge_name(changed) != judge_name(base)


def test_prompt_sets_may_be_named_in_any_order(tmp_path: Path, rule: Counter[Any]) -> None:
    prompts = [write_prompts(tmp_path, 2, eval_set=name) for name in ("x", "y")]
    completions = write_completions(tmp_path, prompts)
    one = judge_completions(completions, prompts, RULE, tmp_path)
    assert judge_completions(completions, prompts[::-1], RULE, tmp_path).path == one.path


def test_identical_texts_tie_without_a_question(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 4, golds=["the same words"])
    completions = write_completions(tmp_path, [prompts], texts=["  the same words\n"])
    artifact = judge_completions(completions, [prompts], api("http://127.0.0.1:9/v1"), tmp_path)
    assert [(r["outcome"], r["score"], r["request_hash"]) for r in games(artifact)] == [("tie", 0.5, None)] * 8
    assert artifact.counts["identical"] == 8 and artifact.info["requests_answered"] == 0


def test_a_revision_that_changes_nothing_is_not_paid_for_again(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 1)
    completions = write_completions(tmp_path, [prompts], revisions=3, texts=[good_summary(0)] * 3 + ["other words"])
    with JudgeServer() as server:
        rows = games(judge_completions(completions, [prompts], api(server.url), tmp_path))
        assert len(server.requests) == 4
    assert len(rows) == 8 and len({r["game_id"] for r in rows}) == 8 and len({r["request_hash"] for r in rows}) == 4


def test_two_policies_meet_on_the_same_prompt_at_the_asked_revision(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 3)
    strong = write_completions(tmp_path, [prompts], revisions=1, policy="strong")
    weak = write_completions(tmp_path, [prompts], revisions=2, policy="weak", texts=["zero", "one", "two"])
    with JudgeServer() as server:
        artifact = judge_completions(strong, [prompts], api(server.url), tmp_path, opponents=weak, opponent_revision_index=2)
    expected = {row["prompt_id"]: row["completion_id"] for row in weak.rows() if row["revision_index"] == 2}
    rows = games(artifact)
    assert len(rows) == 3 * 2 * 2 and all(row["opponent"] == expected[row["prompt_id"]] for row in rows)
    assert artifact.manifest["parents"]["opponents"]["digest"] == weak.digest
    with pytest.raises(InputError, match="expected a completion of revision 7 for every prompt"):
        judge_completions(strong, [prompts], RULE, tmp_path, opponents=weak, opponent_revision_index=7)
    with pytest.raises(InputError, match=r"opponents together with opponent_revision_index \(--opponent-revision\)"):
        judge_completions(strong, [prompts], RULE, tmp_path, opponents=weak)


def test_missing_prompts_golds_and_completions_are_named(tmp_path: Path) -> None:
    prompts, others = write_prompts(tmp_path, 2), write_prompts(tmp_path, 3, eval_set="other")
    completions = write_completions(tmp_path, [prompts])
    with pytest.raises(InputError, match="among the given prompt sets, found 2 missing"):
        judge_completions(completions, [others], RULE, tmp_path)
    bare = write_prompts(tmp_path, 2, golds=[])
    with pytest.raises(InputError, match="expected gold texts to judge against, found none for any of 2 prompts"):
        judge_completions(completions, [bare], RULE, tmp_path)
    with pytest.raises(InputError, match="expected completions to judge at .*, found none"):
        judge_completions(write_completions(tmp_path, []), [prompts], RULE, tmp_path)


def test_the_rule_judge_refuses_what_is_not_from_the_newsroom(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 1)
    with pytest.raises(InputError, match="expected newsroom documents for the rule judge, found prompt .*; use another judge"):
        judge_completions(write_completions(tmp_path, [prompts]), [prompts], RULE, tmp_path)
    assert not list((tmp_path / "games").glob("*/manifest.json"))


def test_prompts_without_gold_are_counted(tmp_path: Path, rule: Counter[Any]) -> None:
    prompts = [write_prompts(tmp_path, 2), write_prompts(tmp_path, 3, golds=[], eval_set="bare")]
    artifact = judge_completions(write_completions(tmp_path, prompts), prompts, RULE, tmp_path)
    assert artifact.counts["prompts_without_gold"] == 3 and artifact.counts["games"] == 4


def test_a_judge_that_is_down_leaves_nothing_complete(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 3)
    completions = write_completions(tmp_path, [prompts])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(WorkFailed, match=f"expected a judge at {url}"):
        judge_completions(completions, [prompts], api(url), tmp_path)
    assert not list((tmp_path / "games").glob("*/manifest.json"))
    port = int(url.split(":")[2].split("/")[0])
    with JudgeServer(port=port) as server:
        artifact = judge_completions(completions, [prompts], api(server.url), tmp_path)
    assert artifact.counts["scored"] == 6


def test_a_missing_key_is_said_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    prompts = write_prompts(tmp_path, 1)
    settings = api("https://judge.invalid/v1", api_key_variable="NO_SUCH_KEY")
    with pytest.raises(InputError, match="environment variable NO_SUCH_KEY, found none"):
        judge_completions(write_completions(tmp_path, [prompts]), [prompts], settings, tmp_path)


def test_every_reason_is_counted_and_none_is_a_loss(tmp_path: Path) -> None:
    """One worker, so that request n is game n: seven faults, the rest won."""
    prompts = write_prompts(tmp_path, 8)
    completions = write_completions(tmp_path, [prompts])
    faults = ["empty", "two_verdicts", None, "refusal", "no_label", "400", "length", "wrong_value", "wrong_model"]
    with JudgeServer(faults_in_turn(faults)) as server:
        artifact = judge_completions(completions, [prompts], api(server.url, max_concurrency=1), tmp_path)
    rows = games(artifact)
    reasons = [
        "empty_reply",
        "ambiguous",
        None,
        "refusal",
        "parse_failure",
        "api_error:BadRequestError",
        "truncated",
        "parse_failure",
    ]
    assert [r["unscored_reason"] for r in rows] == reasons + [None] * 8
    assert [r["score"] for r in rows] == [None if reason else 1.0 for reason in [*reasons, *[None] * 8]]
    expected = {"games": 16, "scored": 9, "unscored": 7, "unscored:parse_failure": 2, "unscored:api_error:BadRequestError": 1}
    assert expected.items() <= artifact.counts.items()
    assert sum(n for name, n in artifact.counts.items() if name.startswith("unscored:")) == artifact.counts["unscored"]
    assert artifact.counts["answered_by_other_model"] == 1 and rows[8]["model_answered"] == "another-model"
    assert artifact.info["models_answered"] == {"test-judge": 14, "another-model": 1}


def test_deleting_an_artifact_asks_again_only_for_the_calls_that_failed(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 6)
    completions = write_completions(tmp_path, [prompts])
    with JudgeServer(faults_in_turn([None, "400", None, "400", "empty"])) as server:
        settings = api(server.url, max_concurrency=1)
        first = judge_completions(completions, [prompts], settings, tmp_path)
        assert (first.counts["scored"], first.counts["unscored"]) == (9, 3)
        shutil.rmtree(first.path)
        second = judge_completions(completions, [prompts], settings, tmp_path)
        assert len(server.requests) == 12 + 2
    assert (second.counts["scored"], second.counts["unscored:empty_reply"]) == (11, 1)


def test_a_run_ended_by_quota_goes_on_where_it_stopped(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 15)
    completions = write_completions(tmp_path, [prompts])
    with JudgeServer(lambda number, body: "insufficient_quota" if number == 11 else None) as server:
        settings = api(server.url, max_concurrency=1)
        with pytest.raises(WorkFailed, match="add credit"):
            judge_completions(completions, [prompts], settings, tmp_path)
        artifact = judge_completions(completions, [prompts], settings, tmp_path)
        assert len(server.requests) == 30 + 1
    assert artifact.counts["scored"] == 30 and list_journals(artifact.path) == []


def test_a_lost_journal_costs_nothing_because_the_ledger_has_the_replies(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 5)
    completions = write_completions(tmp_path, [prompts])
    with JudgeServer(lambda number, body: "401" if number == 7 else None, schema="refuse") as server:
        settings = api(server.url, max_concurrency=1)
        with pytest.raises(WorkFailed):
            judge_completions(completions, [prompts], settings, tmp_path)
        for path in (tmp_path / "games").glob("*/*.jsonl"):
            path.unlink()
        judge_completions(completions, [prompts], settings, tmp_path)
        sent = Counter(json.dumps(body) for body in server.answered)
    assert len(sent) == 10 and set(sent.values()) == {1}


_JUDGE_SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from srpo_core.settings.judges import ApiJudgeSettings
from storage.artifact import open_artifact
from tasks.judging import judge_completions
home, url, completions, prompts = Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5])
settings = ApiJudgeSettings(model="test-judge", base_url=url, max_concurrency=8)
artifact = judge_completions(open_artifact(completions), [open_artifact(prompts)], settings, home)
print(artifact.path)
"""


def _start_judging(home: Path, url: str, completions: Artifact, prompts: Artifact) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", _JUDGE_SCRIPT, str(ROOT), str(home), url, str(completions.path), str(prompts.path)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_run_asks_for_no_stored_verdict_again_and_loses_only_what_was_in_flight(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 150)
    completions = write_completions(tmp_path, [prompts])
    with JudgeServer(delay=0.02) as server:
        for stop_after in (60, 160):
            child = _start_judging(tmp_path, server.url, completions, prompts)
            while len(server.requests) < stop_after and child.poll() is None:
                time.sleep(0.005)
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
            time.sleep(0.1)  # let the server finish what it had taken
        stored = len(ReplyLedger(tmp_path)) - 1  # the ledger also keeps what the probe found
        assert len(server.probes) == 4  # by the first run alone
        journalled = [row["game_id"] for path in (tmp_path / "games").glob("*/*.jsonl") for _, row in read_journal(path)]
        assert len(journalled) == len(set(journalled)) and 0 <= stored - len(journalled) <= 16
        assert len(server.requests) - stored <= 2 * 8
        at_kill = len(server.requests)
        child = _start_judging(tmp_path, server.url, completions, prompts)
        output, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        assert len(server.requests) - at_kill == 300 - stored
        sent = Counter(json.dumps(body) for body in server.requests)
    assert len(sent) == 300 and max(sent.values()) <= 3 and sum(n - 1 for n in sent.values()) <= 2 * 8
    artifact = open_artifact(Path(output.strip()))
    assert artifact.counts["scored"] == 300 and len({r["game_id"] for r in games(artifact)}) == 300
    assert {r["outcome"] for r in games(artifact)} == {"win"}


def test_two_processes_on_one_artifact_share_the_work_of_the_first(tmp_path: Path) -> None:
    """The second waits for the lease and finds everything there."""
    prompts = write_prompts(tmp_path, 20)
    completions = write_completions(tmp_path, [prompts])
    with JudgeServer(delay=0.02) as server:
        children = [_start_judging(tmp_path, server.url, completions, prompts) for _ in range(2)]
        outputs = [child.communicate(timeout=60) for child in children]
        assert [child.returncode for child in children] == [0, 0], outputs
        assert len(server.requests) == 40
    assert len({output for output, _ in outputs}) == 1


def test_a_notebook_that_already_runs_a_loop_can_judge(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 2)
    completions = write_completions(tmp_path, [prompts])

    async def cell(url: str) -> Artifact:
        return judge_completions(completions, [prompts], api(url), tmp_path)

    with JudgeServer() as server:
        assert asyncio.run(cell(server.url)).counts["scored"] == 4
