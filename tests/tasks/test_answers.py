"""An answer as a table artifact takes it: plain cells, not too many rows, and a word about what was cut."""

import json
import shlex
from pathlib import Path

import pytest

from storage.errors import UnusableInput
from tasks import answers
from tasks.answers import answer_question


def test_dates_lists_and_numbers_that_do_not_exist_are_made_plain(operated_home: Path) -> None:
    answer = answer_question(operated_home, "prompts_getting_worse")
    assert answer.key == "prompts-getting-worse"
    assert answer.rows[0]["score_by_revision"] == "[1.0, 0.5, 0.0]"
    (week,) = answer_question(operated_home, "unscored_by_week").rows
    assert len(week["week_from"]) == 10 and json.loads(json.dumps(week, allow_nan=False)) == week
    assert answers._plain(float("nan")) is None and answers._plain(float("-inf")) is None
    assert (answers._plain(True), answers._plain(7), answers._plain(None), answers._plain(b"x")) == (True, 7, None, "b'x'")


def test_the_description_is_the_question_and_the_command_for_all_rows(operated_home: Path) -> None:
    answer = answer_question(operated_home, "rejected_challengers", {"days": 30})
    assert answer.description.startswith("Which challengers were rejected in the last days, and why?\n\n2 rows; all of them: ")
    assert answer.description.endswith(f"`srpo ask rejected_challengers --set days=30 --home {operated_home}`")


def test_the_command_for_all_rows_can_be_copied_into_a_shell() -> None:
    place = Path("/our data/home")
    command = answers._describe(place, "worst_prompts", {"eval_set": "what's new"}, 2, 2).split("`")[1]
    assert shlex.split(command) == ["srpo", "ask", "worst_prompts", "--set", "eval_set=what's new", "--home", str(place)]


def test_too_many_rows_are_cut_and_counted(operated_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_ROWS", 3)
    answer = answer_question(operated_home, "champion_history")
    assert ([row["entry"] for row in answer.rows], answer.num_rows) == ([1, 2, 3], 4)
    assert "the first 3 of 4 rows, 1 are cut" in answer.description


def test_what_a_question_does_not_take_is_refused(operated_home: Path) -> None:
    with pytest.raises(UnusableInput, match="parameter of the query disk_use"):
        answer_question(operated_home, "disk_use", {"days": 3})
