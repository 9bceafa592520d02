"""`score_file` on files of every format, with every column, and on every kind of bad input."""

import csv
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srpo_core.errors import InputError
from srpo_core.scoring.score_files import score_file

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


def test_other_columns_are_named_and_a_misspelt_one_is_told_from_a_foreign_one(tmp_path):
    result = score_file(write(tmp_path / "v.jsonl", [row | {"cluster": "x", "colour": "red"} for row in ROWS]))
    assert result["ignored_columns"] == ["cluster", "colour"]
    assert "'cluster' is ignored and looks like cluster_id" in result["note"] and "colour" not in result["note"]


def test_a_file_without_optional_columns_gives_exactly_the_keys_of_the_contract(tmp_path):
    assert list(score_file(write(tmp_path / "v.csv", ROWS))) == [
        *(
            "n",
            "win_rate",
            "standard_error",
            "ci_low",
            "ci_high",
            "consistency",
            "first_position_rate",
            "bound_low",
            "bound_high",
        ),
        *("n_prompts", "n_unscored", "n_games_unscored", "n_clusters", "design", "note", "ignored_columns"),
    ]


def test_one_judge_is_named_beside_the_numbers(tmp_path):
    result = score_file(write(tmp_path / "v.jsonl", [row | {"judge": "gpt"} for row in ROWS]))
    assert (result["judge"], result["win_rate"]) == ("gpt", 0.75)


def test_several_judges_are_scored_one_by_one_and_no_number_stands_at_the_top(tmp_path):
    rows = [row | {"judge": "kind", "score": 1.0} for row in ROWS] + [row | {"judge": "harsh", "score": 0.0} for row in ROWS]
    result = score_file(write(tmp_path / "v.csv", rows))
    assert [(group["judge"], group["win_rate"]) for group in result["groups"]] == [("harsh", 0.0), ("kind", 1.0)]
    assert "2 groups by judge" in result["note"] and "never pooled" in result["note"]
    assert not any(isinstance(value, int | float) for value in result.values())


def repeated(scores: dict[tuple[str, int, str], float | None]) -> list[dict]:
    return [{"prompt_id": p, "repeat_index": r, "order": o, "score": s} for (p, r, o), s in scores.items()]


def test_repeats_are_averaged_within_prompt_and_order_and_their_flips_counted(tmp_path):
    """a: as_is (1, 0), swapped (1, unscored): (.5 + 1) / 2 = .75; b: as_is (1, 1), swapped (0, 0): .5.

    Bounds of a, the unscored as 0 and as 1: (1 + 0 + 1 + 0) / 4 = .5 and .75. Of a's one pair of repeats the outcome flips,
    of b's two pairs none does.
    """
    scores = {("a", 0, "as_is"): 1.0, ("a", 1, "as_is"): 0.0, ("a", 0, "swapped"): 1.0, ("a", 1, "swapped"): None}
    scores |= {("b", r, o): float(o == "as_is") for r in (0, 1) for o in ("as_is", "swapped")}
    result = score_file(write(tmp_path / "v.jsonl", repeated(scores)))
    assert (result["n"], result["win_rate"], result["n_games_unscored"]) == (2, 0.625, 1)
    assert (result["bound_low"], result["bound_high"]) == ((0.5 + 0.5) / 2, (0.75 + 0.5) / 2)
    assert result["flip_rate"]["n"] == 2 and result["flip_rate"]["estimate"] == pytest.approx(0.5)


def test_repeats_of_one_order_stay_one_order(tmp_path):
    scores = {(p, r, "as_is"): float(r) for p in "ab" for r in (0, 1)}
    result = score_file(write(tmp_path / "v.csv", repeated(scores)))
    assert (result["design"], result["n"], result["win_rate"]) == ("single_order", 2, 0.5)


def with_lengths(difference: int, size: int = 40) -> list[dict]:
    """The judge prefers the longer text, whoever wrote it; the candidate's is longer on every second prompt."""
    return [
        {"prompt_id": f"p{i:02}", "order": order, "score": float(i % 2), "candidate_length": 100 + difference + (i % 2) * 40 + i}
        | {"opponent_length": 120 + i}
        for i in range(size)
        for order in ("as_is", "swapped")
    ]


def test_lengths_give_the_ratio_and_the_rate_at_equal_length(tmp_path):
    result = score_file(write(tmp_path / "v.csv", with_lengths(0)))
    assert result["length_ratio"] == pytest.approx(1.0)
    controlled = result["length_controlled"]
    assert (controlled["n"], controlled["refused"]) == (40, None)
    assert controlled["win_rate"] == pytest.approx(0.5, abs=0.01)
    assert controlled["ci_low"] < 0.5 < controlled["ci_high"]


def test_lengths_that_do_not_overlap_give_a_sentence_and_no_number(tmp_path):
    result = score_file(write(tmp_path / "v.csv", with_lengths(500)))
    assert result["length_ratio"] > 4
    assert result["length_controlled"]["win_rate"] is None and "length" in result["length_controlled"]["refused"]


