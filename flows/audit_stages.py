"""What an audit of a judge is, without Prefect: one stage for each kind, on the artifacts that its settings name.

The form and the command `srpo audit` both fill in the settings and measure here.
"""

from pathlib import Path
from typing import Any

from flows.inputs import find_input
from flows.training_stages import Stage
from srpo_core.settings.audit import AgreementAuditSettings, AuditSettings, InjectionAuditSettings, SentinelAuditSettings
from srpo_core.settings.judges import JudgeSettings
from srpo_core.settings.resources import Resources
from storage.artifact import Artifact
from tasks.agreement_audit import audit_preferences
from tasks.injection_audit import audit_injections
from tasks.sentinel import find_sentinel, freeze_preferences, look


def measure_judge(audit: AuditSettings, judge: JudgeSettings, home: Path, resources: Resources, stage: Stage) -> list[Artifact]:
    """One artifact of stage `audits`, or the `sentinel_looks` that were made. Raises InputError for what is not in the home."""
    if isinstance(audit, SentinelAuditSettings):
        return list(stage(look)(_frozen_games(audit, home, stage), judge, home, resources=resources))
    options: dict[str, Any] = {"max_pairs": audit.max_pairs, "seed": audit.seed, "resources": resources}
    if isinstance(audit, AgreementAuditSettings):
        pairs = find_input(home, "preferences", audit.preferences)
        return [stage(audit_preferences)(pairs, judge, home, repeats=audit.repeats, **options)]
    return [stage(audit_injections)(_attacked_texts(audit, home), judge, home, **options)]


def _attacked_texts(audit: InjectionAuditSettings, home: Path) -> Artifact:
    if audit.preferences is not None:
        return find_input(home, "preferences", audit.preferences)
    return find_input(home, "prompts", str(audit.prompts))


def _frozen_games(audit: SentinelAuditSettings, home: Path, stage: Stage) -> Artifact:
    if audit.preferences is None:
        return find_sentinel(home) if audit.frozen is None else find_input(home, "sentinels", audit.frozen)
    pairs = find_input(home, "preferences", audit.preferences)
    games: Artifact = stage(freeze_preferences)(pairs, home, num_pairs=audit.num_pairs, seed=audit.seed)
    return games
