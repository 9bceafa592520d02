"""Evaluation sets judged side by side: the time of the longest, one budget, one number of requests in flight, order kept."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.evaluation_sets import judge_sets
from flows.recorded_run import _RecordedStages
from srpo_core.errors import WorkFailed
from srpo_core.judging.request_limits import BudgetSpent, Spent
from srpo_core.settings.judges import BudgetSettings, RuleJudgeSettings
from storage.artifact import Artifact, list_artifacts, writing
from storage.journal import write_parts
from storage.reply_ledger import ReplyLedger
from storage.schemas import COMPLETIONS, PROMPTS
from tasks import side_by_side
from tests.judge_server import JudgeServer
from tests.tasks.judged_texts import completion_row, good_summary, write_prompts
from tests.tasks.test_judging import api


def unchanged(stage: Any) -> Any:
    return stage


def completed(home: Path, prompts: Artifact, policy: str) -> Artifact:
    """One good summary a prompt, as the generation stage writes them."""
    rows = []
    for row in prompts.rows():
        number = int(row["prompt"][0]["content"].split()[0].removeprefix("document"))
        rows.append(completion_row(row["prompt_id"], policy, 0, good_summary(number)))
    with writing(home, "policies", policy, version=1, settings={"policy": policy}, parents={}) as writer:
        trained = writer.artifact or writer.complete([], info={"name": policy})
    parents, name = {"policy": trained, "prompts": prompts}, f"{policy}-{prompts.fingerprint}"
    with writing(home, "completions", name, version=1, settings={"policy": policy}, parents=parents) as writer:
        return writer.complete(write_parts(writer, rows, COMPLETIONS))


def prompts_named(home: Path, name: str, rows: Artifact) -> Artifact:
    """The same rows as the ingestion of a set of that name writes them."""
    with writing(home, "prompts", name, version=1, settings={"name": name}, parents={}) as writer:
        return writer.complete(write_parts(writer, rows.rows(), PROMPTS))


def sets_of(home: Path, *sizes: int, policies: tuple[str, ...] = ("one",)) -> tuple[list[Artifact], dict[str, Artifact]]:
    """Completions policy by policy, as the pipeline has them, and the sets by digest."""
    sets = [
        prompts_named(home, f"set{n}", write_prompts(home, size, eval_set=f"set{n}", start=100 * n))
        for n, size in enumerate(sizes)
    ]
    completions = [completed(home, one, policy) for policy in policies for one in sets]
    return completions, {one.digest: one for one in sets}


def judged(home: Path, server: JudgeServer, made: tuple[list[Artifact], dict[str, Artifact]], **options: Any) -> list[Artifact]:
    spent = options.pop("spent", Spent())
    return judge_sets(*made, api(server.url, **options), home, unchanged, spent=spent)


def test_small_sets_take_about_as_long_as_the_longest_of_them(tmp_path: Path) -> None:
    """Four sets of 10, 4, 4 and 4 prompts, two games each, four requests in flight per set are enough: waits overlap."""
    in_turn, side = tmp_path / "in_turn", tmp_path / "side"
    seconds = {}
    for home, at_once in ((in_turn, False), (side, True)):
        made = sets_of(home, 10, 4, 4, 4)
        with JudgeServer(delay=0.3) as server:
            began = time.monotonic()
            if at_once:
                games = judged(home, server, made, max_concurrency=16)
            else:
                games = [judged(home, server, ([one], made[1]), max_concurrency=16)[0] for one in made[0]]
            seconds[at_once] = time.monotonic() - began
        assert [one.counts["scored"] for one in games] == [20, 8, 8, 8]
    assert seconds[False] - seconds[True] > 0.7, "three waits of 0.3 s less, and more"


def test_games_come_in_the_order_of_the_completions_whoever_ends_first(tmp_path: Path) -> None:
    made = sets_of(tmp_path, 6, 1, policies=("one", "two"))
    written: list[dict[str, Any]] = []
    recorded = _RecordedStages(unchanged, [], [], lambda **known: written.append(known))
    with JudgeServer(delay=0.02) as server:
        games = judge_sets(*made, api(server.url), tmp_path, recorded.stage, spent=Spent())
    assert [one.manifest["parents"]["completions"]["fingerprint"] for one in games] == [one.fingerprint for one in made[0]]
    assert written[-1]["artifacts"] == games, "the record lists them in this order too"
    assert len(written[-1]["timings"]) == 4 and len(written) == 8, "written when each begins and when it ends"


def test_together_they_never_have_more_requests_in_flight_than_the_judge_allows_and_probe_once(tmp_path: Path) -> None:
    made = sets_of(tmp_path, 8, 8, 8)
    with JudgeServer(delay=0.02) as server:
        judged(tmp_path, server, made, max_concurrency=3)
        assert server.most_in_flight == 3
        assert len(server.requests) == 48
        alone = JudgeServer()
        with alone:
            judged(tmp_path / "alone", alone, sets_of(tmp_path / "alone", 1))
        assert len(server.probes) == len(alone.probes) > 0


def test_together_they_keep_one_budget_to_the_request(tmp_path: Path) -> None:
    made, spent = sets_of(tmp_path, 8, 8, 8), Spent()
    with JudgeServer(delay=0.01) as server:
        with pytest.raises(BudgetSpent, match="max_requests 20"):
            judged(tmp_path, server, made, max_concurrency=4, budget=BudgetSettings(max_requests=20), spent=spent)
        assert len(server.requests) + len(server.probes) == spent.requests == 20
        with ReplyLedger(tmp_path) as ledger:
            assert len(ledger) == len(server.requests) + 1  # what was paid for is kept; the probe's finding is one more record
        assert not list_artifacts(tmp_path, "games")
        games = judged(tmp_path, server, made)
        assert len(server.requests) == 48, "and is not asked for again"
    assert sum(one.counts["scored"] for one in games) == 48


def test_what_each_artifact_took_is_its_own(tmp_path: Path) -> None:
    made, spent = sets_of(tmp_path, 3, 5), Spent()
    with JudgeServer(delay=0.02) as server:
        games = judged(tmp_path, server, made, spent=spent)
        requests = [one.info["spent"]["requests"] for one in games]
        assert sum(requests) == spent.requests == len(server.requests) + len(server.probes)
        assert sorted(requests) == sorted([6, 10 + len(server.probes)]) or sorted(requests) == sorted(
            [6 + len(server.probes), 10]
        )


def test_a_judge_that_refuses_one_set_ends_the_others_without_half_an_artifact(tmp_path: Path) -> None:
    """The key is refused in the middle: the first error is raised, and what was answered is not paid for again."""
    made = sets_of(tmp_path, 30, 30)
    with JudgeServer(lambda number, body: "401" if number == 10 else None, delay=0.02) as server:
        with pytest.raises(WorkFailed, match="accept the key"):
            judged(tmp_path, server, made, max_concurrency=4)
        answered = len(server.answered)
        assert answered < 30 and not list_artifacts(tmp_path, "games")
        judged(tmp_path, server, made, max_concurrency=4)
        assert len(server.answered) == 120, "each game was paid for once"


def test_the_same_question_of_two_policies_is_asked_once(tmp_path: Path) -> None:
    """Of one set they come one after the other: both wrote the same summaries."""
    made = sets_of(tmp_path, 5, 5, policies=("one", "two"))
    with JudgeServer(delay=0.02) as server:
        judged(tmp_path, server, made)
        assert len(server.requests) == 20


def test_a_judge_that_keeps_this_machine_busy_goes_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sets_of(tmp_path, 1, 1)
    order: list[str] = []

    def note(completions: Artifact, *_: Any, **__: Any) -> Artifact:
        order.append(completions.fingerprint)
        return completions

    monkeypatch.setattr(side_by_side, "side_by_side", None)
    stage = partial(lambda function, replaced: replaced, replaced=note)
    judge_sets(*made, RuleJudgeSettings(), tmp_path, stage)
    assert order == [one.fingerprint for one in made[0]]
