"""Training jobs: load a model, build the objective, run the loop, save the policy folder."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from srpo_core.batches import Layout
from srpo_core.errors import InputError
from srpo_core.layout import resolve_layout
from srpo_core.models import add_lora, load_model, load_tokenizer, merge_adapter, save_model
from srpo_core.objectives import ImitationObjective, Objective, PreferenceObjective, build_imitation_groups, build_pair_examples
from srpo_core.settings.model import Dtype, LoraSettings
from srpo_core.settings.resources import Resources
from srpo_core.tokenization import PromptTokenizer, load_template
from srpo_core.training_loop import count_steps, gather_weights, train
from srpo_core.workers.jobs import PreferenceJob, SftJob
from srpo_core.workers.parts import read_rows, write_json
from srpo_core.workers.progress import ProgressLines

REFERENCE_COLUMNS = ("logp_a", "logp_b", "logp_a_given_a", "logp_b_given_a", "logp_a_given_b", "logp_b_given_b")


def train_on_demonstrations(job: SftJob, accelerator: Accelerator, resources: Resources) -> None:
    """Supervised fine-tuning of both roles: the result is the reference."""
    tokenizer = load_tokenizer(job.model_folder)
    tok = PromptTokenizer(tokenizer, job.template, job.max_length)
    groups, draft_flags, too_long = build_imitation_groups(tok, read_rows(job.demonstrations))
    objective = ImitationObjective(groups, draft_flags, job.settings.examples_per_step)
    model = prepare_model(job.model_folder, job.dtype, job.settings.lora, job.settings.seed, accelerator, resources)
    layout = resolve_layout(model, "auto", longest_groups(objective.groups))
    weights = _run(job, model, objective, layout, job.settings.shuffle, accelerator, resources)
    save_template = partial(tok.save_template, decoding=job.decoding)
    result = {"demonstrations_too_long": too_long, "layout": layout}
    _save(job.folder, model, weights, tokenizer, save_template, accelerator, result)


def train_on_preferences(job: PreferenceJob, accelerator: Accelerator, resources: Resources) -> None:
    """SRPO, DPO, IPO or a two-prompt form, against stored reference rows."""
    tokenizer = load_tokenizer(job.model_folder)
    tok, decoding = load_template(job.model_folder, tokenizer)
    left_out = set(job.left_out)
    rows = [row for row in read_rows(job.preferences) if row["split"] == "train" and row["pair_id"] not in left_out]
    columns = ["pair_id", *REFERENCE_COLUMNS]
    reference = {row["pair_id"]: tuple(row[c] for c in REFERENCE_COLUMNS) for row in read_rows(job.reference, columns)}
    examples, too_long = build_pair_examples(tok, rows, reference)
    objective = PreferenceObjective(examples, job.settings)
    model = prepare_model(job.model_folder, job.dtype, job.settings.lora, job.settings.seed, accelerator, resources)
    layout = resolve_layout(model, job.settings.layout, longest_groups([e.tokens.sequences for e in examples]))
    weights = _run(job, model, objective, layout, True, accelerator, resources)
    save_template = partial(tok.save_template, decoding=decoding)
    result = {"pairs": len(examples), "pairs_too_long": too_long, "layout": layout}
    _save(job.folder, model, weights, tokenizer, save_template, accelerator, result)


def prepare_model(
    folder: str, dtype: Dtype, lora: LoraSettings | None, seed: int, accelerator: Accelerator, resources: Resources
) -> Any:
    """The model to train, on the device, with adapters if asked for."""
    if dtype == "bfloat16" and lora is None:
        raise InputError(
            "expected dtype float32 or mixed for full fine-tuning, found bfloat16, whose steps round away; set mixed or lora"
        )
    model = merge_adapter(load_model(folder, dtype)).to(accelerator.device).requires_grad_(True)  # merging leaves weights frozen
    model.name_or_path = folder  # what an adapter records as its base, also where the folder itself held an adapter
    if lora is not None:
        model = add_lora(model, lora, seed)
    if resources.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def longest_groups(groups: list[Any], count: int = 4) -> list[Any]:
    """The groups with the most tokens: where layouts would differ most."""
    return sorted(groups, key=lambda group: -sum(len(p) + len(c) for p, c in group))[:count]


def _run(
    job: SftJob | PreferenceJob,
    model: Any,
    objective: Objective,
    layout: Layout,
    shuffle: bool,
    accelerator: Accelerator,
    resources: Resources,
) -> dict[str, Tensor]:
    """Train; the trained weights."""
    steps = count_steps(job.settings, len(objective.groups), objective.examples_per_step)
    lines = ProgressLines(job.name, steps, "steps", enabled=accelerator.is_main_process)
    read = "demonstrations_per_step" if isinstance(job, SftJob) else "pairs_per_step"
    if resources.trackers:
        _start_trackers(job, accelerator)
    module = train(
        model,
        objective,
        job.settings,
        seed=job.settings.seed,
        shuffle=shuffle,
        layout=layout,
        dtype=job.dtype,
        accelerator=accelerator,
        resources=resources,
        folder=Path(job.folder),
        report=lambda done, _total, metrics: lines.show(done, metrics | {read: objective.examples_per_step}),
    )
    weights = gather_weights(accelerator, module)
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers.clear()
    accelerator.free_memory()
    return weights


def _start_trackers(job: SftJob | PreferenceJob, accelerator: Accelerator) -> None:
    """A run of its own for every job of a launch, with files beside the job's."""
    accelerator.project_configuration.logging_dir = job.folder
    config: dict[str, Any] = {"job": job.name, "dtype": job.dtype}
    config |= {
        name: value if isinstance(value, int | float | str) else str(value) for name, value in job.settings.model_dump().items()
    }
    names: dict[str, dict[str, Any]] = {"wandb": {"name": job.name}, "mlflow": {"run_name": job.name}}
    accelerator.init_trackers("srpo", config=config, init_kwargs=names)


def _save(
    folder: str,
    model: Any,
    weights: dict[str, Tensor],
    tokenizer: Any,
    save_template: Callable[[Path], None],
    accelerator: Accelerator,
    result: dict[str, Any],
) -> None:
    """The policy's folder; last result.json, which says that it is whole."""
    if accelerator.is_main_process:
        target = Path(folder) / "model"
        shutil.rmtree(target, ignore_errors=True)  # what an attempt left that was ended while it saved
        save_model(model, tokenizer, target, weights)
        save_template(target)
        write_json(Path(folder) / "result.json", result)
    accelerator.wait_for_everyone()
