"""What an artifact, a run, a verdict or a win rate was made from: back to source files, settings, commit and Prefect run.

Read from manifests and run records on disk. The same edges are in the published database, tables `lineage`, `artifacts` and
`run_artifacts`.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from storage.artifact import Artifact, list_artifacts
from storage.errors import UnusableInput
from storage.lookup import find_record, locate
from storage.makers import Makers
from storage.names import Names
from storage.runs import read_runs


class Node(NamedTuple):
    """One artifact of a lineage."""

    id: str  # stage/fingerprint
    name: str  # what a person calls it
    present: bool  # false: deleted since; nothing else is known of it then
    created_at: str | None
    git_commit: str | None
    run_id: str | None  # of the run that made it; None where a command made it alone
    prefect_run: str | None
    digest: str | None
    settings: dict[str, Any]
    counts: dict[str, int]
    sources: list[dict[str, Any]]  # files (path, sha256), hub data (dataset, commit) and models that it read from outside


class Edge(NamedTuple):
    """One artifact was made from another."""

    child: str
    role: str
    parent: str


class Lineage(NamedTuple):
    """Everything that `roots` were made from."""

    asked: str  # kind and id of what was asked for
    roots: list[str]
    nodes: dict[str, Node]
    edges: list[Edge]


def trace_lineage(home: Path, text: str, eval_set: str | None = None) -> Lineage:
    """The lineage of whatever id, beginning of one, or `champion` is; with `eval_set` that of a policy's win rates on that set.

    Raises UnusableInput when the id names nothing or several things, or when the policy was not judged on the set.
    """
    kind, name = locate(home, text)
    roots = _roots(home, kind, name) if eval_set is None else _judged_on(home, kind, name, eval_set)
    names, made_by = Names(home), Makers(read_runs(home))
    nodes: dict[str, Node] = {}
    edges: dict[Edge, None] = {}
    pending = list(roots)
    while pending:
        one = pending.pop(0)
        if one in nodes:
            continue
        artifact = names.artifact(one)
        nodes[one] = _node(one, artifact, names, made_by)
        for role, parent in (artifact.manifest["parents"] if artifact else {}).items():
            edge = Edge(one, role, f"{parent['stage']}/{parent['fingerprint']}")
            edges[edge] = None
            pending.append(edge.parent)
    return Lineage(f"{kind} {name}", roots, nodes, list(edges))


def sql_of(lineage: Lineage) -> str:
    """A question to the published database whose rows are the artifacts of `lineage`."""
    start = ", ".join(f"('{root.split('/')[0]}', '{root.split('/')[1]}')" for root in lineage.roots)
    return f"""WITH RECURSIVE ancestors(stage, fingerprint) AS (
    VALUES {start}
    UNION
    SELECT parent_stage, parent FROM lineage JOIN ancestors ON child_stage = stage AND child = fingerprint
)
SELECT stage, fingerprint, created_at, git_commit,
    (SELECT list(run_id ORDER BY run_id) FROM run_artifacts r WHERE r.stage = a.stage AND r.fingerprint = a.fingerprint) AS runs
FROM ancestors LEFT JOIN artifacts a USING (stage, fingerprint) ORDER BY stage, fingerprint"""


def _roots(home: Path, kind: str, name: str) -> list[str]:
    if kind == "artifact":
        return [name]
    record = find_record(home, name)
    if kind == "run":
        used = [f"{stage['stage']}/{stage['fingerprint']}" for stage in record.values["stages"]]
        if not used:
            raise UnusableInput(f"expected a run that used artifacts, found none in the record of {name}; name another")
        names = Names(home)
        inner = {parent for one in used for parent in _parents(names.artifact(one))}
        return [one for one in dict.fromkeys(used) if one not in inner]
    if kind == "registry entry":
        return [f"policies/{record.values['policy_id']}"]
    return [f"{record.lineage[0]['stage']}/{record.lineage[0]['fingerprint']}"]


def _judged_on(home: Path, kind: str, name: str, eval_set: str) -> list[str]:
    """The games that a policy's win rates on one set are computed from."""
    if not name.startswith("policies/"):
        raise UnusableInput(f"expected a policy beside --eval-set, found {kind} {name}; leave --eval-set out or name a policy")
    names, found, sets = Names(home), [], set()
    for games in list_artifacts(home, "games"):
        for parent in _parents(games):
            completions = names.artifact(parent)
            roles = completions.manifest["parents"] if completions and completions.stage == "completions" else {}
            if f"policies/{roles.get('policy', {}).get('fingerprint')}" == name and _is_candidate(games, parent):
                prompts = names.artifact(f"prompts/{roles['prompts']['fingerprint']}")
                sets.add(prompts.settings.get("name") if prompts else None)
                found += [f"games/{games.fingerprint}"] if prompts and prompts.settings.get("name") == eval_set else []
    if not found:
        known = ", ".join(sorted(one for one in sets if one)) or "none"
        raise UnusableInput(
            f"expected an evaluation set that {name} was judged on ({known}), found {eval_set!r}; name one of them"
        )
    return list(dict.fromkeys(found))


def _is_candidate(games: Artifact, completions: str) -> bool:
    """Whether the games judge these completions, and do not only compare others with them."""
    roles = [role for role, p in games.manifest["parents"].items() if f"{p['stage']}/{p['fingerprint']}" == completions]
    return any("opponent" not in role for role in roles)


def _parents(artifact: Artifact | None) -> list[str]:
    parents: Mapping[str, Mapping[str, str]] = artifact.manifest["parents"] if artifact else {}
    return [f"{parent['stage']}/{parent['fingerprint']}" for parent in parents.values()]


def _node(name: str, artifact: Artifact | None, names: Names, made_by: Makers) -> Node:
    if artifact is None:
        return Node(name, "", False, None, None, None, None, None, {}, {}, [])
    run, manifest = made_by.run_of(artifact) or {}, artifact.manifest
    return Node(
        name,
        names.of(artifact),
        True,
        manifest["created_at"],
        manifest.get("git_commit"),
        run.get("run_id"),
        manifest.get("prefect_run") or run.get("prefect_run"),
        artifact.digest,
        artifact.settings,
        artifact.counts,
        list(_sources(artifact)),
    )


def _sources(artifact: Artifact) -> Iterator[dict[str, Any]]:
    """What an artifact read that is no artifact: every identity of a source in its settings, with the path it lay at."""
    settings, info = artifact.settings, artifact.info
    if artifact.stage == "policies" and "model_folder" in info:
        yield {"model": info.get("name"), "path": info["model_folder"]} | dict(settings.get("settings") or {})
    if artifact.stage in ("sources", "demonstrations"):
        yield from _identities([settings], [info.get("source")])
    for role in ("sources", "opponents"):
        found = settings.get(role) if artifact.stage == "prompts" else None
        yield from _identities(found or [], info.get(role) or [])


def _identities(found: Iterable[Mapping[str, Any]], places: list[Any]) -> Iterator[dict[str, Any]]:
    places = [*places, *[None] * len(list(found))]
    for identity, place in zip(found, places, strict=False):
        named = {key: identity[key] for key in ("dataset", "commit", "config", "split", "sha256", "name") if identity.get(key)}
        if "sha256" in named or "dataset" in named:
            yield named | ({"path": place} if place else {})
