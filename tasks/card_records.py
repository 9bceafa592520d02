"""What the records of a home say of one policy, for its card: data, what was left out, win rates and judges.

Places of files are left out: where something lay is nobody's business.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage.artifact import Artifact, list_artifacts
from storage.errors import UnusableInput
from storage.names import Names
from storage.results_db import run_query
from storage.schemas import CONTAMINATION
from tasks.publishing import publish_results

Row = dict[str, Any]
UNKNOWN = "unknown"
_RATES = """SELECT eval_set, is_ood, judge, opponent, opponent_revision_index, temperature, sampling, revision_index,
    win_rate, ci_low, ci_high, n_scored, n_games_unscored
FROM win_rates WHERE policy_id = '{policy}'
ORDER BY eval_set, judge, opponent, opponent_revision_index, temperature, sampling, revision_index"""


def describe_source(source: Artifact) -> Row:
    """One line of the table of sources."""
    settings = source.settings
    hub = settings.get("dataset")
    identity = f"commit `{settings['commit']}`" if hub else f"sha256 `{settings.get('sha256', UNKNOWN)}`"
    counts = {"pairs": source.counts.get("pairs"), "rejected": source.counts.get("rejected_rows")}
    return {
        "name": as_cell(hub or settings.get("name")),
        "dataset": hub,
        "format": source.info.get("format"),
        "identity": identity,
    } | counts


def describe_demonstrations(ancestors: list[Artifact]) -> Iterator[str]:
    """How many there were, and where they come from."""
    for one in ancestors:
        if one.stage == "demonstrations":
            origin = f"a file, sha256 `{one.settings['sha256']}`" if one.settings.get("sha256") else "made from the preferences"
            yield f"{one.counts['demonstrations']} ({origin})"


def count_left_out(home: Path, policy: Artifact, ancestors: list[Artifact]) -> Iterator[str]:
    """Everything that was dropped on the way, with its number.

    Of pairs and reference rows only the policy's own where it has such parents: those of the policy it was trained on from hold
    the same losses, and would repeat them.
    """
    for one in ancestors:
        if one.stage == "preferences" and _of(policy, "preferences") in (None, one.fingerprint):
            reasons = sorted(one.info.get("rejected_by_reason", {}).items())
            yield from (f"{count} source rows: {reason}" for reason, count in reasons if count)
            if one.counts.get("merged_duplicates"):
                yield f"{one.counts['merged_duplicates']} duplicates of pairs, merged with their votes added"
        if one.stage == "contamination" and one.fingerprint == _of(policy, "contamination"):
            pairs = len(set(one.read(CONTAMINATION, columns=["pair_id"])["pair_id"].to_pylist()))
            if pairs:
                yield f"{pairs} pairs that overlap with an evaluation prompt"
        if one.stage == "reference" and _of(policy, "reference_rows") in (None, one.fingerprint):
            if one.counts.get("pairs_too_long"):
                yield f"{one.counts['pairs_too_long']} pairs that exceed the context"
    cut = Counter[str]()
    for one in _written(home, policy):
        cut[Names(home).of(one)] += one.counts.get("prompts_truncated", 0)
    yield from (f"{count} prompts cut to fit the context: {name}" for name, count in cut.items() if count)


def _of(policy: Artifact, role: str) -> str | None:
    return policy.manifest["parents"].get(role, {}).get("fingerprint")


def _written(home: Path, policy: Artifact) -> list[Artifact]:
    """The completions of the policy."""
    completions = list_artifacts(home, "completions")
    return [one for one in completions if one.manifest["parents"]["policy"]["fingerprint"] == policy.fingerprint]


def _games(home: Path, policy: Artifact) -> list[Artifact]:
    own = {one.fingerprint for one in _written(home, policy)}
    games = list_artifacts(home, "games")
    return [one for one in games if one.manifest["parents"].get("completions", {}).get("fingerprint") in own]


def read_rates_of(home: Path, policy: Artifact) -> list[Row]:
    """The policy's win rates as the database has them; published first where it lacks some of this policy's games."""
    games = _games(home, policy)
    if not games:
        return []
    if not _are_published(home, games):
        publish_results(home)
    rates = run_query(home, _RATES.format(policy=policy.fingerprint)).to_pylist()
    return [_rate(row, rates) for row in rates]


def _are_published(home: Path, games: list[Artifact]) -> bool:
    try:
        found = run_query(home, "SELECT fingerprint FROM artifacts WHERE stage = 'games'")["fingerprint"].to_pylist()
    except UnusableInput:
        return False
    return {one.fingerprint for one in games} <= set(found)


def _rate(row: Row, rates: list[Row]) -> Row:
    """One line of the table; settings that all lines share have no column."""
    cells = {"evaluation set": as_cell(row["eval_set"]) + (" (out of distribution)" if row["is_ood"] else "")}
    titles = {"judge": "judge", "opponent": "against", "opponent_revision_index": "its revision"}
    titles |= {"temperature": "temperature", "sampling": "decoding"}
    for key, title in titles.items():
        if key in ("judge", "opponent") or len({one[key] for one in rates}) > 1:
            cells[title] = "–" if row[key] is None else str(row[key])
    interval = "–" if row["ci_low"] is None else f"{100 * row['ci_low']:.1f}–{100 * row['ci_high']:.1f} %"
    return cells | {
        "revision": row["revision_index"],
        "win rate": "–" if row["win_rate"] is None else f"{100 * row['win_rate']:.1f} %",
        "95 % interval": interval,
        "n": row["n_scored"],
        "unscored games": row["n_games_unscored"],
    }


def describe_judges(home: Path, policy: Artifact) -> Iterator[dict[str, str]]:
    """Each judge once, with what decides its verdicts."""
    told: dict[str, str] = {}
    for one in _games(home, policy):
        judge = one.settings.get("judge") or {}
        shown = {
            key: value for key, value in without_places(judge).items() if not isinstance(value, dict | list) and key != "base_url"
        }
        told[str(one.info.get("judge") or judge.get("kind"))] = ", ".join(f"{key} {value}" for key, value in shown.items())
    yield from ({"name": name, "text": text} for name, text in sorted(told.items()))


def as_cell(text: object) -> str:
    """Text as it may stand in a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def without_places(settings: Row) -> Row:
    """Settings without the places of files."""
    return {
        key: without_places(value) if isinstance(value, dict) else short_name(value) if isinstance(value, str) else value
        for key, value in settings.items()
        if value is not None
    }


def short_name(name: str) -> str:
    """A folder's own name: where it lay is nobody's business."""
    return Path(name).name if name.startswith(("/", ".", "~")) else name
