"""Evaluation sets in two parts: screening prompts, looked at by every retraining, and confirmation prompts for the last word.

Of retrainings' decisions the confirmation prompts serve the last one alone. Whoever evaluates the whole set, as `srpo run` does,
sees them too.

Which part a prompt belongs to follows from its cluster alone, so that clusters are never torn apart, a set that grows keeps its
parts, and no random number is needed. In SQL the parts are evaluation sets of their own, `<set>:screening` and
`<set>:confirmation`.
"""

import hashlib
from pathlib import Path
from typing import Literal

from srpo_core.errors import InputError
from srpo_core.records import cluster_of, prompt_id
from storage.artifact import Artifact, compute_fingerprint, find_artifact, writing
from storage.part_stream import PartStream
from storage.schemas import PROMPTS

VERSION = 1
Part = Literal["screening", "confirmation"]
PARTS: tuple[Part, ...] = ("screening", "confirmation")


def split_prompts(prompts: Artifact, part: Part, confirmation_share: float, home: Path) -> Artifact:
    """One part of an evaluation set, as an artifact `prompts` of its own. Raises InputError when no cluster falls into it."""
    whole: str = prompts.settings["name"]
    name = f"{whole}:{part}"
    domain = prompts.settings.get("domain")
    asked = {"name": name, "domain": domain, "part": part, "confirmation_share": confirmation_share}
    parents = {"prompts": prompts}
    fingerprint = compute_fingerprint("prompts", VERSION, asked, parents)
    found = find_artifact(home, "prompts", fingerprint)
    if found is not None:
        return found
    with writing(home, "prompts", fingerprint, version=VERSION, settings=asked, parents=parents) as writer:
        if writer.artifact is not None:
            return writer.artifact
        stream = PartStream(writer, PROMPTS)
        without_gold = 0
        for row in prompts.rows():
            if is_confirmation(cluster_of(row), confirmation_share) == (part == "confirmation"):
                stream.add_row(row | {"prompt_id": prompt_id(name, row["prompt"]), "eval_set": name})
                without_gold += not row["gold"]
        if not stream.num_rows:
            raise InputError(
                f"expected prompts of evaluation set {whole} in its {part} part, found none among {prompts.counts['prompts']} "
                f"at confirmation_share {confirmation_share:g}; give more prompts or another share"
            )
        return writer.complete(
            stream.close(), counts={"prompts": stream.num_rows}, info={"prompts_without_gold": without_gold, "part_of": whole}
        )


def is_confirmation(cluster: str, share: float) -> bool:
    """Whether prompts of this cluster are kept for confirmation: about `share` of all clusters, by hash."""
    digest = hashlib.sha256(f"confirmation:{cluster}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
