"""`srpo audit FILE`: what files say, and one sentence for what they should not say."""

import csv
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srpo_core.errors import InputError
from srpo_core.scoring.audit import LabelledVerdict, arrange, describe, measure_judge
from srpo_core.scoring.audit_files import audit_file
from tests.real_data import real_file

ROWS = [
    {"prompt_id": "a", "order": "as_is", "score": 1, "human": 1},
    {"prompt_id": "a", "order": "swapped", "score": 0, "human": 1},
    {"prompt_id": "b", "order": "as_is", "score": 0, "human": "loss"},
    {"prompt_id": "b", "order": "swapped", "score": 0, "human": "loss"},
    {"prompt_id": "c", "order": "as_is", "score": None, "human": "tie"},
    {"prompt_id": "c", "order": "swapped", "score": 0.5, "human": None},
]


def written(folder: Path, rows: list[dict], name: str = "verdicts.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def measures(audit: dict) -> dict[str, dict]:
    return {row["measure"]: row for row in audit["measures"]}


def test_a_file_is_measured(tmp_path):
    """a: half right; b: right; c: right where scored. Agreement (.5 + 1 + 1) / 3; both right 1 of 2; consistent 1 of 2."""
    [audit] = audit_file(written(tmp_path, ROWS))["judges"]
    assert (audit["judge"], audit["n_pairs"], audit["n_labelled"], audit["n_verdicts"], audit["n_unscored"]) == (None, 3, 3, 6, 1)
    found = measures(audit)
    assert found["agreement"]["estimate"] == pytest.approx(2.5 / 3)
    assert (found["both_orders_right"]["n"], found["both_orders_right"]["estimate"]) == (2, 0.5)
    assert found["swap_consistency"]["estimate"] == 0.5
    assert found["flip_rate"]["n"] == 0 and found["flip_rate"]["estimate"] is None
    assert found["longer_preferred_judge"]["n"] == 0
    assert len(found) == 17


def test_the_published_judge_comes_out_of_a_file_as_published(tmp_path):
    """Auto-J's 1,392 pairs in both orders: 59.99 % agreement in the single order, both right 54.96 %, consistent 83.41 %."""
    first, rows = {"0": 1.0, "1": 0.0, "2": 0.5}, []
    with real_file("scorer/autoj_pairwise.csv").open() as file:
        for row in csv.DictReader(file):
            known = {"prompt_id": row["i"], "human": first[row["human"]]}
            rows.append(known | {"order": "as_is", "score": first[row["judge"]]})
            rows.append(known | {"order": "swapped", "score": 1 - first[row["judge_swapped_raw"]]})
    [audit] = audit_file(written(tmp_path, rows))["judges"]
    found = {name: round(100 * row["estimate"], 2) for name, row in measures(audit).items() if row["estimate"] is not None}
    assert (found["agreement_as_is"], found["both_orders_right"], found["swap_consistency"]) == (59.99, 54.96, 83.41)


def test_csv_parquet_and_json_say_the_same(tmp_path):
    expected = audit_file(written(tmp_path, ROWS))
    names = list(ROWS[0])
    lines = [",".join(names), *(",".join("" if row[n] is None else str(row[n]) for n in names) for row in ROWS)]
    (tmp_path / "v.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "v.json").write_text(json.dumps(ROWS))
    texts = [row | {"human": None if row["human"] is None else str(row["human"])} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(texts), tmp_path / "v.parquet")
    for name in ("v.csv", "v.json", "v.parquet"):
        assert audit_file(tmp_path / name) == expected


def test_judges_are_measured_one_by_one(tmp_path):
    rows = [row | {"judge": name, "score": row["score"] if name == "x" else 0.5} for name in ("x", "y") for row in ROWS]
    first, second = audit_file(written(tmp_path, rows))["judges"]
    assert (first["judge"], second["judge"]) == ("x", "y")
    assert measures(first)["swap_consistency"]["estimate"] == 0.5 and measures(second)["swap_consistency"]["estimate"] == 1


def test_repeats_give_a_flip_rate_and_lengths_a_preference_for_the_longer_text(tmp_path):
    """One question three times: 1, 1, 0, so two of three pairs of askings differ; the candidate is longer and wins 2 of 3."""
    row = {"prompt_id": "a", "order": "as_is", "human": 0, "candidate_length": 20, "opponent_length": 10}
    [audit] = audit_file(written(tmp_path, [row | {"repeat_index": i, "score": s} for i, s in enumerate((1, 1, 0))]))["judges"]
    found = measures(audit)
    assert found["flip_rate"]["estimate"] == pytest.approx(2 / 3)
    assert found["longer_preferred_judge"]["estimate"] == pytest.approx(2 / 3)
    assert found["longer_preferred_people"]["estimate"] == 0
    assert found["longer_preferred_difference"]["estimate"] == pytest.approx(2 / 3)


def test_several_methods_are_pairs_of_their_own_in_the_prompts_cluster(tmp_path):
    rows = [row | {"method": name, "human": 1.0 if name == "srpo" else 0.0} for name in ("srpo", "dpo") for row in ROWS]
    [audit] = audit_file(written(tmp_path, rows))["judges"]
    assert (audit["n_pairs"], audit["n_clusters"]) == (6, 3)


@pytest.mark.parametrize("name", ["eval_set", "method", "seed", "revision_index"])
def test_rows_of_one_prompt_that_differ_in_a_group_are_about_different_texts(tmp_path, name):
    rows = [row | {name: value, "human": value} for value in (0, 1) for row in ROWS]
    [audit] = audit_file(written(tmp_path, rows))["judges"]
    assert (audit["n_pairs"], audit["n_clusters"], measures(audit)["flip_rate"]["n"]) == (6, 3, 0)


def test_names_that_run_together_are_still_pairs_of_their_own(tmp_path):
    """Prompt p, seed 1, revision 2 and prompt p 1 without a seed, revision 2."""
    rows = [ROWS[0] | {"prompt_id": prompt, "seed": seed, "revision_index": 2} for prompt, seed in (("p", 1), ("p 1", None))]
    assert audit_file(written(tmp_path, rows))["judges"][0]["n_pairs"] == 2


def test_two_verdicts_on_one_question_may_also_be_about_different_texts(tmp_path):
    with pytest.raises(InputError, match="number repeats in a column repeat_index, and tell different texts apart by eval_set"):
        audit_file(written(tmp_path, [ROWS[0], ROWS[0]]))


def test_a_misspelt_column_is_pointed_out_and_the_file_is_read_once(tmp_path, monkeypatch):
    from srpo_core.scoring import verdict_files

    reads, read = [], verdict_files.read_table
    monkeypatch.setattr(verdict_files, "read_table", lambda path: reads.append(path) or read(path))
    found = audit_file(written(tmp_path, [row | {"evalset": "id"} for row in ROWS]))
    assert found["hints"] == ["column 'evalset' is ignored and looks like eval_set"]
    assert found["ignored_columns"] == ["evalset"] and len(reads) == 1
    with pytest.raises(InputError, match="column 'humans' is ignored and looks like human"):
        audit_file(written(tmp_path, [{"humans" if k == "human" else k: v for k, v in row.items()} for row in ROWS]))


def test_labels_on_one_side_only_are_pointed_out(tmp_path):
    [audit] = audit_file(written(tmp_path, [row | {"human": 1} for row in ROWS]))["judges"]
    assert "drawn by lot" in audit["note"]
    [unlabelled] = audit_file(written(tmp_path, [row | {"human": None} for row in ROWS]))["judges"]
    assert unlabelled["n_labelled"] == 0 and "no pair has a label" in unlabelled["note"]
    assert measures(unlabelled)["agreement"]["estimate"] is None and measures(unlabelled)["swap_consistency"]["n"] == 2
    [unscored] = audit_file(written(tmp_path, [row | {"score": None} for row in ROWS]))["judges"]
    assert "no verdict is scored" in unscored["note"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{k: v for k, v in row.items() if k != "human"} for row in ROWS], "expected a column human"),
        ([ROWS[0] | {"human": 2}], "expected human in \\[0, 1\\]"),
        ([ROWS[0] | {"human": "A"}], "as seen from the candidate"),
        ([ROWS[0], ROWS[0]], "expected one verdict per prompt, order and repeat_index"),
        ([ROWS[0], ROWS[1] | {"human": 0}], "expected one human label per pair"),
        ([ROWS[0] | {"order": "first"}], "expected order as_is or swapped"),
        ([ROWS[0] | {"cluster_id": "x"}, ROWS[1] | {"cluster_id": "y"}], "expected one cluster_id per pair"),
        ([ROWS[0] | {"score": 1.5}], "score"),
        ([], "found no rows"),
    ],
)
def test_an_unusable_file_is_one_sentence(tmp_path, rows, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        audit_file(written(tmp_path, rows))
    assert "\n" not in str(caught.value)


def test_an_arrangement_keeps_missing_verdicts_missing():
    rows = [LabelledVerdict("a", "swapped", 3, 1.0, math.nan, "a", math.nan)]
    table = arrange(rows, "here")
    assert table.scores.shape == (1, 2, 1) and math.isnan(table.scores[0, 0, 0]) and table.scores[0, 1, 0] == 1
    assert describe(table)["n_labelled"] == 0
    assert {row.n for row in measure_judge(table)} == {0}


def test_a_single_cluster_is_pointed_out():
    verdicts = [
        LabelledVerdict(p, o, 0, 1.0, h, "c", math.nan) for p, h in (("a", 1.0), ("b", 0.0)) for o in ("as_is", "swapped")
    ]
    assert "one cluster" in describe(arrange(verdicts, "here"))["note"]
    apart = [one._replace(cluster=one.pair) for one in verdicts]
    assert describe(arrange(apart, "here"))["note"] is None
