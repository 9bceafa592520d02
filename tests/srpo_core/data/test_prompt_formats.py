"""Rows of evaluation sets become prompts with the gold texts their readers would expect."""

from pathlib import Path
from typing import Any

import pytest

from srpo_core.data.format_functions import load_format_function
from srpo_core.data.labelled_pairs import UnusableRow
from srpo_core.data.prompt_formats import (
    FORMATS,
    GoldPrompt,
    checked,
    choose_prompt_converter,
    convert_by_function,
    read_answers,
    with_opponent,
)
from srpo_core.errors import InputError
from srpo_core.records import user_prompt

EXAMPLES: dict[str, tuple[str, dict[str, Any], GoldPrompt]] = {
    "xsum": ("xsum", {"document": "Doc. ", "summary": "Sum.", "id": "7"}, GoldPrompt(user_prompt("Doc."), ["Sum."], None, "7")),
    "cnn": (
        "cnn_dailymail",
        {"article": "Art.", "highlights": "A .\nB .", "id": "x"},
        GoldPrompt(user_prompt("Art."), ["A .\nB ."], None, "x"),
    ),
    "scitldr": (
        "scitldr",
        {"source": ["One.", "Two. "], "target": ["g1", " g2"]},
        GoldPrompt(user_prompt("One. Two."), ["g1", "g2"]),
    ),
    "frank": (
        "frank",
        {"id": 3, "document": "Doc.", "gold_summary": "g", "systems": {}},
        GoldPrompt(user_prompt("Doc."), ["g"], None, "3"),
    ),
    "arena hard": ("arena_hard", {"uid": "u", "cluster": "C", "prompt": "Do."}, GoldPrompt(user_prompt("Do."), [], "C", "u")),
    "arena hard, older": (
        "arena_hard",
        {"question_id": "u", "turns": [{"content": "Do."}]},
        GoldPrompt(user_prompt("Do."), [], None, "u"),
    ),
    "plain": ("plain", {"prompt": "P\n\nTL;DR:", "gold": "g", "cluster": 4}, GoldPrompt(user_prompt("P"), ["g"], "4")),
    "plain golds": (
        "plain",
        {"prompt": [{"role": "user", "content": "P"}], "golds": ["g", "h"]},
        GoldPrompt(user_prompt("P"), ["g", "h"]),
    ),
    "plain completion": (
        "plain",
        {"prompt": "P", "completion": [{"role": "assistant", "content": "g"}]},
        GoldPrompt(user_prompt("P"), ["g"]),
    ),
    "plain without gold": ("plain", {"prompt": "P"}, GoldPrompt(user_prompt("P"), [])),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_evaluation_set_is_recognised_and_converted(example: str) -> None:
    name, row, expected = EXAMPLES[example]
    assert choose_prompt_converter("auto", row, "set.jsonl")[0] == name
    assert choose_prompt_converter(name, row, "set.jsonl")[1](row) == expected


def test_every_format_has_an_example() -> None:
    assert {name for name, _, _ in EXAMPLES.values()} == {f.name for f in FORMATS}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"document": "D", "summary": None}, "missing column value: summary"),
        ({"document": " ", "summary": "s"}, "empty prompt"),
        ({"document": "D", "summary": " "}, "empty gold"),
        ({"source": ["a"], "target": []}, "empty gold"),
        ({"document": "D\x00", "summary": "s"}, "NUL character"),
        ({"question_id": 1, "turns": [{"content": "a"}, {"content": "b"}]}, "more than one turn"),
        ({"prompt": "P", "gold": 3}, "completion is not a text: int"),
    ],
)
def test_an_unusable_row_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        checked(choose_prompt_converter("auto", row, "set.jsonl")[1](row))
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "row",
    [
        {
            "uid": "u",
            "model": "m",
            "messages": [{"role": "user", "content": "Do."}, {"role": "assistant", "content": {"answer": "done"}}],
        },
        {"question_id": "u", "choices": [{"index": 0, "turns": [{"content": "done"}]}]},
        {"id": "u", "output": "done"},
    ],
)
def test_an_opponents_answer_becomes_the_gold_by_id(row: dict[str, Any]) -> None:
    answers = read_answers([row, {"model": "no id"}, {"uid": "v", "messages": []}])
    assert with_opponent(GoldPrompt(user_prompt("Do."), ["old"], "C", "u"), answers).gold == ["done"]
    with pytest.raises(UnusableRow, match="no answer of the opponent: v"):
        with_opponent(GoldPrompt(user_prompt("Do."), item_id="v"), answers)


def test_unknown_columns_are_listed_with_the_known_formats() -> None:
    with pytest.raises(InputError) as caught:
        choose_prompt_converter("auto", {"colour": 1}, "set.jsonl")
    assert "found colour;" in str(caught.value) and all(f.name in str(caught.value) for f in FORMATS)
    with pytest.raises(InputError, match="found 'xsun'; known are auto, frank"):
        choose_prompt_converter("xsun", {"prompt": 1}, "set.jsonl")


def test_a_function_in_a_file_is_a_format(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text('def read(row):\n    return {"prompt": row["q"], "golds": row["a"], "id": 1}\n')
    function = load_format_function(f"{tmp_path}/mine.py:read")
    assert list(convert_by_function(function, {"q": "Q", "a": ["x"]})) == [GoldPrompt(user_prompt("Q"), ["x"], None, "1")]
