"""What one run found, as Markdown: the win-rate table, its curves as pictures, the verdicts, and where everything lies.

Read from the published database, so that what a person sees of a run is what SQL gives; Prefect shows it as an artifact.
"""

import base64
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.charts import standalone
from storage.results_db import results_path, run_query
from storage.runs import read_run
from tasks.report_charts import win_rate_charts
from tasks.reporting import REPORT, read_rates

Row = dict[str, Any]

_SQL = """SELECT p.name, eval_set, is_ood, opponent, opponent_revision_index, judge, temperature, sampling, revision_index,
    n_scored, n_games_unscored, win_rate, ci_low, ci_high
FROM win_rates JOIN policies p USING (policy_id)
WHERE policy_id IN ({policies})
ORDER BY eval_set, judge, opponent, opponent_revision_index, temperature, sampling, p.name, policy_id, revision_index"""
_VERDICTS = """SELECT CASE WHEN score IS NULL THEN coalesce(unscored_reason, '(no reason kept)') END AS reason,
    count(*) AS games, count(score) AS scored
FROM games WHERE artifact IN ({games}) GROUP BY reason ORDER BY games DESC, reason"""
_CURVE = ("name", "eval_set", "is_ood", "opponent", "opponent_revision_index", "judge", "temperature", "sampling")


class RunSummary(NamedTuple):
    """A run's win rates in three forms."""

    markdown: str
    rows: list[Row]  # one a policy, evaluation set and revision
    sql: str  # what gives the rows


def summarise_run(home: Path, run_id: str) -> RunSummary:
    """Summary of a recorded run whose results were published. Raises UnusableInput when they were not."""
    record = read_run(home, run_id)
    policies = [stage["fingerprint"] for stage in record["stages"] if stage["stage"] == "policies"]
    sql = _SQL.format(policies=", ".join(f"'{policy}'" for policy in policies))
    rows = run_query(home, sql).to_pylist()
    rates = [row for row in read_rates(home) if row["policy_id"] in policies]
    sections = [
        f"# {record['settings']['name']}: win rates by self-revision",
        _table(rows),
        "\n\n".join(_picture(chart) for chart in win_rate_charts(rates)),
        _verdicts(home, record),
        f"## The same table by SQL\n\n```sql\n{sql}\n```\n\nwith `srpo sql` or on `{results_path(home)}` with DuckDB.",
        _places(home, record),
    ]
    return RunSummary("\n\n".join(section for section in sections if section), rows, sql)


def _table(rows: list[Row]) -> str:
    """One line a policy and evaluation set, one column a revision; settings that do not vary have no column."""
    if not rows:
        return "No verdicts: nothing was judged."
    columns = [name for name in _CURVE if name in _CURVE[:3] or len({row[name] for row in rows}) > 1]
    revisions = sorted({row["revision_index"] for row in rows})
    curves: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in rows:
        curves.setdefault(tuple(row[name] for name in columns), {})[row["revision_index"]] = row
    head = [*("policy" if name == "name" else name for name in columns), *(f"revision {r}" for r in revisions), "n"]
    lines = [_line(head), _line(["---"] * len(head))]
    for key, curve in curves.items():
        scored = {row["n_scored"] for row in curve.values()}
        n = str(min(scored)) if len(scored) == 1 else f"{min(scored)}–{max(scored)}"
        lines.append(_line([*map(_text, key), *(_rate(curve.get(revision)) for revision in revisions), n]))
    return "\n".join(lines) + "\n\nIn per cent, with 95 % intervals; n = prompts with both orders scored."


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _rate(row: Row | None) -> str:
    if row is None or row["win_rate"] is None:
        return "–"
    interval = "" if row["ci_low"] is None else f" ({100 * row['ci_low']:.1f}–{100 * row['ci_high']:.1f})"
    return f"{100 * row['win_rate']:.1f}{interval}"


def _picture(chart: dict[str, str]) -> str:
    data = base64.b64encode(standalone(chart["svg"]).encode()).decode()
    return f"![win rate by self-revision](data:image/svg+xml;base64,{data})\n\n{chart['caption']}"


def _verdicts(home: Path, record: Row) -> str:
    """How many games of this run have a score, and why the others have none."""
    artifacts = ", ".join(f"'{stage['fingerprint']}'" for stage in record["stages"] if stage["stage"] == "games")
    if not artifacts:
        return ""
    counts = run_query(home, _VERDICTS.format(games=artifacts)).to_pylist()
    games, scored = (sum(row[name] for row in counts) for name in ("games", "scored"))
    shown = [f"{games} games, {scored} scored, {games - scored} unscored"]
    shown += [f"{row['games']} × {row['reason']}" for row in counts if not row["scored"]]
    return "## Verdicts\n\n" + "; ".join(shown) + "."


def _places(home: Path, record: Row) -> str:
    """Links to the run's record, the report and every artifact; a browser may refuse to follow links to files."""
    files = {"run record": home / "runs" / f"{record['run_id']}.json", "report": home / REPORT, "database": results_path(home)}
    lines = [f"- {name}: {_link(path)}" for name, path in files.items()]
    lines += [f"- {stage['stage']}: {_link(home / stage['stage'] / stage['fingerprint'])}" for stage in record["stages"]]
    return "## Where it lies\n\n" + "\n".join(dict.fromkeys(lines))


def _link(path: Path) -> str:
    return f"[`{path}`]({path.absolute().as_uri()})"
