"""Ingestion of preference files: nothing lost, nothing counted twice, nothing read twice, in flat memory."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srpo_core.errors import InputError
from srpo_core.records import pair_id, user_prompt
from srpo_core.settings.data import ColumnMapping, PreferenceSourceSettings
from storage import vote_tally
from storage.artifact import Artifact, list_artifacts
from storage.schemas import PREFERENCES
from tasks import preferences
from tasks.preferences import ingest_preferences
from tests.real_data import real_file

voted_rows = st.lists(
    st.tuples(st.permutations("abc"), st.lists(st.sampled_from("ab="), min_size=1, max_size=5)), min_size=1, max_size=25
)
VOTES = ColumnMapping(prompt="q", text_a="x", text_b="y", votes="v", label_a=["a"], label_b=["b"], label_tie=["="])


def rows_file(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def trl_rows(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"prompt": f"P{i // 2}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(start, stop)]


def ingest(home: Path, *paths: str, **settings: Any) -> Artifact:
    return ingest_preferences(PreferenceSourceSettings(paths=list(paths), **settings), home)


def check_sum(artifact: Artifact) -> None:
    counts = artifact.counts
    assert counts["rows_read"] == counts["pairs"] + counts["rejected_rows"] + counts["merged_duplicates"]


def test_pairs_keep_file_order_and_are_complete_records(tmp_path: Path) -> None:
    path = rows_file(tmp_path / "p.jsonl", trl_rows(0, 100))
    rows = list(ingest(tmp_path, path, domain="reddit").rows())
    assert [row["chosen"] for row in rows] == [f"good {i}" for i in range(100)]
    first = {"pair_id": pair_id(user_prompt("P0"), "bad 0", "good 0"), "prompt": user_prompt("P0")}
    first |= {"preference": 1.0, "num_votes": 1, "source": "p.jsonl", "domain": "reddit"}
    assert first.items() <= rows[0].items()
    assert list(rows[0]) == PREFERENCES.names
    assert {row["split"] for row in rows} == {"train", "validation"}
    assert all(a["split"] == b["split"] for a, b in zip(rows[::2], rows[1::2], strict=True))  # two pairs a prompt


def test_duplicates_merge_with_votes_added_whichever_text_comes_first(tmp_path: Path) -> None:
    """4 of 5 for A, then the pair reversed with 2 of 3 for B: A has 4 + 1 of 8 votes."""
    rows = [
        {"q": "Q", "x": "A", "y": "B", "v": ["a", "a", "a", "a", "b"]},
        {"q": "other", "x": "A", "y": "B", "v": ["="]},
        {"q": "Q", "x": "B", "y": "A", "v": ["a", "a", "b"]},
        {"q": "other", "x": "B", "y": "A", "v": ["=", "a", "a", "="]},
    ]
    artifact = ingest(tmp_path, rows_file(tmp_path / "v.jsonl", rows), columns=VOTES, validation_share=0)
    found = [(row["chosen"], row["preference"], row["num_votes"]) for row in artifact.rows()]
    assert found == [("A", 5 / 8, 8), ("B", pytest.approx(3.5 / 5), 5)]  # the second swapped its roles
    assert artifact.counts == {"pairs": 2, "rejected_rows": 0, "merged_duplicates": 2, "rows_read": 4}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(voted_rows)
def test_merged_preferences_are_the_shares_of_all_votes(tmp_path: Path, drawn: list[tuple[list[str], list[str]]]) -> None:
    """Naive: a dictionary from the two texts to the votes for each, in fractions."""
    naive: dict[frozenset[str], dict[str, Fraction]] = {}
    for (first, second, _), votes in drawn:
        entry = naive.setdefault(frozenset((first, second)), {first: Fraction(0), second: Fraction(0)})
        for vote in votes:
            entry[first] += Fraction({"a": 2, "b": 0, "=": 1}[vote], 2)
            entry[second] += Fraction({"a": 0, "b": 2, "=": 1}[vote], 2)
    rows = [{"q": "Q", "x": first, "y": second, "v": votes} for (first, second, _), votes in drawn]
    try:
        found = list(ingest(tmp_path / "home", rows_file(tmp_path / "v.jsonl", rows), columns=VOTES, validation_share=0).rows())
    except InputError:
        assert all(entry[a] == entry[b] for entry in naive.values() for a, b in [entry])
        return
    assert [{row["chosen"], row["rejected"]} for row in found] == [set(texts) for texts in naive]
    for row, entry in zip(found, naive.values(), strict=True):
        assert row["num_votes"] == sum(entry.values()) and entry[row["chosen"]] >= entry[row["rejected"]]
        share = entry[row["chosen"]] / sum(entry.values())
        assert row["preference"] == pytest.approx(float(share), abs=1e-12) and (row["preference"] == 0.5) == (
            share == Fraction(1, 2)
        )


def test_fractions_that_binary_numbers_cannot_hold_still_make_a_tie(tmp_path: Path) -> None:
    """4 of 5 for A and 4 of 5 for B are 5 of 10, though (1 - .8) · 5 < 1 in binary."""
    rows = [{"q": "Q", "x": x, "y": y, "v": ["a", "a", "a", "a", "b"]} for x, y in ("AB", "BA", "CD")]
    artifact = ingest(tmp_path, rows_file(tmp_path / "v.jsonl", rows), columns=VOTES, validation_share=0)
    assert [(row["preference"], row["num_votes"]) for row in artifact.rows()] == [(0.5, 10), (0.8, 5)]


def test_opposite_duplicates_become_a_tie_in_the_order_first_given(tmp_path: Path) -> None:
    rows = [{"prompt": "P", "chosen": c, "rejected": r} for c, r in (("x", "y"), ("y", "x"), ("u", "v"))]
    artifact = ingest(tmp_path, rows_file(tmp_path / "p.jsonl", rows), validation_share=0)
    assert [(r["chosen"], r["preference"]) for r in artifact.rows()] == [("x", 0.5), ("u", 1.0)]
    assert artifact.info["ties"] == 1


def test_a_pair_without_duplicate_keeps_its_preference_to_the_last_bit(tmp_path: Path) -> None:
    rows = [{"instruction": f"I{i}", "input": "", "output_1": "b", "output_2": "a", "preference": 1 + i / 97} for i in range(97)]
    artifact = ingest(tmp_path, rows_file(tmp_path / "a.jsonl", rows))
    assert [row["preference"] for row in artifact.rows()] == [max(2 - r["preference"], 1 - (2 - r["preference"])) for r in rows]


def test_rejected_rows_are_kept_with_file_line_reason_and_text(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    good = json.dumps({"prompt": "P", "chosen": "a", "rejected": "b"}).encode()
    path.write_bytes(
        b"\n".join(
            [good, b"{oops", b'{"prompt": "P", "chosen": " a", "rejected": "a"}', b'{"prompt": "\xff"}', good[:-1] + b', "i": 1}']
        )
    )
    artifact = ingest(tmp_path, str(path), validation_share=0)
    rejected = list(artifact.rows(prefix="rejected"))
    assert [(r["file"], r["line"], r["reason"].split(":")[0]) for r in rejected] == [
        ("p.jsonl", 2, "invalid JSON"),
        ("p.jsonl", 3, "chosen equals rejected"),
        ("p.jsonl", 4, "broken UTF-8"),
    ]
    assert rejected[0]["row"] == "{oops" and json.loads(rejected[1]["row"])["chosen"] == " a"
    assert artifact.counts == {"pairs": 1, "rejected_rows": 3, "merged_duplicates": 1, "rows_read": 5}
    assert artifact.info["rejected_by_reason"] == {"invalid JSON": 1, "chosen equals rejected": 1, "broken UTF-8": 1}


def test_every_comparison_of_an_n_way_row_is_a_row_read(tmp_path: Path) -> None:
    rows = [{"prompt": f"P{i}", "answers": ["a", "b", ""], "ranks": [1, 2, 3]} for i in range(5)] + [
        {"prompt": "P", "answers": []}
    ]
    artifact = ingest(tmp_path, rows_file(tmp_path / "n.jsonl", rows))
    assert artifact.counts == {"pairs": 5, "rejected_rows": 11, "merged_duplicates": 0, "rows_read": 16}


def test_a_second_run_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rows_file(tmp_path / "p.jsonl", trl_rows(0, 100))
    first = ingest(tmp_path, path)
    monkeypatch.setattr(preferences._SourceReading, "run", lambda self: pytest.fail("read again"))
    monkeypatch.setattr(preferences._Merge, "run", lambda self: pytest.fail("merged again"))
    assert ingest(tmp_path, path) == first


def test_adding_a_file_reads_only_that_file_and_moves_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ingest(tmp_path, rows_file(tmp_path / "in/1.jsonl", trl_rows(0, 400)) and str(tmp_path / "in"), validation_share=0.2)
    rows_file(tmp_path / "in/2.jsonl", trl_rows(400, 500))
    read: list[str] = []
    run = preferences._SourceReading.run
    monkeypatch.setattr(preferences._SourceReading, "run", lambda self: (read.append(self._source.name), run(self))[1])
    second = ingest(tmp_path, str(tmp_path / "in"), validation_share=0.2)
    assert read == ["2.jsonl"] and second.counts["pairs"] == 500
    assert list(second.rows())[:400] == list(first.rows())
    assert len(list_artifacts(tmp_path, "sources")) == 2


def test_other_splits_and_domain_read_no_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rows_file(tmp_path / "p.jsonl", trl_rows(0, 100))
    first = ingest(tmp_path, path)
    monkeypatch.setattr(preferences._SourceReading, "run", lambda self: pytest.fail("read again"))
    second = ingest(tmp_path, path, validation_share=0.5, seed=3, domain="news")
    assert second.fingerprint != first.fingerprint
    assert {row["domain"] for row in second.rows()} == {"news"}


def test_the_same_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = rows_file(tmp_path / "in/1.jsonl", trl_rows(0, 100))
    assert ingest(tmp_path, path, str(tmp_path / "in"), f"{tmp_path}/in/../in/*.jsonl").counts["rows_read"] == 100


def test_max_rows_counts_along_a_path(tmp_path: Path) -> None:
    rows_file(tmp_path / "in/1.jsonl", trl_rows(0, 60))
    rows_file(tmp_path / "in/2.jsonl", trl_rows(60, 120))
    artifact = ingest(tmp_path, str(tmp_path / "in"), max_rows=80)
    assert [row["chosen"] for row in artifact.rows()] == [f"good {i}" for i in range(80)]


def test_the_result_does_not_depend_on_buckets_batches_or_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rows_file(tmp_path / "p.jsonl", [row for i in range(300) for row in trl_rows(i % 150, i % 150 + 1)])
    whole = ingest(tmp_path / "whole", path)
    monkeypatch.setattr(vote_tally, "VOTES_PER_BUCKET", 7)
    monkeypatch.setattr(preferences, "BATCH_ROWS", 11)
    small = ingest(tmp_path / "small", path)
    assert small.counts == whole.counts == {"pairs": 150, "rejected_rows": 0, "merged_duplicates": 150, "rows_read": 300}
    assert list(small.rows()) == list(whole.rows())
    assert not list(small.path.glob("shuffle*"))


def test_an_interrupted_reading_is_done_again_from_its_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rows_file(tmp_path / "p.jsonl", trl_rows(0, 100))
    settings = PreferenceSourceSettings(paths=[path])
    with monkeypatch.context() as patch:
        patch.setattr(preferences, "_pair_row", lambda pair, source: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest_preferences(settings, tmp_path / "home")
    assert not list_artifacts(tmp_path / "home", "sources")
    artifact = ingest_preferences(settings, tmp_path / "home")
    assert list(artifact.rows()) == list(ingest_preferences(settings, tmp_path / "other").rows())
    check_sum(artifact)


def test_a_parquet_file_and_a_jsonl_of_it_give_the_same_pairs(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(trl_rows(0, 50)), tmp_path / "p.parquet")
    from_parquet = ingest(tmp_path, str(tmp_path / "p.parquet")).read(PREFERENCES)
    from_jsonl = ingest(tmp_path, rows_file(tmp_path / "p.jsonl", trl_rows(0, 50))).read(PREFERENCES)
    assert from_parquet.drop_columns(["source"]) == from_jsonl.drop_columns(["source"])


GOOD = b'{"prompt": "P", "chosen": "a", "rejected": "b"}\n'
BAD_INPUT: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("gone.jsonl", None, "found none; check the path"),
    "empty": ("p.jsonl", b"", "found an empty file"),
    "blank": ("p.jsonl", b"\n\n", "found an empty file"),
    "only a header": ("p.csv", b"prompt,chosen,rejected\n", "found an empty file"),
    "empty array": ("p.json", b"[]", "found an empty file"),
    "wrong suffix": ("p.docx", GOOD, "expected a file ending in .jsonl"),
    "another format": ("p.parquet", GOOD, "expected a readable .parquet file"),
    "a picture called jsonl": (
        "p.jsonl",
        b"\x89PNG\r\n\x1a\n\x00\x00\n\xff\xfe",
        "none among 4 rows; the first reason is broken UTF-8",
    ),
    "cut off": ("p.json", b"[" + GOOD, "found a cut-off array"),
    "not preferences": ("p.jsonl", b'{"text": "hello"}\n', "found text; known: summarize_from_feedback"),
    "missing column": ("p.jsonl", b'{"prompt": "P", "chosen": "a"}\n', "found prompt, chosen; known"),
    "UTF-16": ("p.jsonl", GOOD.decode().encode("utf-16"), "the first reason is broken UTF-8"),
    "NULs": ("p.jsonl", b"\x00" * 50, "the first reason is NUL character"),
    "all equal": (
        "p.jsonl",
        b'{"prompt": "P", "chosen": "a", "rejected": "a"}\n',
        "none among 1 rows; the first reason is chosen equals rejected (row 1)",
    ),
    "one cluster": ("p.jsonl", GOOD, "expected at least 2 clusters"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_clear_sentence_and_leaves_nothing_complete(case: str, tmp_path: Path) -> None:
    name, content, said = BAD_INPUT[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        ingest(tmp_path / "home", str(tmp_path / name))
    message = str(caught.value)
    assert said in message and message.startswith("expected ") and "\n" not in message
    assert case == "one cluster" or str(tmp_path / name) in message
    assert not list_artifacts(tmp_path / "home", "preferences")


def test_ties_alone_teach_nothing_and_are_refused(tmp_path: Path) -> None:
    rows = [{"q": f"Q{i}", "x": "A", "y": "B", "v": ["a", "b"]} for i in range(30)]
    with pytest.raises(InputError, match="found ties alone in all 30 pairs"):
        ingest(tmp_path, rows_file(tmp_path / "v.jsonl", rows), columns=VOTES)
    assert not list_artifacts(tmp_path, "preferences")


def test_cluster_by_column_needs_a_cluster(tmp_path: Path) -> None:
    path = rows_file(tmp_path / "p.jsonl", trl_rows(0, 10))
    with pytest.raises(InputError, match="no cluster, though cluster_by is column"):
        ingest(tmp_path, path, cluster_by="column")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_without_permission_is_one_sentence(tmp_path: Path) -> None:
    path = Path(rows_file(tmp_path / "p.jsonl", trl_rows(0, 10)))
    path.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        ingest(tmp_path, str(path))


MEASURE = """
import resource, sys
from pathlib import Path
from srpo_core.settings.data import PreferenceSourceSettings
from tasks.preferences import ingest_preferences
ingest_preferences(PreferenceSourceSettings(paths=[sys.argv[1]]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "linux" else 2**20))
"""


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    """80,000 pairs of 1.5 kB take 120 MB as text, three times that as Python objects; parts are full from 20,000 on."""

    def peak_megabytes(num_rows: int) -> int:
        path = tmp_path / f"{num_rows}.jsonl"
        with path.open("w") as handle:
            for i in range(num_rows):
                handle.write(
                    json.dumps({"prompt": f"P{i}", "chosen": f"{i} " + "c" * 700, "rejected": f"{i} " + "r" * 700}) + "\n"
                )
        command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / f"home{num_rows}")]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
        return int(run.stdout)

    small, large = peak_megabytes(25_000), peak_megabytes(80_000)
    assert large < small + 60


def test_real_strict_pairs_by_column_mapping_split_by_topic(tmp_path: Path) -> None:
    mapping = ColumnMapping(prompt="topic", text_a="a1", text_b="a2", label="label", cluster="topic")
    artifact = ingest(
        tmp_path, str(real_file("ukpconvarg1/strict_pairs.jsonl")), columns=mapping, cluster_by="column", validation_share=0.1
    )
    check_sum(artifact)
    assert artifact.counts["rows_read"] == 11_650 and artifact.counts["rejected_rows"] == 0
    rows = list(artifact.rows())
    by_split = {split: {r["cluster_id"] for r in rows if r["split"] == split} for split in ("train", "validation")}
    assert len(by_split["train"] | by_split["validation"]) == 32 and not by_split["train"] & by_split["validation"]


JOIN_VOTES = """
import json
from pathlib import Path

