"""Rows as each public set writes them become the pairs a reader of that set would expect."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.data.format_functions import load_format_function
from srpo_core.data.labelled_pairs import LabelledPair, Outcome, UnusableRow, make_pair
from srpo_core.data.preference_formats import FORMATS, choose_converter, outcomes
from srpo_core.errors import InputError
from srpo_core.records import user_prompt
from srpo_core.settings.data import ColumnMapping


def say(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def convert(row: dict[str, Any], mapping: ColumnMapping | None = None, format_name: str = "auto") -> tuple[str, list[Outcome]]:
    name, converter = choose_converter(format_name, mapping, None, row, "rows.jsonl")
    return name, list(outcomes(converter, row))


def pair(
    prompt: Any, chosen: str, rejected: str, preference: float = 1.0, votes: int = 1, cluster: str | None = None
) -> LabelledPair:
    return LabelledPair(user_prompt(prompt) if isinstance(prompt, str) else prompt, chosen, rejected, preference, votes, cluster)


REDDIT = {"id": "t3_1", "post": "My cat left.\n\nTL;DR:", "title": "Cat", "subreddit": "cats", "site": None, "article": None}
REDDIT_PROMPT = "SUBREDDIT: r/cats\n\nTITLE: Cat\n\nPOST: My cat left."
ASK, MORE = say("user", "Hi?"), say("user", "And now?")
ARENA = {"question_id": "1", "model_a": "m1", "model_b": "m2", "judge": "j", "turn": 1}
ALPACA = {"instruction": "Add.", "input": "", "output_1": "one", "output_2": "two"}
SHP = {"post_id": "p", "history": "Why?", "human_ref_A": "as", "human_ref_B": "bs", "score_A": 9, "score_B": 2}
WAYS = {"prompt": "Q", "answers": ["a", "b", "c"]}

EXAMPLES: dict[str, tuple[str, dict[str, Any], list[LabelledPair]]] = {
    "trl plain": ("trl", {"prompt": "Sky?", "chosen": " blue", "rejected": " green"}, [pair("Sky?", "blue", "green")]),
    "trl conversational": (
        "trl",
        {"prompt": [say("system", "Be brief."), ASK], "chosen": [say("assistant", "yes")], "rejected": [say("assistant", "no")]},
        [pair([say("system", "Be brief."), ASK], "yes", "no")],
    ),
    "trl conversational with implicit prompt": (
        "trl",
        {"chosen": [ASK, say("assistant", "yes")], "rejected": [ASK, say("assistant", "no")]},
        [pair([ASK], "yes", "no")],
    ),
    "trl plain with implicit prompt": (
        "trl",
        {"chosen": "The sky is blue.", "rejected": "The sky is black."},  # 'bl' is shared, but no word is cut
        [pair("The sky is", "blue.", "black.")],
    ),
    "trl conversational in a CSV cell": (
        "trl",
        {"prompt": json.dumps([ASK]), "chosen": json.dumps([say("assistant", "yes")]), "rejected": "no"},
        [pair([ASK], "yes", "no")],
    ),
    "trl re-release of TL;DR": (
        "trl",
        {"prompt": REDDIT_PROMPT + "\n\nTL;DR:", "chosen": " cat gone", "rejected": " TL;DR: no cat"},
        [pair(REDDIT_PROMPT, "cat gone", "no cat")],
    ),
    "hh-rlhf": (
        "hh_rlhf",
        {
            "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes?\n\nHuman: And now?\n\nAssistant: Good: bye",
            "rejected": "\n\nHuman: Hi?\n\nAssistant: Yes?\n\nHuman: And now?\n\nAssistant: Go",
        },
        [pair([ASK, say("assistant", "Yes?"), MORE], "Good: bye", "Go")],
    ),
    "summarize from feedback": (
        "summarize_from_feedback",
        {
            "info": REDDIT,
            "summaries": [{"text": " no cat", "policy": "sup2"}, {"text": " cat gone", "policy": "ref"}],
            "choice": 1,
        },
        [pair(REDDIT_PROMPT, "cat gone", "no cat")],
    ),
    "summarize from feedback, news": (
        "summarize_from_feedback",
        {"info": {"post": None, "article": "News."}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0},
        [pair("News.", "a", "b")],
    ),
    "ultrafeedback": (
        "ultrafeedback_binarized",
        {
            "prompt": "Hi?",
            "chosen": [ASK, say("assistant", "yes")],
            "rejected": [ASK, say("assistant", "no")],
            "messages": [],
            "score_chosen": 8.5,
            "score_rejected": 7.0,
        },
        [pair([ASK], "yes", "no")],
    ),
    "ultrafeedback with equal scores": (
        "ultrafeedback_binarized",
        {
            "prompt": "Hi?",
            "chosen": [ASK, say("assistant", "y")],
            "rejected": [ASK, say("assistant", "n")],
            "score_chosen": 7,
            "score_rejected": 7.0,
        },
        [pair([ASK], "y", "n", 0.5)],
    ),
    "arena, b wins": (
        "arena",
        ARENA
        | {"winner": "model_b", "conversation_a": [ASK, say("assistant", "a")], "conversation_b": [ASK, say("assistant", "b")]},
        [pair([ASK], "b", "a")],
    ),
    "arena, both bad, content in parts": (
        "arena",
        ARENA
        | {
            "winner": "tie (bothbad)",
            "conversation_a": [ASK, say("assistant", [{"type": "text", "text": "a"}])],
            "conversation_b": [ASK, say("assistant", "b")],
        },
        [pair([ASK], "a", "b", 0.5)],
    ),
    "alpaca hard": ("alpaca", ALPACA | {"preference": 2}, [pair("Add.", "two", "one")]),
    "alpaca soft": ("alpaca", ALPACA | {"input": "1 2", "preference": "1.25"}, [pair("Add.\n\n1 2", "one", "two", 0.75)]),
    "alpaca tie": ("alpaca", ALPACA | {"preference": 0}, [pair("Add.", "one", "two", 0.5)]),
    "shp": ("shp", SHP | {"labels": 0}, [pair("Why?", "bs", "as")]),
    "n-way by comparisons": (
        "n_way",
        {"question": "Who?", "passages": [["T", "T is.", "So."]]}
        | {f"prediction {i}": t for i, t in enumerate("abc", 1)}
        | {"preference": [0, 1, 2]},
        [pair("T is. So.\n\nQuestion: Who?", *texts, p) for *texts, p in (("a", "b", 0.5), ("a", "c", 1.0), ("c", "b", 1.0))],
    ),
    "n-way by ranks": (
        "n_way",
        WAYS | {"ranks": [2, 1, 2]},
        [pair("Q", "b", "a"), pair("Q", "a", "c", 0.5), pair("Q", "b", "c")],
    ),
    "n-way by scores": ("n_way", WAYS | {"scores": [2, 1, 3]}, [pair("Q", "a", "b"), pair("Q", "c", "a"), pair("Q", "c", "b")]),
    "n-way with ranks inside": (
        "n_way",
        {"prompt": "\n\nHuman: Hi?\n\nAssistant: ", "answers": [{"answer": "x", "rank": 1.0}, {"answer": "y", "rank": 2.0}]},
        [pair([ASK], "x", "y")],
    ),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_public_format_is_recognised_and_converted(example: str) -> None:
    name, row, expected = EXAMPLES[example]
    assert convert(row) == (name, expected)
    assert convert(row, format_name=name) == (name, expected)


def test_every_format_has_an_example() -> None:
    assert {name for name, _, _ in EXAMPLES.values()} == {f.name for f in FORMATS}


BY_LABEL = ColumnMapping(prompt="q", text_a="x", text_b="y", label="l")
BY_VOTES = ColumnMapping(
    prompt="q", text_a="x", text_b="y", votes="v", label_a=["a1"], label_b=["a2"], label_tie=["equal"], cluster="t"
)

MAPPED = {
    "roles": (ColumnMapping(prompt="q", chosen="x", rejected="y"), {"q": "Q", "x": "A", "y": "B"}, pair("Q", "A", "B")),
    "label of a": (BY_LABEL, {"q": "Q", "x": "A", "y": "B", "l": "a1"}, pair("Q", "A", "B")),
    "label of b as a number": (BY_LABEL, {"q": "Q", "x": "A", "y": "B", "l": 2.0}, pair("Q", "B", "A")),
    "label of a tie": (BY_LABEL, {"q": "Q", "x": "A", "y": "B", "l": "tie"}, pair("Q", "A", "B", 0.5)),
    # one vote for the first, two for the second, two ties: (1 + .5 + .5) / 5 = .4 for the first
    "votes": (
        BY_VOTES,
        {"q": "Q", "x": "A", "y": "B", "v": ["a1", "a2", "equal", "a2", "equal"], "t": 7},
        pair("Q", "B", "A", 0.6, 5, "7"),
    ),
    "votes in a CSV cell": (
        BY_VOTES,
        {"q": "Q", "x": "A", "y": "B", "v": '["a1", "a1"]', "t": "s"},
        pair("Q", "A", "B", 1.0, 2, "s"),
    ),
    "several prompt columns and sentence lists": (
        ColumnMapping(prompt=["title", "body"], chosen="x", rejected="y", join_with="\n"),
        {"title": "T", "body": ["one.", "two."], "x": ["A.", "B."], "y": "C"},
        pair("T\n\none.\ntwo.", "A.\nB.", "C"),
    ),
    "columns of nested objects": (
        ColumnMapping(prompt="meta.q", chosen="out.good.text", rejected="out.bad"),
        {"meta": {"q": "Q"}, "out": {"good": {"text": "A"}, "bad": "B"}},
        pair("Q", "A", "B"),
    ),
}


@pytest.mark.parametrize("case", MAPPED)
def test_a_column_mapping_reads_any_table(case: str) -> None:
    mapping, row, expected = MAPPED[case]
    assert convert(row, mapping) == ("columns", [expected])


TRL = {"prompt": "P", "chosen": "A", "rejected": "B"}
TURN = say("assistant", "a")
UNUSABLE = {
    "equal after stripping": (TRL | {"rejected": " A\n"}, None, "chosen equals rejected"),
    "empty completion": (TRL | {"chosen": " "}, None, "empty completion"),
    "empty prompt": (TRL | {"prompt": "TL;DR:"}, None, "empty prompt"),
    "missing value": (TRL | {"rejected": None}, None, "missing column value: rejected"),
    "NUL": (TRL | {"chosen": "A\x00"}, None, "NUL character"),
    "lone surrogate": (TRL | {"chosen": "A\ud800"}, None, "broken UTF-8"),
    "not a text": (TRL | {"chosen": 3}, None, "completion is not a text: int"),
    "unknown role": (TRL | {"prompt": [say("alien", "x")]}, None, "unknown role: 'alien'"),
    "an answer before the answer": (TRL | {"prompt": [ASK, TURN]}, None, "prompt ends with an assistant turn"),
    "images": (TRL | {"prompt": [say("user", [{"type": "image"}])]}, None, "message content is not text"),
    "no prompt shared": ({"chosen": "Yes", "rejected": "No"}, None, "empty prompt"),
    "hh with different questions": (
        {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "rejected": "\n\nHuman: a\n\nAssistant: x"},
        None,
        "the two conversations differ before the last answer",
    ),
    "arena of two exchanges": (
        ARENA
        | {
            "winner": "model_a",
            "conversation_a": [ASK, TURN, MORE, TURN],
            "conversation_b": [ASK, say("assistant", "b"), MORE, TURN],
        },
        None,
        "the two conversations differ before the last answer",
    ),
    "arena without winner": (ARENA | {"winner": "?", "conversation_a": [], "conversation_b": []}, None, "unknown label: '?'"),
    "alpaca out of range": (ALPACA | {"preference": 3}, None, "unknown label: 3"),
    "alpaca NaN": (ALPACA | {"preference": float("nan")}, None, "preference is not a number: nan"),
    "shp label": (SHP | {"labels": 2}, None, "unknown label: 2"),
    "summary choice": (
        {"info": REDDIT, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 2},
        None,
        "unknown label: 2 of 2 summaries",
    ),
    "mapped label": ({"q": "Q", "x": "A", "y": "B", "l": "neither"}, BY_LABEL, "unknown label: 'neither'"),
    "no votes": ({"q": "Q", "x": "A", "y": "B", "v": [], "t": 1}, BY_VOTES, "no votes"),
    "too few comparisons": (WAYS | {"preference": [1]}, None, "wrong number of comparisons: 1 for 3 answers"),
    "too few ranks": (WAYS | {"ranks": [1, 2]}, None, "wrong number of ranks or scores: 2 for 3 answers"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_row_says_why(case: str) -> None:
    row, mapping, reason = UNUSABLE[case]
    (outcome,) = convert(row, mapping)[1]
    assert isinstance(outcome, UnusableRow) and str(outcome) == reason


def test_one_bad_answer_spoils_only_its_comparisons() -> None:
    results = convert({"prompt": "Q", "answers": ["a", "", "c"], "ranks": [1, 2, 3]})[1]
    assert [str(result) if isinstance(result, UnusableRow) else "pair" for result in results] == [
        "empty completion",
        "pair",
        "empty completion",
    ]


def test_json_in_a_completion_is_text_not_a_conversation() -> None:
    assert convert(TRL | {"chosen": '[{"a": 1}]'})[1] == [pair("P", '[{"a": 1}]', "B")]


@given(st.floats(0, 1), st.integers(1, 9))
def test_the_chosen_side_is_preferred_at_least_half_the_time(preference: float, votes: int) -> None:
    made = make_pair(user_prompt("P"), "first", "second", preference, num_votes=votes)
    assert made.preference == max(preference, 1 - preference) and made.num_votes == votes
    assert (made.chosen == "first") == (preference >= 0.5)


def test_unknown_columns_are_listed_with_the_formats_and_the_two_other_ways() -> None:
    with pytest.raises(InputError) as caught:
        convert({"colour": 1, "taste": 2})
    message = str(caught.value)
    assert "found colour, taste;" in message and "\n" not in message
    assert all(f.name in message for f in FORMATS) and "--prompt-column" in message and "file.py:function" in message


@pytest.mark.parametrize(
    ("row", "mapping", "format_name", "found"),
    [
        (TRL, None, "hh_rlhf", "found prompt, chosen, rejected"),
        (TRL, None, "hhrlhf", "found 'hhrlhf'"),
        (TRL, None, "columns", "found 'columns'"),
        (TRL, ColumnMapping(prompt="prompt", chosen="chosen", rejected="worse"), "auto", "mapped column worse in rows.jsonl"),
        (
            {"q": "", "x": "", "y": "", "l": ""},
            ColumnMapping(prompt="q", text_a="x", text_b="y", label="l", label_a=["2"]),
            "auto",
            "found '2' in both",
        ),
    ],
)
def test_a_format_or_mapping_that_does_not_fit_the_file_is_refused(
    row: dict[str, Any], mapping: ColumnMapping | None, format_name: str, found: str
) -> None:
    with pytest.raises(InputError, match=found):
        convert(row, mapping, format_name)


FUNCTION = """
INPUT_FILES = ["names.json"]
import json, pathlib
NAMES = json.loads((pathlib.Path(__file__).parent / "names.json").read_text())

