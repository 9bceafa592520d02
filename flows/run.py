"""`run_pipeline`: the end-to-end flow under Prefect, where every stage is a task and the result is an artifact in the UI.

The deployments demo, tldr and chat are this flow with a preset's settings filled in. `srpo run` runs the same stages without
Prefect, whose import alone takes seconds; the order of the stages is stated once, in `flows/pipeline.py`.
"""

from pathlib import Path

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.pipeline import run_recorded
from flows.stage_tasks import as_prefect_task, fails_in_one_sentence, home_folder, setting_of, short_name
from srpo_core.config import PipelineSettings
from tasks.run_summary import summarise_run


def name_run() -> str:
    """The preset's name, the methods and the data, such as `demo: srpo, dpo, ipo on newsroom`."""
    parameters = runtime.flow_run.parameters
    methods = setting_of(parameters, "settings", "methods") or ["srpo"]
    paths = setting_of(parameters, "settings", "preferences", "paths") or ["newsroom"]
    name = setting_of(parameters, "settings", "name") or "run"
    return f"{name}: {', '.join(methods)} on {', '.join(map(short_name, paths))}"


@flow(name="run", flow_run_name=name_run, persist_result=False)
@fails_in_one_sentence
def run_pipeline(settings: PipelineSettings, home: str = "") -> str:
    """Everything from preference pairs to win rates by number of self-revisions; returns the run's id.

    Args:
        settings: Data, model, training, revisions and judge; a deployment of a preset has them filled in.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    return run_and_show(settings, home_folder(home))


def run_and_show(settings: PipelineSettings, home: Path) -> str:
    """Run every stage as a task, record the run under its deployment's name, and put its win rates into the UI."""
    run_id = run_recorded(
        settings, home, stage=as_prefect_task, prefect_run=str(runtime.flow_run.id), deployment=runtime.deployment.name
    )
    summary = summarise_run(home, run_id)
    create_markdown_artifact(summary.markdown, key="win-rates", description=f"Win rates of run {run_id}")
    create_table_artifact(summary.rows, key="win-rates-table", description=summary.sql)
    return run_id
