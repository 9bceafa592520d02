"""`srpo score FILE`: statistics of verdicts from anywhere, read from CSV, JSONL, JSON or Parquet.

One row is one verdict: prompt_id, order (as_is: candidate shown first; swapped: second), score in [0, 1] for the candidate
(empty, null or NaN = unscored) and optionally cluster_id. The numbers are those of `win_rate.py`.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from srpo_core.errors import InputError
from srpo_core.win_rate import Floats, order_statistics, prompt_scores, win_rate_interval

REQUIRED = ("prompt_id", "order", "score")
OPTIONAL = ("cluster_id",)
UNSCORED = {"", "nan", "null", "none", "na"}


class Verdict(NamedTuple):
    """One row of a score file."""

    prompt_id: str
    order: str
    score: float  # NaN = unscored
    cluster_id: str | None


class Verdicts(NamedTuple):
    """A whole score file, one entry a prompt."""

    prompts: list[str]
    orders: list[str]  # the one or two labels found; as_is first where there is one
    scores: Floats  # (2, P), or (1, P) when every prompt has a single order; NaN = missing or unscored
    clusters: list[str] | None
    num_unscored: int  # rows without a score
    ignored_columns: list[str]


def score_file(path: Path) -> dict[str, Any]:
    """Read `path` and return its statistics, ready for JSON (a number that does not exist is None).

    With both orders asked, a prompt counts when both are scored. A file that asks every prompt in one order only is scored as
    it stands and says so in `design` and `note`, because its position bias cannot be averaged out. Raises InputError.
    """
    return score_verdicts(read_verdicts(path))


def score_verdicts(verdicts: Verdicts) -> dict[str, Any]:
    """Statistics of `verdicts` as described at `score_file`."""
    both = len(verdicts.scores) == 2
    as_is, swapped = verdicts.scores[0], verdicts.scores[-1]
    by_prompt = prompt_scores(verdicts.prompts, as_is, swapped)
    place = np.searchsorted(by_prompt.prompts, np.asarray(verdicts.prompts))
    rate = win_rate_interval(by_prompt.score[place], verdicts.clusters)
    orders = order_statistics(as_is, swapped)
    named = set(verdicts.orders) == {"as_is", "swapped"}
    result = {
        "n": rate.n,
        "win_rate": rate.estimate,
        "standard_error": rate.standard_error,
        "ci_low": rate.ci_low,
        "ci_high": rate.ci_high,
        "consistency": orders.consistency if both else None,
        "first_position_rate": orders.first_position_rate if both and named else None,
        "bound_low": float(by_prompt.low.mean()),
        "bound_high": float(by_prompt.high.mean()),
        "n_prompts": len(verdicts.prompts),
        "n_unscored": len(verdicts.prompts) - rate.n,
        "n_games_unscored": verdicts.num_unscored,
        "n_clusters": len(set(verdicts.clusters)) if verdicts.clusters else len(verdicts.prompts),
        "design": "both_orders" if both else "single_order",
        "note": _note(both, rate.n, len(verdicts.prompts)),
        "ignored_columns": verdicts.ignored_columns,
    }
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in result.items()}


def read_verdicts(path: Path) -> Verdicts:
    """Read and check a score file. Raises InputError naming the file and the row."""
    columns, rows = _read_rows(Path(path))
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(
            f"expected the columns prompt_id, order and score in {path}, found {', '.join(columns) or 'none'}; "
            f"add or rename {', '.join(missing)}"
        )
    verdicts = [_verdict(row, f"row {number} of {path}") for number, row in enumerate(rows, start=1)]
    if not verdicts:
        raise InputError(f"expected verdicts in {path}, found no rows; write one row per prompt and order")
    ignored = [name for name in columns if name not in REQUIRED + OPTIONAL]
    return _arrange(verdicts, path, ignored)


def _arrange(verdicts: list[Verdict], path: Path, ignored: list[str]) -> Verdicts:
    orders = sorted({v.order for v in verdicts})
    if len(orders) > 2:
        raise InputError(f"expected at most two orders (as_is, swapped) in {path}, found {', '.join(map(repr, orders[:5]))}")
    prompts = list(dict.fromkeys(v.prompt_id for v in verdicts))
    cells: dict[tuple[str, str], float] = {}
    for verdict in verdicts:
        key = (verdict.prompt_id, verdict.order)
        if key in cells:
            raise InputError(
                f"expected one row per prompt and order in {path}, found prompt {key[0]!r} with order {key[1]!r} twice; "
                "average repeats first or give them their own prompt_id and one cluster_id"
            )
        cells[key] = verdict.score
    single = len(cells) == len(prompts)
    table = [[cells.get((prompt, order), math.nan) for prompt in prompts] for order in orders]
    if single:
        table = [[next(cells[prompt, order] for order in orders if (prompt, order) in cells) for prompt in prompts]]
    unscored = sum(math.isnan(v.score) for v in verdicts)
    return Verdicts(prompts, orders, np.array(table), _clusters(verdicts, prompts, path), unscored, ignored)


def _clusters(verdicts: list[Verdict], prompts: list[str], path: Path) -> list[str] | None:
    found: dict[str, str] = {}
    for verdict in verdicts:
        if verdict.cluster_id is not None and found.setdefault(verdict.prompt_id, verdict.cluster_id) != verdict.cluster_id:
            raise InputError(
                f"expected one cluster_id per prompt in {path}, found {found[verdict.prompt_id]!r} and {verdict.cluster_id!r} "
                f"for prompt {verdict.prompt_id!r}"
            )
    if not found:
        return None
    without = [prompt for prompt in prompts if prompt not in found]
    if without:
        raise InputError(
            f"expected a cluster_id for every prompt in {path}, found none for prompt {without[0]!r}; fill or drop the column"
        )
    return [found[prompt] for prompt in prompts]


def _verdict(row: dict[str, Any], where: str) -> Verdict:
    prompt, order, cluster = (_text(row.get(name)) for name in ("prompt_id", "order", "cluster_id"))
    if prompt is None or order is None:
        raise InputError(f"expected a prompt_id and an order in {where}, found {row.get('prompt_id')!r} and {row.get('order')!r}")
    return Verdict(prompt, order, _score(row.get("score"), where), cluster)


def _text(value: Any) -> str | None:
    return None if value is None or str(value).strip() == "" else str(value).strip()


def _score(value: Any, where: str) -> float:
    if value is None or (isinstance(value, str) and value.strip().lower() in UNSCORED):
        return math.nan
    try:
        score = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a score in [0, 1] or nothing in {where}, found {value!r}") from error
    if score < 0 or score > 1:
        raise InputError(f"expected a score in [0, 1] in {where}, found {value}; rescale it so that 1 is a win for the candidate")
    return score


def _note(both: bool, scored: int, prompts: int) -> str | None:
    if scored == 0:
        return "no prompt is scored" + (" in both orders" if both else "") + ", so there is no win rate"
    if not both:
        return "each prompt was asked in one order only: the judge's position bias is part of this win rate"
    if scored < prompts:
        return f"{prompts - scored} of {prompts} prompts lack a score in an order and are left out; the bounds count them"
    return None


def _read_rows(path: Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    readers: dict[str, Callable[[Path], tuple[list[str], Iterator[dict[str, Any]]]]] = {
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".json": _read_json,
        ".parquet": _read_parquet,
    }
    if not path.is_file():
        raise InputError(f"expected a file of verdicts, found no file at {path}")
    if path.suffix.lower() not in readers:
        raise InputError(f"expected a file ending in {', '.join(readers)}, found {path.name}")
    try:
        return readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} at offset {error.start}"
        raise InputError(f"expected UTF-8 text in {path}, found {found}") from error
    except OSError as error:
        raise InputError(f"expected a readable file of verdicts at {path}, found: {error}") from error


def _read_csv(path: Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            columns, rows = list(reader.fieldnames or []), list(reader)
        except csv.Error as error:
            raise InputError(f"expected CSV in {path}, found: {error} at line {reader.line_num}") from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise InputError(f"expected {len(columns)} fields in row {number} of {path} as its header says, found another number")
    return columns, iter(rows)


def _read_jsonl(path: Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        lines = [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    return _objects((_parse(line, f"line {number} of {path}") for number, line in lines), path)


def _read_json(path: Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    values = _parse(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(values, list):
        raise InputError(f"expected a list of objects in {path}, found a JSON {type(values).__name__}")
    return _objects(values, path)


def _objects(values: Iterable[Any], path: Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    rows = list(values)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"expected an object with prompt_id, order and score in row {number} of {path}, found {row!r}")
    if not rows:
        raise InputError(f"expected verdicts in {path}, found no rows; write one row per prompt and order")
    return list(dict.fromkeys(name for row in rows for name in row)), iter(rows)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"expected JSON in {where}, found: {error}") from error


def _read_parquet(path: Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise InputError(f"expected a Parquet file at {path}, found: {str(error).splitlines()[0]}") from error
    return table.column_names, iter(table.select([n for n in table.column_names if n in REQUIRED + OPTIONAL]).to_pylist())
