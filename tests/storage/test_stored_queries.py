"""Stored queries: what a file declares, what can be set, and what a wrong parameter is told."""

from pathlib import Path
from typing import Any

import pytest

from storage.errors import UnusableInput
from storage.results_db import publish_snapshot
from storage.stored_queries import ask_query, describe_queries, list_queries, read_assignments, read_query
from tests.homes import make_home

QUERIES = list(list_queries())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_home(tmp_path_factory.mktemp("home"), size=4, revisions=1)
    publish_snapshot(folder, lambda comparisons: {})
    return folder


def test_every_stored_query_opens_with_its_question_and_an_unknown_name_lists_them() -> None:
    assert {"win_rates", "revision_gain", "lineage_of_win_rate", "champion_run", "judge_cost", "collapse"} <= set(QUERIES)
    assert all(query.question.endswith("?") for query in list_queries().values())
    with pytest.raises(UnusableInput, match="win_rates.*'nosuch'"):
        read_query("nosuch")
    with pytest.raises(UnusableInput):
        read_query("../errors")


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_uses_exactly_the_parameters_it_declares(name: str) -> None:
    query = read_query(name)
    body = "\n".join(line for line in query.sql.splitlines() if not line.startswith("--"))
    assert {own.name for own in query.parameters} == {
        word[1:].rstrip("),;") for word in body.replace("(", " ").split() if word.startswith("$")
    }


def test_the_listing_names_what_can_be_set() -> None:
    listed = {row["name"]: row["parameters"] for row in describe_queries()}
    assert (listed["judge_spending"], listed["worst_prompts"], listed["disk_use"]) == ("days=7", "eval_set, limit=5", "")


def test_a_whole_number_and_a_text_restrict_the_answer(home: Path) -> None:
    assert len({row["eval_set"] for row in ask_query(home, "length_drift").to_pylist()}) == 2
    assert {row["eval_set"] for row in ask_query(home, "length_drift", {"eval_set": "long"}).to_pylist()} == {"long"}
    assert [ask_query(home, "largest_disagreements", {"limit": limit}).num_rows for limit in ("1", 2)] == [1, 2]


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("worst_prompts", {"days": 3}, r"parameter of the query worst_prompts \(eval_set, limit\), found 'days'"),
        ("disk_use", {"days": 3}, r"parameter of the query disk_use \(none\), found 'days'"),
        ("worst_prompts", {"eval_set": "xsun"}, r"eval_set to be one of those in verdicts \(id, long\), found 'xsun'"),
        ("worst_prompts", {"eval_set": "'; DROP TABLE games"}, 'found "\'; DROP TABLE games"'),
        ("champion_run", {"policy": "x"}, "found 'policy'"),
        ("judge_spending", {"days": "0"}, "days to be a whole number from 1 to 1000000 .how many days back., found '0'"),
        ("judge_spending", {"days": "-1"}, "found '-1'"),
        ("judge_spending", {"days": "1.5"}, "found '1.5'"),
        ("judge_spending", {"days": "seven"}, "found 'seven'"),
        ("judge_spending", {"days": "9" * 400}, "whole number"),
        ("judge_spending", {"days": "٣"}, "whole number"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_sentence(home: Path, name: str, given: dict[str, Any], found: str) -> None:
    with pytest.raises(UnusableInput, match=found) as refused:
        ask_query(home, name, given)
    assert "\n" not in str(refused.value) and str(refused.value).startswith("expected ")


def test_a_home_without_such_names_says_so(tmp_path: Path) -> None:
    publish_snapshot(tmp_path, lambda comparisons: {})
    with pytest.raises(UnusableInput, match="this home has none"):
        ask_query(tmp_path, "prompts_getting_worse", {"eval_set": "xsum"})


def test_assignments_are_names_and_values() -> None:
    assert read_assignments(["days=7", " eval_set = a=b "]) == {"days": "7", "eval_set": "a=b"}
    for wrong in (["days"], ["=7"], ["days=1", "days=2"]):
        with pytest.raises(UnusableInput, match="expected parameters as NAME=VALUE, each once"):
            read_assignments(wrong)
