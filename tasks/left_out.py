"""What a run or a stage left out or cut short: the counts of manifests that mean a loss, and what each is called."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.artifact import Artifact

# Each is told when it is not zero.
LOSSES = {
    "rejected_rows": "source rows rejected (srpo ask rejected_rows_by_reason)",
    "contaminated_pairs": "pairs left out of training, because they overlap with an evaluation set",
    "pairs_too_long": "pairs too long for the model's context, left out of training",
    "demonstrations_too_long": "demonstrations too long for the model's context",
    "prompts_truncated": "completions of a truncated prompt",
    "judge_prompts_truncated": "games scored by a local judge that read a truncated prompt",
    "finish:length": "completions cut at max_new_tokens",
    "finish:empty_draft": "revisions of an empty draft",
    "unscored": "games unscored (srpo ask unscored_reasons)",
}
# The stages that are asked, where others repeat a count or mean something else by it.
COUNTED_IN = {
    "rejected_rows": ("preferences", "prompts"),
    "pairs_too_long": ("reference",),
    "prompts_truncated": ("completions",),
    "judge_prompts_truncated": ("games",),
}
NAMED_IN_MANIFESTS = {"judge_prompts_truncated": "prompts_truncated"}  # where that is another name


def count_losses(artifacts: Iterable["Artifact"]) -> dict[str, int]:
    """Everything that was left out or cut short in a run's artifacts, by name of count, where it is not zero."""
    found = dict.fromkeys(LOSSES, 0)
    for artifact in artifacts:
        for name in LOSSES:
            if artifact.stage in COUNTED_IN.get(name, (artifact.stage,)):
                found[name] += artifact.counts.get(NAMED_IN_MANIFESTS.get(name, name), 0)
    return {name: count for name, count in found.items() if count}


def read_used(home: Path, stages: Iterable[dict[str, str]]) -> list["Artifact"]:
    """The artifacts that a run's record names, each once; those deleted since are left out."""
    from storage.artifact import find_artifact

    names = dict.fromkeys((one["stage"], one["fingerprint"]) for one in stages)
    found = (find_artifact(home, stage, fingerprint) for stage, fingerprint in names)
    return [one for one in found if one is not None]
