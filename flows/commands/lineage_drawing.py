"""A lineage drawn: as a tree of lines for a terminal, and as Mermaid text, which the Prefect UI and code hosts render."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.lineage import Lineage, Node

SHOWN_SETTINGS = 8
FIRST = ("method", "alpha", "beta", "learning_rate", "num_steps", "epochs", "seed", "kind", "model", "name", "domain", "format")
SHORT = 12  # characters of hashes


def tree(lineage: "Lineage") -> str:
    """Each artifact once with what made it and what it read; where it occurs again, its id alone."""
    lines = [f"{lineage.asked} was made from:"]
    seen: set[str] = set()
    for root in lineage.roots:
        lines += _branch(lineage, root, "", "", "", seen)
    return "\n".join(lines)


def _branch(lineage: "Lineage", name: str, role: str, first: str, rest: str, seen: set[str]) -> Iterator[str]:
    node = lineage.nodes[name]
    yield f"{first}{_title(node)}{f'  ({role})' if role else ''}{'  (see above)' if name in seen else ''}"
    if name in seen:
        return
    seen.add(name)
    children = [edge for edge in lineage.edges if edge.child == name]
    bar = "│ " if children else "  "
    yield from (f"{rest}{bar}  {fact}" for fact in _facts(node))
    for index, edge in enumerate(children):
        last = index == len(children) - 1
        yield from _branch(
            lineage, edge.parent, edge.role, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "), seen
        )


def _title(node: "Node") -> str:
    if not node.present:
        return f"{node.id}  (no longer in this home)"
    return f"{node.id}  {node.name}".rstrip()


def _facts(node: "Node") -> Iterator[str]:
    """When, by which code and run, under which settings, from which files."""
    if not node.present:
        return
    made = [f"made {(node.created_at or '')[:19]}", f"commit {node.git_commit[:SHORT]}" if node.git_commit else "no commit known"]
    made += [f"run {node.run_id}"] if node.run_id else []
    made += [f"Prefect run {node.prefect_run}"] if node.prefect_run else []
    yield ", ".join(made)
    settings = sorted(_flat(node.settings), key=_importance)
    if settings:
        left = len(settings) - SHOWN_SETTINGS
        yield "settings " + ", ".join(settings[:SHOWN_SETTINGS]) + (f" and {left} more (srpo show {node.id})" if left > 0 else "")
    for source in node.sources:
        place = source.get("path") or source.get("dataset") or source.get("name_or_path") or source.get("name") or "a file"
        facts = [f"{key} {source[key]}" for key in ("sha256", "commit", "config", "split", "files") if source.get(key)]
        yield f"from {place}  {', '.join(facts)}".rstrip()


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """`name=value` of every setting that is set, nested ones with a dot; sources have lines of their own."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None and name not in ("sha256", "sources", "opponents", "files") and not isinstance(value, list):
            yield f"{prefix}{name}={str(value)[:40]}"


def _importance(setting: str) -> int:
    name = setting.split("=")[0].rsplit(".", 1)[-1]
    return FIRST.index(name) if name in FIRST else len(FIRST)


def mermaid(lineage: "Lineage") -> str:
    """A flow chart from sources to what was asked for; boxes are artifacts, rounded ones files and hub data."""
    lines = ["flowchart TD"]
    numbers = {name: f"n{index}" for index, name in enumerate(lineage.nodes)}
    for name, node in lineage.nodes.items():
        stage, fingerprint = name.split("/")
        lines.append(f'    {numbers[name]}["{_label(f"{stage} {node.name}".strip())}<br/>{fingerprint[:SHORT]}"]')
        for index, source in enumerate(node.sources):
            place = str(source.get("path") or source.get("dataset") or source.get("name") or "file").rsplit("/", 1)[-1]
            key = str(source.get("sha256") or source.get("commit") or "")[:SHORT]
            lines.append(f'    {numbers[name]}s{index}(["{_label(place)}<br/>{key}"]) --> {numbers[name]}')
    for edge in lineage.edges:
        lines.append(f'    {numbers[edge.parent]} -->|"{_label(edge.role)}"| {numbers[edge.child]}')
    return "\n".join(lines)


def _label(text: str) -> str:
    """Text as Mermaid takes it inside quotes."""
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
