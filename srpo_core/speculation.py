"""Guessing the next tokens of a revision from the draft it revises, and how many guesses a step can afford.

Prompt lookup (as in transformers' prompt_lookup_num_tokens and vLLM's n-gram speculation): the last tokens written are looked up
in the draft, and what followed them there is the guess. A guess is only kept where it is the token that would have been chosen
anyway, so it can save a forward pass and never change a text, at any temperature.
"""

from collections.abc import Sequence

LONGEST_MATCH = 3  # tokens
MOST_REPLACED = 2  # tokens that an edit may have put in place of the draft's, so that what follows is guessed again
MOST_GUESSES = 12
# Tokens in one forward pass whose arithmetic takes as long as all that does not grow with them (reading the weights, launching
# kernels): with fewer, another token is nearly free, with more, it costs its share.
BALANCE = {"cpu": 16, "cuda": 512}
PRIOR = (6.0, 2.0)  # guesses that came true and did not, before any was made
MEMORY = 64.0  # guesses after which older ones are forgotten


def propose(written: Sequence[int], draft: Sequence[int], count: int) -> list[int]:
    """Up to `count` tokens that followed the last of `written` in the draft; tokens new to it are taken to replace as many."""
    if count <= 0:
        return []
    for replaced in range(min(MOST_REPLACED, len(written)) + 1):
        end = _find_end(written[: len(written) - replaced], draft)
        if end is not None:
            return list(draft[end + replaced : end + replaced + count])
    return []


def _find_end(written: Sequence[int], draft: Sequence[int]) -> int | None:
    """Where in the draft the last tokens of `written` end: the longest match, and of those the one nearest to the same place."""
    if not written:
        return 0
    for size in range(min(LONGEST_MATCH, len(written)), 0, -1):
        last = list(written[-size:])
        ends = [end for end in range(size, len(draft)) if draft[end - 1] == last[-1] and list(draft[end - size : end]) == last]
        if ends:
            return min(ends, key=lambda end: abs(end - len(written)))
    return None


class GuessBudget:
    """How many tokens to guess in each row of a step, from how many came true so far."""

    def __init__(self, device_type: str) -> None:
        """`device_type`: cpu or cuda; any other counts as cuda."""
        self.balance = BALANCE.get(device_type, BALANCE["cuda"])
        self.right, self.wrong = PRIOR

    def start_again(self) -> None:
        """Keep the rate but trust it less, so that a revision tries anew what did not pay in the one before."""
        weight = sum(PRIOR) / (self.right + self.wrong)
        self.right, self.wrong = self.right * weight / 2 + PRIOR[0] / 2, self.wrong * weight / 2 + PRIOR[1] / 2

    def guesses(self, num_rows: int) -> int:
        """The number that gains most tokens per time; 0 when guessing does not pay."""
        rate = self.right / (self.right + self.wrong)

        def tokens_per_time(count: int) -> float:
            return sum(rate**i for i in range(count + 1)) / (self.balance + num_rows * (count + 1))

        return max(range(MOST_GUESSES + 1), key=tokens_per_time)

    def record(self, right: int, wrong: int) -> None:
        """What became of the guesses of a step; those behind a wrong one do not count."""
        keep = max(0.0, 1 - (right + wrong) / MEMORY)
        self.right, self.wrong = self.right * keep + right, self.wrong * keep + wrong