FOLDER = Path(__file__).parent
INPUT_FILES = ["arguments.jsonl"]
TEXTS = {row["arg_id"]: row["text"] for row in map(json.loads, (FOLDER / "arguments.jsonl").open())}
SHARE = {"a1": 1, "a2": 0, "equal": .5}


def join(row):
    votes = [SHARE[vote] for vote in row["votes"]]
    yield {
        "prompt": row["topic"], "chosen": TEXTS[row["arg1_id"]], "rejected": TEXTS[row["arg2_id"]],
        "preference": sum(votes) / len(votes), "num_votes": len(votes), "cluster": row["topic"],
    }
"""


def test_real_votes_joined_with_texts_of_another_file_by_a_function(tmp_path: Path) -> None:
    """Five votes a pair make preferences in tenths."""
    (tmp_path / "arguments.jsonl").symlink_to(real_file("ukpconvarg1/arguments.jsonl"))
    (tmp_path / "votes.py").write_text(JOIN_VOTES)
    votes = str(real_file("ukpconvarg1/full_pairs_votes.jsonl"))
    artifact = ingest(tmp_path / "home", votes, format=f"{tmp_path}/votes.py:join", max_rows=4000)
    check_sum(artifact)
    assert artifact.counts["rows_read"] == 4000 and artifact.counts["pairs"] > 3500
    rows = list(artifact.rows())
    single = [row for row in rows if row["num_votes"] == 5]
    assert len(single) > 3000 and all(row["preference"] * 10 == pytest.approx(round(row["preference"] * 10)) for row in single)
    assert {0.5, 1.0} < {row["preference"] for row in single}


def test_real_four_way_comparisons_give_2616_strict_pairs_and_384_ties(tmp_path: Path) -> None:
    artifact = ingest(tmp_path, str(real_file("qa_feedback/dev_feedback.jsonl")))
    check_sum(artifact)
    assert artifact.counts["rows_read"] == 3000
    assert artifact.counts["pairs"] - artifact.info["ties"] == 2616 and artifact.info["ties"] == 384
