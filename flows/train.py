"""The flows of `srpo train`: `train_policy` from preference pairs, `train_supervised` from demonstrations."""

from prefect import flow, runtime

from flows.inputs import find_input, find_policy
from flows.stage_tasks import as_prefect_task, fails_in_one_sentence, home_folder, model_like, setting_of
from srpo_core.config import (
    DemonstrationSettings,
    Dtype,
    GenerationSettings,
    ModelSettings,
    PreferenceSettings,
    Resources,
    SupervisedSettings,
    TemplateSettings,
)
from tasks.demonstrations import ingest_demonstrations
from tasks.models import prepare_base_model
from tasks.prompts import find_contamination
from tasks.reference import compute_reference
from tasks.training import train_policies, train_reference

TRAINING = PreferenceSettings.model_validate({})
SUPERVISED = SupervisedSettings.model_validate({})
DEMONSTRATIONS = DemonstrationSettings.model_validate({})
TEMPLATE = TemplateSettings.model_validate({})
DECODING = GenerationSettings.model_validate({})
RESOURCES = Resources.model_validate({})


def name_training() -> str:
    """The method and what tells one training from the next, such as `srpo: beta 0.1, seed 0`."""
    settings = setting_of(runtime.flow_run.parameters, "settings") or TRAINING
    method, beta, seed = (setting_of({"settings": settings}, "settings", name) for name in ("method", "beta", "seed"))
    return f"{method or 'srpo'}: beta {TRAINING.beta if beta is None else beta:g}, seed {seed or 0}"


@flow(name="train", flow_run_name=name_training, persist_result=False)
@fails_in_one_sentence
def train_policy(
    reference: str,
    preferences: str,
    prompts: list[str],
    settings: PreferenceSettings = TRAINING,
    dtype: Dtype | None = None,
    resources: Resources = RESOURCES,
    home: str = "",
) -> str:
    """Train one policy against the reference, whose log-probs are computed first where they are missing. Returns its id.

    Args:
        reference: The frozen policy to start from: an id or folder of the home, a model folder, or a hub model.
        preferences: Id or folder of the pairs.
        prompts: Ids or folders of evaluation sets; pairs that overlap with them are left out. May be empty.
        settings: Method and optimizer.
        dtype: Arithmetic; none = the reference's own.
        resources: Processes, threads and batch sizes.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    folder = home_folder(home)
    policy, pairs = find_policy(folder, reference), find_input(folder, "preferences", preferences)
    sets = [find_input(folder, "prompts", one) for one in prompts]
    work = {"model": model_like(policy, dtype), "resources": resources, "home": folder}
    overlap = as_prefect_task(find_contamination)(pairs, sets, folder) if sets else None
    rows = as_prefect_task(compute_reference)(policy, pairs, settings, **work)
    (trained,) = as_prefect_task(train_policies)(policy, pairs, rows, overlap, [settings], **work)
    return trained.fingerprint


@flow(name="train-sft", flow_run_name="sft", persist_result=False)
@fails_in_one_sentence
def train_supervised(
    model: ModelSettings,
    preferences: str | None = None,
    demonstrations: DemonstrationSettings = DEMONSTRATIONS,
    settings: SupervisedSettings = SUPERVISED,
    template: TemplateSettings = TEMPLATE,
    decoding: GenerationSettings = DECODING,
    resources: Resources = RESOURCES,
    home: str = "",
) -> str:
    """Train a model on demonstrations of drafts and revisions; the policy it returns the id of serves as the reference.

    Args:
        model: The model to start from.
        preferences: Id or folder of pairs to make demonstrations from, where they do not come from a file.
        demonstrations: A file of demonstrations, or how pairs become demonstrations.
        settings: Optimizer.
        template: How prompts and drafts become text.
        decoding: Defaults that are written into the policy's folder.
        resources: Processes, threads and batch sizes.
        home: Folder of all artifacts and results; empty = $SRPO_HOME, else srpo_home in the checkout.
    """
    folder = home_folder(home)
    pairs = find_input(folder, "preferences", preferences) if preferences else None
    rows = as_prefect_task(ingest_demonstrations)(demonstrations, folder, pairs)
    base = as_prefect_task(prepare_base_model)(model, folder, rows, template)
    work = {"model": model, "template": template, "decoding": decoding, "resources": resources, "home": folder}
    return as_prefect_task(train_reference)(base, rows, settings, **work).fingerprint
