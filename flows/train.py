"""The flows of `srpo train`: `train_policy` from preference pairs, `train_supervised` from demonstrations."""

from typing import Any

from prefect import runtime

from flows.inputs import find_input, find_policy
from flows.under_prefect.forms import form
from flows.under_prefect.run_names import called
from flows.under_prefect.stage_artifacts import show_made
from flows.under_prefect.stage_tasks import as_prefect_task, home_folder, model_like, setting_of, short_name
from srpo_core.errors import InputError
from srpo_core.settings.data import DemonstrationSettings
from srpo_core.settings.model import Dtype, GenerationSettings, ModelSettings, TemplateSettings
from srpo_core.settings.resources import Resources, TrainingResources
from srpo_core.settings.training import PreferenceSettings, SupervisedSettings

TRAINING = PreferenceSettings.model_validate({})
SUPERVISED = SupervisedSettings.model_validate({})
DEMONSTRATIONS = DemonstrationSettings.model_validate({})
TEMPLATE = TemplateSettings.model_validate({})
DECODING = GenerationSettings.model_validate({})
RESOURCES = TrainingResources.model_validate({})


def name_training() -> str:
    """The method and what tells one training from the next, such as `srpo: beta 0.1, seed 0`."""
    settings = setting_of(runtime.flow_run.parameters, "settings") or TRAINING
    method, beta, seed = (setting_of({"settings": settings}, "settings", name) for name in ("method", "beta", "seed"))
    return f"{method or 'srpo'}: beta {TRAINING.beta if beta is None else beta:g}, seed {seed or 0}"


def name_supervised() -> str:
    """What is trained on what, such as `sft: pythia-1b on demonstrations.jsonl`."""
    parameters = runtime.flow_run.parameters
    model = setting_of(parameters, "model", "name_or_path")
    data = setting_of(parameters, "demonstrations", "path")
    pairs = called(parameters, "preferences", setting_of(parameters, "preferences"))
    return f"sft: {short_name(model) if model else 'small model'} on {short_name(data) if data else pairs}"


@form("train", name_training)
def train_policy(
    reference: str,
    preferences: str,
    prompts: list[str],
    settings: PreferenceSettings = TRAINING,
    dtype: Dtype | None = None,
    resources: TrainingResources = RESOURCES,
    home: str = "",
) -> str:
    """Train one policy against the reference, whose log-probs are computed first where they are missing. Returns its id.

    Args:
        reference: The frozen policy to start from: id of an artifact of stage policies (srpo ls policies), folder or hub model.
        preferences: The pairs: id of an artifact of stage preferences (srpo ls preferences), or a folder.
        prompts: Evaluation sets, by id (srpo ls prompts) or folder; pairs that overlap with them are left out. May be empty.
        settings: Method and optimizer.
        dtype: Arithmetic; none = the reference's own.
        resources: Processes, threads and batch sizes.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    from flows.training_stages import train_against

    folder = home_folder(home)
    policy, pairs = find_policy(folder, reference), find_input(folder, "preferences", preferences)
    sets = [find_input(folder, "prompts", one) for one in prompts]
    work: dict[str, Any] = {"model": model_like(policy, dtype), "resources": Resources.of(resources), "home": folder}
    (trained,) = train_against(policy, pairs, sets, [settings], as_prefect_task, **work)
    return show_made([trained])[0]


@form("train-sft", name_supervised)
def train_supervised(
    model: ModelSettings,
    preferences: str | None = None,
    demonstrations: DemonstrationSettings = DEMONSTRATIONS,
    settings: SupervisedSettings = SUPERVISED,
    template: TemplateSettings = TEMPLATE,
    decoding: GenerationSettings = DECODING,
    resources: TrainingResources = RESOURCES,
    home: str = "",
) -> str:
    """Train a model on demonstrations of drafts and revisions; the policy it returns the id of serves as the reference.

    Args:
        model: The model to start from.
        preferences: Pairs to make demonstrations from: id of an artifact of stage preferences or folder; none = a file has them.
        demonstrations: A file of demonstrations, or how pairs become demonstrations.
        settings: Optimizer.
        template: How prompts and drafts become text.
        decoding: Defaults that are written into the policy's folder.
        resources: Processes, threads and batch sizes.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    from tasks.demonstrations import ingest_demonstrations
    from tasks.models import prepare_base_model
    from tasks.training import train_reference

    folder = home_folder(home)
    if preferences and demonstrations.path:
        raise InputError("expected preferences or demonstrations.path to make demonstrations from, found both; leave one out")
    pairs = find_input(folder, "preferences", preferences) if preferences else None
    rows = as_prefect_task(ingest_demonstrations)(demonstrations, folder, pairs)
    base = as_prefect_task(prepare_base_model)(model, folder, rows, template)
    work = {"model": model, "template": template, "decoding": decoding, "resources": Resources.of(resources), "home": folder}
    return show_made([as_prefect_task(train_reference)(base, rows, settings, **work)])[0]
