"""Files of verdicts from anywhere, as CSV, JSONL, JSON or Parquet: one row is one verdict.

Columns: prompt_id, order (as_is: candidate shown first; swapped: second), score in [0, 1] for the candidate (empty, null or NaN
= unscored). Optional: cluster_id; judge, eval_set, method, seed and revision_index, which tell groups of verdicts apart;
repeat_index (the same question asked again); label (the verdict in the judge's own words); candidate_length and opponent_length
(characters). Other columns are ignored and named.
"""

import csv
import difflib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.errors import InputError

REQUIRED = ("prompt_id", "order", "score")
GROUPING = ("judge", "eval_set", "method", "seed", "revision_index")
OPTIONAL = ("cluster_id", *GROUPING, "repeat_index", "label", "candidate_length", "opponent_length")
UNSCORED = {"", "nan", "null", "none", "na"}
Row = dict[str, Any]


class Verdict(NamedTuple):
    """One row of a file of verdicts."""

    prompt_id: str
    order: str
    score: float  # NaN = unscored
    cluster_id: str | None
    judge: str | None
    eval_set: str | None
    method: str | None
    seed: int | None
    revision_index: int | None
    repeat_index: int
    label: str | None
    candidate_length: float  # NaN where it is not given
    opponent_length: float


class VerdictFile(NamedTuple):
    """A whole file of verdicts."""

    path: Path
    verdicts: list[Verdict]
    columns: list[str]  # those that are used
    ignored_columns: list[str]
    hints: list[str]  # a sentence for each ignored column that looks like a misspelt one
    also: dict[str, list[Any]]  # of each column asked for besides, where there is one: its value in every row, as it stands


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Column names and rows of a file. Raises InputError, naming the file and the row, when it cannot be read as a table."""
    readers: dict[str, Callable[[Path], tuple[list[str], list[Row]]]] = {
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".json": _read_json,
        ".parquet": _read_parquet,
    }
    if not path.is_file():
        raise InputError(f"expected a file of verdicts, found no file at {path}; name one that exists")
    if path.suffix.lower() not in readers:
        raise InputError(f"expected a file ending in {', '.join(readers)}, found {path.name}; convert or rename it")
    try:
        return readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} at offset {error.start}"
        raise InputError(f"expected UTF-8 text in {path}, found {found}; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"expected a readable file of verdicts at {path}, found: {error}; mend its access") from error


def read_verdicts(path: Path, *, highest: float = 1.0, also: tuple[str, ...] = ()) -> VerdictFile:
    """Read and check a file of verdicts with scores in [0, `highest`]. Raises InputError naming the file and the row.

    `also` names further columns, which are handed on unread.
    """
    path = Path(path)
    columns, rows = read_table(path)
    known = (*REQUIRED, *OPTIONAL, *also)
    ignored = [name for name in columns if name not in known]
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        hint = "; ".join(_hints(ignored, missing))
        raise InputError(
            f"expected the columns prompt_id, order and score in {path}, found {', '.join(columns) or 'none'}; "
            f"add or rename {', '.join(missing)}" + (f" ({hint})" if hint else "")
        )
    if not rows:
        raise InputError(f"expected verdicts in {path}, found no rows; write one row per prompt and order")
    verdicts = [_verdict(row, f"row {number} of {path}", highest) for number, row in enumerate(rows, start=1)]
    _check_filled(verdicts, columns, path)
    used = [name for name in known if name in columns]
    further = {name: [row.get(name) for row in rows] for name in also if name in columns}
    return VerdictFile(path, verdicts, used, ignored, _hints(ignored, [name for name in known if name not in columns]), further)


def _hints(ignored: list[str], absent: list[str]) -> list[str]:
    plain = {name: name.lower().strip().replace(" ", "_") for name in ignored}
    found = {name: difflib.get_close_matches(plain[name], absent, n=1, cutoff=0.75) for name in ignored}
    return [f"column {name!r} is ignored and looks like {close[0]}" for name, close in found.items() if close]


def _check_filled(verdicts: list[Verdict], columns: list[str], path: Path) -> None:
    """Half-filled grouping columns would mix groups; only a seed may be absent (a model nobody trained here has none)."""
    for name in ("judge", "eval_set", "method", "revision_index"):
        values = [getattr(verdict, name) for verdict in verdicts]
        if name in columns and None in values and set(values) != {None}:
            number = values.index(None) + 1
            raise InputError(f"expected a {name} in every row of {path}, found none in row {number}; fill or drop the column")


def _verdict(row: Row, where: str, highest: float) -> Verdict:
    prompt, order = _text(row.get("prompt_id")), _text(row.get("order"))
    if prompt is None or order is None:
        raise InputError(
            f"expected a prompt_id and an order in {where}, found {row.get('prompt_id')!r} and {row.get('order')!r}; fill them"
        )
    return Verdict(
        prompt,
        order,
        _score(row.get("score"), where, highest),
        _text(row.get("cluster_id")),
        _text(row.get("judge")),
        _text(row.get("eval_set")),
        _text(row.get("method")),
        _integer(row, "seed", where),
        _integer(row, "revision_index", where, lowest=0),
        _integer(row, "repeat_index", where, lowest=0) or 0,
        _text(row.get("label")),
        _length(row, "candidate_length", where),
        _length(row, "opponent_length", where),
    )


def _text(value: Any) -> str | None:
    return None if value is None or str(value).strip() == "" else str(value).strip()


def _number(value: Any) -> float | None:
    """A number, NaN for what stands for none, None for what is no number."""
    if value is None or (isinstance(value, str) and value.strip().lower() in UNSCORED):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _score(value: Any, where: str, highest: float) -> float:
    score = _number(value)
    if score is None:
        raise InputError(
            f"expected a score in [0, {highest:g}] or nothing in {where}, found {value!r}; write a number or leave it empty"
        )
    if score < 0 or score > highest:
        rescale = "rescale it so that 1 is a win for the candidate"
        if highest == 1 and score <= 2:
            rescale += " (--rule alpaca_eval reads preferences in [1, 2])"
        raise InputError(f"expected a score in [0, {highest:g}] in {where}, found {score}; {rescale}")
    return score


def _integer(row: Row, name: str, where: str, lowest: int | None = None) -> int | None:
    value = _number(row.get(name))
    if value is not None and math.isnan(value):
        return None
    if value is None or not value.is_integer() or (lowest is not None and value < lowest):
        kind = "a whole number" if lowest is None else f"a whole number from {lowest} on"
        raise InputError(f"expected {kind} as {name} in {where}, found {row.get(name)!r}; correct it or leave it empty")
    return int(value)


def _length(row: Row, name: str, where: str) -> float:
    value = _number(row.get(name))
    if value is None or value < 0 or math.isinf(value):
        raise InputError(
            f"expected a length (characters, 0 or more) as {name} in {where}, found {row.get(name)!r}; correct or empty it"
        )
    return value


def _check_columns(columns: list[str], path: Path) -> list[str]:
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise InputError(f"expected every column of {path} once, found {twice[0]!r} {columns.count(twice[0])} times; drop one")
    return columns


def _read_csv(path: Path) -> tuple[list[str], list[Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            columns, rows = _check_columns(list(reader.fieldnames or []), path), list(reader)
        except csv.Error as error:
            raise InputError(f"expected CSV in {path}, found: {error} at line {reader.line_num}; repair the file") from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise InputError(
                f"expected {len(columns)} fields in row {number} of {path} as its header says, found another number; repair it"
            )
    return columns, rows


def _read_jsonl(path: Path) -> tuple[list[str], list[Row]]:
    with path.open(encoding="utf-8-sig") as file:
        lines = [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    return _objects((_parse(line, f"line {number} of {path}") for number, line in lines), path)


def _read_json(path: Path) -> tuple[list[str], list[Row]]:
    values = _parse(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(values, list):
        raise InputError(f"expected a list of objects in {path}, found a JSON {type(values).__name__}; write [{{...}}, ...]")
    return _objects(values, path)


def _objects(values: Iterable[Any], path: Path) -> tuple[list[str], list[Row]]:
    rows = list(values)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(
                f"expected an object with prompt_id, order and score in row {number} of {path}, found {row!r}; make it one"
            )
    if not rows:
        raise InputError(f"expected verdicts in {path}, found no rows; write one row per prompt and order")
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON in {where}, found: {error}; repair it") from error


def _read_parquet(path: Path) -> tuple[list[str], list[Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise InputError(f"expected a Parquet file at {path}, found: {str(error).splitlines()[0]}; write it again") from error
    return _check_columns(table.column_names, path), table.to_pylist()
