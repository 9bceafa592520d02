"""What of a home may go, and why the rest stays: the rule behind `srpo gc`.

Kept are the champion and the policy a rollback would bring back, with all that judged them; challengers that were looked at and
not decided on, such as one that waits for approval, with all that judged them; what is pinned; what recent runs used; what was
made recently; what a living process uses; frozen games and their looks, which tell when a judge changes; and every ancestor of
these. The rest goes, unfinished leftovers included. Replies of judges (`reply_ledger/`), run records and the
registry are never touched. Deleting is in `storage/deletion.py`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from storage.artifact import STAGES, Artifact, list_artifacts, list_incomplete
from storage.disk_usage import newest_change, size_on_disk
from storage.errors import UnusableInput
from storage.lease import try_lease
from storage.pins import read_pins
from storage.registry import champion, read_registry, rollback_target, undecided_looks
from storage.runs import read_runs

ROWS = "reference_rows"
ALWAYS_KEPT = ("sentinels", "sentinel_looks")
_MADE_FROM_POLICIES = ("policies", "reference")  # made with a policy, and no judgement of it
StoresOf = Callable[[Artifact], set[str]]  # names of the folders of `reference_rows` that a policy as reference would use


class Item(NamedTuple):
    """An artifact, an unfinished leftover of one, or a folder of reference rows."""

    name: str  # stage/fingerprint, or reference_rows/key
    complete: bool
    bytes: int  # on disk; linked files are not counted
    reason: str  # why it stays; empty when it goes


class CleaningPlan(NamedTuple):
    """Everything in a home that gc looks at."""

    going: list[Item]  # children before what they were made from
    staying: list[Item]


def plan_cleaning(
    home: Path, *, days: float, stores_of: StoresOf, now: datetime | None = None, only: set[str] | None = None
) -> CleaningPlan:
    """What would go from `home` when the last `days` count as recent.

    `only`: names that may go at all; None = any. Raises UnusableInput without a home or with negative days, and BrokenArtifact
    where a manifest, a run record, the pins or the registry cannot be read: what is not understood is not deleted.
    """
    if days < 0:
        raise UnusableInput(f"expected a number of days of at least 0, found {days}; correct --days")
    if not home.is_dir():
        raise UnusableInput(f"expected a home folder at {home}, found none; name one with --home")
    since = (now or datetime.now(UTC)) - timedelta(days=days)
    artifacts = {f"{one.stage}/{one.fingerprint}": one for stage in STAGES for one in list_artifacts(home, stage)}
    reasons = _with_ancestors(artifacts, _roots(home, artifacts, since, only))
    going: list[Item] = []
    staying: list[Item] = []
    for name in reversed(_parents_first(artifacts)):
        item = Item(name, True, size_on_disk(home / name), reasons.get(name, ""))
        (staying if item.reason else going).append(item)
    kept = [artifacts[item.name] for item in staying]
    for item in [*_leftovers(home, since, only), *_stores(home, since, kept, stores_of, only)]:
        (staying if item.reason else going).append(item)
    return CleaningPlan(going, staying)


def _roots(home: Path, artifacts: Mapping[str, Artifact], since: datetime, only: set[str] | None) -> dict[str, str]:
    """What stays for its own sake, and why; of several reasons the weightiest."""
    roots: dict[str, str] = {}
    for reasons in (
        _champions(home, artifacts),
        _undecided(home, artifacts),
        {name: f"pinned: {why}" for name, why in read_pins(home).items()},
        _used_by_runs(home, since),
        {name: "frozen games of a judge" for name, one in artifacts.items() if one.stage in ALWAYS_KEPT},
        {name: "made recently" for name, one in artifacts.items() if _time(one.manifest["created_at"]) >= since},
        {name: "in use by a process" for name in artifacts if only is not None and name not in only},
    ):
        roots = reasons | roots
    return {name: why for name, why in roots.items() if name in artifacts}


def _champions(home: Path, artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """The champion and the one before it, all texts and verdicts of theirs, and what the runs used that the registry names."""
    found: dict[str, str] = {}
    entries, runs = read_registry(home), {run["run_id"]: run for run in read_runs(home)}
    for policy, title in ((champion(home), "champion"), (rollback_target(home), "champion before")):
        if policy is None:
            continue
        evidence = _with_evidence(f"policies/{policy}", artifacts)
        for entry in entries:
            if entry["policy_id"] == policy and entry["run_id"] in runs:
                evidence += _stages_of(runs[entry["run_id"]])
        found = {name: title if name == evidence[0] else f"evidence of the {title}" for name in evidence} | found
    return found


def _undecided(home: Path, artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """Challengers whose look at the confirmation prompts was taken and not decided on, and what their runs used."""
    found: dict[str, str] = {}
    runs = read_runs(home)
    for look in undecided_looks(home):
        evidence = _with_evidence(f"policies/{look['policy_id']}", artifacts)
        for run in runs:
            if look["prefect_run"] is not None and run.get("prefect_run") == look["prefect_run"]:
                evidence += _stages_of(run)
        why = f"of the challenger that entry {look['entry']} of the registry looked at, undecided"
        found = {name: "challenger, undecided" if name == evidence[0] else f"evidence {why}" for name in evidence} | found
    return found


def _with_evidence(policy: str, artifacts: Mapping[str, Artifact]) -> list[str]:
    """A policy, all texts and verdicts of it, and what was made of these."""
    children = defaultdict(list)
    for name, one in artifacts.items():
        for parent in _parents(one):
            children[parent].append(name)
    evidence = [policy]
    for name in evidence:  # grows on the way
        evidence += [child for child in children[name] if child.split("/")[0] not in _MADE_FROM_POLICIES]
    return evidence


def _used_by_runs(home: Path, since: datetime) -> dict[str, str]:
    used: dict[str, str] = {}
    for run in reversed(read_runs(home)):  # newest first
        times = [_time(run[key]) for key in ("recorded_at", "started_at") if run.get(key)]
        if times and max(times) >= since:
            used = {name: f"used by run {run['run_id']}" for name in _stages_of(run)} | used
    return used


def _stages_of(run: Mapping[str, Any]) -> list[str]:
    return [f"{stage['stage']}/{stage['fingerprint']}" for stage in run["stages"]]


def _with_ancestors(artifacts: Mapping[str, Artifact], roots: Mapping[str, str]) -> dict[str, str]:
    """`roots`, and everything they were made from, with the one that needs it."""
    reasons = dict(roots)
    pending = list(roots)
    while pending:
        name = pending.pop()
        for parent in _parents(artifacts[name]):
            if parent in artifacts and parent not in reasons:
                reasons[parent] = f"needed by {name}"
                pending.append(parent)
    return reasons


def _parents_first(artifacts: Mapping[str, Artifact]) -> list[str]:
    """All names, each behind everything it was made from."""
    ordered: dict[str, None] = {}
    for start in artifacts:
        pending = [start]
        while pending:
            name = pending[-1]
            missing = [p for p in _parents(artifacts[name]) if p in artifacts and p not in ordered]
            if missing and name not in ordered:
                pending += missing
            else:
                ordered.setdefault(pending.pop())
    return list(ordered)


def _parents(artifact: Artifact) -> list[str]:
    return [f"{parent['stage']}/{parent['fingerprint']}" for parent in artifact.manifest["parents"].values()]


def _leftovers(home: Path, since: datetime, only: set[str] | None) -> Iterator[Item]:
    """Folders without a manifest: a run at work holds their lease, an interrupted one may go on from them."""
    for stage in STAGES:
        for path in list_incomplete(home, stage):
            name = f"{stage}/{path.name}"
            reason = "in use by a process" if only is not None and name not in only else _unfinished(path, since)
            yield Item(name, False, size_on_disk(path), reason)


def _stores(home: Path, since: datetime, kept: Iterable[Artifact], stores_of: StoresOf, only: set[str] | None) -> Iterator[Item]:
    """Folders of reference rows: needed as long as a policy is there that could be their reference."""
    needed: dict[str, str] = {}
    for one in kept:
        if one.stage == "policies":
            needed |= dict.fromkeys(stores_of(one), f"rows of policies/{one.fingerprint}")
        elif one.stage == "reference" and "store" in one.info:
            needed[one.info["store"]] = f"needed by reference/{one.fingerprint}"
    for path in sorted((home / ROWS).glob("*")):
        if path.is_dir():
            name = f"{ROWS}/{path.name}"
            reason = needed.get(path.name) or _unfinished(path, since)
            if only is not None and name not in only:
                reason = reason or "in use by a process"
            yield Item(name, True, size_on_disk(path), reason)


def _unfinished(path: Path, since: datetime) -> str:
    """Why a folder that nothing stands on stays all the same; empty when it may go."""
    changed = newest_change(path)
    with try_lease(path) as free:
        if not free:
            return "being written"
    return "changed recently" if changed >= since else ""


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
