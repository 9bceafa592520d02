"""Stored questions on homes that a hurried query reads wrongly: gaps, killed runs, linked files, work side by side."""

from pathlib import Path
from typing import Any

from storage import parquet, schemas
from storage.artifact import Artifact
from storage.stored_queries import ask_query
from tasks.publishing import publish_results
from tests.homes import (
    date_artifact,
    put,
    put_completions,
    put_games,
    put_policy,
    put_preferences,
    put_prompts,
    put_run,
)
from tests.operated_home import at

Row = dict[str, Any]


def ask(home: Path, name: str, **given: Any) -> list[Row]:
    publish_results(home)
    return ask_query(home, name, given).to_pylist()


def only(rows: list[Row], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def put_srpo(home: Path) -> Artifact:
    return put_policy(home, "srpo", "srpo", {"preferences": put_preferences(home)}, beta=0.1)


def called(stage: str, seconds: float | None, *artifacts: Artifact) -> Row:
    return {"stage": stage, "seconds": seconds, "artifacts": [f"{one.stage}/{one.fingerprint}" for one in artifacts]}


# Verdicts


def test_confirmation_prompts_are_shown_beside_their_gold_only_when_they_are_named(tmp_path: Path) -> None:
    policy = put_srpo(tmp_path)
    for eval_set in ("xsum", "xsum:confirmation"):
        prompts = put_prompts(tmp_path, eval_set, "desk", 1)
        put_games(tmp_path, put_completions(tmp_path, policy, prompts, 0), prompts, lambda *_: 1.0)
    assert only(ask(tmp_path, "judge_against_gold"), "eval_set") == [("xsum",)]
    named = ask(tmp_path, "judge_against_gold", eval_set="xsum:confirmation")
    assert only(named, "eval_set") == [("xsum:confirmation",)]


def test_a_prompt_whose_draft_or_a_revision_between_has_no_score_is_not_told_to_get_worse(tmp_path: Path) -> None:
    """Falling in what is scored, but without the draft; without revision 1; whole."""
    curves = ((None, 1.0, 0.5), (1.0, None, 0.5), (1.0, 0.5, 0.0))
    policy, prompts = put_srpo(tmp_path), put_prompts(tmp_path, "id", "desk", 3)
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 2), prompts, lambda p, r, n, o: curves[n][r])
    assert only(ask(tmp_path, "prompts_getting_worse"), "prompt_id", "score_by_revision") == [("id-2", [1.0, 0.5, 0.0])]


def test_the_worst_prompts_of_each_judge_and_opponent_are_lost_and_not_drawn_or_won(tmp_path: Path) -> None:
    policy, prompts = put_srpo(tmp_path), put_prompts(tmp_path, "id", "desk", 3)
    texts, scores = put_completions(tmp_path, policy, prompts, 0), (0.0, 0.5, 1.0)
    others = put_completions(tmp_path, put_policy(tmp_path, "sft", "sft", {}), prompts, 0)
    for judge, opponents in (("a", None), ("b", None), ("a", others)):
        put_games(tmp_path, texts, prompts, lambda p, r, n, o: scores[n], judge=judge, opponents=opponents)
    found = only(ask(tmp_path, "worst_prompts"), "judge", "opponent", "prompt_id", "score")
    assert found == [("a", "gold", "id-0", 0.0), ("b", "gold", "id-0", 0.0), ("a", "sft", "id-0", 0.0)]


def test_texts_are_compared_with_the_gold_of_their_own_prompts(tmp_path: Path) -> None:
    """Prompt 0 has a gold text of 11 characters and a text of 22; prompt 1 has no gold, and a long text."""
    policy, prompts = put_srpo(tmp_path), put_prompts(tmp_path, "id", "desk", 2)
    asked = [row | {"gold": row["gold"] if row["prompt_id"] == "id-0" else []} for row in prompts.rows()]
    prompts = put(tmp_path, "prompts", {"part": (asked, schemas.PROMPTS)}, settings={"name": "id"})
    texts = [row | {"text": "x" * (22 if row["prompt_id"] == "id-0" else 1100)} for row in _texts(tmp_path, policy, prompts)]
    parents = {"policy": policy, "prompts": prompts}
    put(tmp_path, "completions", {"part": (texts, schemas.COMPLETIONS)}, settings={"n": 1}, parents=parents)
    assert (2, 2.0) in only(ask(tmp_path, "length_drift"), "texts", "characters_over_gold")


