"""The study's script, end to end at its smallest scale (minutes; `make test-slow`), and its protocol."""

import json
from pathlib import Path

import pytest

from benchmarks.study import DRAFT_ONLY, METHODS, SCALES, SETS, VALIDATION, main, settings_for, trial_runs


def test_every_method_gets_the_same_trials() -> None:
    cells = {
        method: {(r.beta, r.learning_rate, r.steps) for r in trial_runs(SCALES["full"]) if r.method == method}
        for method in METHODS
    }
    assert all(found == cells["srpo"] for found in cells.values())
    assert len(cells["srpo"]) == 4


def test_settings_are_chosen_on_prompts_that_no_table_uses() -> None:
    assert VALIDATION not in SETS
    trial = settings_for(SCALES["tiny"], trial_runs(SCALES["tiny"])[:1], [VALIDATION])
    assert trial.only_sets == [VALIDATION]
    assert trial.diagnostics is None


@pytest.mark.slow
def test_the_study_ends_with_a_table_of_every_method_and_set(tmp_path: Path) -> None:
    assert main(["--scale", "tiny", "--home", str(tmp_path / "home"), "--out", str(tmp_path), "--workers", "2"]) == 0
    tables = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    found = {(row["eval_set"], row["budget"], row["method"]) for row in tables["curves"]}
    assert found == {(s, "equal steps", m) for s in SETS for m in METHODS} | {
        (s, "equal tokens", m) for s in SETS for m in DRAFT_ONLY
    } | {(s, "more steps", "srpo") for s in SETS}
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "| *exact SRPO* |" in text and "chosen |" in text
    assert all((tmp_path / f"study_{name}.svg").read_text(encoding="utf-8").startswith("<svg") for name in SETS)
