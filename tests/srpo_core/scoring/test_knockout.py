"""Knock-outs: brackets fit together, take few matches, and let the better draft through."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.scoring.knockout import Bracket, knockout_scores, list_brackets

sizes = st.integers(1, 70)


@given(sizes)
def test_a_match_needs_only_winners_of_earlier_rounds(num_drafts: int) -> None:
    brackets = list_brackets(num_drafts)
    for bracket in brackets:
        if bracket.size > 1:
            left, right = bracket.halves
            assert {left, right} <= set(brackets) and left.size + right.size == bracket.size
            assert (left.start, right.start) == (bracket.start, bracket.start + left.size)
            assert max(left.round, right.round) < bracket.round == math.ceil(math.log2(bracket.size))


@given(sizes)
def test_every_n_has_brackets_that_do_not_overlap_and_stay_inside(num_drafts: int) -> None:
    for size in range(1, num_drafts + 1):
        own = [bracket for bracket in list_brackets(num_drafts) if bracket.size == size]
        taken = [place for bracket in own for place in range(bracket.start, bracket.start + size)]
        assert own and len(set(taken)) == len(taken) and max(taken) < num_drafts


@pytest.mark.parametrize(("num_drafts", "matches"), [(1, 0), (2, 1), (4, 4), (8, 12), (16, 32)])
def test_few_matches_serve_every_n(num_drafts: int, matches: int) -> None:
    """N/2 log2 N for a power of two, where all pairs would take N(N-1)/2: 12 and not 28 for eight drafts."""
    assert sum(bracket.size > 1 for bracket in list_brackets(num_drafts)) == matches


@given(st.permutations(range(9)))
def test_when_the_judge_has_an_order_the_best_of_every_bracket_wins_it(quality: list[int]) -> None:
    winners: dict[Bracket, int] = {}
    for bracket in list_brackets(9):
        if bracket.size == 1:
            winners[bracket] = bracket.start
        else:
            winners[bracket] = max((winners[half] for half in bracket.halves), key=lambda draft: quality[draft])
        assert winners[bracket] == max(range(bracket.start, bracket.start + bracket.size), key=lambda draft: quality[draft])


def test_scores_are_averaged_over_the_brackets_of_a_size() -> None:
    """Four drafts, scores .1 .2 .3 .4; of two: drafts 1 and 2 win, mean .25; of three: draft 1, of four: draft 2."""
    winners = {Bracket(place, 1): place for place in range(4)}
    winners |= {Bracket(0, 2): 1, Bracket(2, 2): 2, Bracket(0, 3): 1, Bracket(0, 4): 2}
    assert knockout_scores(winners, [0.1, 0.2, 0.3, 0.4]) == pytest.approx([0.25, 0.25, 0.2, 0.3])
    found = knockout_scores(winners, [0.1, np.nan, 0.3, 0.4])
    assert found[[0, 1, 3]] == pytest.approx([0.8 / 3, 0.3, 0.3]) and np.isnan(found[2]), "an unscored winner is no loss"


def test_a_single_draft_has_no_match() -> None:
    with pytest.raises(ValueError, match="at least 2 drafts, found 1"):
        _ = Bracket(3, 1).halves
