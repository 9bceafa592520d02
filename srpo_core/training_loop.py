"""The one training loop: steps of a fixed number of examples, whatever the micro-batches, processes and interruptions.

The loss of a step is a sum over its examples divided by a number known beforehand, so accumulation and the number of
processes change only the order of additions. A run resumed from a checkpoint continues bit for bit on one CPU process.
Writes into one folder: `checkpoints/step-<n>/` while it runs, `training_log.parquet` at the end.
"""

import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from torch import Tensor

from srpo_core.batches import Layout, batch_groups
from srpo_core.config import Dtype, OptimizerSettings, Resources
from srpo_core.errors import WorkFailed
from srpo_core.logprobs import SequenceLogps
from srpo_core.models import arithmetic
from srpo_core.objectives import Objective
from srpo_core.records import seed_from

DIVERGED_FACTOR = 100.0  # a loss so many times the first one, DIVERGED_STEPS steps in a row, is not coming back
DIVERGED_STEPS = 5
LOG_SCHEMA = pa.schema([("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])

Report = Callable[[int, int, dict[str, float]], None]  # (steps done, steps in all, metrics of the step)


class Interrupted(Exception):
    """SIGTERM arrived; a checkpoint was written."""


def count_steps(settings: OptimizerSettings, num_examples: int, examples_per_step: int) -> int:
    """Optimizer steps of a run: as set, or as many as the epochs need; at least one."""
    return settings.num_steps or max(1, math.floor(num_examples * settings.num_epochs / examples_per_step))


def learning_rate_factor(step: int, num_steps: int, warmup_ratio: float) -> float:
    """Share of the peak learning rate at `step` (from 0): linear warm-up, then cosine to zero."""
    warmup = math.ceil(warmup_ratio * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def step_indices(step: int, num_examples: int, per_step: int, seed: int, shuffle: bool) -> list[int]:
    """Examples of a step: a walk through epochs, each in its own seeded order (or in file order)."""
    indices = []
    orders: dict[int, np.ndarray] = {}
    for place in range(step * per_step, (step + 1) * per_step):
        epoch, offset = divmod(place, num_examples)
        if shuffle and epoch not in orders:
            orders[epoch] = np.random.default_rng(seed_from(seed, "epoch", epoch)).permutation(num_examples)
        indices.append(int(orders[epoch][offset]) if shuffle else offset)
    return indices


def train(
    model: Any,
    objective: Objective,
    settings: OptimizerSettings,
    *,
    seed: int,
    shuffle: bool,
    layout: Layout,
    dtype: Dtype,
    accelerator: Accelerator,
    resources: Resources,
    folder: Path,
    report: Report,
) -> None:
    """Train `model` in place; every process calls this.

    Raises WorkFailed when the loss or the gradient is not finite or the loss diverges (the last good checkpoint stays), and
    Interrupted after SIGTERM, with a checkpoint written.
    """
    num_steps = count_steps(settings, len(objective.groups), objective.examples_per_step)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.weight_decay,
    )
    module, optimizer = accelerator.prepare(SequenceLogps(model).train(), optimizer)
    log: list[tuple[int, str, float]] = []
    start = _resume(accelerator, folder, log)
    stop = _StopSignal()
    first_loss, diverging = _first_loss(log), 0
    for step in range(start, num_steps):
        began = time.perf_counter()
        factor = learning_rate_factor(step, num_steps, settings.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        indices = step_indices(step, len(objective.groups), objective.examples_per_step, seed, shuffle)
        with arithmetic(dtype, accelerator.device):
            metrics = _accumulate(module, objective, indices, layout, accelerator, resources, stop)
        norm = float(accelerator.clip_grad_norm_(module.parameters(), settings.max_grad_norm))
        metrics |= {"grad_norm": norm, "learning_rate": settings.learning_rate * factor}
        first_loss = metrics["loss"] if first_loss is None else first_loss
        diverging = diverging + 1 if abs(metrics["loss"]) > DIVERGED_FACTOR * abs(first_loss) else 0
        _check(metrics, step, diverging, first_loss, folder)
        optimizer.step()
        optimizer.zero_grad()
        metrics["tokens_per_second"] = metrics.pop("tokens") / (time.perf_counter() - began)
        log += [(step + 1, name, value) for name, value in metrics.items()]
        if (step + 1) % resources.log_every == 0 or step + 1 == num_steps:
            accelerator.log(metrics, step=step + 1)
            report(step + 1, num_steps, metrics)
        asked_to_stop = metrics["stop_signals"] > 0
        if step + 1 < num_steps and (asked_to_stop or (step + 1) % resources.checkpoint_every == 0):
            _save_checkpoint(accelerator, folder, step + 1, log)
        if asked_to_stop and step + 1 < num_steps:
            raise Interrupted(f"stopped after step {step + 1} of {num_steps} with a checkpoint in {folder / 'checkpoints'}")
    stop.restore()
    if accelerator.is_main_process:
        _write_log(folder / "training_log.parquet", log)


class _StopSignal:
    """Remembers that SIGTERM arrived, so that the step under way can end first."""

    def __init__(self) -> None:
        self.received = False
        self._previous = signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, *_: object) -> None:
        self.received = True

    def restore(self) -> None:
        signal.signal(signal.SIGTERM, self._previous)


def _accumulate(
    module: Any,
    objective: Objective,
    indices: Sequence[int],
    layout: Layout,
    accelerator: Accelerator,
    resources: Resources,
    stop: _StopSignal,
) -> dict[str, float]:
    """Backward over this process's share of the step; the metrics of the whole step."""
    world = accelerator.num_processes
    if len(indices) < world:
        raise WorkFailed(f"expected at least as many examples a step as processes ({world}), found {len(indices)}; use fewer processes")
    mine = list(indices[accelerator.process_index :: world])
    size = objective.step_size(indices)
    batches = batch_groups([objective.groups[i] for i in mine], layout, resources.tokens_per_microbatch)
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        batch = batch.to(accelerator.device)
        last = number == len(batches) - 1
        with _gradients_stay_local(module, accelerator, not last):
            part = objective.part(module(batch), batch, mine, size)
            accelerator.backward(part.loss * world)  # data-parallel wrappers average gradients over processes
        for name, value in part.sums.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value
    sums["tokens"] = torch.tensor(float(sum(b.num_tokens for b in batches)), device=accelerator.device)
    sums["stop_signals"] = torch.tensor(float(stop.received), device=accelerator.device)
    names = sorted(sums)
    total = accelerator.reduce(torch.stack([sums[name].float() for name in names]), reduction="sum")
    own = dict.fromkeys(part.sums, size) | objective.metric_weights(indices)
    return {name: value / own.get(name, 1.0) for name, value in zip(names, total.tolist(), strict=True)}


def _gradients_stay_local(module: Any, accelerator: Accelerator, yes: bool) -> AbstractContextManager[Any]:
    return accelerator.no_sync(module) if yes else nullcontext()


def _check(metrics: dict[str, float], step: int, diverging: int, first_loss: float, folder: Path) -> None:
    bad = [name for name in ("loss", "grad_norm") if not math.isfinite(metrics[name])]
    kept = f"the last good checkpoint is in {folder / 'checkpoints'}" if list_checkpoints(folder) else "no checkpoint was written yet"
    if bad:
        raise WorkFailed(f"expected a finite {bad[0]}, found {metrics[bad[0]]} at step {step + 1}; {kept}; lower the learning rate")
    if diverging >= DIVERGED_STEPS:
        raise WorkFailed(
            f"expected the loss to stay near its start ({first_loss:.4g}), found {metrics['loss']:.4g} at step {step + 1}, over "
            f"{DIVERGED_FACTOR:.0f} times as much for {DIVERGED_STEPS} steps; {kept}; lower the learning rate"
        )


# --- checkpoints ---------------------------------------------------------------------------------------------------------


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first; one being written has a name that starts with a dot."""
    return sorted((folder / "checkpoints").glob("step-*"))


def _save_checkpoint(accelerator: Accelerator, folder: Path, step: int, log: list[tuple[int, str, float]]) -> None:
    final = folder / "checkpoints" / f"step-{step:07d}"
    temporary = final.with_name(f".{final.name}")
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _write_log(temporary / "training_log.parquet", log)
        (temporary / "step.json").write_text(json.dumps({"step": step}))
        older = list_checkpoints(folder)
        temporary.rename(final)
        for path in older:
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def _resume(accelerator: Accelerator, folder: Path, log: list[tuple[int, str, float]]) -> int:
    """Load the last complete checkpoint, if there is one; the number of steps already done."""
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        return 0
    accelerator.load_state(str(checkpoints[-1]))
    rows = pq.read_table(checkpoints[-1] / "training_log.parquet").to_pylist()
    log += [(row["step"], row["name"], row["value"]) for row in rows]
    return int(json.loads((checkpoints[-1] / "step.json").read_text())["step"])


def _first_loss(log: Sequence[tuple[int, str, float]]) -> float | None:
    return next((value for _, name, value in log if name == "loss"), None)


def _write_log(path: Path, log: Sequence[tuple[int, str, float]]) -> None:
    columns = [list(column) for column in zip(*log, strict=True)] if log else [[], [], []]
    pq.write_table(pa.table(columns, schema=LOG_SCHEMA), path)