def _texts(home: Path, policy: Artifact, prompts: Artifact) -> list[Row]:
    return list(put_completions(home, policy, prompts, 0).rows())


def test_a_pair_that_two_audits_asked_three_times_over_stands_once_with_both_orders(tmp_path: Path) -> None:
    pairs = put_preferences(tmp_path)
    for day, score in ((1, 1.0), (2, 0.0)):
        asked = [
            dict.fromkeys(schemas.AUDIT_VERDICTS.names)
            | {"game_id": f"{order}{repeat}", "prompt_id": "pair-0", "order": order, "repeat_index": repeat, "judge": "j"}
            | {"candidate": "chosen", "human": 1.0, "score": score}
            for order in ("as_is", "swapped")
            for repeat in range(3)
        ]
        parts = {"part": (asked, schemas.AUDIT_VERDICTS)}
        audit = put(tmp_path, "audits", parts, settings={"day": day}, parents={"preferences": pairs})
        date_artifact(audit, at(10 - day))
    found = ask(tmp_path, "judge_against_people")
    assert only(found, "pair_id", "orders_scored", "judge_score", "audit") == [("pair-0", 2, 0.0, audit.fingerprint)]


# Data


def test_training_data_of_demonstrations_names_their_file_and_of_pairs_what_was_held_out(tmp_path: Path) -> None:
    """Of 5 pairs one is held out; of two that overlap with an evaluation set one is that one: 5 = 1 held out + 1 + 3 trained."""
    file = put(tmp_path, "demonstrations", {}, settings={"sha256": "hash-d"}, info={"source": "/data/d.jsonl"})
    sft = put_policy(tmp_path, "sft", "sft", {"demonstrations": file})
    pairs = [row | {"split": "validation" if row["pair_id"] == "pair-0" else "train"} for row in put_preferences(tmp_path).rows()]
    counts, info = {"pairs": 5, "merged_duplicates": 0}, {"validation_pairs": 1, "train_pairs": 4}
    parts = {"part": (pairs, schemas.PREFERENCES)}
    preferences = put(tmp_path, "preferences", parts, settings={"domain": "news"}, counts=counts, info=info)
    overlaps = [{"pair_id": f"pair-{i}", "prompt_id": "id-0", "kind": "prompt"} for i in (0, 1)]
    overlap = put(tmp_path, "contamination", {"part": (overlaps, schemas.CONTAMINATION)}, parents={"preferences": preferences})
    parents = {"preferences": preferences, "reference": sft, "contamination": overlap}
    put_policy(tmp_path, "srpo", "srpo", parents, beta=0.1, counts={"pairs": 3, "pairs_too_long": 0})
    names = ("kept", "held_out_of_all_sources", "contaminated_left_out", "too_long_left_out", "pairs_trained_on")
    own, of_reference = ask(tmp_path, "training_data", policy="srpo")
    assert only([own], *names) == [(5, 1, 1, 0, 3)]
    assert only([of_reference], "source", "sha256_or_commit") == [("/data/d.jsonl", "hash-d")]


