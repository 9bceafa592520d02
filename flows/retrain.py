"""`retrain_on_new_data`: the end-to-end flow on a schedule, which leaves at once when no preference has come since last time."""

from pathlib import Path
from typing import Any

from prefect import flow, runtime
from prefect.states import Completed, State

from flows.pipeline import locate_sources
from flows.run import name_run, run_and_show
from flows.stage_tasks import as_prefect_task, fails_in_one_sentence, home_folder
from srpo_core.config import PipelineSettings
from storage.artifact import Artifact
from storage.runs import read_runs
from tasks.preferences import ingest_preferences


@flow(name="retrain", flow_run_name=name_run, persist_result=False)
@fails_in_one_sentence
def retrain_on_new_data(settings: PipelineSettings, home: str = "") -> str | State[Any]:
    """Ingest the sources; where that gives other pairs than this deployment's last completed run had, run the pipeline on them.

    Returns the run's id, or ends in the state NothingNew. Other settings than last time are a reason to run, too.

    Args:
        settings: Data, model, training, revisions and judge; preferences.paths names where new pairs arrive.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    folder = home_folder(home)
    sources = locate_sources(settings, folder, as_prefect_task)
    preferences = as_prefect_task(ingest_preferences)(sources.preferences, folder)
    last = last_run_of(folder, runtime.deployment.name)
    if last is not None and is_same_work(last, settings, preferences):
        message = f"the same {preferences.counts['pairs']} pairs and settings as in run {last['run_id']}: nothing to train"
        return Completed(name="NothingNew", message=message)
    return run_and_show(settings, folder)


def last_run_of(home: Path, deployment: str | None) -> dict[str, Any] | None:
    """The record of a deployment's newest completed run; None = there is none."""
    runs = [run for run in read_runs(home) if run.get("deployment") == deployment and run["state"] == "completed"]
    return runs[-1] if runs else None


def is_same_work(run: dict[str, Any], settings: PipelineSettings, preferences: Artifact) -> bool:
    """Whether a run had these pairs and these settings; how its work was spread over processes does not matter."""
    pairs = {stage["digest"] for stage in run["stages"] if stage["stage"] == "preferences"}
    asked = settings.model_dump(mode="json")
    return preferences.digest in pairs and {**run["settings"], "resources": None} == {**asked, "resources": None}
