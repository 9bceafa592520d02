"""`<home>/report.html`: one self-contained page made from the results database, to read, send and print.

Everything on it comes from `results.duckdb`: the page shows what was published, and nothing else. It asks for no other file;
its own policy (Content-Security-Policy) forbids it to.
"""

from collections import defaultdict
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from storage.parquet import write_atomically
from storage.results_db import open_results
from storage.schemas import CURVE
from storage.stored_queries import read_query
from tasks.equal_compute_chart import equal_compute_charts
from tasks.method_order import method_position
from tasks.report_charts import training_charts, win_rate_charts
from tasks.report_texts import revision_chains

REPORT = "report.html"
Row = dict[str, Any]

_TOTALS = """
SELECT (SELECT count(*) FROM policies) AS policies, (SELECT count(*) FROM completions) AS completions,
    (SELECT count(*) FROM verdicts) AS verdicts, (SELECT count(*) FROM verdicts WHERE score IS NULL) AS unscored,
    (SELECT count(*) FROM preferences) AS pairs, (SELECT count(*) FROM rejected_rows) AS rejected_rows,
    (SELECT count(DISTINCT prompt_id) FROM prompts) AS prompts,
    (SELECT count(*) FROM artifacts WHERE NOT complete) AS running,
    (SELECT max(created_at) FROM artifacts) AS newest, (SELECT arg_max(git_commit, created_at) FROM artifacts) AS git_commit
"""
# Settings from the familiar to the shifted, methods from the paper's to its baselines, so that neighbours can be compared.
_ORDER = f"""bool_or(is_ood) OVER (PARTITION BY eval_set) NULLS LAST, eval_set, judge, opponent, temperature,
    sampling, {method_position("method")}"""
_LAST_REVISION = f"max(revision_index) OVER (PARTITION BY {', '.join(CURVE)})"
_RATES = f"""
SELECT w.*, name FROM win_rates_with_ceilings w LEFT JOIN (SELECT policy_id, name FROM policies) USING (policy_id)
ORDER BY {_ORDER}, name, seed, policy_id, revision_index
"""
_GAINS = f"""
SELECT g.*, name FROM revision_gain g LEFT JOIN (SELECT policy_id, name FROM policies) USING (policy_id)
QUALIFY revision_index = {_LAST_REVISION}
ORDER BY {_ORDER}, name, seed, policy_id
"""
_BY_METHOD = f"FROM win_rates_by_method ORDER BY {_ORDER}, beta, learning_rate, revision_index"
# The draft and the last revision, where the question is asked: do revisions win by being longer?
_LENGTH = f"""
SELECT l.*, name FROM length_control l LEFT JOIN (SELECT policy_id, name FROM policies) USING (policy_id)
QUALIFY revision_index IN (0, {_LAST_REVISION})
ORDER BY {_ORDER}, name, seed, policy_id, revision_index
"""
_RULES = f"""
SELECT r.*, name FROM win_rates_by_rule r LEFT JOIN (SELECT policy_id, name FROM policies) USING (policy_id)
WHERE rule <> 'default'
QUALIFY revision_index IN (0, {_LAST_REVISION})
ORDER BY {_ORDER}, name, seed, policy_id, revision_index, rule
"""
_EQUAL_COMPUTE = """
SELECT e.*, p.name, p.method, p.seed, p.beta FROM equal_compute e JOIN artifacts a ON a.fingerprint = e.artifact
LEFT JOIN policies p USING (policy_id)
QUALIFY dense_rank() OVER (PARTITION BY policy_id, eval_set, e.judge, temperature ORDER BY a.created_at DESC, e.artifact) = 1
ORDER BY eval_set, e.judge, temperature, p.name, policy_id, strategy DESC, selector, num_drafts, num_revisions
"""
_UNSCORED = """
SELECT judge, eval_set, coalesce(unscored_reason, '(no reason kept)') AS reason, count(*) AS games
FROM verdicts WHERE score IS NULL GROUP BY ALL ORDER BY games DESC, judge, eval_set, reason
"""
_TRAINING = """
SELECT t.policy_id, t.step, t.name AS metric, t.value, p.name, p.method, p.seed, p.beta
FROM training_log t JOIN policies p USING (policy_id) WHERE isfinite(t.value) ORDER BY p.name, t.policy_id, t.name, t.step
"""
_ONE_EDIT = """
SELECT coalesce(p.name, e.policy_id) AS name, e.* FROM one_edit e LEFT JOIN policies p USING (policy_id)
ORDER BY name, e.policy_id, e.target DESC
"""
_POLICIES = "SELECT policy_id, name, method, training_domains, settings FROM policies ORDER BY name, policy_id"
_RUNS = "SELECT run_id, state, git_commit, record->>'$.prefect_page' AS page FROM runs ORDER BY run_id"
_LINEAGE = """
SELECT a.stage, a.fingerprint, a.complete, a.created_at, a.git_commit, a.counts,
    string_agg(l.parent_name || ' = ' || l.parent_stage || '/' || l.parent, ', ' ORDER BY l.parent_name) AS parents
FROM artifacts a LEFT JOIN lineage l ON l.child = a.fingerprint AND l.child_stage = a.stage
GROUP BY ALL ORDER BY a.created_at NULLS LAST, a.stage, a.fingerprint
"""


