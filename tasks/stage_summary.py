"""What a stage made, as Markdown: for each artifact its id, counts and losses, what it was made from, and what to do next."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from storage.artifact import Artifact, was_made_since
from storage.names import name_artifact
from tasks.left_out import LOSSES, count_losses
from tasks.markdown import bullet, table

MOST_PARENTS = 10  # named one by one; a merge may have thousands of sources
# What is done with an artifact next: a command, in which {id} is its own and {<role>} a parent's fingerprint.
NEXT = {
    "preferences": "srpo train --policy POLICY --preferences {id}",
    "prompts": "srpo generate --policy POLICY --prompts {id}",
    "reference": "srpo train --policy {reference} --preferences {preferences} --reference {id}",
    "policies": "srpo generate --policy {id} --prompts SET",
    "completions": "srpo judge --completions {id}",
    "games": "srpo publish",
    "audits": "srpo publish",
    "equal_compute": "srpo publish",
}


def describe_artifacts(artifacts: Sequence[Artifact], began: datetime) -> str:
    """A section an artifact; one that was completed before `began` was found, not made."""
    return "\n\n".join(_section(artifact, began) for artifact in artifacts)


def describe_published(database: Path, report: Path) -> str:
    """Where the published results are and how to ask them."""
    places = "\n".join([bullet("database", database), bullet("report", report)])
    return f"# Published\n\n{places}\n\nNext: `srpo ask win_rates --home {shlex.quote(str(database.parent))}`"


def _section(artifact: Artifact, began: datetime) -> str:
    name, manifest = name_artifact(artifact), artifact.manifest
    state = "made now" if was_made_since(artifact, began) else f"complete already, made {manifest['created_at'][:16]}"
    counts = table(["count", "number"], [(label.replace("_", " "), f"{n:,}") for label, n in artifact.counts.items()])
    losses = [f"- {count:,} {LOSSES[label]}" for label, count in count_losses([artifact]).items()]
    parts = [
        f"# {artifact.stage}{f': {name}' if name else ''}\n\n`{artifact.fingerprint}`, {state}",
        counts if artifact.counts else "",
        "Left out or cut short:\n\n" + "\n".join(losses) if losses else "",
        _spent(artifact),
        _parents(artifact),
        f"In `{artifact.path}`; `srpo lineage {artifact.stage}/{artifact.fingerprint} --home {_home(artifact)}` says all of it.",
        _next(artifact),
    ]
    return "\n\n".join(part for part in parts if part)


def _spent(artifact: Artifact) -> str:
    """What a judge's address was paid for it."""
    spent = artifact.info.get("spent")
    if not spent:
        return ""
    money = f", {spent['cost']:.4g} in money" if spent.get("cost") else ""
    return f"It took {spent.get('requests', 0):,} requests and {spent.get('tokens', 0):,} tokens{money}."


def _parents(artifact: Artifact) -> str:
    parents = artifact.manifest["parents"]
    lines = [f"- {role}: `{one['stage']}/{one['fingerprint']}`" for role, one in list(parents.items())[:MOST_PARENTS]]
    more = [f"- and {len(parents) - MOST_PARENTS} more"] if len(parents) > MOST_PARENTS else []
    return "Made from:\n\n" + "\n".join(lines + more) if lines else ""


def _next(artifact: Artifact) -> str:
    parents = {role: one["fingerprint"] for role, one in artifact.manifest["parents"].items()}
    try:
        command = NEXT.get(artifact.stage, "").format(id=artifact.fingerprint, **parents)
    except KeyError:  # an artifact of an earlier version, whose parents had other roles
        command = ""
    return f"Next: `{command} --home {_home(artifact)}`" if command else ""


def _home(artifact: Artifact) -> str:
    """As a shell takes it."""
    return shlex.quote(str(artifact.path.parent.parent))
