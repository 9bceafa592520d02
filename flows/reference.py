"""`compute_reference_rows`: the flow of `srpo reference`, the frozen reference's log-probs of every pair."""

from prefect import runtime

from flows.inputs import find_input, find_policy
from flows.under_prefect.forms import form
from flows.under_prefect.run_names import called
from flows.under_prefect.stage_artifacts import show_made
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder, model_like, setting_of
from srpo_core.settings.model import Dtype
from srpo_core.settings.resources import Resources, ScoringResources
from srpo_core.settings.training import LayoutChoice, TrainingSettings

RESOURCES = ScoringResources.model_validate({})


def name_reading() -> str:
    """The reference and the pairs, such as `reference: sft on reddit`."""
    parameters = runtime.flow_run.parameters
    policy = called(parameters, "policies", setting_of(parameters, "reference"))
    return f"reference: {policy} on {called(parameters, 'preferences', setting_of(parameters, 'preferences'))}"


@form("reference", name_reading)
def compute_reference_rows(
    reference: str,
    preferences: str,
    layout: LayoutChoice = "auto",
    dtype: Dtype | None = None,
    resources: ScoringResources = RESOURCES,
    home: str = "",
) -> str:
    """Compute the log-probs of pairs that are not stored yet. Returns the id of the artifact `reference`.

    Args:
        reference: The frozen policy: id of an artifact of stage policies (srpo ls policies), a folder, or a hub model.
        preferences: The pairs: id of an artifact of stage preferences (srpo ls preferences), or a folder.
        layout: Token trees or plain sequences; training takes the one used here.
        dtype: Arithmetic; none = the policy's own.
        resources: Processes, threads and batch sizes.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    from tasks.reference import compute_reference

    folder = home_folder(home)
    policy, pairs = find_policy(folder, reference), find_input(folder, "preferences", preferences)
    training = TrainingSettings.model_validate({"layout": layout})
    work = {"model": model_like(policy, dtype), "resources": Resources.of(resources), "home": folder}
    return show_made([as_prefect_task(compute_reference)(policy, pairs, training, **work)])[0]
