"""The answer of a stored query as a table artifact takes it: plain values, no more rows than a page shows."""

import json
import math
import shlex
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from storage.stored_queries import ask_query, read_query

MOST_ROWS = 1000  # that a page of the server's UI shows without waiting


class Answer(NamedTuple):
    """A stored query's answer, ready to be shown."""

    key: str  # of the artifact: lower case, digits and dashes
    rows: list[dict[str, Any]]
    description: str  # markdown: the question, what was set, and how many rows there are
    num_rows: int  # of the whole answer


def answer_question(home: Path, name: str, given: Mapping[str, Any] | None = None) -> Answer:
    """Ask the published results of `home` a stored question; at most MOST_ROWS rows of the answer, the first ones.

    Raises UnusableInput as `ask_query` does.
    """
    table = ask_query(home, name, given)
    rows = [{column: _plain(value) for column, value in row.items()} for row in table.slice(0, MOST_ROWS).to_pylist()]
    return Answer(name.replace("_", "-"), rows, _describe(home, name, given or {}, len(rows), table.num_rows), table.num_rows)


def _describe(home: Path, name: str, given: Mapping[str, Any], shown: int, total: int) -> str:
    options = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    command = shlex.join(["srpo", "ask", name, *options, "--home", str(home)])
    count = f"{total} rows" if shown == total else f"the first {shown} of {total} rows, {total - shown} are cut"
    return f"{read_query(name).question}\n\n{count}; all of them: `{command}`"


def _plain(value: Any) -> Any:
    """What JSON can hold in one cell: no NaN, no dates, nothing nested."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value if value is None or isinstance(value, bool | int | str) else str(value)
