"""Rows of evaluation sets → prompts with their gold texts.

For articles the prompt is the article alone, as one user turn: the templates add their header. A named opponent's answers
take the place of gold texts, joined by id.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from srpo_core.data.conversations import as_messages, read_completion, read_prompt, read_text
from srpo_core.data.format_functions import FormatFunction
from srpo_core.data.labelled_pairs import Row, UnusableRow, check_prompt, check_text, value_of
from srpo_core.errors import InputError
from srpo_core.records import Prompt, user_prompt

ID_COLUMNS = ("uid", "question_id", "id")
GOLD_COLUMNS = ("gold", "golds", "completion")


@dataclass(frozen=True)
class GoldPrompt:
    """An evaluation prompt as its source states it; `item_id` is what an opponent's answers are joined by."""

    prompt: Prompt
    gold: list[str] = field(default_factory=list)
    cluster: str | None = None
    item_id: str | None = None


ConvertPrompt = Callable[[Row], GoldPrompt]


@dataclass(frozen=True)
class PromptFormat:
    """A public evaluation set's schema."""

    name: str
    columns: tuple[str, ...]
    convert: ConvertPrompt

    def recognises(self, row: Row) -> bool:
        """Whether the row has all of the format's columns."""
        return all(column in row for column in self.columns)


def choose_prompt_converter(format_name: str, row: Row, where: str) -> tuple[str, ConvertPrompt]:
    """The format's name and converter for a file whose first readable row is `row`. Raises InputError."""
    wanted = [f for f in FORMATS if format_name in ("auto", f.name)]
    if not wanted:
        names = ", ".join(dict.fromkeys(f.name for f in FORMATS))
        raise InputError(f"expected a format for {where}, found {format_name!r}; known are auto, {names} and file.py:function")
    for candidate in wanted:
        if candidate.recognises(row):
            return candidate.name, candidate.convert
    known = "; ".join(f"{f.name} ({', '.join(f.columns)})" for f in wanted)
    raise InputError(
        f"expected the columns of an evaluation set in {where}, found {', '.join(map(str, row)) or 'none'}; known: {known}; "
        "for anything else write --format file.py:function"
    )


def convert_by_function(function: FormatFunction, row: Row) -> Iterator[GoldPrompt]:
    """Prompts from the dictionaries (prompt, gold or golds, cluster?, id?) a user's function gives."""
    for given in function.call(row):
        yield _plain(given)


def checked(item: GoldPrompt) -> GoldPrompt:
    """The same prompt, if it and its gold texts are usable. Raises UnusableRow."""
    check_prompt(item.prompt)
    for text in item.gold:
        check_text(text, "gold")
    return item


def read_answers(rows: Iterable[Row]) -> dict[str, str]:
    """An opponent's answers by item id; held in memory, as an evaluation set is small. Unusable rows give no answer."""
    answers: dict[str, str] = {}
    for row in rows:
        try:
            item_id = _item_id(row)
            if item_id is not None:
                answers[item_id] = _last_answer(row)
        except UnusableRow:
            continue
    return answers


def with_opponent(item: GoldPrompt, answers: dict[str, str]) -> GoldPrompt:
    """The prompt with the opponent's answer as its gold. Raises UnusableRow when there is none."""
    if item.item_id is None or item.item_id not in answers:
        raise UnusableRow(f"no answer of the opponent: {item.item_id}")
    return GoldPrompt(item.prompt, [answers[item.item_id]], item.cluster, item.item_id)


def _article(article: str, gold: str, row: Row) -> GoldPrompt:
    """An article and its reference summary, or a list of them; a list of sentences as article is joined."""
    golds = value_of(row, gold)
    golds = [golds] if isinstance(golds, str) else golds
    if not isinstance(golds, list) or not golds:
        raise UnusableRow("empty gold")
    return GoldPrompt(
        user_prompt(read_text(value_of(row, article), article)), [read_text(text, gold) for text in golds], item_id=_item_id(row)
    )


def _arena_hard(row: Row) -> GoldPrompt:
    prompt = row.get("prompt")
    if prompt is None:
        turns = value_of(row, "turns")
        prompt = value_of(turns[0], "content") if len(turns) == 1 else None
    if prompt is None:
        raise UnusableRow("more than one turn")
    return GoldPrompt(read_prompt(prompt), [], str(row["cluster"]) if row.get("cluster") else None, _item_id(row))


def _plain(row: Row) -> GoldPrompt:
    """prompt with gold, golds or completion; a set without gold texts is judged against another policy."""
    gold: Any = next((row[c] for c in GOLD_COLUMNS if row.get(c) is not None), [])
    golds = gold if isinstance(gold, list) and as_messages(gold) is None else [gold]
    cluster = row.get("cluster")
    return GoldPrompt(
        read_prompt(value_of(row, "prompt")),
        [read_completion(text) for text in golds],
        None if cluster is None else str(cluster),
        _item_id(row),
    )


def _item_id(row: Row) -> str | None:
    return next((str(row[c]) for c in ID_COLUMNS if row.get(c) is not None), None)


def _last_answer(row: Row) -> str:
    """The answer in either form Arena-Hard has used: a message list, or choices with turns; or a plain text."""
    for column in ("output", "answer", "completion"):
        if isinstance(row.get(column), str):
            return row[column].strip()
    if row.get("choices"):
        turns: Any = value_of(row["choices"][0], "turns")
        return read_text(value_of(turns[-1], "content"), "answer")
    messages = as_messages(value_of(row, "messages"))
    if not messages or messages[-1]["role"] != "assistant":
        raise UnusableRow("no answer of the opponent")
    return messages[-1]["content"]


FORMATS = (
    PromptFormat("frank", ("document", "gold_summary"), partial(_article, "document", "gold_summary")),
    PromptFormat("xsum", ("document", "summary"), partial(_article, "document", "summary")),
    PromptFormat("cnn_dailymail", ("article", "highlights"), partial(_article, "article", "highlights")),
    PromptFormat("scitldr", ("source", "target"), partial(_article, "source", "target")),
    PromptFormat("arena_hard", ("uid", "prompt", "cluster"), _arena_hard),
    PromptFormat("arena_hard", ("question_id", "turns"), _arena_hard),
    PromptFormat("plain", ("prompt",), _plain),
)
