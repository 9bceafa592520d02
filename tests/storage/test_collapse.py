"""The stored query `collapse`: each way in which revisions fail is counted, on chains written by hand."""

from pathlib import Path
from typing import Any

import pytest

from storage import schemas
from storage.stored_queries import ask_query
from tasks.publishing import publish_results
from tests.homes import message, put, put_policy, put_preferences

QUESTION = "Summarise: the storm closed the port of the old town, and the ferry did not sail for two days."
PIECE = "the ferry did not sail for two days."  # 36 characters: short enough to be a fair summary
LONG_PIECE = "the storm closed the port of the old town, and the ferry did not sail"


def measure(home: Path, *chains: list[str], reasons: dict[int, str] | None = None) -> list[dict[str, Any]]:
    """The rows of the query, by revision, for one policy with these chains of texts."""
    prompts = [
        {"prompt_id": f"p{i}", "prompt": message(QUESTION), "gold": ["g"], "eval_set": "id", "domain": "d", "cluster_id": f"p{i}"}
        for i in range(len(chains))
    ]
    asked = put(home, "prompts", {"part": (prompts, schemas.PROMPTS)}, settings={"name": "id"})
    preferences = put_preferences(home, template={"revision_request": "Please write a better answer."})
    policy = put_policy(home, "srpo", "srpo", {"preferences": preferences}, beta=0.1)
    rows = [
        {"completion_id": f"{i}/{k}", "prompt_id": f"p{i}", "policy_id": policy.fingerprint, "sample_index": 0}
        | {"revision_index": k, "parent_id": f"{i}/{k - 1}" if k else None, "text": text, "num_tokens": len(text.split())}
        | {"finish_reason": (reasons or {}).get(k, "stop"), "prompt_truncated": False, "seed": 1, "temperature": 1.0}
        for i, chain in enumerate(chains)
        for k, text in enumerate(chain)
    ]
    parents = {"policy": policy, "prompts": asked}
    put(home, "completions", {"part": (rows, schemas.COMPLETIONS)}, settings={"temperature": 1.0}, parents=parents)
    publish_results(home)
    return ask_query(home, "collapse").to_pylist()


def shares(found: list[dict[str, Any]], name: str) -> list[float | None]:
    return [row[name] for row in found]


def test_standing_still_is_no_cycle_and_going_back_is_one(tmp_path: Path) -> None:
    found = measure(tmp_path, ["a", "a", "a", "a"], ["a", "b", "a", "b"], ["a", "b", "c", "d"], ["a", "b", "c", "a"])
    assert shares(found, "share_unchanged") == [None, 0.25, 0.25, 0.25]
    assert shares(found, "share_in_cycle") == [None, None, 0.25, 0.5]
    assert shares(found, "share_distinct") == [0.25, 0.5, 0.5, 0.75]


def test_copies_of_the_question_are_told_from_short_quotations(tmp_path: Path) -> None:
    found = measure(tmp_path, [f"{QUESTION} Yes.", LONG_PIECE], [PIECE, "Port closed."])
    assert shares(found, "share_repeating_prompt") == [0.5, 0.0]
    assert shares(found, "share_verbatim_from_prompt") == [0.0, 0.5]


@pytest.mark.parametrize(
    "text",
    ["Port closed. EXAMPLE SUMMARY: x", "Closed<|im_end|>", "[INST] closed", "Please write a better answer. Closed.", "TL;DR: x"],
)
def test_words_of_a_template_are_leakage(tmp_path: Path, text: str) -> None:
    assert shares(measure(tmp_path, ["Port closed.", text]), "share_leaking_template") == [0.0, 1.0]


def test_length_is_measured_against_the_draft_and_truncation_is_counted(tmp_path: Path) -> None:
    found = measure(tmp_path, ["a b", "a b c d"], ["a b c d", ""], reasons={1: "length"})
    assert shares(found, "mean_tokens") == [3.0, 2.0]
    assert shares(found, "tokens_over_draft") == [1.0, 0.667]
    assert shares(found, "share_truncated") == [0.0, 1.0] and shares(found, "share_empty") == [0.0, 0.5]
