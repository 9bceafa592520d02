"""`srpo ask`: the listing, parameters by --set, and what a wrong one is told."""

import json
from pathlib import Path

import pytest

from flows.cli import main
from storage.stored_queries import list_queries


def test_without_a_name_every_question_is_listed_with_its_parameters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["ask", "--format", "json", "--home", str(tmp_path)]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(list_queries())
    assert listed["failed_runs"]["parameters"] == "days=30"


def test_parameters_are_set_by_name(capsys: pytest.CaptureFixture[str], operated_home: Path) -> None:
    asked = ["ask", "revision_gain", "--set", "eval_set=id", "--set", "revision_index=2", "--format", "json"]
    assert main([*asked, "--home", str(operated_home)]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["revision_index"], row["gain"]) == (2, 0.0)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["failed_runs", "--set", "days=soon"], "expected days to be a whole number from 1 to 1000000"),
        (["failed_runs", "--set", "weeks=2"], "expected a parameter of the query failed_runs (days), found 'weeks'"),
        (
            ["revision_gain", "--set", "eval_set=xsun"],
            "expected eval_set to be one of those in revision_gain (id, long), found 'xsun'",
        ),
        (["failed_runs", "--set", "days"], "expected parameters as NAME=VALUE"),
        (["--set", "days=3"], "expected the name of a stored query before --set"),
        (["no_such"], "expected the name of a stored query (champion_history"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], operated_home: Path, words: list[str], found: str
) -> None:
    assert main(["ask", *words, "--home", str(operated_home)]) == 2
    output = capsys.readouterr()
    assert output.out == "" and found in output.err and output.err.count("\n") == 1


def test_an_answer_without_rows_says_so(operated_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "SELECT 1 AS one WHERE false", "--home", str(operated_home)]) == 0
    said = capsys.readouterr()
    assert (said.out.strip(), said.err.strip()) == ("one", "no rows")