def read(row):
    for number in row["numbers"]:
        texts = {"prompt": row["q"], "chosen": NAMES["good"] + str(number), "rejected": NAMES["bad"]}
        yield texts | {"preference": .25, "num_votes": 4, "cluster": 3}

def returns_nothing(row):
    return []

def returns_text(row):
    return ["text"]
"""


def run_function(folder: Path, function: str, row: dict[str, Any]) -> list[Outcome]:
    (folder / "names.json").write_text('{"good": "g", "bad": "b"}')
    (folder / "mine.py").write_text(FUNCTION)
    loaded = load_format_function(f"{folder}/mine.py:{function}")
    return list(outcomes(choose_converter("auto", None, loaded, row, "rows.jsonl")[1], row))


def test_a_function_in_a_file_is_a_format(tmp_path: Path) -> None:
    assert run_function(tmp_path, "read", {"q": "Q", "numbers": [1, 2]}) == [
        pair("Q", "b", "g1", 0.75, 4, "3"),
        pair("Q", "b", "g2", 0.75, 4, "3"),
    ]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("read", "the format function failed: KeyError 'numbers'"),
        ("returns_nothing", "no comparison in the row"),
        ("returns_text", "the format function returned something else than dictionaries"),
    ],
)
def test_a_function_that_fails_on_a_row_makes_that_row_unusable(function: str, reason: str, tmp_path: Path) -> None:
    (outcome,) = run_function(tmp_path, function, {"q": "Q"})
    assert str(outcome) == reason


def test_the_files_a_function_reads_are_part_of_what_it_is(tmp_path: Path) -> None:
    run_function(tmp_path, "read", {"q": "Q", "numbers": []})
    before = load_format_function(f"{tmp_path}/mine.py:read").identity
    (tmp_path / "names.json").write_text('{"good": "h", "bad": "b"}')
    assert load_format_function(f"{tmp_path}/mine.py:read").identity != before


@pytest.mark.parametrize(
    ("code", "function"),
    [(None, "read"), ("x = 1", "read"), ("def read(row:", "read"), ("INPUT_FILES = ['gone']\ndef read(row): ...", "read")],
)
def test_a_function_that_cannot_be_loaded_is_one_sentence(code: str | None, function: str, tmp_path: Path) -> None:
    if code is not None:
        (tmp_path / "mine.py").write_text(code)
    with pytest.raises(InputError, match=r"^expected .*found"):
        load_format_function(f"{tmp_path}/mine.py:{function}")
