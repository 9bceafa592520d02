"""The one training loop: steps of a fixed number of examples, whatever the micro-batches, processes and interruptions.

The loss of a step is a sum over its examples divided by a number known beforehand, so accumulation and the number of
processes change only the order of additions. A run resumed from a checkpoint continues bit for bit on one CPU process.
Writes into one folder: `checkpoints/` while it runs, `training_log.parquet` at the end.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from srpo_core import checkpoints
from srpo_core.batches import Batch, Layout, batch_groups
from srpo_core.checkpoints import LogRow
from srpo_core.errors import WorkFailed
from srpo_core.logprobs import SequenceLogps, rows_within
from srpo_core.models import arithmetic, causal_model
from srpo_core.objectives import Objective
from srpo_core.records import seed_from
from srpo_core.settings.model import Dtype
from srpo_core.settings.resources import Resources
from srpo_core.settings.training import OptimizerSettings

DIVERGED_FACTOR = 100.0  # a loss so many times the first one, DIVERGED_STEPS steps in a row, is not coming back
DIVERGED_STEPS = 5
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)  # a forward pass is a collective operation there

Report = Callable[[int, int, dict[str, float]], None]  # (steps done, steps in all, metrics of the step)


class Interrupted(Exception):
    """SIGTERM arrived; a checkpoint was written."""


def count_steps(settings: OptimizerSettings, num_examples: int, examples_per_step: int) -> int:
    """Optimizer steps of a run: as set, or as many as the epochs need; at least one."""
    return settings.num_steps or max(1, math.floor(num_examples * settings.num_epochs / examples_per_step))


def learning_rate_factor(step: int, num_steps: int, warmup_ratio: float) -> float:
    """Share of the peak learning rate at `step` (from 0): linear warm-up, then cosine to zero."""
    warmup = math.ceil(round(warmup_ratio * num_steps, 9))  # rounded, because .07 * 100 is a little more than 7
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def step_indices(step: int, num_examples: int, per_step: int, seed: int, shuffle: bool) -> list[int]:
    """Examples of a step: a walk through epochs, each in its own seeded order (or in file order)."""
    places = (divmod(place, num_examples) for place in range(step * per_step, (step + 1) * per_step))
    return [int(_epoch_order(num_examples, seed, epoch)[offset]) if shuffle else offset for epoch, offset in places]


@lru_cache(maxsize=2)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(seed_from(seed, "epoch", epoch)).permutation(num_examples)


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
) -> Any:
    """Train `model` in place; every process calls this. Returns the prepared module, for `gather_weights`.

    Raises WorkFailed when the loss or the gradient is not finite or the loss diverges (the last good checkpoint stays), and
    Interrupted after SIGTERM, with a checkpoint written.
    """
    num_steps = count_steps(settings, len(objective.groups), objective.examples_per_step)
    module, optimizer = _prepare(model, settings, accelerator, resources)
    torch.manual_seed(
        seed_from(seed, "train", accelerator.process_index)
    )  # what dropout draws from, until a checkpoint says else
    start, log = checkpoints.resume(accelerator, folder)
    watch = _DivergenceWatch(objective.loss_at_start, log)
    with _StopSignal() as stop:
        for step in range(start, num_steps):
            began = time.perf_counter()
            rate = settings.learning_rate * learning_rate_factor(step, num_steps, settings.warmup_ratio)
            for group in optimizer.param_groups:
                group["lr"] = rate
            indices = step_indices(step, len(objective.groups), objective.examples_per_step, seed, shuffle)
            with arithmetic(dtype, accelerator.device):
                metrics = _accumulate(module, objective, indices, layout, accelerator, resources, stop.received)
            norm = accelerator.clip_grad_norm_(module.parameters(), settings.max_grad_norm)
            metrics |= {"grad_norm": 0.0 if norm is None else float(norm), "learning_rate": rate}
            problem = _not_finite(metrics) or watch.observe(metrics["loss"])
            if problem:
                _give_up(problem, step, accelerator, folder)
            checkpoints.drop_older(accelerator, folder)
            optimizer.step()
            optimizer.zero_grad()
            metrics["tokens_per_second"] = metrics["tokens"] / (time.perf_counter() - began)
            asked_to_stop = metrics.pop("stop_signals") > 0
            done = step + 1
            log += [(done, name, value) for name, value in metrics.items()]
            if done % resources.log_every == 0 or done == num_steps:
                accelerator.log(metrics, step=done)
                report(done, num_steps, metrics)
            if done == num_steps:
                break
            if asked_to_stop or (done % resources.checkpoint_every == 0 and not watch.steps):
                checkpoints.save_checkpoint(accelerator, folder, done, log)
            if asked_to_stop:
                raise Interrupted(f"stopped after step {done} of {num_steps} with a checkpoint in {folder / 'checkpoints'}")
    if accelerator.is_main_process:
        checkpoints.write_log(folder / checkpoints.LOG_FILE, log)
    return module


def gather_weights(accelerator: Accelerator, module: Any) -> dict[str, Tensor]:
    """The trained model's whole state dict (on the main process where weights are sharded); every process calls this."""
    state = accelerator.get_state_dict(module)
    return {name.removeprefix("model."): value for name, value in state.items()}  # out of SequenceLogps


