"""`run_pipeline`: the end-to-end flow under Prefect, where every stage is a task and the result is an artifact in the UI.

The deployments demo, tldr and chat are this flow with a preset's settings filled in. `srpo run` runs the same stages without
Prefect, whose import alone takes seconds; the order of the stages is stated once, in `flows/pipeline.py`.
"""

from pathlib import Path

from prefect import runtime

from flows.under_prefect.forms import form
from flows.under_prefect.run_tags import name_run, tag_run
from flows.under_prefect.stage_artifacts import show_run
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder
from srpo_core.settings.pipeline import PipelineSettings


@form("run", name_run)
def run_pipeline(settings: PipelineSettings, home: str = "") -> str:
    """Everything from preference pairs to win rates by number of self-revisions; returns the run's id.

    Args:
        settings: Data, model, training, revisions and judge; a deployment of a preset has them filled in.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    return run_and_show(settings, home_folder(home))


def run_and_show(settings: PipelineSettings, home: Path) -> str:
    """Run every stage as a task, record the run under its deployment's name, and put its win rates into the UI."""
    from flows.pipeline import run_recorded

    tag_run(settings)
    run_id = run_recorded(
        settings, home, stage=as_prefect_task, prefect_run=str(runtime.flow_run.id), deployment=runtime.deployment.name
    )
    show_run(home, run_id)
    return run_id
