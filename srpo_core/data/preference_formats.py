"""Rows of preference sets → labelled pairs: the public schemas by their columns, a column mapping, or a user's function.

A format is recognised by the columns of a file's first row. A row gives one pair, or, where several answers were compared,
one pair per comparison. What makes no pair is an UnusableRow with its reason.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from srpo_core.data.column_mapping import check_mapping, convert_by_mapping
from srpo_core.data.conversations import (
    HUMAN_TURN,
    as_messages,
    read_completion,
    read_prompt,
    read_text,
    split_after_shared_prompt,
    split_plain_texts,
    split_transcripts,
    without_cue,
)
from srpo_core.data.format_functions import FormatFunction
from srpo_core.data.labelled_pairs import LabelledPair, Outcome, Row, UnusableRow, make_pair, read_number, value_of
from srpo_core.data.n_way_comparisons import convert_n_way, is_n_way
from srpo_core.errors import InputError
from srpo_core.records import Prompt, user_prompt
from srpo_core.settings.data import ColumnMapping

Convert = Callable[[Row], Iterable[Outcome]]


@dataclass(frozen=True)
class PreferenceFormat:
    """A public schema: how to know it by a row's columns, and how to read a row."""

    name: str
    columns: str  # named in error sentences
    recognises: Callable[[Row], bool]
    convert: Convert


def outcomes(convert: Convert, row: Row) -> Iterator[Outcome]:
    """What a row gives: pairs, and an UnusableRow for each comparison (or the whole row) that makes none."""
    given = 0
    try:
        for outcome in convert(row):
            given += 1
            yield outcome
    except UnusableRow as reason:
        given += 1
        yield reason
    if not given:
        yield UnusableRow("no comparison in the row")


def choose_converter(
    format_name: str, mapping: ColumnMapping | None, function: FormatFunction | None, row: Row, where: str
) -> tuple[str, Convert]:
    """The format's name and converter for a file whose first readable row is `row`.

    Raises InputError when no format fits: it lists the columns found, the formats known, and the other two ways.
    """
    if function is not None:
        return function.name, partial(convert_by_function, function)
    if mapping is not None and format_name in ("auto", "columns"):
        check_mapping(mapping, row, where)
        return "columns", partial(_one, partial(convert_by_mapping, mapping))
    wanted = [f for f in FORMATS if format_name in ("auto", f.name)]
    if format_name == "columns" or not wanted:
        raise InputError(
            f"expected a format for {where}, found {format_name!r}; known are auto, {_known_names()}, columns with a mapping, "
            "and file.py:function"
        )
    for candidate in wanted:
        if candidate.recognises(row):
            return candidate.name, candidate.convert
    known = "; ".join(f"{f.name} ({f.columns})" for f in wanted)
    raise InputError(
        f"expected the columns of a preference set in {where}, found {', '.join(map(str, row)) or 'none'}; known: {known}; "
        "for anything else map columns (--prompt-column, --chosen-column, --rejected-column) or write --format file.py:function"
    )


def convert_by_function(function: FormatFunction, row: Row) -> Iterator[Outcome]:
    """Pairs from the dictionaries (prompt, chosen, rejected, preference?, num_votes?, cluster?) a user's function gives."""
    for given in function.call(row):
        try:
            yield _from_dictionary(given)
        except UnusableRow as reason:
            yield reason


def _from_dictionary(given: dict[str, Any]) -> LabelledPair:
    cluster = given.get("cluster")
    return make_pair(
        read_prompt(value_of(given, "prompt")),
        read_completion(value_of(given, "chosen")),
        read_completion(value_of(given, "rejected")),
        read_number(given.get("preference", 1.0), "preference"),
        num_votes=int(read_number(given.get("num_votes", 1), "num_votes")),
        cluster=None if cluster is None else str(cluster),
    )


def _one(convert: Callable[[Row], LabelledPair], row: Row) -> list[Outcome]:
    return [convert(row)]


def _known_names() -> str:
    return ", ".join(f.name for f in FORMATS)


def _has(row: Row, *columns: str) -> bool:
    return all(column in row for column in columns)


# --- chosen and rejected: TRL, HH-RLHF, UltraFeedback ----------------------------------------------------------------


def convert_trl(row: Row, preference: float = 1.0) -> LabelledPair:
    """chosen and rejected, as texts, message lists or transcripts, with the prompt given or shared by both."""
    chosen, rejected = value_of(row, "chosen"), value_of(row, "rejected")
    sides = as_messages(chosen), as_messages(rejected)
    if sides[0] is not None and sides[1] is not None and (len(sides[0]) > 1 or row.get("prompt") is None):
        return make_pair(*split_after_shared_prompt(sides[0], sides[1]), preference)
    if row.get("prompt") is not None:
        first, second = (_after_cue(read_completion(side)) for side in (chosen, rejected))
        return make_pair(read_prompt(row["prompt"]), first, second, preference)
    first, second = read_text(chosen, "chosen"), read_text(rejected, "rejected")
    split = split_transcripts if first.startswith(HUMAN_TURN.strip()) else split_plain_texts
    return make_pair(*split(first, second), preference)


