"""`generate_revisions`: the flow of `srpo generate`, drafts and their self-revisions on evaluation sets."""

from prefect import flow

from flows.inputs import find_input, find_policy
from flows.stage_tasks import as_prefect_task, fails_in_one_sentence, home_folder, model_like
from srpo_core.config import Dtype, GenerationSettings, Resources
from tasks.generation import generate_completions

SETTINGS = GenerationSettings.model_validate({})
RESOURCES = Resources.model_validate({})


@flow(name="generate", flow_run_name="generate: {policy}", persist_result=False)
@fails_in_one_sentence
def generate_revisions(
    policy: str,
    prompts: list[str],
    settings: GenerationSettings = SETTINGS,
    dtype: Dtype | None = None,
    resources: Resources = RESOURCES,
    home: str = "",
) -> list[str]:
    """Write drafts and revisions of a policy. Returns the ids of the artifacts `completions`, one for each evaluation set.

    Args:
        policy: An id or folder of the home, a model folder, or a hub model.
        prompts: Ids or folders of evaluation sets.
        settings: Number of revisions and sampling.
        dtype: Arithmetic; none = the policy's own.
        resources: Processes, threads and batch sizes.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    folder = home_folder(home)
    writer, sets = find_policy(folder, policy), [find_input(folder, "prompts", one) for one in prompts]
    model = model_like(writer, dtype)
    made = as_prefect_task(generate_completions)([writer], sets, settings, model=model, resources=resources, home=folder)
    return [one.fingerprint for one in made]
