"""`compare_at_equal_compute`: the flow of `srpo equal-compute`, revisions against the best of n drafts at equal tokens."""

from prefect import runtime

from flows.inputs import find_input, find_policy
from flows.under_prefect.forms import form
from flows.under_prefect.run_names import called
from flows.under_prefect.stage_artifacts import show_made
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder, model_like, setting_of
from srpo_core.form_schema import Names
from srpo_core.settings.judges import ScoringJudgeSettings, as_judge
from srpo_core.settings.model import Dtype, GenerationSettings
from srpo_core.settings.pipeline import EqualComputeSettings
from srpo_core.settings.resources import ComparisonResources, Resources

SETTINGS = EqualComputeSettings.model_validate({})
GENERATION = GenerationSettings.model_validate({})
RESOURCES = ComparisonResources.model_validate({})


def name_comparison() -> str:
    """The policy and the evaluation sets, such as `equal compute: srpo on xsum`."""
    parameters = runtime.flow_run.parameters
    policy = called(parameters, "policies", setting_of(parameters, "policy"))
    return f"equal compute: {policy} on {called(parameters, 'prompts', setting_of(parameters, 'prompts'))}"


@form("equal-compute", name_comparison)
def compare_at_equal_compute(
    policy: str,
    prompts: Names,
    judge: ScoringJudgeSettings,
    settings: EqualComputeSettings = SETTINGS,
    generation: GenerationSettings = GENERATION,
    dtype: Dtype | None = None,
    resources: ComparisonResources = RESOURCES,
    home: str = "",
) -> list[str]:
    """Compare k revisions with the best of n drafts. Returns the ids of the artifacts `equal_compute`, one for each set.

    Args:
        policy: Id of an artifact of stage policies (srpo ls policies), a folder, or a hub model.
        prompts: Ids of artifacts of stage prompts (srpo ls prompts) or folders.
        judge: Who scores all texts against the gold.
        settings: How many drafts, and what picks among them.
        generation: How the chain of revisions is decoded; the drafts are decoded alike.
        dtype: Arithmetic; none = the policy's own.
        resources: Processes, threads and batch sizes.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    from tasks.equal_compute import compare_equal_compute

    folder = home_folder(home)
    frozen, sets = find_policy(folder, policy), [find_input(folder, "prompts", one) for one in prompts]
    spread = {"model": model_like(frozen, dtype), "resources": Resources.of(resources), "home": folder}
    made = as_prefect_task(compare_equal_compute)(frozen, sets, settings, generation, as_judge(judge), **spread)
    return show_made(made)
