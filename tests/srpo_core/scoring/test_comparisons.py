"""Repeats, orders and questions of a prompt against naive loops."""

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.scoring.comparisons import (
    Comparisons,
    cluster_means,
    clusters_by_prompt,
    clusters_by_question,
    lengths_by_prompt,
    question_scores,
    repeated_scores,
    scores_by_prompt,
)

NAN = math.nan
# (prompt, question of the prompt, as_is, swapped)
asked = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from((0, 1)), *[st.sampled_from((0.0, 0.5, 1.0, NAN))] * 2),
    min_size=1,
    max_size=12,
)


def arrange(rows: list[tuple[str, int, float, float]]) -> Comparisons:
    prompts = np.array([row[0] for row in rows])
    return Comparisons(
        prompts,
        np.array([f"cluster of {prompt}" for prompt in prompts]),
        np.array(["abc".index(row[0]) * 2 + row[1] for row in rows]),
        np.array([[row[2] for row in rows], [row[3] for row in rows]]),
        [[None] * len(rows)] * 2,
        np.array([[10.0 * row[1] for row in rows], [NAN] * len(rows)]),
    )


def naive_score(rows: list[tuple[str, int, float, float]], prompt: str) -> float:
    questions = defaultdict(lambda: ([], []))
    for name, question, *scores in rows:
        if name == prompt:
            for order in (0, 1):
                if not math.isnan(scores[order]):
                    questions[question][order].append(scores[order])
    means = [(sum(a) / len(a) + sum(b) / len(b)) / 2 for a, b in questions.values() if a and b]
    return sum(means) / len(means) if means else NAN


@given(asked)
def test_scores_by_prompt_equal_a_naive_loop(rows):
    found = scores_by_prompt(arrange(rows))
    assert found.prompts.tolist() == sorted({row[0] for row in rows})
    for prompt, score in zip(found.prompts.tolist(), found.score, strict=True):
        assert score == pytest.approx(naive_score(rows, prompt), nan_ok=True)


@given(asked)
def test_the_bounds_count_every_missing_verdict(rows):
    found = scores_by_prompt(arrange(rows))
    for place, prompt in enumerate(found.prompts.tolist()):
        own = [row[2:] for row in rows if row[0] == prompt]
        for bound, fill in ((found.low, 0.0), (found.high, 1.0)):
            filled = [fill if math.isnan(score) else score for scores in own for score in scores]
            assert bound[place] == pytest.approx(sum(filled) / len(filled))


@given(asked)
def test_every_asking_of_a_question_is_in_its_row(rows):
    comparisons = arrange(rows)
    found = repeated_scores(comparisons)
    for place, question in enumerate(sorted(set(comparisons.questions.tolist()))):
        for order in (0, 1):
            own = [row[2 + order] for row, number in zip(rows, comparisons.questions, strict=True) if number == question]
            assert found[place, order, : len(own)].tolist() == pytest.approx(own, nan_ok=True)
            assert np.isnan(found[place, order, len(own) :]).all()
    assert len(clusters_by_question(comparisons)) == len(found) == question_scores(comparisons).shape[1]


def test_one_order_asked_stands_for_both():
    comparisons = arrange([("a", 0, 1.0, NAN), ("b", 0, 0.0, NAN)])
    single = comparisons._replace(scores=comparisons.scores[:1])
    assert scores_by_prompt(single).score.tolist() == [1.0, 0.0]
    assert scores_by_prompt(single).low.tolist() == [1.0, 0.0]


def test_clusters_and_lengths_come_in_the_order_of_the_prompts():
    comparisons = arrange([("c", 1, 1.0, 1.0), ("a", 0, 0.0, 0.0), ("c", 0, 1.0, 1.0)])
    assert clusters_by_prompt(comparisons).tolist() == ["cluster of a", "cluster of c"]
    lengths = lengths_by_prompt(comparisons)
    assert lengths[0].tolist() == [0.0, 5.0] and np.isnan(lengths[1]).all()


def test_cluster_means_come_in_the_order_of_their_first_scored_prompt():
    names, means = cluster_means(np.array([NAN, 1.0, 0.0, 0.5, NAN]), ["x", "y", "x", "y", "z"])
    assert names == ["y", "x"] and means.tolist() == [0.75, 0.0]
    assert cluster_means(np.array([NAN]), ["x"])[0] == []
