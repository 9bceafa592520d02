"""`score_file` on files of every format and on every kind of bad input; published data where SRPO_TEST_DATA names it."""

import csv
import json
import math
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srpo_core.errors import InputError
from srpo_core.score_files import score_file

ROWS = [
    {"prompt_id": "a", "order": "as_is", "score": 1.0},
    {"prompt_id": "a", "order": "swapped", "score": 1.0},
    {"prompt_id": "b", "order": "as_is", "score": 1.0},
    {"prompt_id": "b", "order": "swapped", "score": 0.0},
    {"prompt_id": "c", "order": "as_is", "score": 0.0},
    {"prompt_id": "c", "order": "swapped", "score": None},
]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_hand_derived_numbers(tmp_path, suffix):
    """a scores 1, b .5, c lacks an order: win rate .75 of 2; consistency 1/2; first position 1, 0 | 1, 1: .75; bounds .5, 2/3."""
    result = score_file(write(tmp_path / f"verdicts{suffix}", ROWS))
    assert (result["n"], result["n_prompts"], result["n_unscored"], result["n_games_unscored"]) == (2, 3, 1, 1)
    assert result["win_rate"] == 0.75
    assert result["standard_error"] == pytest.approx(0.25)  # sd of (1, .5) is .35355, over sqrt(2)
    assert result["consistency"] == 0.5
    assert result["first_position_rate"] == 0.75
    assert (result["bound_low"], result["bound_high"]) == pytest.approx((0.5, (1 + 0.5 + 0.5) / 3))
    assert result["design"] == "both_orders"
    assert "1 of 3 prompts" in result["note"]
    json.dumps(result, allow_nan=False)


def test_row_order_in_the_file_does_not_matter(tmp_path):
    forward, backward = (score_file(write(tmp_path / f"{i}.jsonl", rows)) for i, rows in enumerate([ROWS, ROWS[::-1]]))
    assert forward == backward


def test_a_cluster_column_widens_the_standard_error(tmp_path):
    rows = [
        {"prompt_id": f"{c}{i}", "order": order, "score": float(c < 3), "cluster_id": c}
        for c in range(6)
        for i in range(5)
        for order in ("as_is", "swapped")
    ]
    clustered = score_file(write(tmp_path / "clustered.csv", rows))
    plain = score_file(write(tmp_path / "plain.csv", [{k: v for k, v in row.items() if k != "cluster_id"} for row in rows]))
    assert (clustered["n"], clustered["n_clusters"], plain["n_clusters"]) == (30, 6, 30)
    assert clustered["standard_error"] == pytest.approx(math.sqrt(6 / 5 * 6 * 2.5**2) / 30)
    assert clustered["standard_error"] > 2 * plain["standard_error"]


def test_two_other_order_labels_are_scored_but_no_position_is_claimed(tmp_path):
    rows = [row | {"order": {"as_is": "ab", "swapped": "ba"}[row["order"]]} for row in ROWS]
    result = score_file(write(tmp_path / "v.csv", rows))
    assert (result["win_rate"], result["consistency"], result["first_position_rate"]) == (0.75, 0.5, None)


def test_one_order_a_prompt_is_scored_and_labelled(tmp_path):
    result = score_file(write(tmp_path / "v.csv", [row for row in ROWS if row["order"] == "as_is"]))
    assert (result["design"], result["n"], result["consistency"]) == ("single_order", 3, None)
    assert result["win_rate"] == pytest.approx(2 / 3)
    assert "position bias" in result["note"]


def test_both_orders_asked_but_one_never_scored_gives_no_win_rate(tmp_path):
    rows = [row if row["order"] == "as_is" else row | {"score": None} for row in ROWS]
    result = score_file(write(tmp_path / "v.jsonl", rows))
    assert (result["n"], result["win_rate"], result["ci_low"]) == (0, None, None)
    assert result["n_games_unscored"] == 3
    assert "no prompt is scored in both orders" in result["note"]


@pytest.mark.parametrize("missing", ["", "NaN", "null", "None"])
def test_empty_and_nan_scores_are_unscored_never_losses(tmp_path, missing):
    path = tmp_path / "v.csv"
    path.write_text(f"prompt_id,order,score\na,as_is,1\na,swapped,1\nb,as_is,1\nb,swapped,{missing}\n")
    result = score_file(path)
    assert (result["n"], result["win_rate"], result["n_games_unscored"]) == (1, 1.0, 1)


