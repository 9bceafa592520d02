"""What one run found, as Markdown: win rates, curves, verdicts, cost, losses, and where everything lies.

Read from the run's record, its artifacts and the published database, so that what a person sees of a run is what SQL gives;
Prefect shows it as an artifact. A number that is not there is a dash.
"""

import base64
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.charts import standalone
from storage.artifact import Artifact
from storage.names import name_artifact
from storage.results_db import results_path, run_query
from storage.runs import read_run
from tasks.left_out import LOSSES, count_losses, read_used
from tasks.markdown import NOTHING, bullet, folded, table
from tasks.report_charts import win_rate_charts
from tasks.reporting import REPORT, read_rates
from tasks.run_cost import StageCost, cost_of_run

Row = dict[str, Any]

# Short lines, and what matters first: the UI shows some 70 characters of a line, and half a dozen columns of a table.
_SQL = """SELECT p.name, eval_set, revision_index,
    win_rate, ci_low, ci_high, n_scored, n_games_unscored, is_ood,
    opponent, opponent_revision_index, judge, temperature, sampling, policy_id
FROM win_rates JOIN policies p USING (policy_id)
WHERE policy_id IN (SELECT fingerprint FROM run_artifacts
    WHERE stage = 'policies' AND run_id = '{run_id}')
ORDER BY eval_set, judge, opponent, opponent_revision_index,
    temperature, sampling, p.name, policy_id, revision_index"""
_VERDICTS = """SELECT CASE WHEN score IS NULL THEN coalesce(unscored_reason, '(no reason kept)') END AS reason, outcome,
    count(*) AS games
FROM games JOIN run_artifacts u ON u.fingerprint = artifact AND u.stage = 'games'
WHERE run_id = '{run_id}' GROUP BY ALL ORDER BY games DESC, reason"""
_CURVE = ("name", "eval_set", "is_ood", "opponent", "opponent_revision_index", "judge", "temperature", "sampling")
_HEADS = {"name": "policy", "eval_set": "set", "is_ood": "OOD", "opponent_revision_index": "opponent revision"}
PICTURE_WIDTH = 520  # pixels; an artifact's page in the UI has about 600


class RunSummary(NamedTuple):
    """A run's win rates in three forms."""

    markdown: str
    rows: list[Row]  # one a policy, evaluation set and revision
    sql: str  # what gives the rows


def summarise_run(home: Path, run_id: str) -> RunSummary:
    """Summary of a recorded run whose results were published. Raises UnusableInput when they were not."""
    record = read_run(home, run_id)
    artifacts = read_used(home, record["stages"])
    sql = _SQL.format(run_id=run_id)
    rows = [{name: _finite(value) for name, value in row.items()} for row in run_query(home, sql).to_pylist()]
    policies = {one.fingerprint for one in artifacts if one.stage == "policies"}
    rates = [row for row in read_rates(home) if row["policy_id"] in policies]
    sections = [
        f"# {record['settings'].get('name') or run_id}: win rates by self-revision",
        _heading(record),
        _win_rates(rows),
        _pictures(win_rate_charts(rates)),
        _verdicts(run_query(home, _VERDICTS.format(run_id=run_id)).to_pylist()),
        _cost(home, record, artifacts),
        _left_out(artifacts),
        f"## The same table by SQL\n\n```sql\n{sql}\n```\n\nwith `srpo sql`, or on `{results_path(home)}` with DuckDB.",
        _places(home, record, artifacts),
    ]
    return RunSummary("\n\n".join(section for section in sections if section), rows, sql)


