"""The coverage benchmark: a few cells in every run of the tests, the whole of it as a slow test."""

import json

import numpy as np
import pytest

from benchmarks import coverage
from benchmarks.simulated_judges import HARDEST, JUDGES


@pytest.mark.parametrize("judge", [*JUDGES, *HARDEST])
@pytest.mark.parametrize("rate", [0.6, 0.95])
def test_a_simulated_judge_has_the_win_rate_it_says(judge, rate):
    scores = (JUDGES | HARDEST)[judge](np.random.default_rng(0), rate, (200, 500))
    assert scores.shape == (200, 500)
    assert scores.min() >= 0 and scores.max() <= 1
    assert scores.mean() == pytest.approx(rate, abs=0.005)
    assert set(np.unique(scores)) <= {0, 0.5, 1} or not judge.startswith("discrete")


@pytest.mark.parametrize(("judge", "rate", "n"), [("discrete", 0.6, 30), ("discrete", 0.95, 100), ("continuous", 0.9, 100)])
def test_the_default_interval_covers_where_plain_wilson_covers_far_too_much(judge, rate, n):
    """1500 runs: a coverage is known to about .006."""
    cell = coverage.coverage_cell(judge, rate, n, runs=1500, bootstrap_runs=0)
    assert cell["required"]
    assert 0.93 <= cell["coverage"]["default"] <= 0.98 < cell["coverage"]["plain_wilson"]


def test_a_cell_with_fewer_than_five_expected_losses_is_reported_only():
    cell = coverage.coverage_cell("continuous", 0.95, 30, runs=20, bootstrap_runs=5)
    assert not cell["required"]
    assert set(cell["coverage"]) == {"default", "plain_t", "plain_wilson", "bootstrap"}


def test_clusters_ignored_cover_too_little():
    covered = coverage.clustered_cell(60, 3, 0.6, runs=500)["coverage"]
    assert covered["clusters_ignored"] < 0.91 < 0.925 <= covered["default"] <= 0.98


def test_the_length_controlled_interval_covers_the_rate_at_equal_length():
    """The raw rate is .57 where the truth is one half."""
    cell = coverage.length_cell(100, 0.0, 0.5, runs=100)
    assert cell["raw"] > 0.55
    assert cell["coverage"] >= 0.88


def test_peeking_errs_rarely_with_the_anytime_test_and_often_with_an_interval():
    found = coverage.peeking(400, 500)
    assert found["anytime_false_positives"] <= 0.05
    assert found["interval_false_positives"] > 0.2
    assert found["anytime_power_at_.6"] > 0.9


def test_a_cell_alone_gives_what_it_gives_among_all():
    assert coverage.clustered_cell(20, 2, 0.6, runs=10) == coverage.clustered_cell(20, 2, 0.6, runs=10)


@pytest.mark.slow
def test_the_whole_benchmark_holds_what_is_claimed(capsys, tmp_path):
    assert coverage.main(["--json", "--out", str(tmp_path / "coverage.json")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "coverage.json").read_text(encoding="utf-8"))
    required = [cell for cell in result["cells"] if cell["required"]]
    assert len(required) == 7 * len(JUDGES)
    assert result["within"] and all(0.93 <= cell["coverage"]["default"] <= 0.98 for cell in required)
    assert result["peeking"]["anytime_false_positives"] <= 0.05
    assert all(cell["coverage"] >= 0.9 for cell in result["length_controlled"])
    assert "| discrete, orders agree | 0.950 | 100 | True |" in coverage.markdown(result)
