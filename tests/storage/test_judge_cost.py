"""What judging cost: a reply is paid for once, whatever number of games it answers and whatever they were asked for."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.results_db import publish_snapshot
from storage.schemas import AUDIT_VERDICTS, GAMES, INJECTION_GAMES, KNOCKOUT_MATCHES, SENTINEL_VERDICTS
from storage.stored_queries import ask_query
from tests.homes import date_artifact, put, put_completions, put_policy, put_prompts

Row = dict[str, Any]


def game(game_id: str, request_hash: str | None, **facts: Any) -> Row:
    """One game whose question took 10 + 2 tokens, one half of money and two seconds."""
    row = {
        "game_id": game_id,
        "prompt_id": "id-0",
        "order": "as_is",
        "outcome": "win",
        "score": 1.0,
        "judge": "j",
        "repeat_index": 0,
    }
    answer = {"model_answered": "m", "prompt_tokens": 10, "completion_tokens": 2, "cost": 0.5, "seconds": 2.0}
    return row | (answer if request_hash else {}) | {"request_hash": request_hash} | facts


def failed(game_id: str, request_hash: str) -> Row:
    unknown = dict.fromkeys(("score", "model_answered", "prompt_tokens", "completion_tokens", "cost", "seconds"))
    return game(game_id, request_hash) | unknown | {"outcome": "unscored", "unscored_reason": "api_error:500"}


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Two games of equal texts share the reply r1, which an audit uses too; r5 failed at first and came for an attack."""
    home: Path = tmp_path_factory.mktemp("home")
    policy = put_policy(home, "srpo", "srpo", {}, beta=0.1)
    prompts = put_prompts(home, "id", "desk", 1)
    completions = put_completions(home, policy, prompts, 1)
    first, second = (row["completion_id"] for row in completions.rows())
    against = {"candidate": first, "opponent": "gold:0"}
    games = [game("g1", "r1") | against, game("g2", "r1", candidate=second, opponent="gold:0"), failed("g3", "r5") | against]
    games += [game("g4", None, identical=True, order="swapped") | against]
    parents = {"completions": completions, "prompts_0": prompts}
    put(home, "games", {"part": (games, GAMES)}, settings={"judge": {"kind": "api"}}, parents=parents)
    drafts = [game("k1", "r2", candidate=first, opponent=second), game("k2", "r3", candidate=second, opponent=first)]
    match = {
        "prompt_id": "id-0",
        "start": 0,
        "size": 2,
        "left_sample": 0,
        "right_sample": 1,
        "decided_by": "coin",
        "winner_sample": 0,
    }
    knockouts = {"part": ([match], KNOCKOUT_MATCHES), "games": (drafts, GAMES)}
    put(home, "knockouts", knockouts, parents={"completions": completions, "prompts": prompts})
    put(home, "audits", {"part": ([game("a1", "r1"), game("a2", "r4")], AUDIT_VERDICTS)})
    put(home, "audits", {"part": ([game("i1", "r5")], INJECTION_GAMES)}, settings={"kind": "injections"})
    put(home, "sentinel_looks", {"part": ([game("s1", "r6", look_index=0)], SENTINEL_VERDICTS)})
    publish_snapshot(home, _nothing)
    (spent,) = ask_query(home, "judge_spending", {"days": 1}).to_pylist()
    assert (spent["requests"], spent["prompt_tokens"], spent["cost"]) == (6, 60, 3.0), "the same bill by day"
    return ask_query(home, "judge_cost").to_pylist()


def _nothing(comparisons: pa.Table) -> dict[str, pa.Table]:
    return {}


def _sum(costs: list[Row], column: str, **key: Any) -> Any:
    return sum(row[column] or 0 for row in costs if all(row[name] == value for name, value in key.items()))


def test_a_shared_reply_costs_once_and_every_game_counts(costs: list[Row]) -> None:
    (games,) = (row for row in costs if row["asked_for"] == "games" and row["model_answered"])
    assert (games["games"], games["requests"], games["cost"], games["seconds"]) == (2, 1, 0.5, 2.0)
    assert (games["prompt_tokens"], games["completion_tokens"], games["requests_of_unknown_cost"]) == (10, 2, 0)


def test_audits_attacks_looks_and_knock_outs_are_in_the_bill(costs: list[Row]) -> None:
    found = {name: (_sum(costs, "games", asked_for=name), _sum(costs, "requests", asked_for=name)) for name in _asked_for(costs)}
    assert found == {"games": (4, 1), "knockout": (2, 2), "audit": (2, 1), "injections": (1, 1), "sentinel": (1, 1)}


def _asked_for(costs: list[Row]) -> set[str]:
    return {row["asked_for"] for row in costs}


def test_all_rows_together_are_what_was_paid_for_six_replies(costs: list[Row]) -> None:
    assert _sum(costs, "requests") == 6 and _sum(costs, "cost") == 3.0
    assert _sum(costs, "prompt_tokens") == 60 and _sum(costs, "seconds") == 12.0


def test_a_failed_call_is_no_request_of_unknown_cost_once_its_reply_has_come(costs: list[Row]) -> None:
    assert _sum(costs, "requests_of_unknown_cost") == 0 and _sum(costs, "unscored", asked_for="games") == 1


def test_every_game_of_a_judge_that_sends_no_requests_counts_its_tokens(tmp_path: Path) -> None:
    judged = [game(f"g{i}", None, prompt_tokens=100) for i in range(12)]
    put(tmp_path, "audits", {"part": (judged, AUDIT_VERDICTS)})
    publish_snapshot(tmp_path, _nothing)
    (row,) = ask_query(tmp_path, "judge_spending").to_pylist()
    assert (row["requests"], row["prompt_tokens"]) == (0, 1200)


def test_games_completed_again_stay_on_the_day_they_were_first_complete(tmp_path: Path) -> None:
    info = {"first_complete_at": "2026-01-05T10:00:00+00:00"}
    audit = put(tmp_path, "audits", {"part": ([game("g1", "r1")], AUDIT_VERDICTS)}, info=info)
    later = put(tmp_path, "audits", {"part": ([game("g2", "r1")], AUDIT_VERDICTS)})
    date_artifact(audit, "2026-03-05T10:00:00+00:00")
    date_artifact(later, "2026-02-05T10:00:00+00:00")
    publish_snapshot(tmp_path, _nothing)
    found = {str(row["day"]): row["requests"] for row in ask_query(tmp_path, "judge_spending", {"days": 36500}).to_pylist()}
    assert found == {"2026-01-05": 1, "2026-02-05": 0}
