"""`compute_reference_rows`: the flow of `srpo reference`, the frozen reference's log-probs of every pair."""

from prefect import flow

from flows.inputs import find_input, find_policy
from flows.stage_tasks import as_prefect_task, fails_in_one_sentence, home_folder, model_like
from srpo_core.config import Dtype, LayoutChoice, PreferenceSettings, Resources
from tasks.reference import compute_reference

RESOURCES = Resources.model_validate({})


@flow(name="reference", flow_run_name="reference: {reference} on {preferences}", persist_result=False)
@fails_in_one_sentence
def compute_reference_rows(
    reference: str,
    preferences: str,
    layout: LayoutChoice = "auto",
    dtype: Dtype | None = None,
    resources: Resources = RESOURCES,
    home: str = "",
) -> str:
    """Compute the log-probs of pairs that are not stored yet. Returns the id of the artifact `reference`.

    Args:
        reference: The frozen policy: an id or folder of the home, a model folder, or a hub model.
        preferences: Id or folder of the pairs.
        layout: Token trees or plain sequences; training takes the one used here.
        dtype: Arithmetic; none = the policy's own.
        resources: Processes, threads and batch sizes.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    folder = home_folder(home)
    policy, pairs = find_policy(folder, reference), find_input(folder, "preferences", preferences)
    training = PreferenceSettings.model_validate({"layout": layout})
    model = model_like(policy, dtype)
    return as_prefect_task(compute_reference)(policy, pairs, training, model=model, resources=resources, home=folder).fingerprint
