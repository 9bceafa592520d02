"""`audit_judge`: the flow of `srpo audit`, how far a judge can be believed: agreement with people, attacks on it, drift."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import runtime

from flows.inputs import find_input
from flows.under_prefect.forms import form
from flows.under_prefect.stage_artifacts import show_made
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder, setting_of
from srpo_core.settings.audit import AgreementAuditSettings, AuditSettings, InjectionAuditSettings, SentinelAuditSettings
from srpo_core.settings.judges import AskedJudgeSettings, JudgeSettings, as_judge
from srpo_core.settings.resources import Resources, ScoringResources

if TYPE_CHECKING:
    from storage.artifact import Artifact

RESOURCES = ScoringResources.model_validate({})


def name_audit() -> str:
    """The kind of audit and the judge, such as `audit: injections of gpt-4.1`."""
    parameters = runtime.flow_run.parameters
    judge = setting_of(parameters, "judge", "model") or setting_of(parameters, "judge", "kind")
    return f"audit: {setting_of(parameters, 'audit', 'kind')} of {judge}"


@form("audit", name_audit)
def audit_judge(
    audit: AuditSettings, judge: AskedJudgeSettings, resources: ScoringResources = RESOURCES, home: str = ""
) -> list[str]:
    """Measure a judge. Returns the ids of the artifacts: one of stage `audits`, or the `sentinel_looks` that were made.

    Args:
        audit: What the judge is asked about.
        judge: The judge to measure.
        resources: How the work of a model on this machine is spread.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    return show_made(_measure(audit, as_judge(judge), home_folder(home), Resources.of(resources)))


def _measure(audit: AuditSettings, judge: JudgeSettings, home: Path, resources: Resources) -> "list[Artifact]":
    from tasks.agreement_audit import audit_preferences
    from tasks.injection_audit import audit_injections
    from tasks.sentinel import look

    if isinstance(audit, SentinelAuditSettings):
        return list(as_prefect_task(look)(_frozen_games(audit, home), judge, home, resources=resources))
    options: dict[str, Any] = {"max_pairs": audit.max_pairs, "seed": audit.seed, "resources": resources}
    if isinstance(audit, AgreementAuditSettings):
        pairs = find_input(home, "preferences", audit.preferences)
        return [as_prefect_task(audit_preferences)(pairs, judge, home, repeats=audit.repeats, **options)]
    return [as_prefect_task(audit_injections)(_attacked_texts(audit, home), judge, home, **options)]


def _attacked_texts(audit: InjectionAuditSettings, home: Path) -> "Artifact":
    if audit.preferences is not None:
        return find_input(home, "preferences", audit.preferences)
    return find_input(home, "prompts", str(audit.prompts))


def _frozen_games(audit: SentinelAuditSettings, home: Path) -> "Artifact":
    from tasks.sentinel import find_sentinel, freeze_preferences

    if audit.preferences is None:
        return find_sentinel(home) if audit.frozen is None else find_input(home, "sentinels", audit.frozen)
    pairs = find_input(home, "preferences", audit.preferences)
    games: Artifact = as_prefect_task(freeze_preferences)(pairs, home, num_pairs=audit.num_pairs, seed=audit.seed)
    return games
