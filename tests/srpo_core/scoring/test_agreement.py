"""Agreement of a judge with people: published figures, hand-derived numbers, naive definitions, statsmodels as the reference."""

import csv
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import cohens_kappa

from srpo_core.scoring.agreement import (
    agreement,
    agreement_with_one_vote,
    both_orders_right,
    cohen_kappa,
    first_position_rate,
    flip_rate,
    krippendorff_alpha,
    one_vote_ceiling,
    preference_for_longer,
    swap_consistency,
)
from tests.real_data import real_file

NAN = math.nan
OUTCOMES = {"w": 1.0, "t": 0.5, "l": 0.0, ".": NAN}
# Krippendorff (2011), section D: four observers, twelve units, missing values.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
ratings = st.lists(st.sampled_from([NAN, 0.0, 1.0, 2.0]), min_size=5, max_size=5)


def scores(text):
    """One score a letter: w, t, l, or . for unscored."""
    return np.array([OUTCOMES[letter] for letter in text])


def test_agreement_of_the_published_judge_comes_out_as_published():
    """Auto-J on its 1,392 pairs: single order 59.99 %, both orders right 54.96 %, consistent 83.41 %.

    Labels are 0 first, 1 second, 2 tie; the swapped label is as said in the swapped order.
    """
    with real_file("scorer/autoj_pairwise.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = {"0": 1.0, "1": 0.0, "2": 0.5}
    human, as_is = (np.array([first[row[name]] for row in rows]) for name in ("human", "judge"))
    swapped = np.array([1 - first[row["judge_swapped_raw"]] for row in rows])
    as_is, swapped = as_is[:, None], swapped[:, None]
    found = agreement(as_is, human), both_orders_right(as_is, swapped, human), swap_consistency(as_is, swapped)
    assert [round(100 * one.estimate, 2) for one in found] == [59.99, 54.96, 83.41]
    assert {one.n for one in found} == {1392}
    assert all(one.ci_low < one.estimate < one.ci_high for one in found)


def test_agreement_counts_a_tie_as_a_side_of_its_own_or_leaves_it_out():
    """Judge wwtll against people wlttl: 3 of 5 (w, t, l); without ties w right, l wrong, l right: 2 of 3."""
    judge, people = scores("wwtll")[:, None], scores("wlttl")
    assert agreement(judge, people).estimate == pytest.approx(3 / 5)
    without = agreement(judge, people, ties=False)
    assert (without.n, without.estimate) == (3, pytest.approx(2 / 3))


def test_an_unscored_verdict_or_a_missing_label_is_never_a_disagreement():
    found = agreement(scores("w.w")[:, None], scores("ww."))
    assert (found.n, found.estimate) == (1, 1.0)
    assert agreement(scores("..")[:, None], scores("ww")).n == 0


def test_the_two_verdicts_on_a_pair_do_not_count_as_two_pairs():
    """Two verdicts that always agree with each other carry the information of one: same interval as for single verdicts."""
    judge, people = scores("wwlwlwlw"), scores("wllwwwlw")
    single, double = agreement(judge[:, None], people), agreement(np.column_stack([judge, judge]), people)
    assert double == single


def test_dependent_pairs_of_one_cluster_widen_the_interval():
    judge, people = scores("wwwwllll" * 4), scores("wwww" * 8)
    names = [str(i // 4) for i in range(32)]
    alone, clustered = agreement(judge[:, None], people), agreement(judge[:, None], people, names)
    assert clustered.estimate == alone.estimate and clustered.standard_error > 1.5 * alone.standard_error


def test_agreement_with_one_vote_weighs_the_votes():
    """Votes 4 of 5 and 1 of 5 for the candidate; the judge says win twice: (.8 + .2) / 2 = .5; a perfect judge reaches .8."""
    assert agreement_with_one_vote(scores("ww")[:, None], [0.8, 0.2]).estimate == pytest.approx(0.5)
    assert agreement_with_one_vote(scores("wl")[:, None], [0.8, 0.2]).estimate == pytest.approx(0.8)
    assert agreement_with_one_vote(scores("tt")[:, None], [0.8, 0.2]).estimate == pytest.approx(0.5)
    assert one_vote_ceiling([0.8, 0.2]).estimate == pytest.approx(0.8)


def test_both_orders_must_be_right_and_an_unscored_order_says_nothing():
    """Pairs: both right, one right, none right, one unscored: 1 of 3."""
    found = both_orders_right(scores("wwlw")[:, None], scores("wll.")[:, None], scores("wwww"))
    assert (found.n, found.estimate) == (3, pytest.approx(1 / 3))


def test_swap_consistency_and_first_position_by_hand():
    """wl: inconsistent, the first is preferred both times; ww, tt: consistent. 2 of 3; (1 + .5 + .5) / 3 = 2/3."""
    as_is, swapped = scores("wwt")[:, None], scores("lwt")[:, None]
    assert swap_consistency(as_is, swapped).estimate == pytest.approx(2 / 3)
    assert first_position_rate(as_is, swapped).estimate == pytest.approx(2 / 3)


def test_flip_rate_is_the_chance_that_two_askings_differ():
    """www: 0 of 3 pairs differ; wwl: 2 of 3; w.l: 1 of 1; a question asked once says nothing. Mean (0 + 2/3 + 1) / 3."""
    asked = np.stack([scores(text)[None] for text in ("www", "wwl", "w.l", "w..")])  # (4 pairs, 1 question, 3 repeats)
    found = flip_rate(asked)
    assert (found.n, found.estimate) == (3, pytest.approx(5 / 9))


def test_cohen_kappa_by_hand():
    """Table 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o = .7, p_e = .5 * .6 + .5 * .4 = .5, kappa = .2 / .5 = .4."""
    judge, people = scores("w" * 25 + "l" * 25), scores("w" * 20 + "l" * 5 + "w" * 10 + "l" * 15)
    assert cohen_kappa(judge, people).estimate == pytest.approx(0.4)


def test_cohen_kappa_and_its_error_are_those_of_statsmodels():
    """Three outcomes; statsmodels divides the variance by n where a sample variance divides by n - 1."""
    rng = np.random.default_rng(3)
    people = rng.choice([0, 0.5, 1], 400, p=[0.5, 0.1, 0.4])
    judge = np.where(rng.random(400) < 0.6, people, rng.choice([0, 0.5, 1], 400))
    table = [[((judge == a) & (people == b)).sum() for b in (0, 0.5, 1)] for a in (0, 0.5, 1)]
    reference, found = cohens_kappa(table), cohen_kappa(judge, people)
    assert found.estimate == pytest.approx(reference.kappa, abs=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(reference.var_kappa * 400 / 399), rel=1e-9)


def test_kappa_and_alpha_do_not_exist_where_only_one_thing_is_ever_said():
    assert math.isnan(cohen_kappa(scores("www"), scores("www")).estimate)
    assert math.isnan(krippendorff_alpha([scores("www"), scores("www")]).estimate)


def test_kappa_of_copied_verdicts_is_not_more_certain():
    judge, people = scores("wwlwlwlwltw"), scores("wllwwwlwltt")
    once = cohen_kappa(judge, people)
    twice = cohen_kappa(np.tile(judge, 2), np.tile(people, 2), [str(i % 11) for i in range(22)])
    assert twice.estimate == pytest.approx(once.estimate) and twice.standard_error == pytest.approx(once.standard_error)


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_krippendorff_alpha_of_the_published_example(level, published):
    found = krippendorff_alpha(PUBLISHED, level=level)
    assert round(found.estimate, 3) == published
    assert found.n == 11 and found.ci_low < published < found.ci_high


def naive_alpha(table, level):
    """The definition: every pair of values within units against every pair of all pairable values."""
    units = [[v for v in column if not math.isnan(v)] for column in np.asarray(table).T]
    units = [values for values in units if len(values) > 1]
    everything = sorted(v for values in units for v in values)
    number = {v: everything.count(v) for v in everything}

    def distance(a, b):
        if level == "nominal":
            return float(a != b)
        low, high = min(a, b), max(a, b)
        return (sum(n for v, n in number.items() if low <= v <= high) - (number[a] + number[b]) / 2) ** 2 if a != b else 0.0

    within = sum(
        distance(a, b) / (len(values) - 1)
        for values in units
        for i, a in enumerate(values)
        for j, b in enumerate(values)
        if i != j
    )
    among = sum(distance(a, b) for i, a in enumerate(everything) for j, b in enumerate(everything) if i != j)
    total = len(everything)
    return NAN if not among else 1 - (within / total) / (among / (total * (total - 1)))


@given(st.lists(ratings, min_size=2, max_size=4), st.sampled_from(["nominal", "ordinal"]))
def test_krippendorff_alpha_is_the_naive_definition(table, level):
    found = krippendorff_alpha(table, level=level).estimate
    np.testing.assert_allclose(found, naive_alpha(table, level), atol=1e-9)


def test_the_error_of_alpha_is_that_of_resampled_units():
    """The jackknife against a bootstrap of units, written out."""
    rng = np.random.default_rng(8)
    people = rng.choice([0, 0.5, 1], 150, p=[0.4, 0.2, 0.4])
    judge = np.where(rng.random(150) < 0.7, people, rng.choice([0, 0.5, 1], 150))
    table = np.stack([people, judge])
    for level in ("nominal", "ordinal"):
        drawn = [krippendorff_alpha(table[:, rng.integers(0, 150, 150)], level=level).estimate for _ in range(400)]
        assert krippendorff_alpha(table, level=level).standard_error == pytest.approx(np.std(drawn), rel=0.15)


def test_copied_units_of_one_cluster_do_not_narrow_the_interval_of_alpha():
    table = np.stack([scores("wwlwlwlwltw"), scores("wllwwwlwltt")])
    once, names = krippendorff_alpha(table), [str(i % 11) for i in range(22)]
    twice = krippendorff_alpha(np.tile(table, 2), names)
    assert twice.n == 22 and twice.standard_error == pytest.approx(once.standard_error, rel=0.1)


def test_perfect_agreement_is_not_certainty():
    found = krippendorff_alpha(np.stack([scores("wlwlwlwlwl")] * 2))
    assert found.estimate == 1 == found.ci_high and 0 < found.ci_low < 0.6


def test_an_error_among_neighbours_is_smaller_at_the_ordinal_level():
    """Confusing loss with tie is nearer than loss with win."""
    near, far = [scores("wwllttwl"), scores("wwltttwl")], [scores("wwllttwl"), scores("wwlwttwl")]
    assert krippendorff_alpha(near, level="ordinal").estimate > krippendorff_alpha(far, level="ordinal").estimate
    assert krippendorff_alpha(near).estimate == pytest.approx(krippendorff_alpha(far).estimate, abs=0.05)


def test_the_alpha_of_guessing_is_about_nought_and_its_interval_covers_it():
    rng = np.random.default_rng(5)
    found = krippendorff_alpha(rng.choice([0, 0.5, 1], (2, 300)))
    assert abs(found.estimate) < 0.15 and found.ci_low < 0 < found.ci_high


def test_a_judge_that_always_takes_the_longer_text_is_told_from_people_who_do_not():
    """Candidate longer, shorter, longer, equal, unknown. Judge wlw: 1; people wwl: (1 + 0 + 0) / 3; difference 2/3."""
    found = preference_for_longer(scores("wlwww")[:, None], scores("wwlww"), [10, -5, 3, 0, NAN])
    assert found.judge.n == 3
    assert [round(one.estimate, 9) for one in found] == [1.0, round(1 / 3, 9), round(2 / 3, 9)]


@given(st.lists(st.sampled_from("wtl."), min_size=4, max_size=12), st.integers(0, 1000))
def test_exchanging_candidate_and_opponent_changes_no_measure(judge, seed):
    people = np.random.default_rng(seed).choice([0, 0.5, 1], len(judge))
    lengths = np.random.default_rng(seed).integers(-3, 4, len(judge))
    says = scores("".join(judge))
    for one, other in itertools.zip_longest(_all(says, people, lengths), _all(1 - says, 1 - people, -lengths)):
        np.testing.assert_allclose(one, other, atol=1e-9)


def _all(judge, people, lengths):
    yield agreement(judge[:, None], people)
    yield cohen_kappa(judge, people)
    yield from preference_for_longer(judge[:, None], people, lengths)
    yield krippendorff_alpha([judge, people], level="ordinal").estimate


def test_a_kappa_of_nought_is_nought_and_not_rounding():
    judge, people = np.array([1, 2, 0, 2, 1, 2]) / 2, np.array([0, 2, 0, 1, 2, 1]) / 2  # agree on 2 of 6, as by chance
    assert cohen_kappa(judge, people).estimate == 0