def test_nan_in_json_and_parquet_is_unscored(tmp_path):
    rows = [row | {"score": float("nan") if row["score"] is None else row["score"]} for row in ROWS]
    assert score_file(write(tmp_path / "v.jsonl", rows))["win_rate"] == 0.75
    assert score_file(write(tmp_path / "v.parquet", rows))["win_rate"] == 0.75


def test_other_columns_are_named_in_the_result(tmp_path):
    rows = [row | {"cluster": "x", "judge": "y"} for row in ROWS]
    assert score_file(write(tmp_path / "v.jsonl", rows))["ignored_columns"] == ["cluster", "judge"]


BAD = [
    ("v.csv", "prompt_id,order\na,as_is\n", "add or rename score"),
    ("v.csv", "", "found none"),
    ("v.csv", "prompt_id,order,score\n", "found no rows"),
    ("v.jsonl", "", "found no rows"),
    ("v.json", "[]", "found no rows"),
    ("v.csv", "prompt_id,order,score\na,as_is,1.5\n", r"\[0, 1\] in row 1 .* found 1.5"),
    ("v.csv", "prompt_id,order,score\na,as_is,-1\n", "found -1"),
    ("v.csv", "prompt_id,order,score\na,as_is,inf\n", "found inf"),
    ("v.csv", "prompt_id,order,score\na,as_is,won\n", "found 'won'"),
    ("v.csv", "prompt_id,order,score\na,as_is,1\na,as_is,1\n", "'a' with order 'as_is' twice"),
    ("v.csv", "prompt_id,order,score\na,x,1\na,y,1\na,z,1\n", "at most two orders"),
    ("v.csv", "prompt_id,order,score\n,as_is,1\n", "expected a prompt_id"),
    ("v.csv", "prompt_id,order,score\na,as_is,1,9\n", "expected 3 fields in row 1"),
    ("v.csv", "prompt_id,order,score\na,as_is\n", "expected 3 fields in row 1"),
    ("v.csv", "prompt_id,order,score,cluster_id\na,as_is,1,p\na,swapped,1,q\n", "one cluster_id per prompt"),
    ("v.csv", "prompt_id,order,score,cluster_id\na,as_is,1,p\nb,as_is,1,\n", "found none for prompt 'b'"),
    ("v.jsonl", '{"prompt_id": "a"\n', "expected JSON in line 1"),
    ("v.jsonl", "[1]\n", "expected an object"),
    ("v.json", '{"prompt_id": "a"}', "expected a list of objects"),
    ("v.txt", "x", "expected a file ending in"),
    ("v.parquet", "not parquet", "expected a Parquet file"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD)
def test_bad_input_is_one_sentence_that_names_the_file(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        score_file(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_missing_file_and_broken_utf8_are_named(tmp_path):
    with pytest.raises(InputError, match="found no file"):
        score_file(tmp_path / "nothing.csv")
    (tmp_path / "v.csv").write_bytes(b"prompt_id,order,score\n\xff,as_is,1\n")
    with pytest.raises(InputError, match="UTF-8.*0xff"):
        score_file(tmp_path / "v.csv")


def test_published_single_order_verdicts_keep_their_win_rate_and_standard_error(tmp_path):
    """AlpacaEval 2, gpt-3.5-turbo-1106: published 9.1780 with standard error 0.8904, over 805 prompts asked once each."""
    folder = os.environ.get("SRPO_TEST_DATA")
    if not folder:
        pytest.skip("SRPO_TEST_DATA names no folder with published verdicts")
    with (Path(folder) / "scorer" / "alpaca_eval_2_gpt-3.5-turbo-1106.csv").open() as file:
        published = list(csv.DictReader(file))
    rows = [
        {
            "prompt_id": row["prompt_index"],
            "order": "as_is" if row["candidate_shown_first"] == "True" else "swapped",
            "score": float(row["preference_gpt-3.5-turbo-1106"]) - 1,
        }
        for row in published
    ]
    result = score_file(write(tmp_path / "alpaca.jsonl", rows))
    assert (result["n"], result["design"]) == (805, "single_order")
    assert 100 * result["win_rate"] == pytest.approx(9.177964561962735, abs=1e-9)
    assert 100 * result["standard_error"] == pytest.approx(0.8904117511864436, abs=1e-9)
