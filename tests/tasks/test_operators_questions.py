"""What operators ask, on a home with a history, against answers worked out by hand (tests/operated_home.py tells it)."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage import schemas
from storage.artifact import Artifact
from storage.results_db import run_query
from storage.runs import DEAD
from storage.stored_queries import ask_query
from tasks.publishing import publish_results
from tests.homes import put, put_completions, put_games, put_policy, put_preferences, put_prompts
from tests.operated_home import DEPLOYMENT, FAILURE, PRICE, at, make_operated_home

Made = dict[str, Artifact]
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    home = tmp_path_factory.mktemp("operated")
    made = make_operated_home(home)
    publish_results(home)
    return home, made


@pytest.fixture
def made(operated: tuple[Path, Made]) -> Made:
    return operated[1]


@pytest.fixture
def ask(operated: tuple[Path, Made]) -> Ask:
    def ask(name: str, **given: Any) -> list[dict[str, Any]]:
        return ask_query(operated[0], name, given).to_pylist()

    return ask


def only(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def test_the_champion_is_the_one_promoted_last_and_its_run_the_one_that_trained_it(ask: Ask, made: Made) -> None:
    (row,) = ask("champion_run")
    assert only(row, "policy_id", "name", "since", "reason") == (made["srpo"].fingerprint, "srpo", at(1.9), "better")
    assert only(row, "run_id", "deployment", "prefect_run", "trained_at") == ("new", DEPLOYMENT, "p-new", at(2, 60))


def test_a_champion_holds_the_place_until_the_next_one_takes_it(operated: tuple[Path, Made]) -> None:
    home, made = operated
    found = [tuple(row.values()) for row in run_query(home, "SELECT policy_id, since, until, entry FROM champions").to_pylist()]
    assert found == [(made["sft"].fingerprint, at(9), at(1.9), 1), (made["srpo"].fingerprint, at(1.9), None, 3)]


def test_the_history_has_every_decision_with_the_champion_after_it(ask: Ask) -> None:
    found = [only(row, "entry", "event", "champion", "reason") for row in ask("champion_history")]
    assert found == [
        (1, "promoted", "sft", "first"),
        (2, "rejected", "sft", "no better"),
        (3, "promoted", "srpo", "better"),
        (4, "rejected", "srpo", "longer texts"),
    ]


def test_rejections_are_those_of_the_last_week_unless_more_days_are_asked_for(ask: Ask) -> None:
    (row,) = ask("rejected_challengers")
    assert only(row, "policy_id", "reason", "champion", "evidence") == ("dpo-2", "longer texts", "srpo", '{"n": 4}')
    assert [row["policy_id"] for row in ask("rejected_challengers", days=30)] == ["dpo-2", "dpo-1"]


def test_the_gain_of_one_revision_on_one_set_can_be_asked_for(ask: Ask) -> None:
    """Prompts 0, 1, 2 have a draft with both orders: -1, +1 and 0 at revision 2; -1/2, +1 and 0 at revision 1."""
    (row,) = ask("revision_gain", eval_set="id", revision_index=2)
    assert only(row, "n_scored", "gain") == (3, 0.0) and row["ci_low"] < 0 < row["ci_high"]
    assert [row["gain"] for row in ask("revision_gain", eval_set="id")] == [0.167, 0.0]


def test_where_the_judge_puts_texts_above_the_gold_both_times(ask: Ask) -> None:
    """Prompt 3 twice of twice (its draft lacks an order), 1 twice of three, 0 once; 2 is above only when shown first."""
    found = [only(row, "prompt_id", "questions", "share_above_gold") for row in ask("judge_against_gold")]
    assert found == [("id-3", 2, 1.0), ("id-1", 3, 0.667), ("id-0", 3, 0.333)]
    assert len(ask("judge_against_gold", limit=1)) == 1
    assert ask("judge_against_gold", eval_set="long") == []


def test_judging_costs_by_day_and_run_what_each_game_costs(ask: Ask) -> None:
    """Four prompts and three of three texts each in two orders: 24 and 18 requests of 10 and 2 tokens."""
    (row,) = ask("judge_spending")
    assert str(row["day"]) == at(2, 130)[:10] or str(row["day"]) == at(2, 190)[:10]
    assert only(row, "run_id", "deployment", "judge", "requests") == ("new", DEPLOYMENT, "asked", 42)
    assert only(row, "prompt_tokens", "completion_tokens", "cost") == (420, 84, pytest.approx(42 * PRICE))
    assert ask("judge_spending", days=1) == []


def test_machine_time_adds_up_the_stages_of_the_runs_begun_in_time(ask: Ask) -> None:
    """90 s of judging in two calls, 60 + 3 s of training, 40 s of generation; the reference was trained ten days ago."""
    found = {row["stage"]: only(row, "runs", "calls", "hours") for row in ask("machine_time") if row["hours"]}
    assert found == {"judge completions": (1, 2, 0.025), "train policies": (2, 2, 0.018), "generate completions": (1, 1, 0.011)}
    assert {row["stage"]: row["hours"] for row in ask("machine_time", days=30)}["train reference"] == 0.017


def test_stages_of_a_run_take_what_they_took_and_reuse_what_they_reused(ask: Ask) -> None:
    found = [only(row, "stage", "made", "reused", "seconds", "share_of_run") for row in ask("stage_times", run_id="new")]
    assert found == [
        ("ingest preferences", 0, 1, 0.0, 0.0),
        ("ingest prompts", 0, 2, 0.0, 0.0),
        ("find contamination", 0, 1, 0.0, 0.0),
        ("train reference", 0, 1, 0.0, 0.0),
        ("train policies", 1, 0, 60.0, 0.316),
        ("generate completions", 2, 0, 40.0, 0.211),
        ("judge completions", 2, 0, 90.0, 0.474),
    ]
    assert {row["run_id"] for row in ask("stage_times")} == {"old", "new", "broken"}


def test_what_a_run_used_again_was_made_by_the_run_before(ask: Ask) -> None:
    found = [only(row, "stage", "made_by") for row in ask("reused_artifacts", run_id="new")]
    assert found == [(stage, "old") for stage in ("preferences", "prompts", "prompts", "contamination", "policies")]
    assert [only(row, "stage", "made_by") for row in ask("reused_artifacts", run_id="broken")] == [
        ("prompts", None),
        ("preferences", "old"),
    ]


def test_the_prompt_that_gets_worse_with_each_revision_is_found_with_its_scores(ask: Ask) -> None:
    (row,) = ask("prompts_getting_worse")
    assert only(row, "prompt_id", "score_by_revision", "steps_down", "change") == ("id-0", [1.0, 0.5, 0.0], 2, -1.0)


def test_a_prompt_that_once_got_better_does_not_get_worse_with_each_revision(tmp_path: Path) -> None:
    """Falling from revision to revision, up and then down, and falling once."""
    curves = ((1.0, 0.5, 0.0), (0.5, 1.0, 0.0), (1.0, 1.0, 0.5))
    prompts = put_prompts(tmp_path, "id", "desk", 3)
    policy = put_policy(tmp_path, "srpo", "srpo", {"preferences": put_preferences(tmp_path)}, beta=0.1)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 2), prompts, lambda p, r, n, o: curves[n][r])
    publish_results(tmp_path)
    found = ask_query(tmp_path, "prompts_getting_worse").to_pylist()
    assert [only(row, "prompt_id", "change") for row in found] == [("id-0", -1.0), ("id-2", -0.5)]


def judged_home(home: Path, size: int, score: Callable[[int, int, str], float | None], samples: int = 1) -> None:
    """One policy's drafts and first revisions, judged: `score` by prompt, revision and order; a second sample says other."""
    prompts = put_prompts(home, "id", "desk", size)
    policy = put_policy(home, "srpo", "srpo", {"preferences": put_preferences(home)}, beta=0.1)
    texts = put_completions(home, policy, prompts, 1)
    rows, more = list(texts.rows()), {"sample_index": 1, "text": "other"}
    if samples == 2:
        rows += [
            row | more | {"completion_id": f"{row['completion_id']}/1", "num_tokens": 1 + row["revision_index"]} for row in rows
        ]
        parents = {"policy": policy, "prompts": prompts}
        texts = put(
            home, "completions", {"part": (rows, schemas.COMPLETIONS)}, settings=texts.settings | {"n": 2}, parents=parents
        )
    given = iter(
        [score(int(row["prompt_id"][3:]), row["revision_index"], order) for row in rows for order in ("as_is", "swapped")]
    )
    put_games(home, texts, prompts, lambda *_: next(given))
    publish_results(home)


