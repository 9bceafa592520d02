"""From a judge's reply to a label, or to the reason why there is none.

A verdict is bound to the *last* line that looks like one, and its value is checked only after the line is chosen: narrowing
the search to valid values would let it fall back to a label that the reply merely quotes. Nothing here guesses: a reply
without one clear verdict is unscored, which is not a loss.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

PARSER_VERSION = 1  # rises when a stored reply would be read otherwise; it is part of what was asked for
PARSE_FAILURE = "parse_failure"
AMBIGUOUS = "ambiguous"
EMPTY_REPLY = "empty_reply"

_BRACKETED = re.compile(r"\[\[([^\[\]\n]{0,20})\]\]")
_DECORATION = " \t\"'`*_.“”‘’«»"
_CODE_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class VerdictFormat:
    """How a preset's judge states its verdict."""

    scores: Mapping[str, float]  # label -> score of the text shown first, in [0, 1]
    json_key: str  # the field that holds the label in a structured reply
    line_label: str | None = None  # the word before the colon; None: the label stands in double brackets, [[A]]


@dataclass(frozen=True)
class ParsedVerdict:
    """A label with the score of the text shown first, or the reason why there is none."""

    label: str | None
    first_score: float | None
    unscored_reason: str | None


def parse_verdict(reply: str, form: VerdictFormat, judged_texts: Sequence[str] = ()) -> ParsedVerdict:
    """Read the verdict of `reply`: a JSON object if it is one, else the last verdict line.

    `judged_texts` are the texts the judge was shown. When one of them holds something that looks like a verdict line, prose
    after the last verdict line makes it a probable quotation, so only a verdict on the reply's very last line counts.
    """
    if not reply.strip():
        return _unscored(EMPTY_REPLY)
    found = _json_labels(reply, form)
    if found is None:
        found = _last_line_labels(reply, form, trailing_prose=not any(_looks_like_verdict(t, form) for t in judged_texts))
    return _resolve(found, form)


def json_schema(form: VerdictFormat) -> dict[str, Any]:
    """The `response_format` that asks for one comparison and one of the labels."""
    properties = {"comparison": {"type": "string"}, form.json_key: {"type": "string", "enum": list(form.scores)}}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}


def verdict_lines(form: VerdictFormat) -> list[str]:
    """The replies that consist of a verdict and nothing else, one for each label."""
    return [f"[[{label}]]" if form.line_label is None else f"{form.line_label}: {label}" for label in form.scores]


def _resolve(found: list[str], form: VerdictFormat) -> ParsedVerdict:
    """One value, valid: scored. Several different ones: ambiguous. None, or an unknown one: parse_failure."""
    if len(set(found)) > 1:
        return _unscored(AMBIGUOUS)
    if not found or found[0] not in form.scores:
        return _unscored(PARSE_FAILURE)
    return ParsedVerdict(found[0], form.scores[found[0]], None)


def _unscored(reason: str) -> ParsedVerdict:
    return ParsedVerdict(None, None, reason)


def _json_labels(reply: str, form: VerdictFormat) -> list[str] | None:
    """The values under the verdict's key, [] for an object without one, None when the reply is not meant as an object."""
    fenced = _CODE_FENCE.match(reply)
    text = (fenced.group(1) if fenced else reply).strip()
    if not text.startswith("{"):
        return None
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return []
    # Pairs, not a dict: a dict would keep the last of two contradicting verdicts and hide the first.
    return [_normalize(value) if isinstance(value, str) else "" for key, value in pairs if key == form.json_key]


class _Pairs(list):  # type: ignore[type-arg]
    """A JSON object as its (key, value) pairs, in order."""


def _last_line_labels(reply: str, form: VerdictFormat, *, trailing_prose: bool) -> list[str]:
    """The values in the last run of adjacent verdict lines; [] when there is none where it may stand."""
    lines = [line for line in reply.splitlines() if line.strip()]
    found: list[str] = []
    for distance, line in enumerate(reversed(lines)):
        values = _line_values(line, form)
        if values:
            found += values
        elif found or (distance == 0 and not trailing_prose):
            break
    return found


def _looks_like_verdict(text: str, form: VerdictFormat) -> bool:
    return bool((_BRACKETED if form.line_label is None else _labelled(form.line_label)).search(text))


def _line_values(line: str, form: VerdictFormat) -> list[str]:
    """The values a line states, unchecked: every [[x]] in it, or what follows the label at its start."""
    if form.line_label is None:
        return [_normalize(value) for value in _BRACKETED.findall(line)]
    before, *values = _labelled(form.line_label).split(line)
    # A line that opens with a quotation mark or ">" is a quotation, so only markdown may come before the label.
    return [] if before.strip(" \t*_#-") else [_normalize(value) for value in values]


@cache
def _labelled(line_label: str) -> re.Pattern[str]:
    """The label and its colon, with markdown between them."""
    words = r"\s+".join(re.escape(word) for word in line_label.split())
    return re.compile(rf"{words}[\s*_]*[:：]", re.IGNORECASE)


def _normalize(value: str) -> str:
    return re.sub(r"\s+", "", value.strip(_DECORATION)).upper()
