"""Results of the benchmarks as markdown: `python -m benchmarks.tables FILE.json ...`, each written by a benchmark's --out."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("what", "shape", "template", "vocab", "threads", "side")
FACTS = ("tokens_per_pair", "head_rows_per_pair", "tokens_per_second", "model_flops_use", "peak_gib", "identical")
NOTES = ("notes", "max_rows", "difference_gib")


def markdown(result: Mapping[str, Any]) -> str:
    """The environment, the ratios and every cell."""
    machine = ", ".join(f"{name} {value}" for name, value in result["environment"].items() if value is not None)
    parts = [f"**{result['benchmark']}**: {machine}"]
    if result.get("comparisons"):
        parts.append(_table_of(result["comparisons"], list(dict.fromkeys(n for row in result["comparisons"] for n in row))))
    cells = [{**cell, "seconds each (all repeats)": _times(cell)} for cell in result["all"]]
    parts.append(_table_of(cells, [*COLUMNS, "seconds each (all repeats)", *FACTS]))
    parts += [f"{name}: {json.dumps(result[name])}" for name in NOTES if name in result]
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _table_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The named values of each row, without the names that no row has."""
    present = [name for name in names if any(row.get(name) is not None for row in rows)]
    return table([name.replace("_", " ") for name in present], [[_text(name, row.get(name)) for name in present] for row in rows])


def _times(cell: Mapping[str, Any]) -> str:
    if not cell.get("seconds"):
        return str(cell["left_out"])
    return f"**{_number(cell['median'])}** ({', '.join(map(_number, cell['seconds']))})"


def _text(name: str, value: Any) -> str:
    return "" if value is None else str(value) if name in COLUMNS or isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of the files named."""
    for name in sys.argv[1:] if arguments is None else arguments:
        print(markdown(json.loads(Path(name).read_text(encoding="utf-8"))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
