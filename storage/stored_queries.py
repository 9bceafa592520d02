"""The questions stored as SQL in `storage/queries`: what each asks, what of it can be set, and its answer on a home.

A file opens with its question. Lines below it declare parameters, which the SQL names with a dollar sign:

    -- parameter: days = 7, how many days back          a whole number, with its default
    -- parameter: eval_set = any prompts.eval_set, ...  null, or a value that this column of the home has

Every query runs without any parameter set. docs/sql.md shows each with an answer.
"""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from storage.errors import UnusableInput

if TYPE_CHECKING:
    import pyarrow as pa

MOST = 1_000_000  # of a whole number
SHOWN = 12  # values that a refusal lists
_HEAD = re.compile(r"-- parameter: (?P<name>\w+) = (?:(?P<default>\d+)|any (?P<relation>\w+)\.(?P<column>\w+)), (?P<meaning>.+)")


class Parameter(NamedTuple):
    """What of a stored query can be set."""

    name: str
    default: int | None  # None: a text that restricts the answer when it is given
    relation: str  # where the possible texts stand; empty for a whole number
    column: str
    meaning: str


class StoredQuery(NamedTuple):
    """A file of `storage/queries`."""

    name: str
    question: str
    sql: str
    parameters: tuple[Parameter, ...]


def list_queries() -> dict[str, StoredQuery]:
    """The stored queries by name, in alphabetical order."""
    return {name: read_query(name) for name in _names()}


def read_query(name: str) -> StoredQuery:
    """One stored query; raises UnusableInput naming the stored ones when there is none of that name."""
    if name not in _names():
        raise UnusableInput(f"expected the name of a stored query ({', '.join(_names())}), found {name!r}")
    sql = (resources.files("storage") / "queries" / f"{name}.sql").read_text(encoding="utf-8")
    first, *others = sql.splitlines()
    return StoredQuery(name, first.removeprefix("--").strip(), sql, tuple(map(_parameter, filter(_declares, others))))


def ask_query(home: Path, name: str, given: Mapping[str, Any] | None = None) -> "pa.Table":
    """The answer of a stored query on the published snapshot of `home`, with the parameters `given` set.

    Raises UnusableInput for an unknown query or parameter, an impossible value, or a home that was not published.
    """
    from storage.results_db import run_query

    query = read_query(name)
    known = {parameter.name for parameter in query.parameters}
    unknown = sorted(set(given or {}) - known)
    if unknown:
        takes = ", ".join(sorted(known)) or "none"
        raise UnusableInput(f"expected a parameter of the query {name} ({takes}), found {unknown[0]!r}; correct or leave it out")
    values = {parameter.name: _value(home, parameter, (given or {}).get(parameter.name)) for parameter in query.parameters}
    return run_query(home, query.sql, values)


def describe_queries() -> list[dict[str, str]]:
    """Name, question and parameters of every stored query, as a listing shows them."""
    return [
        {"name": one.name, "question": one.question, "parameters": ", ".join(map(_shown, one.parameters))}
        for one in list_queries().values()
    ]


def read_assignments(texts: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` texts as parameters by name. Raises UnusableInput for any other text and for a name given twice."""
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals) or name in given:
            found = f"{name} twice" if name in given else repr(text)
            raise UnusableInput(f"expected parameters as NAME=VALUE, each once, found {found}; correct it")
        given[name] = value
    return given


def _shown(parameter: Parameter) -> str:
    return parameter.name if parameter.default is None else f"{parameter.name}={parameter.default}"


def _names() -> list[str]:
    folder = resources.files("storage") / "queries"
    return sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql"))


def _declares(line: str) -> bool:
    return line.startswith("-- parameter:")


def _parameter(line: str) -> Parameter:
    found = _HEAD.fullmatch(line)
    if found is None:
        raise ValueError(f"expected the declaration of a parameter, found {line!r}")
    default = None if found["default"] is None else int(found["default"])
    return Parameter(found["name"], default, found["relation"] or "", found["column"] or "", found["meaning"])


def _value(home: Path, parameter: Parameter, given: Any) -> int | str | None:
    from storage.results_db import run_query

    text = "" if given is None else str(given).strip()
    if parameter.default is not None:
        return _whole_number(parameter, text)
    if not text:
        return None
    column = f'CAST("{parameter.column}" AS VARCHAR)'
    there = f"SELECT DISTINCT {column} AS value FROM {parameter.relation} WHERE {column} IS NOT NULL ORDER BY value"
    possible = run_query(home, there)["value"].to_pylist()
    if text not in possible:
        more = f" and {len(possible) - SHOWN} more" if len(possible) > SHOWN else ""
        listed = ", ".join(possible[:SHOWN]) + more if possible else "this home has none"
        raise UnusableInput(
            f"expected {parameter.name} to be one of those in {parameter.relation} ({listed}), found {text!r}; correct it"
        )
    return text


def _whole_number(parameter: Parameter, text: str) -> int | None:
    if not text:
        return parameter.default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MOST:
        raise UnusableInput(
            f"expected {parameter.name} to be a whole number from 1 to {MOST} ({parameter.meaning}), found {text!r}; correct it"
        )
    return int(text)
