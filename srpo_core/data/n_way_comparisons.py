"""Several answers to one prompt → one labelled pair per comparison.

The comparisons come as labels for every pair of answers in lexicographic order (0 equal, 1 the first, 2 the second, as in
qa_feedback), as ranks (1 is best), or as scores (more is better), beside the answers or inside them (as in Nectar).
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from srpo_core.data.conversations import read_prompt, read_text
from srpo_core.data.labelled_pairs import Outcome, Row, UnusableRow, make_pair, read_number, value_of
from srpo_core.records import Prompt, user_prompt

PROMPT_COLUMNS = ("prompt", "instruction", "question")
ANSWER_COLUMNS = ("answers", "completions", "responses")
ANSWER_TEXTS = ("answer", "completion", "response", "text", "content")
PAIRWISE_COLUMNS = ("preference", "preferences", "comparisons")
PAIRWISE: dict[float, float] = {0: 0.5, 1: 1.0, 2: 0.0}  # P(first preferred to second)
WORTH = (("rank", -1), ("score", 1))  # the column, in singular or plural, and whether more is better


def is_n_way(row: Row) -> bool:
    """Whether a row holds a prompt, several answers, and something that compares them."""
    answers = _answers(row)
    compared = _first_list(row, PAIRWISE_COLUMNS) is not None or any(_worth(row, answers, key) for key, _ in WORTH)
    return len(answers) > 1 and compared and any(column in row for column in PROMPT_COLUMNS)


def convert_n_way(row: Row) -> Iterator[Outcome]:
    """Every comparison of the row's answers. Raises UnusableRow when the row as a whole is unusable."""
    prompt, answers = _prompt(row), _answers(row)
    labels = _labels(row, answers)
    for (first, second), label in zip(combinations(answers, 2), labels, strict=True):
        try:
            if label is None:
                raise UnusableRow("unknown label")
            yield make_pair(prompt, _text(first), _text(second), label)
        except UnusableRow as reason:
            yield reason


def _prompt(row: Row) -> Prompt:
    """The prompt; a question stands below the passages to answer it from (each a title and sentences)."""
    if "passages" not in row:
        column = next((c for c in PROMPT_COLUMNS if row.get(c) is not None), PROMPT_COLUMNS[0])
        return read_prompt(value_of(row, column))
    # the sentences repeat the title of their passage, so the title is left out
    passages = [read_text(p[1:] if isinstance(p, list) else p, "passage") for p in value_of(row, "passages")]
    return user_prompt("\n\n".join([*passages, f"Question: {read_text(value_of(row, 'question'), 'question')}"]))


def _answers(row: Row) -> list[Any]:
    listed = _first_list(row, ANSWER_COLUMNS)
    if listed is not None:
        return listed
    return [row[f"prediction {i}"] for i in range(1, 100) if f"prediction {i}" in row]


def _labels(row: Row, answers: list[Any]) -> list[float | None]:
    """P(earlier preferred to later) for each pair of answers; None where the label is unknown."""
    pairwise = _first_list(row, PAIRWISE_COLUMNS)
    if pairwise is not None:
        expected = len(answers) * (len(answers) - 1) // 2
        if len(pairwise) != expected:
            raise UnusableRow(f"wrong number of comparisons: {len(pairwise)} for {len(answers)} answers")
        return [PAIRWISE.get(label) if isinstance(label, int | float) else None for label in pairwise]
    for key, sign in WORTH:
        values = _worth(row, answers, key)
        if values:
            return _compare([sign * read_number(value, key) for value in values], answers)
    raise UnusableRow("no ranks, scores or comparisons")


def _compare(worth: list[float], answers: list[Any]) -> list[float | None]:
    if len(worth) != len(answers):
        raise UnusableRow(f"wrong number of ranks or scores: {len(worth)} for {len(answers)} answers")
    return [0.5 if first == second else float(first > second) for first, second in combinations(worth, 2)]


def _worth(row: Row, answers: list[Any], key: str) -> list[Any]:
    """The ranks or scores, from a list beside the answers or from the answers themselves; empty when there are none."""
    listed = _first_list(row, (key + "s", key))
    if listed is not None:
        return listed
    inside = [answer.get(key) for answer in answers if isinstance(answer, dict)]
    return inside if any(value is not None for value in inside) else []


def _text(answer: Any) -> str:
    if isinstance(answer, dict):
        answer = next((answer[c] for c in ANSWER_TEXTS if answer.get(c) is not None), None)
    return read_text(answer, "answer")


def _first_list(row: Row, columns: tuple[str, ...]) -> list[Any] | None:
    return next((row[column] for column in columns if isinstance(row.get(column), list)), None)
