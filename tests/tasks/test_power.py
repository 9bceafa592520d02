"""The spread that a plan starts from, measured on hand-derived files and on a home."""

import math

import pytest

from srpo_core.errors import InputError
from srpo_core.scoring.power import prompts_needed
from storage.results_db import run_query
from tasks.power import GAIN, LARGEST_SPREAD, WIN_RATE, Spread, plan, spreads_of_file, spreads_of_policy, stated_spread
from tasks.publishing import publish_results
from tests.homes import make_home
from tests.srpo_core.scoring.test_score_files import write


def verdicts(revisions: dict[int, list[float]], **more):
    return [
        {"prompt_id": f"p{i}", "order": order, "score": score, "revision_index": revision} | {k: v[i] for k, v in more.items()}
        for revision, scores in revisions.items()
        for i, score in enumerate(scores)
        for order in ("as_is", "swapped")
    ]


def test_the_most_varied_revision_and_gain_count(tmp_path):
    """Scores 1 0 1 0 vary by sd sqrt(1/3); gains over the draft 1 0 0 0: 0 0 1 0 -> sd .5, and 1 1 1 0 - 1 0 0 0 = 0 1 1 0."""
    path = write(tmp_path / "v.csv", verdicts({0: [1, 0, 0, 0], 1: [1, 0, 1, 0], 2: [1, 1, 1, 0]}))
    rate, gain = spreads_of_file(path).spreads
    assert (rate.what, rate.n, rate.standard_deviation) == (WIN_RATE, 4, pytest.approx(math.sqrt(1 / 3)))
    assert (gain.what, gain.standard_deviation) == (GAIN, pytest.approx(math.sqrt(1 / 3)))


def test_dependent_prompts_count_as_the_spread_they_cause(tmp_path):
    scores = [1.0, 1.0, 0.0, 0.0] * 5
    alone = spreads_of_file(write(tmp_path / "a.csv", verdicts({0: scores}))).spreads[0]
    pairs = [f"c{i // 2}" for i in range(20)]
    clustered = spreads_of_file(write(tmp_path / "c.csv", verdicts({0: scores}, cluster_id=pairs))).spreads[0]
    assert clustered.standard_deviation == pytest.approx(alone.standard_deviation * math.sqrt(2), rel=0.05)


def test_a_file_whose_scores_do_not_vary_is_refused(tmp_path):
    with pytest.raises(InputError, match="different scores in .*v.csv.*--sd"):
        spreads_of_file(write(tmp_path / "v.csv", verdicts({0: [1.0, 1.0]})))


def test_a_policy_of_a_home_is_found_by_the_beginning_of_its_id(tmp_path):
    publish_results(make_home(tmp_path, size=20, revisions=2))
    (row,) = run_query(
        tmp_path,
        "SELECT policy_id, win_rate, standard_error, n_scored FROM win_rates WHERE method = 'srpo' "
        "AND eval_set = 'id' ORDER BY standard_error DESC LIMIT 1",
    ).to_pylist()
    found = spreads_of_policy(tmp_path, row["policy_id"][:8]).spreads
    assert [(one.about["eval_set"], one.what) for one in found] == [(s, w) for s in ("id", "long") for w in (WIN_RATE, GAIN)]
    assert found[0].standard_deviation == pytest.approx(row["standard_error"] * math.sqrt(row["n_scored"]))
    for unknown in ("", "nosuch"):
        with pytest.raises(InputError, match="expected one judged policy"):
            spreads_of_policy(tmp_path, unknown)


def test_a_plan_needs_more_prompts_for_more_power_and_detects_what_it_planned_for():
    values = plan(Spread({}, WIN_RATE, None, LARGEST_SPREAD), 0.05, 787, 0.05)
    needed = values["prompts_needed"]
    assert needed["0.5"] < needed["0.8"] < needed["0.9"]
    assert needed["0.8"] == prompts_needed(0.05, 0.5) == pytest.approx((1.96 + 0.8416) ** 2 * 100, rel=0.01)
    assert values["detectable_difference"]["0.8"] == pytest.approx(0.05, rel=0.01)


def test_a_spread_says_what_it_was_measured_on(tmp_path):
    few = spreads_of_file(write(tmp_path / "few.csv", verdicts({0: [1, 0] * 6, 1: [0, 1] * 6})))
    assert few.spreads[0].note == "of the most varied revision; measured on 12 prompts, fewer than 30: plan for more than it says"
    clustered = verdicts({0: [float(i % 40 < 20) for i in range(160)]}, cluster_id=[f"c{i // 4}" for i in range(160)])
    (spread,) = spreads_of_file(write(tmp_path / "clusters.csv", clustered)).spreads
    assert spread.note is not None and "adjusted for 40 clusters" in spread.note and "fewer" not in spread.note
    assert plan(spread, 0.05, None, 0.05)["note"] == spread.note
    assert spreads_of_file(write(tmp_path / "many.csv", verdicts({0: [1, 0] * 15}))).spreads[0].note is None


def test_judges_without_a_spread_are_named(tmp_path):
    rows = [row | {"judge": "varied"} for row in verdicts({0: [1, 0, 1]})]
    rows += [row | {"judge": "flat"} for row in verdicts({0: [1, 1, 1]})]
    found = spreads_of_file(write(tmp_path / "v.csv", rows))
    assert [one.about["judge"] for one in found.spreads] == ["varied"]
    assert found.left_out == [f"{WIN_RATE} of judge flat is left out: no score differs from another"]


def test_one_cluster_is_refused_for_being_one(tmp_path):
    with pytest.raises(InputError, match="at least two clusters in .*found one cluster"):
        spreads_of_file(write(tmp_path / "v.csv", verdicts({0: [1, 0, 1]}, cluster_id=["c"] * 3)))


def test_a_stated_spread_is_one_that_scores_can_have():
    assert stated_spread(0.5).note is None
    note = stated_spread(0.7).note
    assert note is not None and "paired difference alone" in note and "paired" in stated_spread(0.7).what
    with pytest.raises(InputError, match="at most 0.5 for a win rate or 1 for a paired difference, found 5"):
        stated_spread(5)