def test_a_verdict_that_is_missing_makes_no_prompt_worse(tmp_path: Path) -> None:
    """The judge goes by the order; of the revision only the order is known in which it loses."""
    judged_home(tmp_path, 1, lambda number, revision, order: 1.0 if order == "as_is" and not revision else 0.0)
    assert len(ask_query(tmp_path, "prompts_getting_worse")) == 1
    scores = {(0, "as_is"): 1.0, (0, "swapped"): 0.0, (1, "as_is"): None, (1, "swapped"): 0.0}
    judged_home(tmp_path / "missing", 1, lambda number, revision, order: scores[revision, order])
    assert len(ask_query(tmp_path / "missing", "prompts_getting_worse")) == 0


def test_a_text_that_wins_in_one_order_and_draws_in_the_other_is_not_above_the_gold(tmp_path: Path) -> None:
    judged_home(tmp_path, 2, lambda number, revision, order: 0.5 if (number, order) == (0, "swapped") else 1.0)
    assert [row["prompt_id"] for row in ask_query(tmp_path, "judge_against_gold").to_pylist()] == ["id-1"]


def test_of_several_samples_the_worst_text_is_shown_and_each_is_compared_with_its_own_draft(tmp_path: Path) -> None:
    """The second sample of two loses always; its draft has one token and its revision two, the first's have six."""
    count = iter(range(10**6))
    judged_home(tmp_path, 1, lambda *_: 0.5 if next(count) < 4 else 0.0, samples=2)
    (worst,) = ask_query(tmp_path, "worst_prompts").to_pylist()
    assert (worst["games"], worst["candidate_text"]) == (4, "other")
    found = ask_query(tmp_path, "length_drift").to_pylist()  # and of the home's chain of one sample, which stays at six
    assert [(row["texts"], row["tokens_over_revision_before"]) for row in found] == [(3, None), (3, 0.33)]


