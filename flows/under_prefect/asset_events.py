"""Lineage as Prefect keeps it: every artifact is an asset, whose events name what it was made from.

An artifact that a stage made emits `prefect.asset.materialization.succeeded` with its parents as upstream assets, its counts as
payload and where it lies; one that was found complete emits `prefect.asset.referenced`. These are the events that Prefect's own
`@materialize` emits, sent directly because an asset's key, the fingerprint, is known only once its parents are. A server shows
them in its event feed and gives them at `/api/events/filter`.
"""

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from prefect.events import emit_event

if TYPE_CHECKING:
    from storage.artifact import Artifact

MATERIALIZED = "prefect.asset.materialization.succeeded"
REFERENCED = "prefect.asset.referenced"
MOST_UPSTREAM = 90  # related resources of one event; the server takes 100, and adds the run, its flow and its tags
logger = logging.getLogger("srpo")


def asset_key(stage: str, fingerprint: str) -> str:
    """The key of an artifact's asset."""
    return f"srpo://{stage}/{fingerprint}"


def emit_assets(result: Any, began: datetime) -> None:
    """Events of the artifacts that a stage, called at `began`, returned; and of the parents that it made on the way.

    Emit inside the stage's task run, so that the events name it. A server that is away does not stop the work.
    """
    from storage.artifact import Artifact

    returned = result if isinstance(result, list) else [result]
    made: dict[str, Artifact] = {}
    for artifact in (one for one in returned if isinstance(one, Artifact)):
        try:
            fresh = {asset_key(one.stage, one.fingerprint): one for one in _made_since(artifact, began)}
            if not fresh:
                emit_event(REFERENCED, resource=_resource(artifact))
            for key in fresh.keys() - made.keys():
                _emit_materialized(fresh[key])
            made |= fresh
        except Exception as error:  # noqa: BLE001  (events inform; the artifact is complete whether or not they are sent)
            logger.debug("asset events of %s not sent: %s", artifact.path, error)


def _made_since(artifact: "Artifact", began: datetime) -> "Iterator[Artifact]":
    """The artifact and its ancestors, as far as they were completed since."""
    from storage.artifact import find_artifact, was_made_since

    if not was_made_since(artifact, began):
        return
    for parent in artifact.manifest["parents"].values():
        found = find_artifact(artifact.path.parent.parent, parent["stage"], parent["fingerprint"])
        if found is not None:
            yield from _made_since(found, began)
    yield artifact


def _emit_materialized(artifact: "Artifact") -> None:
    parents = artifact.manifest["parents"]
    related = [
        {"prefect.resource.id": asset_key(one["stage"], one["fingerprint"]), "prefect.resource.role": "asset", "srpo.role": role}
        for role, one in list(parents.items())[:MOST_UPSTREAM]
    ]
    payload = {"counts": artifact.counts, "digest": artifact.digest, "parents": len(parents), "path": str(artifact.path)}
    emit_event(MATERIALIZED, resource=_resource(artifact), related=related, payload=payload)


def _resource(artifact: "Artifact") -> dict[str, str]:
    from storage.names import name_artifact

    counts = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in artifact.counts.items() if value)
    name = name_artifact(artifact)
    return {
        "prefect.resource.id": asset_key(artifact.stage, artifact.fingerprint),
        "prefect.resource.name": f"{artifact.stage}: {name}" if name else artifact.stage,
        "prefect.asset.description": f"{counts or 'no counts'}; settings {json.dumps(artifact.settings)[:500]}",
        "prefect.asset.url": artifact.path.as_uri(),
    }
