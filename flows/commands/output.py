"""What commands print: one JSON object or readable text on standard output, log lines on standard error."""

import json
import logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any

CELL_WIDTH = 60  # characters of one cell of a printed table; csv and json give whole texts
# What a terminal obeys instead of showing, in names and texts of whoever wrote the file: C0 but tab and newline, DEL, C1.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class StandardErrorHandler(logging.Handler):
    """Plain lines to whatever `sys.stderr` is at that moment: a progress bar puts its own stream there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; warnings and errors say so."""
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        print(f"{level}{record.getMessage()}", file=sys.stderr, flush=True)


def configure_logging(debug: bool) -> None:
    """Send the log of the pipeline to standard error."""
    logger = logging.getLogger("srpo")
    logger.handlers = [StandardErrorHandler()]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False


def print_json(value: Any) -> None:
    """Print `value` as one JSON value; a number that does not exist becomes null."""
    print(json.dumps(_plain(value), ensure_ascii=False, indent=2, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def printable(text: str) -> str:
    """`text` without the control characters that would move a terminal's cursor or change its state; tabs and newlines stay."""
    return _CONTROL.sub(" ", text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under their columns: with lines on a terminal, in plain aligned text elsewhere."""
    columns, cells = [_cell(name) for name in columns], [[_cell(value) for value in row] for row in rows]
    numeric = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(columns))]
    if sys.stdout.isatty():
        _print_rich(columns, cells, numeric)
        return
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(columns)]
    for row in [list(columns), *cells]:
        padded = [
            text.rjust(width) if right else text.ljust(width) for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _print_rich(columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(text) for text in row))
    Console().print(table)


def sized(num_bytes: float) -> str:
    """Bytes as people read them: 950 B, 1.2 MB."""
    units = ["B", "kB", "MB", "GB"]
    while num_bytes >= 1000 and units[1:]:
        num_bytes, units = num_bytes / 1000, units[1:]
    return f"{num_bytes:.0f} B" if units[0] == "B" else f"{num_bytes:.1f} {units[0]}"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value) if isinstance(value, str | date | time) else json.dumps(_plain(value), ensure_ascii=False, default=str)
    text = " ".join(printable(text).split())
    return text if len(text) <= CELL_WIDTH else text[: CELL_WIDTH - 1] + "…"


def print_fields(fields: Mapping[str, Any], indent: str = "") -> None:
    """Print names and values, one a line, nested ones indented; numbers to six digits, for JSON has them exactly."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            print(f"{indent}{printable(name)}:" + ("" if value else " none"))
            print_fields(value, indent + "  ")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            print(f"{indent}{printable(name)}:")
            for item in value:
                print(f"{indent}  - " + ", ".join(f"{printable(k)} {_inline(v)}" for k, v in item.items() if v is not None))
        else:
            print(f"{indent}{printable(name)}: {_inline(value)}")


def _inline(value: Any) -> str:
    if isinstance(value, str | Path):
        return printable(str(value))
    return "–" if value is None else printable(json.dumps(_shortened(_plain(value)), ensure_ascii=False, default=str))


def _shortened(value: Any) -> Any:
    """Floats anywhere in `value` to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _shortened(inner) for name, inner in value.items()}
    return [_shortened(inner) for inner in value] if isinstance(value, list) else value
