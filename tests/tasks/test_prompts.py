"""Evaluation sets and their overlap with the training pairs, from files to artifacts."""

import json
from pathlib import Path
from typing import Any

import pytest

from srpo_core.errors import InputError
from srpo_core.records import prompt_id, user_prompt
from srpo_core.settings.data import PreferenceSourceSettings, PromptSourceSettings
from storage.artifact import Artifact, list_artifacts
from tasks import prompts
from tasks.preferences import ingest_preferences
from tasks.prompts import find_contamination, ingest_prompts
from tests.real_data import real_file


def rows_file(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ingest(home: Path, path: str, name: str = "set", **settings: Any) -> Artifact:
    return ingest_prompts(PromptSourceSettings(name=name, path=path, **settings), home)


def test_prompts_are_complete_records_with_one_or_several_golds(tmp_path: Path) -> None:
    rows = [{"prompt": "P1", "gold": "g", "cluster": "c"}, {"prompt": "P2", "golds": ["g", "h"]}]
    artifact = ingest(tmp_path, rows_file(tmp_path / "p.jsonl", rows), domain="news")
    first, second = artifact.rows()
    assert first == {
        "prompt_id": prompt_id("set", user_prompt("P1")),
        "prompt": user_prompt("P1"),
        "gold": ["g"],
        "eval_set": "set",
        "domain": "news",
        "cluster_id": "c",
    }
    assert second["gold"] == ["g", "h"] and len(second["cluster_id"]) == 16


def test_unusable_and_repeated_rows_are_kept_with_their_reason(tmp_path: Path) -> None:
    rows = [{"document": d, "summary": s} for d, s in (("D", "s"), ("D ", "t"), ("", "s"), ("E", None), ("F", "s"))]
    artifact = ingest(tmp_path, rows_file(tmp_path / "x.jsonl", rows))
    assert artifact.counts == {"prompts": 2, "rejected_rows": 3, "rows_read": 5}
    rejected = [(r["file"], r["line"], r["reason"]) for r in artifact.rows(prefix="rejected")]
    assert rejected == [
        ("x.jsonl", 2, "prompt repeated"),
        ("x.jsonl", 3, "empty prompt"),
        ("x.jsonl", 4, "missing column value: summary"),
    ]


def test_max_prompts_takes_the_first_usable_ones(tmp_path: Path) -> None:
    rows = [{"prompt": "", "gold": "g"}] + [{"prompt": f"P{i}", "gold": "g"} for i in range(9)]
    artifact = ingest(tmp_path, rows_file(tmp_path / "p.jsonl", rows), max_prompts=3)
    assert [row["prompt"][0]["content"] for row in artifact.rows()] == ["P0", "P1", "P2"]


def test_a_second_run_reads_nothing_and_a_changed_opponent_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = rows_file(tmp_path / "q.jsonl", [{"uid": "1", "cluster": "c", "prompt": "P"}])
    opponent = rows_file(tmp_path / "a.jsonl", [{"uid": "1", "output": "one"}])
    first = ingest(tmp_path, questions, opponent_path=opponent)
    with monkeypatch.context() as patch:
        patch.setattr(prompts._PromptReading, "run", lambda self: pytest.fail("read again"))
        assert ingest(tmp_path, questions, opponent_path=opponent) == first
    rows_file(tmp_path / "a.jsonl", [{"uid": "1", "output": "two"}])
    assert [row["gold"] for row in ingest(tmp_path, questions, opponent_path=opponent).rows()] == [["two"]]


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        (None, {}, "found none; check the path"),
        (b"", {}, "the file is empty"),
        (b'{"text": "t"}\n', {}, "found text; known: frank"),
        (b'{"prompt": "P"}\n', {"format": "xsum"}, "found prompt; known: xsum"),
        (b'{"prompt": " "}\n', {}, "the first reason is empty prompt (row 1 of p.jsonl)"),
        (b"\xff\n\x00\n", {}, "the first reason is broken UTF-8"),
        (b'{"prompt": "P"}\n', {"opponent_path": "/no/answers.jsonl"}, "/no/answers.jsonl, found none"),
        (b'{"prompt": "P"}\n', {"opponent_path": "SELF"}, "expected answers with uid, question_id or id"),
        (
            b'{"id": 1, "prompt": "P", "output": "o"}\n{"prompt": "Q"}\n',
            {"format": "no/such.py:read"},
            "found none at no/such.py",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence_and_leaves_nothing_complete(
    content: bytes | None, settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.jsonl"
    if content is not None:
        path.write_bytes(content)
    settings = {key: str(path) if value == "SELF" else value for key, value in settings.items()}
    with pytest.raises(InputError) as caught:
        ingest(tmp_path / "home", str(path), **settings)
    message = str(caught.value)
    assert said in message and message.startswith("expected ") and "\n" not in message
    assert not list_artifacts(tmp_path / "home", "prompts")


PASSAGE = " ".join(f"word{i}" for i in range(40))


def test_overlaps_are_an_artifact_of_their_own_over_all_sets(tmp_path: Path) -> None:
    pairs = [
        {"prompt": "What is  SRPO?", "chosen": "a method", "rejected": "a soap"},
        {"prompt": "Clean", "chosen": "yes", "rejected": "no"},
        {"prompt": "Copy", "chosen": "One gold text.", "rejected": "no"},
        {"prompt": "Read: " + PASSAGE[20:150], "chosen": "yes", "rejected": "no"},
    ]
    training = ingest_preferences(
        PreferenceSourceSettings(paths=[rows_file(tmp_path / "t.jsonl", pairs)], validation_share=0), tmp_path
    )
    chat = ingest(tmp_path, rows_file(tmp_path / "c.jsonl", [{"prompt": "what is srpo?", "gold": "one gold text."}]), "chat")
    news = ingest(tmp_path, rows_file(tmp_path / "n.jsonl", [{"document": PASSAGE, "summary": "words"}]), "news")
    artifact = find_contamination(training, [chat, news], tmp_path)
    ids = [row["pair_id"] for row in training.rows()]
    asked, article = (next(a.rows())["prompt_id"] for a in (chat, news))
    assert [tuple(row.values()) for row in artifact.rows()] == [
        (ids[0], asked, "same_prompt"),
        (ids[2], asked, "gold_as_completion"),
        (ids[3], article, "shared_13_words"),
    ]
    assert artifact.counts == {"pairs_read": 4, "contaminated_pairs": 3, "overlaps": 3}
    assert find_contamination(training, [chat, news], tmp_path) == artifact
    assert find_contamination(training, [chat], tmp_path).counts["overlaps"] == 2


def test_no_overlap_is_a_complete_artifact_without_rows(tmp_path: Path) -> None:
    pair = {"prompt": "P", "chosen": "yes", "rejected": "no"}
    training = ingest_preferences(
        PreferenceSourceSettings(paths=[rows_file(tmp_path / "t.jsonl", [pair])], validation_share=0), tmp_path
    )
    chat = ingest(tmp_path, rows_file(tmp_path / "c.jsonl", [{"prompt": "Q", "gold": "g"}]))
    artifact = find_contamination(training, [chat], tmp_path)
    assert list(artifact.rows()) == [] and artifact.counts["pairs_read"] == 1


@pytest.mark.parametrize(
    ("name", "num_prompts", "most_golds", "start"),
    [
        ("frank/xsum.jsonl", 249, 1, "The biologist and entrepreneur turned"),
        ("frank/cnndm.jsonl", 250, 1, "Gary Locke will be confirmed"),
        ("scitldr/test.jsonl", 618, 6, "Incremental class learning involves"),
    ],
)
def test_real_article_sets_give_the_article_alone_with_its_golds(
    name: str, num_prompts: int, most_golds: int, start: str, tmp_path: Path
) -> None:
    rows = list(ingest(tmp_path, str(real_file(name))).rows())
    assert len(rows) == num_prompts and max(len(row["gold"]) for row in rows) <= most_golds
    assert rows[0]["prompt"][0]["content"].startswith(start) and len(rows[0]["prompt"]) == 1


def test_real_arena_hard_prompts_get_the_named_opponents_answers(tmp_path: Path) -> None:
    opponent = str(real_file("arena_hard/baseline_gpt-4-0314.jsonl"))
    artifact = ingest(tmp_path, str(real_file("arena_hard/question.jsonl")), opponent_path=opponent)
    rows = list(artifact.rows())
    assert artifact.counts == {"prompts": 500, "rejected_rows": 0, "rows_read": 500}
    assert all(len(row["gold"]) == 1 and row["gold"][0] for row in rows)
    assert len({row["cluster_id"] for row in rows}) == 250