def write_report(home: Path) -> Path:
    """Write `<home>/report.html` from `<home>/results.duckdb` and return its path.

    Raises UnusableInput when nothing was published. A report without verdicts is still written and says what is missing.
    """
    home = Path(home)
    with open_results(home) as connection:
        page = _render(_context(connection))

    def write(temporary: Path) -> None:
        temporary.write_text(page, encoding="utf-8")

    write_atomically(home / REPORT, write)
    return home / REPORT


def read_rates(home: Path) -> list[Row]:
    """The published win rates with bands, ceilings and the label of each policy, in the report's order."""
    with open_results(home) as connection:
        rates = _rows(connection, _RATES)
    several = _shared_names(rates)
    return [row | {"label": _label(row, several)} for row in rates]


def _context(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    rates, gains = _rows(connection, _RATES), _rows(connection, _GAINS)
    log, collapse = _rows(connection, _TRAINING), _rows(connection, read_query("collapse").sql)
    length, rules, compared = _rows(connection, _LENGTH), _rows(connection, _RULES), _rows(connection, _EQUAL_COMPUTE)
    several = _shared_names(log + rates + collapse)
    for row in rates + gains + log + collapse + length + rules + compared:
        row["label"] = _label(row, several)
    return {
        "totals": _rows(connection, _TOTALS)[0],
        "rates": rates,
        "gains": gains,
        "varying": _varying(rates),
        "has_ceiling": any(row["ceiling"] is not None for row in rates),
        "charts": win_rate_charts(rates),
        "training": training_charts(log),
        "judges": _rows(connection, "FROM judge_consistency ORDER BY ALL"),
        "unscored": _rows(connection, _UNSCORED),
        "by_method": _rows(connection, _BY_METHOD),
        "one_edit": _rows(connection, _ONE_EDIT),
        "collapse": collapse,
        "length": length,
        "rules": rules,
        "equal_compute": equal_compute_charts(compared),
        "audits": _rows(connection, read_query("judge_audits").sql),
        "looks": _rows(connection, read_query("sentinel").sql),
        "chains": revision_chains(connection),
        "policies": _rows(connection, _POLICIES),
        "artifacts": _rows(connection, _LINEAGE),
        "runs": _rows(connection, _RUNS),
    }


def _render(context: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined  # here, because every flow would pay for the import

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "span": _span, "points": _points, "number": _number}
    template = (resources.files("srpo_core") / "report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(context)


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Row]:
    return connection.sql(sql).to_arrow_table().to_pylist()


def _varying(rates: list[Row]) -> set[str]:
    """The settings that the page holds several of and that therefore need a column."""
    return {name for name in ("judge", "opponent", "temperature", "sampling") if len({row[name] for row in rates}) > 1}


def _shared_names(rows: list[Row]) -> set[str]:
    """Names that more than one policy bears, so that a label needs more than the name."""
    bearers: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        bearers[row["name"] or row["policy_id"]].add(row["policy_id"])
    return {name for name, policies in bearers.items() if len(policies) > 1}


def _label(row: Row, several: set[str]) -> str:
    name = row["name"] or row["policy_id"][:8]
    if name not in several:
        return name
    beta = "" if row["beta"] is None else f" β {row['beta']:g}"
    seed = "" if row["seed"] is None else f" seed {row['seed']}"
    return f"{name}{beta}{seed}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _span(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f} %"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.4g}"