def test_unscored_verdicts_are_counted_in_the_week_of_their_games(ask: Ask) -> None:
    (row,) = ask("unscored_by_week")
    judged = datetime.fromisoformat(at(2, 130))
    assert str(row["week_from"]) == str((judged - timedelta(days=judged.weekday())).date())
    assert only(row, "verdicts", "unscored", "share_unscored", "times") == (42, 1, 0.0238, 1)
    assert row["reason"] == "no label in the reply"


def test_training_data_names_files_with_their_hashes_and_everything_dropped(ask: Ask) -> None:
    first, second = ask("training_data", policy="srpo")
    names = ("source", "sha256_or_commit", "rows_read", "kept", "rejected_rows")
    assert only(first, *names) == ("file-0.jsonl", "hash-0", 3, 3, 0)
    assert only(second, *names) == ("file-1.jsonl", "hash-1", 4, 3, 1)
    left_out = ("duplicates_of_all_sources", "contaminated_left_out", "too_long_left_out", "pairs_trained_on")
    assert only(first, *left_out) == only(second, *left_out) == (1, 2, 1, 3)


def test_runs_that_did_not_complete_say_where_and_why(ask: Ask) -> None:
    (row,) = ask("failed_runs")
    assert only(row, "run_id", "state", "failure") == ("broken", "failed", FAILURE)
    assert only(row, "failed_stage", "last_complete_stage") == ("train policies", "ingest preferences")
    dead = ask("failed_runs", days=60)[1]
    assert only(dead, "run_id", "state", "failed_stage", "failure") == ("gone", "dead", None, DEAD)


def test_disk_use_is_the_size_of_the_files_on_disk(ask: Ask, operated: tuple[Path, Made]) -> None:
    found = {row["stage"]: row for row in ask("disk_use")}
    for stage, row in found.items():
        sizes = [sum(file.stat().st_size for file in one.iterdir()) for one in (operated[0] / stage).iterdir()]
        assert row["mib"] == pytest.approx(sum(sizes) / 2**20, abs=0.005) and row["artifacts"] == len(sizes)
        assert row["mib_of_no_run"] == 0, "runs stand on their sources too, which no run names"


def test_the_gap_to_another_domain_is_the_difference_of_the_rates(ask: Ask) -> None:
    """Rates on id: 1/2 of three prompts, then of four 3/4 and 5/8; every game of long is lost."""
    names = ("trained_domain_sets", "other_domain_set", "in_distribution", "gap")
    found = [only(row, *names) for row in ask("out_of_distribution_gap")]
    assert found == [("id", "long", 0.5, 0.5), ("id", "long", 0.75, 0.75), ("id", "long", 0.625, 0.625)]