def _finite(value: Any) -> Any:
    """What JSON can hold: no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _heading(record: Row) -> str:
    """The run in one line: id, state, when and how long, by which code, and its page in the UI."""
    began, ended = (record.get(name) for name in ("started_at", "recorded_at"))
    facts = [f"Run `{record['run_id']}`", record["state"]]
    if began and ended:
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
        facts.append(f"begun {began[:16].replace('T', ' ')} UTC, results after {_duration(seconds)}")
    if record.get("git_commit"):
        facts.append(f"commit `{record['git_commit'][:10]}`")
    if record.get("deployment"):
        facts.append(f"deployment {record['deployment']}")
    if record.get("prefect_page"):
        facts.append(f"[flow run]({record['prefect_page']})")
    return " · ".join(facts)


def _win_rates(rows: list[Row]) -> str:
    """One line a policy and evaluation set, one column a revision; settings that do not vary have no column."""
    if not rows:
        return "No verdicts: nothing was judged."
    rows = _told_apart(rows)
    columns = [name for name in _CURVE if name in _CURVE[:3] or len({row[name] for row in rows}) > 1]
    revisions = sorted({row["revision_index"] for row in rows})
    curves: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in rows:
        curves.setdefault(tuple(row[name] for name in columns), {})[row["revision_index"]] = row
    head = [*(_HEADS.get(name, name) for name in columns), *("draft" if r == 0 else f"rev. {r}" for r in revisions), "n"]
    lines = []
    for key, curve in curves.items():
        scored = {row["n_scored"] for row in curve.values()}
        n = str(min(scored)) if len(scored) == 1 else f"{min(scored)}–{max(scored)}"
        lines.append([*key, *(_rate(curve.get(revision)) for revision in revisions), n])
    fixed = ", ".join(f"{_HEADS.get(name, name)} {rows[0][name]}" for name in _CURVE[3:] if name not in columns and rows[0][name])
    explained = "In per cent, with 95 % intervals; n = prompts with both orders scored; OOD = out of distribution."
    unknown = ", ".join(sorted({str(row["name"]) for row in rows if row["is_ood"] is None}))
    if unknown:
        why = "the domain of the set or of the texts that the policy was trained on is unknown"
        explained += f" OOD is {NOTHING} where {why}, here for {unknown}."
    return f"{table(head, lines)}\n\n{explained} {fixed.capitalize()}."


def _told_apart(rows: list[Row]) -> list[Row]:
    """A name that several policies bear gets their ids added, as in `name@id`."""
    bearers = Counter(name for name, _ in {(row["name"], row["policy_id"]) for row in rows})
    shared = {name for name, number in bearers.items() if number > 1}
    return [row | {"name": f"{row['name']}@{row['policy_id'][:8]}"} if row["name"] in shared else row for row in rows]


def _rate(row: Row | None) -> str:
    if row is None or row["win_rate"] is None:
        return NOTHING
    interval = "" if None in (row["ci_low"], row["ci_high"]) else f" [{100 * row['ci_low']:.0f},{100 * row['ci_high']:.0f}]"
    return f"{100 * row['win_rate']:.1f}{interval}"


def _pictures(charts: Sequence[dict[str, str]]) -> str:
    """Each curve with its evaluation set and what it is against below; how it was decoded where that is not the same for all."""
    several = len({chart["sampling"] for chart in charts}) > 1
    return "\n\n".join(_picture(chart, f" · {chart['sampling']}" if several else "") for chart in charts)


def _picture(chart: dict[str, str], decoding: str) -> str:
    picture = base64.b64encode(standalone(chart["svg"], PICTURE_WIDTH).encode()).decode()
    name = chart["eval_set"]
    return f"![win rate on {name} by self-revision](data:image/svg+xml;base64,{picture})\n\n{name}: {chart['caption']}{decoding}"


def _verdicts(counts: list[Row]) -> str:
    """How many games of this run have a score, who won, and why the others have none."""
    if not counts:
        return ""
    games = sum(row["games"] for row in counts)
    scored = sum(row["games"] for row in counts if row["reason"] is None)
    shown = [f"{games} games, {scored} scored, {games - scored} unscored"]
    shown += [f"{row['games']} × {row['reason'] or row['outcome']}" for row in counts]
    return "## Verdicts\n\n" + "; ".join(shown) + "."


def _cost(home: Path, record: Row, artifacts: Sequence[Artifact]) -> str:
    cost = cost_of_run(home, record, artifacts)
    head = ["stage", "made", "complete already", "time", "tokens", "requests", "money"]
    lines = [_cost_line(one) for one in cost.stages]
    lines.append(["in all", *_totals(cost.stages)])
    notes = ["Tokens: trained on, written, or exchanged with a judge's address; replies stored before cost nothing again."]
    if cost.found_requests:
        notes.append(f"What was complete already had taken {cost.found_requests} requests, {cost.found_cost:.4g} in money.")
    return f"## What it took\n\n{table(head, lines)}\n\n{' '.join(notes)}"


def _cost_line(one: StageCost) -> list[Any]:
    return [one.stage, one.made, one.found, _seconds(one.seconds), _count(one.tokens), _count(one.requests), _money(one.cost)]


def _totals(stages: Sequence[StageCost]) -> list[Any]:
    def total(values: list[Any]) -> Any:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    return [
        sum(one.made for one in stages),
        sum(one.found for one in stages),
        _seconds(total([one.seconds for one in stages])),
        _count(total([one.tokens for one in stages])),
        _count(total([one.requests for one in stages])),
        _money(total([one.cost for one in stages])),
    ]


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else _duration(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{seconds:.1f} s" if seconds < 60 else f"{minutes}:{rest:02d} min" if minutes < 60 else f"{seconds / 3600:.1f} h"


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def _money(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4g}"


def _left_out(artifacts: Sequence[Artifact]) -> str:
    losses = count_losses(artifacts)
    lines = [f"- {count:,} {LOSSES[name]}" for name, count in losses.items()]
    return "## Left out or cut short\n\n" + ("\n".join(lines) if lines else "Nothing.")


def _places(home: Path, record: Row, artifacts: Sequence[Artifact]) -> str:
    """Where the run's record, the report and every artifact lie, folded: a list to copy from, for the UI links to no files."""
    files = {"run record": home / "runs" / f"{record['run_id']}.json", "report": home / REPORT, "database": results_path(home)}
    lines = [bullet(name, path) for name, path in files.items()]
    lines += [bullet(f"{one.stage}, {name_artifact(one)}".rstrip(", "), one.path) for one in artifacts]
    run_id = record["run_id"]
    place = shlex.quote(str(home))
    shown = f"`srpo show {run_id} --home {place}` shows the record, and with an id from below the same command shows its lineage."
    back = f"In SQL the table `runs` has this run's row and `prefect_run` its flow run: `FROM runs WHERE run_id = '{run_id}'`."
    return f"## Where it lies\n\n{shown} {back}\n\n{folded(f'{len(lines)} files and folders', lines)}"