def _prepare(model: Any, settings: OptimizerSettings, accelerator: Accelerator, resources: Resources) -> tuple[Any, Any]:
    module = SequenceLogps(model, rows_within(model, resources.logits_gib)).train()
    module._no_split_modules = getattr(causal_model(model), "_no_split_modules", None)  # type: ignore[assignment]  # what FSDP wraps
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # DeepSpeed clips inside its backward pass and asks for a batch size that nothing here depends on.
        own = {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": settings.max_grad_norm}
        accelerator.state.deepspeed_plugin.deepspeed_config |= own
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.weight_decay,
    )
    return accelerator.prepare(module, optimizer)


class _StopSignal:
    """Remembers that SIGTERM arrived, so that the step under way can end first. Does nothing outside the main thread."""

    def __init__(self) -> None:
        self.received = False  # a plain flag: a lock could be taken twice when two signals come close together
        self._in_main_thread = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "_StopSignal":
        if self._in_main_thread:
            self._previous = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_main_thread:
            signal.signal(signal.SIGTERM, self._previous)

    def _remember(self, *_: object) -> None:
        self.received = True


def _accumulate(
    module: Any,
    objective: Objective,
    indices: Sequence[int],
    layout: Layout,
    accelerator: Accelerator,
    resources: Resources,
    stop: bool,
) -> dict[str, float]:
    """Backward over this process's share of the step; the metrics of the whole step."""
    world = accelerator.num_processes
    if len(indices) < world:
        raise WorkFailed(
            f"expected at least as many examples a step as processes ({world}), found {len(indices)}; use fewer processes"
        )
    mine = list(indices[accelerator.process_index :: world])
    size = objective.step_size(indices)
    batches = batch_groups([objective.groups[i] for i in mine], layout, resources.tokens_per_microbatch)
    sums: dict[str, Tensor] = {}
    for batch, weight, last in _rounds(batches, accelerator):
        batch = batch.to(accelerator.device)
        with _last_round(last, module, accelerator):
            part = objective.part(module(batch), batch, mine, size)
            accelerator.backward(part.loss * world * weight)  # data-parallel wrappers average gradients over processes
        for name, value in part.sums.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value * weight
    sums["tokens"] = torch.tensor(float(sum(b.num_tokens for b in batches)), device=accelerator.device)
    sums["stop_signals"] = torch.tensor(float(stop), device=accelerator.device)
    names = sorted(sums)
    total = accelerator.reduce(torch.stack([sums[name].float() for name in names]), reduction="sum")
    own = dict.fromkeys(part.sums, size) | objective.metric_weights(indices)
    return {name: value / own.get(name, 1.0) for name, value in zip(names, total.tolist(), strict=True)}


def _rounds(batches: Sequence[Batch], accelerator: Accelerator) -> list[tuple[Batch, float, bool]]:
    """(batch, weight, whether it is the last).

    Where weights are sharded all processes go as many rounds, the surplus with weight 0.
    """
    count = len(batches)
    if accelerator.distributed_type in SHARDED:
        count = int(accelerator.gather(torch.tensor([count], device=accelerator.device)).max())
    padded = [*((batch, 1.0) for batch in batches), *((batches[-1], 0.0) for _ in range(count - len(batches)))]
    return [(batch, weight, number == count - 1) for number, (batch, weight) in enumerate(padded)]


@contextmanager
def _last_round(last: bool, module: Any, accelerator: Accelerator) -> Iterator[None]:
    """Gradients are exchanged (and DeepSpeed steps) in the last round only."""
    accelerator.sync_gradients = last
    if last:
        yield
    else:
        with accelerator.no_sync(module):
            yield


class _DivergenceWatch:
    """Counts the steps in a row whose loss is DIVERGED_FACTOR times what it was at the start."""

    def __init__(self, start: float | None, log: Sequence[LogRow]) -> None:
        """`start`: the expected loss of an untrained policy, if it is known; a larger first loss takes its place."""
        self.expected, self.start = start or 0.0, 0.0
        self.steps = 0
        for _, name, value in log:
            if name == "loss":
                self.observe(value)

    def observe(self, loss: float) -> str | None:
        """Note a step's loss; what is wrong, if it has diverged."""
        self.start = self.start or max(abs(loss), self.expected)
        self.steps = self.steps + 1 if abs(loss) > DIVERGED_FACTOR * self.start else 0
        if self.steps < DIVERGED_STEPS:
            return None
        return (
            f"expected the loss to stay near its start ({self.start:.4g}), found {loss:.4g}, over {DIVERGED_FACTOR:.0f} times "
            f"as much for {DIVERGED_STEPS} steps,"
        )


def _not_finite(metrics: dict[str, float]) -> str | None:
    bad = [name for name in ("loss", "grad_norm") if not math.isfinite(metrics[name])]
    return f"expected a finite {bad[0]}, found {metrics[bad[0]]}" if bad else None


def _give_up(problem: str, step: int, accelerator: Accelerator, folder: Path) -> None:
    good = checkpoints.good_checkpoints(folder, step)
    kept = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written yet"
    checkpoints.drop_bad(accelerator, folder, step)
    raise WorkFailed(f"{problem} at step {step + 1}; {kept}; lower the learning rate")
