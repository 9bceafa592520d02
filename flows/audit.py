"""`audit_judge`: the flow of `srpo audit`, how far a judge can be believed: agreement with people, attacks on it, drift."""

from prefect import runtime

from flows.under_prefect.forms import form
from flows.under_prefect.run_names import judge_called
from flows.under_prefect.stage_artifacts import show_made
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder, setting_of
from srpo_core.settings.audit import AuditSettings
from srpo_core.settings.judges import AskedJudgeSettings, as_judge
from srpo_core.settings.resources import Resources, ScoringResources

RESOURCES = ScoringResources.model_validate({})


def name_audit() -> str:
    """The kind of audit and the judge, such as `audit: injections of gpt-4.1`."""
    parameters = runtime.flow_run.parameters
    return f"audit: {setting_of(parameters, 'audit', 'kind')} of {judge_called(setting_of(parameters, 'judge'))}"


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
    from flows.audit_stages import measure_judge

    return show_made(measure_judge(audit, as_judge(judge), home_folder(home), Resources.of(resources), as_prefect_task))
