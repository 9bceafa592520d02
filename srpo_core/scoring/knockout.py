"""Knock-outs among the drafts of a prompt: how a judge that compares two texts picks one of n.

The drafts are independent, so their order is as good as a drawn one. A bracket is a run of drafts; its winner is that of two
smaller brackets, of which the first has as many drafts as the largest power of two below its size. n drafts need n - 1 matches in
log2 n rounds. Brackets share their matches: all n up to N together take N log2(N) / 2, where every two drafts would take
N (N - 1) / 2.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from srpo_core.scoring.win_rate import Floats


class Bracket(NamedTuple):
    """The drafts start, start + 1, ... start + size - 1 of one prompt."""

    start: int
    size: int

    @property
    def round(self) -> int:
        """The round in which its last match is played; 0 = a single draft, which has won already."""
        return (self.size - 1).bit_length()

    @property
    def halves(self) -> tuple["Bracket", "Bracket"]:
        """The two brackets whose winners meet, both of earlier rounds. Raises ValueError for a single draft."""
        if self.size < 2:
            raise ValueError(f"expected a bracket of at least 2 drafts, found {self.size}")
        first = 1 << (self.round - 1)
        return Bracket(self.start, first), Bracket(self.start + first, self.size - first)


def list_brackets(num_drafts: int) -> list[Bracket]:
    """Every bracket to play among `num_drafts`, earlier rounds first; those of one size do not overlap."""
    brackets = [
        Bracket(start, size)
        for size in range(1, num_drafts + 1)
        for start in range(0, num_drafts - size + 1, 1 << Bracket(0, size).round)
    ]
    return sorted(brackets, key=lambda bracket: (bracket.round, bracket.size, bracket.start))


def knockout_scores(winners: Mapping[Bracket, int], scores: ArrayLike) -> Floats:
    """Mean score (N,) of the winners among n = place + 1 drafts, over the brackets of that size; NaN where none is scored.

    `winners`: draft that won each bracket; `scores` (N,) of the drafts, NaN where unscored.
    """
    known = np.asarray(scores, dtype=np.float64)
    result = np.full(len(known), np.nan)
    for place in range(len(known)):
        won = known[[winner for bracket, winner in winners.items() if bracket.size == place + 1]]
        if not np.isnan(won).all():
            result[place] = np.nanmean(won)
    return result