def test_overlaps_with_each_evaluation_set_are_counted_by_kind(ask: Ask) -> None:
    names = ("eval_set", "prompts", "kind", "overlapping_pairs", "overlapping_prompts")
    found = [only(row, *names) for row in ask("contamination_counts")]
    assert found == [("id", 4, "prompt", 2, 1), ("id", 4, "passage", 1, 1), ("long", 3, None, 0, 0)]
    assert {only(row, "pairs_read", "pairs_left_out_for_all_sets") for row in ask("contamination_counts")} == {(5, 2)}


def test_settings_of_two_runs_differ_where_they_differ(ask: Ask) -> None:
    told = ask("settings_that_differ", run_id="new", other_run_id="old")
    found = [only(row, "setting", "value", "other_value") for row in told]
    assert found == [("methods[1]", "dpo", None), ("training.beta", "0.1", "0.3")]
    assert {only(row, "run_id", "other_run_id") for row in ask("settings_that_differ", run_id="new")} == {("new", "old")}
    assert ask("settings_that_differ") == []  # the newest two, broken and new, had the same


def test_a_win_rate_leads_to_its_source_files_commit_and_prefect_run(ask: Ask, made: Made) -> None:
    found = ask("lineage_of_win_rate", eval_set="id", policy="srpo")
    assert {row["fingerprint"] for row in found} == {
        made[name].fingerprint
        for name in made
        if name not in ("games of long", "texts of long", "spare")  # the set long is reached through the check for overlaps
    }
    assert {row["sha256_or_commit"] for row in found if row["stage"] == "sources"} == {"hash-0", "hash-1"}
    (games,) = (row for row in found if row["depth"] == 0)
    assert only(games, "stage", "run_id", "prefect_run", "best_revision", "win_rate") == ("games", "new", "p-new", 1, 0.75)


def test_each_deployment_says_when_it_last_ran_and_how_that_ended(ask: Ask) -> None:
    (row,) = ask("deployments")
    assert only(row, "deployment", "runs", "completed", "last_started") == (DEPLOYMENT, 3, 2, at(1))
    assert only(row, "last_state", "last_failure", "last_completed") == ("failed", FAILURE, at(2, 195))
    assert only(row, "last_run_id", "last_prefect_run") == ("broken", None)


def test_lengths_are_compared_with_the_revision_before_the_draft_and_the_gold(ask: Ask, made: Made) -> None:
    texts: dict[int, list[dict[str, Any]]] = {}
    for text in made["texts of id"].rows():
        texts.setdefault(text["revision_index"], []).append(text)
    gold = sum(len("gold 0 of 0") for _ in texts[0])
    found = ask("length_drift", eval_set="id")
    for row in found:
        own = texts[row["revision_index"]]
        mean = sum(text["num_tokens"] for text in own) / len(own)
        assert only(row, "texts", "mean_tokens") == (4, round(mean, 1))
        assert row["characters_over_gold"] == pytest.approx(sum(len(text["text"]) for text in own) / gold, abs=5e-4)
    # each revision adds a word to a draft of six, except the last, which repeats its draft
    assert [row["tokens_over_revision_before"] for row in found] == [None, 1.0, 0.0]
    assert [row["share_longer_than_before"] for row in found] == [None, 1.0, 0.0]
    assert [row["tokens_over_draft"] for row in found] == [1.0, 1.167, 1.167]


def test_people_and_judge_disagree_most_where_the_judge_is_sure_of_the_other_side(tmp_path: Path) -> None:
    made = make_operated_home(tmp_path)
    verdicts = []
    for pair, candidate, human, scores in (("pair-0", "chosen", 0.9, (0.0, 0.0)), ("pair-1", "rejected", 0.2, (0.5, None))):
        for order, score in zip(("as_is", "swapped"), scores, strict=True):
            game = dict.fromkeys(schemas.AUDIT_VERDICTS.names) | {"game_id": f"{pair}{order}", "prompt_id": pair, "order": order}
            verdicts.append(game | {"judge": "rule", "candidate": candidate, "human": human, "score": score, "repeat_index": 0})
    put(tmp_path, "audits", {"part": (verdicts, schemas.AUDIT_VERDICTS)}, parents={"preferences": made["preferences"]})
    publish_results(tmp_path)
    first, second = ask_query(tmp_path, "judge_against_people").to_pylist()
    names = ("pair_id", "orders_scored", "judge_score", "people", "disagreement", "prompt", "candidate_text", "opponent_text")
    assert only(first, *names) == ("pair-0", 2, 0.0, 0.9, 0.9, "? 0", "good", "bad")
    assert only(second, *names) == ("pair-1", 1, 0.5, 0.2, 0.3, "? 1", "bad", "good")
