"""`judge_revisions`: the flow of `srpo judge`, completions against gold texts or against another policy's completions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prefect import runtime

from flows.inputs import find_input
from flows.under_prefect.forms import form
from flows.under_prefect.run_names import called
from flows.under_prefect.stage_artifacts import show_made
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder, setting_of
from srpo_core.form_schema import OneOfKinds
from srpo_core.settings.judges import ApiJudgeSettings, JudgeSettings, OpponentSettings
from srpo_core.settings.resources import Resources, ScoringResources

if TYPE_CHECKING:
    from storage.artifact import Artifact

RESOURCES = ScoringResources.model_validate({})


def name_judging() -> str:
    """Whose texts are judged by whom, such as `judge: srpo on xsum by gpt-4.1`."""
    parameters = runtime.flow_run.parameters
    judge = setting_of(parameters, "judge", "model") or setting_of(parameters, "judge", "kind")
    return f"judge: {called(parameters, 'completions', setting_of(parameters, 'completions'))} by {judge}"


@form("judge", name_judging)
def judge_revisions(
    completions: list[str],
    judge: JudgeSettings,
    opponents: Annotated[OpponentSettings | None, OneOfKinds(OpponentSettings)] = None,
    resources: ScoringResources = RESOURCES,
    home: str = "",
) -> list[str]:
    """Judge every completion in both orders. Returns the ids of the artifacts `games`, one for each of `completions`.

    Args:
        completions: Ids of artifacts of stage completions (srpo ls completions), or folders.
        judge: The newsroom's exact judge, a model behind an OpenAI-compatible address, or a model on this machine.
        opponents: Another policy's completions; none = the gold texts.
        resources: How the work of a model on this machine is spread.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    from flows.evaluation_sets import judge_sets
    from srpo_core.judging.request_limits import Spent
    from tasks.sentinel import look_at_sentinel

    folder = home_folder(home)
    judged = [find_input(folder, "completions", one) for one in completions]
    sets = [_prompts_of(one, folder) for one in judged]
    spread = {"resources": Resources.of(resources), "spent": Spent()}  # one budget for all of them
    against = {
        "opponents": find_input(folder, "completions", opponents.completions) if opponents else None,
        "opponent_revision_index": opponents.revision_index if opponents else None,
    }
    games = judge_sets(judged, {one.digest: one for one in sets}, judge, folder, as_prefect_task, **against, **spread)
    if isinstance(judge, ApiJudgeSettings) and judge.sentinel_games:
        as_prefect_task(look_at_sentinel)(judged, sets, judge, folder, **spread)
    return show_made(games)


def _prompts_of(completions: "Artifact", home: Path) -> "Artifact":
    return find_input(home, "prompts", completions.manifest["parents"]["prompts"]["fingerprint"])