def test_looking_early_is_done_in_a_seeded_order_that_is_part_of_the_output(tmp_path):
    rows = [{"prompt_id": f"p{i}", "order": o, "score": 1.0} for i in range(60) for o in ("as_is", "swapped")]
    path = write(tmp_path / "v.csv", rows)
    first, again, other = (score_file(path, anytime_seed=seed)["anytime"] for seed in (0, 0, 1))
    assert first == again
    assert first["order"] != other["order"] and sorted(first["order"]) == sorted(f"p{i}" for i in range(60))
    assert (first["side"], first["unit"], first["n"]) == ("above", "prompt", 60) and first["p_value"] < 0.05
    assert first["decided_at"] < 60


def test_the_prompts_of_a_cluster_are_looked_at_together(tmp_path):
    rows = [{"prompt_id": f"p{i}", "order": o, "score": 1.0, "cluster_id": f"c{i % 3}"} for i in range(60) for o in ("a", "b")]
    found = score_file(write(tmp_path / "v.csv", rows), anytime_seed=0)["anytime"]
    assert (found["unit"], found["n"], found["decided_at"]) == ("cluster", 3, None)
    assert sorted(found["order"]) == ["c0", "c1", "c2"]


def test_looking_early_at_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected scored prompts in .*v.csv"):
        score_file(write(tmp_path / "v.csv", [row | {"score": None} for row in ROWS]), anytime_seed=0)


def test_preferences_are_read_by_the_rule_that_has_them_only(tmp_path):
    path = write(tmp_path / "v.csv", [row | {"score": None if row["score"] is None else 1 + row["score"]} for row in ROWS])
    result = score_file(path, rule="alpaca_eval")
    assert (result["rule"], result["win_rate"], result["n"], result["n_unscored"]) == ("alpaca_eval", 0.75, 2, 1)
    assert result["discrete_win_rate"] == 0.75  # one prompt won, one tied
    with pytest.raises(InputError, match="--rule alpaca_eval"):
        score_file(path)


def test_mixed_or_undecidable_scales_are_refused(tmp_path):
    mixed = [row | {"score": score} for row, score in zip(ROWS, (0.2, 1.2, 1, 1, 1, 1), strict=True)]
    with pytest.raises(InputError, match="one scale"):
        score_file(write(tmp_path / "v.csv", mixed), rule="alpaca_eval")
    with pytest.raises(InputError, match="found 1 everywhere"):
        score_file(write(tmp_path / "v.csv", [row | {"score": 1} for row in ROWS]), rule="alpaca_eval")
    with pytest.raises(InputError, match="among default, alpaca_eval, arena_hard, srpo, found 'elo'"):
        score_file(write(tmp_path / "v.csv", ROWS), rule="elo")


BAD = [
    ("v.csv", "prompt_id,order\na,as_is\n", "add or rename score"),
    ("v.csv", "prompt_id,order,scores\na,as_is,1\n", "column 'scores' .* looks like score"),
    ("v.csv", "prompt_id,order,score,score\na,as_is,1,0\n", "every column of .* once, found 'score' 2 times"),
    ("v.csv", "prompt_id,order,score,judge\na,as_is,1,j\nb,as_is,1,\n", "a judge in every row .* none in row 2"),
    ("v.csv", "prompt_id,order,score,revision_index\na,as_is,1,-1\n", "whole number from 0 on as revision_index in row 1"),
    ("v.csv", "prompt_id,order,score,repeat_index\na,as_is,1,half\n", "as repeat_index in row 1 .* found 'half'"),
    ("v.csv", "prompt_id,order,score,seed\na,as_is,1,1.5\n", "whole number as seed in row 1"),
    ("v.csv", "prompt_id,order,score,candidate_length\na,as_is,1,-3\n", "a length .* as candidate_length in row 1"),
    (
        "v.csv",
        "prompt_id,order,score,candidate_length\na,as_is,1,3\na,swapped,1,4\n",
        "one candidate_length per prompt .* found 3 and 4 for prompt 'a'",
    ),
    ("v.csv", "prompt_id,order,score,method\na,as_is,1,m\na,as_is,1,m\n", "twice, method 'm'"),
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


def test_an_interval_without_a_standard_error_says_why(tmp_path):
    def note(scores, **more):
        rows = [{"prompt_id": f"p{i}", "order": o, "score": s} | more for i, s in enumerate(scores) for o in ("as_is", "swapped")]
        return score_file(write(tmp_path / "v.csv", rows))["note"]

    assert "single prompt or cluster" in note([0, 1, 1], cluster_id="c")
    assert "single prompt or cluster" in note([1])
    assert "no prompt or cluster differs" in note([1, 1, 1])
    assert note([1, 0, 1]) is None
    rows = [row | {"judge": judge, "score": 1} for judge in "ab" for row in ROWS]
    assert "without differences between prompts" in score_file(write(tmp_path / "groups.csv", rows))["note"]
