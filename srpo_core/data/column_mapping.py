"""Rows of any table → labelled pairs, by naming the columns: roles, or two texts with a label or a list of votes.

Votes become a soft label: the share of the votes, where a tie counts half to each side.
"""

import json
from typing import Any

from srpo_core.data.conversations import read_completion, read_prompt, read_text
from srpo_core.data.labelled_pairs import LabelledPair, Row, UnusableRow, make_pair, value_of
from srpo_core.errors import InputError
from srpo_core.records import Prompt, user_prompt
from srpo_core.settings.data import ColumnMapping


def check_mapping(mapping: ColumnMapping, row: Row, where: str) -> None:
    """Raise InputError when a mapped column is not in the file's first row, or a label is claimed by both sides."""
    missing = [column for column in _columns(mapping) if column not in row and column.split(".")[0] not in row]
    if missing:
        found = ", ".join(map(str, row))
        raise InputError(f"expected the mapped column {missing[0]} in {where}, found {found}; correct the mapping")
    both = {label_key(v) for v in mapping.label_a} & {label_key(v) for v in mapping.label_b}
    if both and mapping.text_a is not None:
        raise InputError(f"expected each label on one side, found {min(both)!r} in both label_a and label_b; correct the mapping")


def convert_by_mapping(mapping: ColumnMapping, row: Row) -> LabelledPair:
    """One pair from the mapped columns. Raises UnusableRow."""
    prompt, cluster = _mapped_prompt(mapping, row), _mapped_cluster(mapping, row)
    first, second = (_completion(mapping, row, column) for column in _text_columns(mapping))
    labels = _labels(mapping, row)
    preference = sum(_share_of_first(mapping, label) for label in labels) / len(labels) if labels else 1.0
    return make_pair(prompt, first, second, preference, num_votes=max(1, len(labels)), cluster=cluster)


def label_key(value: Any) -> str:
    """A label as text, so that 1, 1.0 and "1" are one label in JSON and in CSV."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _share_of_first(mapping: ColumnMapping, label: Any) -> float:
    for labels, share in ((mapping.label_a, 1.0), (mapping.label_b, 0.0), (mapping.label_tie, 0.5)):
        if label_key(label) in {label_key(value) for value in labels}:
            return share
    raise UnusableRow(f"unknown label: {label!r}")


def _labels(mapping: ColumnMapping, row: Row) -> list[Any]:
    """The votes, the one label as a single vote, or nothing where the columns are roles already."""
    if mapping.votes is not None:
        votes = value_of(row, mapping.votes)
        votes = _parse_list(votes) if isinstance(votes, str) else votes
        if not isinstance(votes, list):
            raise UnusableRow(f"votes are not a list: {type(votes).__name__}")
        if not votes:
            raise UnusableRow("no votes")
        return votes
    return [] if mapping.label is None else [value_of(row, mapping.label)]


def _parse_list(text: str) -> Any:
    """A list written as JSON in a CSV cell."""
    try:
        return json.loads(text)
    except ValueError:
        raise UnusableRow(f"votes are not a list: {text[:40]!r}") from None


def _mapped_prompt(mapping: ColumnMapping, row: Row) -> Prompt:
    if isinstance(mapping.prompt, str):
        return read_prompt(value_of(row, mapping.prompt), mapping.join_with)
    texts = [read_text(value_of(row, column), column, mapping.join_with) for column in mapping.prompt]
    return user_prompt("\n\n".join(text for text in texts if text))


def _mapped_cluster(mapping: ColumnMapping, row: Row) -> str | None:
    return None if mapping.cluster is None else str(value_of(row, mapping.cluster))


def _completion(mapping: ColumnMapping, row: Row, column: str) -> str:
    value = value_of(row, column)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return read_text(value, column, mapping.join_with)
    return read_completion(value)


def _text_columns(mapping: ColumnMapping) -> tuple[str, str]:
    first, second = (mapping.chosen, mapping.rejected) if mapping.chosen is not None else (mapping.text_a, mapping.text_b)
    if first is None or second is None:
        raise ValueError("a validated mapping names two texts")
    return first, second


def _columns(mapping: ColumnMapping) -> list[str]:
    prompt = [mapping.prompt] if isinstance(mapping.prompt, str) else mapping.prompt
    others = [mapping.label if mapping.votes is None else None, mapping.votes, mapping.cluster]
    return [*prompt, *_text_columns(mapping), *(column for column in others if column is not None)]
