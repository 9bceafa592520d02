"""`judge_revisions`: the flow of `srpo judge`, completions against gold texts or against another policy's completions."""

from typing import Annotated

from prefect import runtime

from flows.inputs import find_input, find_prompts
from flows.under_prefect.forms import form
from flows.under_prefect.run_names import called, judge_called
from flows.under_prefect.stage_artifacts import show_made
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder, setting_of
from srpo_core.form_schema import Names, OneOfKinds
from srpo_core.settings.judges import JudgeSettings, OpponentSettings
from srpo_core.settings.resources import Resources, ScoringResources

RESOURCES = ScoringResources.model_validate({})


def name_judging() -> str:
    """Whose texts are judged by whom, such as `judge: srpo on xsum by gpt-4.1`."""
    parameters = runtime.flow_run.parameters
    judged = called(parameters, "completions", setting_of(parameters, "completions"))
    return f"judge: {judged} by {judge_called(setting_of(parameters, 'judge'))}"


@form("judge", name_judging)
def judge_revisions(
    completions: Names,
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
    from flows.evaluation_sets import judge_sets, look_where_asked
    from srpo_core.judging.request_limits import Spent

    folder = home_folder(home)
    judged = [find_input(folder, "completions", one) for one in completions]
    sets = [find_prompts(folder, one) for one in judged]
    spread = {"resources": Resources.of(resources), "spent": Spent()}  # one budget for all of them
    against = {
        "opponents": find_input(folder, "completions", opponents.completions) if opponents else None,
        "opponent_revision_index": opponents.revision_index if opponents else None,
    }
    games = judge_sets(judged, {one.digest: one for one in sets}, judge, folder, as_prefect_task, **against, **spread)
    look_where_asked(judged, sets, judge, folder, as_prefect_task, **spread)
    return show_made(games)
