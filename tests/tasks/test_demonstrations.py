"""Demonstrations from files and from preference pairs."""

import json
from pathlib import Path

import pytest

from srpo_core.errors import InputError
from srpo_core.settings.data import DemonstrationSettings
from storage.schemas import DEMONSTRATIONS
from tasks.demonstrations import ingest_demonstrations
from tests.small_training import pair_rows
from tests.stages import put_pairs


def write(path: Path, *rows: dict[str, object]) -> DemonstrationSettings:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DemonstrationSettings(path=str(path))


def test_a_file_keeps_its_order_and_its_texts(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hello"}]
    source = write(
        tmp_path / "d.jsonl",
        {"prompt": "write", "completion": " a text "},
        {"prompt": "write", "draft": "a text", "completion": "a better text"},
        {"prompt": messages, "completion": "hi", "draft": None},
    )
    artifact = ingest_demonstrations(source, tmp_path / "home", None)
    rows = artifact.read(DEMONSTRATIONS).to_pylist()
    assert [(row["prompt"][-1]["content"], row["draft"], row["completion"]) for row in rows] == [
        ("write", None, "a text"),  # without outer whitespace, as generated drafts are
        ("write", "a text", "a better text"),
        ("hello", None, "hi"),
    ]
    assert artifact.counts == {"demonstrations": 3} and len({row["demonstration_id"] for row in rows}) == 3


def test_an_empty_draft_is_no_draft(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("prompt,draft,completion\nwrite,,a text\nwrite,old,new\n")
    artifact = ingest_demonstrations(DemonstrationSettings(path=str(tmp_path / "d.csv")), tmp_path / "home", None)
    assert [row["draft"] for row in artifact.rows()] == [None, "old"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "p"}, "completion is not a text"),
        ({"completion": "c"}, "prompt is not a text"),
        ({"prompt": "p", "completion": "  "}, "an empty text"),
        ({"prompt": "", "completion": "c"}, "an empty text"),
        ({"prompt": "p", "completion": "c", "draft": 3}, "completion is not a text"),
        ({"prompt": [{"role": "wizard", "content": "x"}], "completion": "c"}, "unknown role"),
    ],
)
def test_an_unusable_row_is_named(tmp_path: Path, row: dict[str, object], problem: str) -> None:
    source = write(tmp_path / "d.jsonl", {"prompt": "p", "completion": "c"}, row)
    with pytest.raises(InputError, match=rf"in row 2 of .*d.jsonl, found {problem}.*; complete or remove the row"):
        ingest_demonstrations(source, tmp_path / "home", None)


def test_a_broken_line_an_empty_file_and_a_missing_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"prompt": "p", "comp')
    with pytest.raises(InputError, match="in row 1 of .*broken.jsonl"):
        ingest_demonstrations(DemonstrationSettings(path=str(tmp_path / "broken.jsonl")), tmp_path / "home", None)
    with pytest.raises(InputError, match="found none; check demonstrations.path"):
        ingest_demonstrations(DemonstrationSettings(path=str(tmp_path / "no.jsonl")), tmp_path / "home", None)
    with pytest.raises(InputError, match="found neither; give one"):
        ingest_demonstrations(DemonstrationSettings(), tmp_path / "home", None)


@pytest.mark.parametrize(("revisions", "per_pair"), [("none", 1), ("improve", 2), ("both_ways", 3)])
def test_pairs_become_drafts_and_revisions(tmp_path: Path, revisions: str, per_pair: int) -> None:
    pairs = pair_rows(4)
    pairs[3]["split"] = "validation"
    settings = DemonstrationSettings.model_validate({"revisions": revisions})
    rows = list(ingest_demonstrations(settings, tmp_path / "home", put_pairs(tmp_path / "home", pairs)).rows())
    assert len(rows) == 3 * per_pair, "of the training pairs alone"
    chosen, rejected = pairs[0]["chosen"], pairs[0]["rejected"]
    expected = [(None, chosen), (rejected, chosen), (chosen, rejected)][:per_pair]
    assert [(row["draft"], row["completion"]) for row in rows[:per_pair]] == expected


def test_the_content_and_not_the_path_names_the_artifact(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "c"}
    first = ingest_demonstrations(write(tmp_path / "a.jsonl", row), tmp_path / "home", None)
    assert ingest_demonstrations(write(tmp_path / "b.jsonl", row), tmp_path / "home", None) == first
    assert ingest_demonstrations(write(tmp_path / "a.jsonl", row, row), tmp_path / "home", None) != first
