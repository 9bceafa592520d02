"""`generate_revisions`: the flow of `srpo generate`, drafts and their self-revisions on evaluation sets."""

from prefect import runtime

from flows.inputs import find_input, find_policy
from flows.under_prefect.forms import form
from flows.under_prefect.run_names import called
from flows.under_prefect.stage_artifacts import show_made
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder, model_like, setting_of
from srpo_core.form_schema import Names
from srpo_core.settings.model import Dtype, GenerationSettings
from srpo_core.settings.resources import DecodingResources, Resources

SETTINGS = GenerationSettings.model_validate({})
RESOURCES = DecodingResources.model_validate({})


def name_generation() -> str:
    """The policy and the evaluation sets, such as `generate: srpo on xsum`."""
    parameters = runtime.flow_run.parameters
    policy = called(parameters, "policies", setting_of(parameters, "policy"))
    return f"generate: {policy} on {called(parameters, 'prompts', setting_of(parameters, 'prompts'))}"


@form("generate", name_generation)
def generate_revisions(
    policy: str,
    prompts: Names,
    settings: GenerationSettings = SETTINGS,
    dtype: Dtype | None = None,
    resources: DecodingResources = RESOURCES,
    home: str = "",
) -> list[str]:
    """Write drafts and revisions of a policy. Returns the ids of the artifacts `completions`, one for each evaluation set.

    Args:
        policy: Id of an artifact of stage policies (srpo ls policies), a folder, or a hub model.
        prompts: Evaluation sets: ids of artifacts of stage prompts (srpo ls prompts), or folders.
        settings: Number of revisions and sampling.
        dtype: Arithmetic; none = the policy's own.
        resources: Processes, threads and batch sizes.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    from tasks.generation import generate_completions

    folder = home_folder(home)
    writer, sets = find_policy(folder, policy), [find_input(folder, "prompts", one) for one in prompts]
    work = {"model": model_like(writer, dtype), "resources": Resources.of(resources), "home": folder}
    made = as_prefect_task(generate_completions)([writer], sets, settings, **work)
    return show_made(made)