def test_a_win_rate_leads_to_the_files_of_its_evaluation_set_and_the_commit_of_a_hub_model(tmp_path: Path) -> None:
    policy = put_policy(tmp_path, "org/model", "hub", {})
    rows = list(put_prompts(tmp_path, "id", "desk", 1).rows())
    settings = {"name": "id", "sources": [{"name": "a.jsonl", "sha256": "hash-a"}, {"dataset": "org/data", "commit": "c1"}]}
    settings |= {"opponents": [{"name": "o.jsonl", "sha256": "hash-o"}]}  # answers of another model, which stand for the gold
    info = {"sources": ["/data/a.jsonl", "hub:org/data@c1"]}
    prompts = put(tmp_path, "prompts", {"part": (rows, schemas.PROMPTS)}, settings=settings, info=info)
    hub = {"method": "hub", "settings": {"name_or_path": "org/model", "commit": "c2"}}
    policy = put(tmp_path, "policies", {}, settings=hub, info={"name": "org/model", "model_folder": "/cache/model"})
    put_games(tmp_path, put_completions(tmp_path, policy, prompts, 0), prompts, lambda *_: 1.0)
    found = {row["stage"]: (row["source"], row["sha256_or_commit"]) for row in ask(tmp_path, "lineage_of_win_rate")}
    assert found["prompts"] == ("/data/a.jsonl, hub:org/data@c1", "hash-a, c1, hash-o")
    assert found["policies"] == ("org/model", "c2") and found["games"] == (None, None)


# Runs and disk


def test_a_run_at_work_has_not_failed_and_one_stage_that_failed_beside_others_is_named(tmp_path: Path) -> None:
    """Two sets are judged side by side: one call fails, and the other completes after it."""
    policy = put_srpo(tmp_path)
    put_run(tmp_path, "at-work", state="running", started_at=at(1), recorded_at=at(1), timings=[called("train policies", None)])
    calls = [called("judge completions", 1.0), called("judge completions", 2.0, policy)]
    failure = "judge completions: on id: expected a judge, found none"
    put_run(tmp_path, "failed", state="failed", started_at=at(2), recorded_at=at(2), failure=failure, timings=calls)
    assert only(ask(tmp_path, "failed_runs"), "run_id", "failed_stage") == [("failed", "judge completions")]


def test_the_longest_call_is_one_whose_length_is_known(tmp_path: Path) -> None:
    for run_id, seconds in (("killed", None), ("long", 7200.0), ("short", 3600.0)):
        put_run(tmp_path, run_id, started_at=at(1), recorded_at=at(1), timings=[called("train policies", seconds)])
    assert only(ask(tmp_path, "machine_time"), "hours", "longest_hours", "longest_in_run") == [(3.0, 2.0, "long")]


def test_of_two_runs_at_work_at_once_one_made_what_both_used(tmp_path: Path) -> None:
    policy = put_srpo(tmp_path)
    date_artifact(policy, at(2, 100))
    for run_id, began in (("first", 0), ("waited", 50)):
        times = {"started_at": at(2, began), "recorded_at": at(2, 200 + began)}
        put_run(tmp_path, run_id, [policy], timings=[called("train policies", 50.0, policy)], **times)
    assert only(ask(tmp_path, "stage_times"), "run_id", "made", "reused") == [("waited", 0, 1), ("first", 1, 0)]
    assert only(ask(tmp_path, "reused_artifacts"), "run_id", "fingerprint", "made_by") == [
        ("waited", policy.fingerprint, "first")
    ]


def test_disk_use_counts_what_is_unfinished_and_nothing_that_is_linked_to(tmp_path: Path) -> None:
    """An adopted model of four megabytes links to a folder elsewhere; an interrupted training left one megabyte."""
    home, weights = tmp_path / "home", tmp_path / "weights"
    weights.write_bytes(bytes(2**22))
    adopted = put_policy(home, "adopted", "hub", {})
    (adopted.path / "weights").symlink_to(weights)
    listed = {"name": "weights", "bytes": 2**22, "sha256": "hash"}
    parquet.write_json(adopted.path / "manifest.json", adopted.manifest | {"files": [listed]})
    (home / "policies" / "unfinished").mkdir()
    (home / "policies" / "unfinished" / "checkpoint").write_bytes(bytes(2**20))
    (row,) = ask(home, "disk_use")
    assert only([row], "not_complete", "mib", "largest", "largest_mib", "mib_of_no_run") == [(1, 1.0, "unfinished", 1.0, 1.0)]
