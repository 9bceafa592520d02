"""Tables and lists in Markdown, as the artifacts of a run show them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

NOTHING = "–"  # of a value that is not there


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table; None is a dash, and a bar inside a cell stays a bar."""
    rule = ["---"] * len(head)
    return "\n".join(_line(cells) for cells in (head, rule, *lines))


def bullet(name: str, path: Path) -> str:
    """A line of a list: what it is, and its path to copy."""
    return f"- {name}: `{path}`"


def folded(title: str, lines: Sequence[str]) -> str:
    """Lines that show when their title is clicked; the blank lines make them Markdown inside the HTML."""
    return "\n".join(["<details>", f"<summary>{title}</summary>", "", *lines, "", "</details>"])


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NOTHING if value is None else str(value).replace("|", "\\|").replace("\n", " ")