def convert_ultrafeedback(row: Row) -> LabelledPair:
    """UltraFeedback binarized; equal scores are a tie, because the roles were then drawn at random."""
    tied = read_number(value_of(row, "score_chosen"), "score") == read_number(value_of(row, "score_rejected"), "score")
    return convert_trl(row, 0.5 if tied else 1.0)


def _after_cue(completion: str) -> str:
    """Some re-releases of TL;DR repeat the template's cue before the completion."""
    return completion.removeprefix("TL;DR:")


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith(HUMAN_TURN.strip())


# --- two texts and a label -------------------------------------------------------------------------------------------


def convert_summarize_from_feedback(row: Row) -> LabelledPair:
    """OpenAI's comparisons of two summaries of a Reddit post (or of a news article)."""
    summaries, choice = value_of(row, "summaries"), value_of(row, "choice")
    if len(summaries) != 2 or choice not in (0, 1):
        raise UnusableRow(f"unknown label: {choice!r} of {len(summaries)} summaries")
    first, second = (read_text(value_of(summary, "text"), "summary") for summary in summaries)
    return make_pair(reddit_prompt(value_of(row, "info")), first, second, 1.0 - choice)


def reddit_prompt(info: Row) -> Prompt:
    """The post under its subreddit and title as the TL;DR template expects it; a news article stands alone."""
    if info.get("post") is None:
        return user_prompt(read_text(value_of(info, "article"), "article"))
    post = without_cue(read_text(info["post"], "post"))
    if not post:
        raise UnusableRow("empty prompt")
    return user_prompt(f"SUBREDDIT: r/{value_of(info, 'subreddit')}\n\nTITLE: {value_of(info, 'title')}\n\nPOST: {post}")


ARENA_WINNERS = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5, "both_bad": 0.5, "bothbad": 0.5}


def convert_arena(row: Row) -> LabelledPair:
    """Arena battles; only those of one exchange share a prompt."""
    winner = value_of(row, "winner")
    if winner not in ARENA_WINNERS:
        raise UnusableRow(f"unknown label: {winner!r}")
    sides = as_messages(value_of(row, "conversation_a")), as_messages(value_of(row, "conversation_b"))
    if sides[0] is None or sides[1] is None:
        raise UnusableRow("conversation is not a message list")
    return make_pair(*split_after_shared_prompt(sides[0], sides[1]), ARENA_WINNERS[winner])


def convert_alpaca(row: Row) -> LabelledPair:
    """AlpacaFarm and AlpacaEval: preference 1 = output_1, 2 = output_2, in between a probability; 0 and 1.5 are ties."""
    preference = read_number(value_of(row, "preference"), "preference")
    if preference != 0 and not 1 <= preference <= 2:
        raise UnusableRow(f"unknown label: {row['preference']!r}")
    texts = [read_text(row[c], c) for c in ("instruction", "input") if row.get(c)]
    first, second = (read_completion(value_of(row, c)) for c in ("output_1", "output_2"))
    prompt = user_prompt("\n\n".join(text for text in texts if text))
    return make_pair(prompt, first, second, 0.5 if preference == 0 else 2 - preference)


def convert_shp(row: Row) -> LabelledPair:
    """Stanford Human Preferences: labels 1 = A. Its scores are votes for each comment, not votes on the pair."""
    label = read_number(value_of(row, "labels"), "labels")
    if label not in (0, 1):
        raise UnusableRow(f"unknown label: {row['labels']!r}")
    first, second = (read_completion(value_of(row, c)) for c in ("human_ref_A", "human_ref_B"))
    return make_pair(read_prompt(value_of(row, "history")), first, second, label)


def _is_hh_rlhf(row: Row) -> bool:
    return "prompt" not in row and all(_is_transcript(row.get(column)) for column in ("chosen", "rejected"))


def _format(name: str, *columns: str, convert: Callable[[Row], LabelledPair]) -> PreferenceFormat:
    """A format known by having all of `columns`, with one pair a row."""
    return PreferenceFormat(name, ", ".join(columns), lambda row: _has(row, *columns), partial(_one, convert))


FORMATS = (  # the first that recognises a row reads it, so the narrower come first
    _format("summarize_from_feedback", "info", "summaries", "choice", convert=convert_summarize_from_feedback),
    _format("ultrafeedback_binarized", "chosen", "rejected", "score_chosen", "score_rejected", convert=convert_ultrafeedback),
    PreferenceFormat("hh_rlhf", "chosen, rejected as transcripts", _is_hh_rlhf, partial(_one, convert_trl)),
    _format("trl", "chosen", "rejected", convert=convert_trl),
    _format("arena", "winner", "conversation_a", "conversation_b", convert=convert_arena),
    _format("alpaca", "instruction", "output_1", "output_2", "preference", convert=convert_alpaca),
    _format("shp", "history", "human_ref_A", "human_ref_B", "labels", convert=convert_shp),
    PreferenceFormat("n_way", "prompt or question, answers, and comparisons, ranks or scores", is_n_way, convert_n_way),
)
