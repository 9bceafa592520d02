"""Guesses come from the draft, at the longest and nearest match, and are made only as far as they have paid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.speculation import MOST_GUESSES, GuessBudget, propose

TOKENS = st.lists(st.integers(0, 4), max_size=12)


@pytest.mark.parametrize(
    ("written", "draft", "guess"),
    [
        ([], [1, 2, 3], [1, 2]),  # a revision begins as the draft did
        ([7, 1], [1, 2, 3, 4], [2, 3]),
        ([1, 2], [9, 2, 5, 1, 2, 6], [6]),  # two tokens match, not only one
        ([5, 2], [2, 8, 0, 0, 0, 2, 9], [8, 0]),  # one token matches twice: the match nearest to place 2
        ([1, 2, 3], [1, 2, 3], []),  # the draft is at its end
        ([4], [1, 2, 3], [2, 3]),  # 4 is new: it stands for 1
        ([1, 8, 9], [5, 1, 2, 3, 4, 6], [4, 6]),  # 8, 9 for 2, 3
        ([1, 7, 8, 9], [1, 2, 3, 4, 5], []),  # more than an edit
        ([4], [], []),
    ],
)
def test_what_followed_the_last_tokens_in_the_draft_is_guessed(written: list[int], draft: list[int], guess: list[int]) -> None:
    assert propose(written, draft, 2) == guess


@given(TOKENS, TOKENS, st.integers(0, 5))
def test_a_guess_is_a_stretch_of_the_draft_no_longer_than_asked(written: list[int], draft: list[int], count: int) -> None:
    guess = propose(written, draft, count)
    assert len(guess) <= count
    assert guess in [draft[place : place + len(guess)] for place in range(len(draft) + 1)]


@given(TOKENS.filter(bool), st.data())
def test_a_copy_is_guessed_right_from_everywhere(tokens: list[int], data: st.DataObject) -> None:
    draft = list(dict.fromkeys(tokens))  # no token twice
    place = data.draw(st.integers(0, len(draft) - 1))
    assert propose(draft[:place], draft, len(draft)) == draft[place:]


def taught(device: str, right: int, wrong: int, steps: int = 40) -> GuessBudget:
    budget = GuessBudget(device)
    for _ in range(steps):
        budget.record(right, wrong)
    return budget


def test_guesses_that_fail_are_given_up_and_tried_again_by_the_next_revision() -> None:
    budget = GuessBudget("cpu")
    assert budget.guesses(8) > 0
    for _ in range(3):
        budget.record(0, 8)
    assert budget.guesses(8) == 0
    budget.start_again()
    assert budget.guesses(8) > 0


def test_a_copy_is_guessed_far_ahead_and_a_wide_batch_on_a_cpu_less_far() -> None:
    assert taught("cpu", 8, 0).guesses(1) == taught("cuda", 8, 0).guesses(64) == MOST_GUESSES
    widths = [taught("cpu", 6, 2).guesses(rows) for rows in (1, 4, 16, 64)]
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1] == 0
    assert taught("cuda", 6, 2).guesses(16) > taught("cpu", 6, 2).guesses(16)


def test_a_rate_of_one_half_in_one_row_pays_for_three_guesses_on_a_cpu() -> None:
    """Tokens per time with balance 16: 1/17, 1.5/18, 1.75/19, 1.875/20, 1.9375/21 = .0588, .0833, .0921, .0938, .0923."""
    budget = GuessBudget("cpu")
    budget.right = budget.wrong = 10.0
    assert budget.guesses(1) == 3
