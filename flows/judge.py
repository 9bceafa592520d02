"""`judge_revisions`: the flow of `srpo judge`, completions against gold texts or against another policy's completions."""

from prefect import flow

from flows.inputs import find_input
from flows.stage_tasks import as_prefect_task, fails_in_one_sentence, home_folder
from srpo_core.config import JudgeSettings, Resources
from srpo_core.judging.request_limits import Spent
from tasks.judging import judge_completions


@flow(name="judge", flow_run_name="judge: {completions}", persist_result=False)
@fails_in_one_sentence
def judge_revisions(
    completions: list[str],
    judge: JudgeSettings,
    opponents: str | None = None,
    opponent_revision_index: int | None = None,
    home: str = "",
    resources: Resources | None = None,
) -> list[str]:
    """Judge every completion in both orders. Returns the ids of the artifacts `games`, one for each of `completions`.

    Args:
        completions: Ids or folders of completions.
        judge: The newsroom's exact judge, a model behind an OpenAI-compatible address, or a model on this machine.
        opponents: Id or folder of another policy's completions; none = the gold texts.
        opponent_revision_index: Which revision of the opponents; 0 = their first draft.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
        resources: How the work of a model on this machine is spread.
    """
    folder = home_folder(home)
    against = {
        "opponents": find_input(folder, "completions", opponents) if opponents else None,
        "opponent_revision_index": opponent_revision_index,
        "resources": resources,
        "spent": Spent(),  # one budget for all of them
    }
    games = []
    for candidate in [find_input(folder, "completions", one) for one in completions]:
        prompts = find_input(folder, "prompts", candidate.manifest["parents"]["prompts"]["fingerprint"])
        games.append(as_prefect_task(judge_completions)(candidate, [prompts], judge, folder, **against).fingerprint)
    return games
