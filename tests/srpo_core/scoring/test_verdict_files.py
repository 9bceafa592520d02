"""Reading files of verdicts: what is taken, what is ignored, and that every fault is one sentence naming file and row."""

import math

import pytest

from srpo_core.errors import InputError
from srpo_core.scoring.verdict_files import OPTIONAL, REQUIRED, Verdict, read_table, read_verdicts
from tests.srpo_core.scoring.test_score_files import write

EVERY = {"prompt_id": "a", "order": "as_is", "score": 0.5, "cluster_id": "c", "judge": "j", "eval_set": "id", "method": "srpo"}
EVERY |= {"seed": 3, "revision_index": 1, "repeat_index": 2, "label": "A>B", "candidate_length": 10, "opponent_length": 12}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_every_column_is_read_from_every_format(tmp_path, suffix):
    file = read_verdicts(write(tmp_path / f"v.{suffix}", [EVERY]))
    assert file.verdicts == [Verdict("a", "as_is", 0.5, "c", "j", "id", "srpo", 3, 1, 2, "A>B", 10.0, 12.0)]
    assert file.columns == [*REQUIRED, *OPTIONAL] and file.ignored_columns == file.hints == []


def test_what_is_not_given_is_none_and_never_a_guess(tmp_path):
    (verdict,) = read_verdicts(write(tmp_path / "v.csv", [{"prompt_id": 7, "order": "as_is", "score": ""}])).verdicts
    assert verdict.prompt_id == "7" and math.isnan(verdict.score)
    assert verdict[3:8] == (None,) * 5 and verdict.repeat_index == 0 and verdict.label is None
    assert math.isnan(verdict.candidate_length) and math.isnan(verdict.opponent_length)


def test_a_seed_may_be_missing_where_other_groups_have_one(tmp_path):
    rows = [EVERY, EVERY | {"method": "hub", "seed": None}]
    assert [verdict.seed for verdict in read_verdicts(write(tmp_path / "v.jsonl", rows)).verdicts] == [3, None]


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("Judge", "judge"), ("clusterid", "cluster_id"), ("revison_index", "revision_index"), ("Seed ", "seed")],
)
def test_an_ignored_column_that_looks_like_a_known_one_is_pointed_out(tmp_path, misspelt, meant):
    row = {name: EVERY[name] for name in REQUIRED} | {misspelt: "1"}
    (hint,) = read_verdicts(write(tmp_path / "v.csv", [row])).hints
    assert hint == f"column {misspelt!r} is ignored and looks like {meant}"


def test_a_foreign_column_is_no_misspelt_one(tmp_path):
    file = read_verdicts(write(tmp_path / "v.csv", [EVERY | {"policy_id": "x", "tokens": 3}]))
    assert (file.ignored_columns, file.hints) == (["policy_id", "tokens"], [])


def test_a_column_asked_for_besides_is_handed_on_as_it_stands_and_not_called_ignored(tmp_path):
    rows = [EVERY | {"human": "win", "other": 1}, EVERY | {"human": None}]
    path = write(tmp_path / "v.jsonl", rows)
    file = read_verdicts(path, also=("human", "absent"))
    assert file.also == {"human": ["win", None]} and file.ignored_columns == ["other"] and file.columns[-1] == "human"
    assert read_verdicts(path).also == {} and "human" in read_verdicts(path).ignored_columns


def test_a_table_keeps_columns_that_only_some_rows_have(tmp_path):
    columns, rows = read_table(write(tmp_path / "v.jsonl", [{"a": 1}, {"b": None}]))
    assert (columns, rows) == (["a", "b"], [{"a": 1}, {"b": None}])


@pytest.mark.parametrize("value", ["1e400", "10**3", "[1]", "NaNs", "0x1"])
def test_a_score_that_is_no_number_in_the_unit_interval_is_refused(tmp_path, value):
    (tmp_path / "v.csv").write_text(f"prompt_id,order,score\na,as_is,{value}\n")
    with pytest.raises(InputError, match="row 1 of .*v.csv") as caught:
        read_verdicts(tmp_path / "v.csv")
    assert "\n" not in str(caught.value)


def test_a_whole_number_too_large_for_a_float_is_refused(tmp_path):
    (tmp_path / "v.jsonl").write_text('{"prompt_id": "a", "order": "as_is", "score": 1' + "0" * 400 + "}\n")
    with pytest.raises(InputError, match="row 1 of .*v.jsonl"):
        read_verdicts(tmp_path / "v.jsonl")
