"""One comparison of two completions as a source states it, and the rules that make it usable.

Every format ends in `make_pair`, so every format has the same rules: outer whitespace belongs to the template and is
dropped; the roles follow the preference; equal or empty texts, NULs and broken Unicode make a row unusable.
"""

import math
from dataclasses import dataclass
from typing import Any

from srpo_core.records import Prompt

Row = dict[str, Any]


class UnusableRow(ValueError):
    """Why a source row was not used: a fixed phrase, and after a colon what was found."""

    @property
    def kind(self) -> str:
        """The fixed phrase alone, for counting."""
        return str(self).split(":", 1)[0]


@dataclass(frozen=True)
class LabelledPair:
    """Two completions of a prompt; `preference` = P(chosen preferred to rejected) in [.5, 1] from `num_votes` votes."""

    prompt: Prompt
    chosen: str
    rejected: str
    preference: float = 1.0
    num_votes: int = 1
    cluster: str | None = None


Outcome = LabelledPair | UnusableRow


def make_pair(
    prompt: Prompt, first: str, second: str, preference: float = 1.0, *, num_votes: int = 1, cluster: str | None = None
) -> LabelledPair:
    """The pair with chosen = the side preferred at least half the time; at exactly .5 chosen is `first`.

    `preference` = P(first preferred to second) in [0, 1]. Raises UnusableRow.
    """
    first, second = first.strip(), second.strip()
    if not (math.isfinite(preference) and 0 <= preference <= 1):
        raise UnusableRow(f"preference outside [0, 1]: {preference}")
    if num_votes < 1:
        raise UnusableRow("no votes")
    check_prompt(prompt)
    for text in (first, second):
        check_text(text, "completion")
    if first == second:
        raise UnusableRow("chosen equals rejected")
    chosen, rejected = (first, second) if preference >= 0.5 else (second, first)
    return LabelledPair(prompt, chosen, rejected, max(preference, 1 - preference), num_votes, cluster)


def check_prompt(prompt: Prompt) -> None:
    """Raise UnusableRow unless the prompt has turns, no empty one, and leaves the next word to the assistant."""
    if not prompt:
        raise UnusableRow("empty prompt")
    for message in prompt:
        check_text(message["content"], "prompt")
    if prompt[-1]["role"] == "assistant":
        raise UnusableRow("prompt ends with an assistant turn")


def check_text(text: str, what: str) -> None:
    """Raise UnusableRow when a text is empty, holds a NUL, or cannot be written as UTF-8."""
    if not text.strip():
        raise UnusableRow(f"empty {what}")
    if "\x00" in text:
        raise UnusableRow("NUL character")
    if not text.isascii() and _has_lone_surrogate(text):
        raise UnusableRow("broken UTF-8")


def value_of(row: Row, column: str) -> Any:
    """The row's value under `column`, where `a.b` also reaches into a nested object. Raises UnusableRow when it is missing."""
    value = row.get(column)
    if value is None and "." in column:
        value = _nested(row, column.split("."))
    if value is None:
        raise UnusableRow(f"missing column value: {column}")
    return value


def read_number(value: Any, what: str) -> float:
    """A finite number, also from text as CSV gives it. Raises UnusableRow."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UnusableRow(f"{what} is not a number: {value!r}")
    return number


def _nested(row: Any, keys: list[str]) -> Any:
    for key in keys:
        row = row.get(key) if isinstance(row, dict) else None
    return row


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
