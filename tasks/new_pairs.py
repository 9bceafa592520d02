"""How many pairs of an artifact no earlier ingestion into its home had: what an event about new data says."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from storage.artifact import Artifact, list_artifacts
from storage.schemas import PREFERENCES


def count_first_seen(home: Path, preferences: Artifact) -> int:
    """Pairs of `preferences` that are in no artifact of pairs made before it; newest first, until none is left."""
    left = _pair_ids(preferences)
    earlier = [
        one
        for one in list_artifacts(home, "preferences")
        if (one.manifest["created_at"], one.fingerprint) < (preferences.manifest["created_at"], preferences.fingerprint)
    ]
    for one in reversed(earlier):
        if not len(left):
            break
        left = left.filter(pc.invert(pc.is_in(left, value_set=_pair_ids(one))))
    return len(left)


def _pair_ids(preferences: Artifact) -> pa.Array:
    return preferences.read(PREFERENCES, columns=["pair_id"])["pair_id"].combine_chunks()
