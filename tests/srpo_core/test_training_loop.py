"""The training loop: accumulation, step 0, schedules, resuming, and what stops it."""

import math
import os
import signal
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from srpo_core.batches import batch_groups
from srpo_core.checkpoints import list_checkpoints
from srpo_core.errors import WorkFailed
from srpo_core.logprobs import SequenceLogps, logps_in_order, rows_within
from srpo_core.models import add_lora, arithmetic
from srpo_core.objectives import ImitationObjective, PreferenceObjective, build_imitation_groups
from srpo_core.settings.model import LoraSettings
from srpo_core.training_loop import Interrupted, count_steps, gather_weights, learning_rate_factor, step_indices
from tests.fakes import tiny_llama
from tests.small_training import cpu, demonstration_rows, examples, objective, prompt_tokenizer, settings, train_on

SPEED = {"tokens_per_second"}  # the one metric that no two runs share


def model(**overrides: Any) -> Any:
    return tiny_llama(**({"initializer_range": 0.2} | overrides))


def with_lora(dropout: float = 0.0) -> Any:
    return add_lora(model(), LoraSettings(rank=4, dropout=dropout), seed=1)


def log_of(folder: Path) -> dict[tuple[int, str], float]:
    rows = pq.read_table(folder / "training_log.parquet").to_pylist()
    return {(row["step"], row["name"]): row["value"] for row in rows if row["name"] not in SPEED}


def weights(trained: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trained.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert not [name for name, value in first.items() if not torch.equal(value, second[name])]


# --- schedules -----------------------------------------------------------------------------------------------------------


def test_learning_rate_rises_over_the_warmup_and_falls_by_a_cosine() -> None:
    """10 steps, 2 of them warm-up: 1/2, 1, then (1 + cos(pi k / 8)) / 2 for k = 0 .. 7; k = 4 is the middle, 1/2."""
    factors = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[6] == pytest.approx(0.5)
    assert factors[9] == pytest.approx(0.5 * (1 + math.cos(7 * math.pi / 8)))
    assert factors[2:] == sorted(factors[2:], reverse=True) and factors[-1] > 0


def test_learning_rate_of_few_steps_and_of_no_warmup() -> None:
    assert learning_rate_factor(0, 1, 0.1) == 1.0
    assert [learning_rate_factor(step, 2, 0.0) for step in range(2)] == [1.0, pytest.approx(0.5)]
    assert learning_rate_factor(6, 100, 0.07) == 1.0  # 7 steps of warm-up, though .07 * 100 is 7.000000000000001


@pytest.mark.parametrize(("examples_", "per_step", "shuffle"), [(10, 4, True), (10, 4, False), (3, 7, True), (5, 5, True)])
def test_every_epoch_holds_each_example_once(examples_: int, per_step: int, shuffle: bool) -> None:
    walk = [i for step in range(examples_ * 3) for i in step_indices(step, examples_, per_step, 5, shuffle)]
    for epoch in range(3):
        assert sorted(walk[epoch * examples_ : (epoch + 1) * examples_]) == list(range(examples_))
    assert not shuffle or Counter(walk[:examples_]) == Counter(range(examples_))
    assert shuffle or walk[: 2 * examples_] == [*range(examples_), *range(examples_)]


def test_order_depends_on_the_seed_alone() -> None:
    first = [step_indices(step, 50, 8, 3, True) for step in range(9)]
    assert first == [step_indices(step, 50, 8, 3, True) for step in range(9)]
    assert first != [step_indices(step, 50, 8, 4, True) for step in range(9)]
    assert step_indices(0, 50, 50, 3, True) != step_indices(1, 50, 50, 3, True), "each epoch has its own order"


def test_steps_follow_epochs_unless_they_are_set() -> None:
    assert count_steps(settings(num_steps=None, num_epochs=2), 10, 4) == 5
    assert count_steps(settings(num_steps=None, num_epochs=0.1), 10, 4) == 1
    assert count_steps(settings(num_steps=7), 10, 4) == 7


# --- one step ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["trie", "plain"])
@pytest.mark.parametrize("method", ["srpo", "dpo", "sft"])
def test_eight_micro_batches_train_as_one(tmp_path: Path, layout: str, method: str) -> None:
    """Accumulation 1 x 8 against 8 x 1, three steps: losses and gradient norms, and weights without a drift of their mean."""
    runs = []
    for budget in (100_000, 64):
        task: Any = objective(8, method=method, pairs_per_step=8, num_steps=3) if method != "sft" else imitation(16)
        trained, folder = model(), tmp_path / str(budget)
        train_on(trained, task, folder, settings(num_steps=3), layout=layout, tokens_per_microbatch=budget)
        runs.append((log_of(folder), weights(trained)))
    (log, whole), (other_log, pieces) = runs
    assert {key for key in log if key[1] in ("loss", "grad_norm")} and log.keys() == other_log.keys()
    tokens = 2e-5  # relative: the order of additions
    for key in log:
        assert log[key] == pytest.approx(other_log[key], rel=tokens, abs=1e-4), key
    residuals = torch.cat([(pieces[name] - value).flatten() for name, value in whole.items()])
    assert float(residuals.abs().max()) < 1e-4
    assert abs(float(residuals.mean())) < 3e-7, "a missing or doubled micro-batch would shift all weights one way"


def test_a_budget_for_logits_trains_to_the_same_weights(tmp_path: Path) -> None:
    """Room for three rows at a time: a row takes three float32 numbers for each entry of the vocabulary."""
    room = 3.5 * 3 * 4 * model().config.vocab_size / 2**30
    assert (rows_within(model(), room), rows_within(model(), 1e-12), rows_within(model(), None)) == (3, 1, None)
    runs = []
    for name, budget in (("all", None), ("chunks", room)):
        trained = model()
        train_on(trained, objective(8), tmp_path / name, settings(num_steps=3), logits_gib=budget)
        runs.append(weights(trained))
    assert max(float((value - runs[1][name]).abs().max()) for name, value in runs[0].items()) < 1e-4


def imitation(count: int) -> ImitationObjective:
    groups, flags, _ = build_imitation_groups(prompt_tokenizer(), demonstration_rows(count))
    return ImitationObjective(groups, flags, count)


@pytest.mark.parametrize("layout", ["trie", "plain"])
@pytest.mark.parametrize("kind", ["float32", "mixed", "bfloat16+lora"])
def test_log_ratios_are_exactly_zero_at_step_0(tmp_path: Path, layout: Any, kind: str) -> None:
    """The policy is the reference, layout, dtype and batch are the same: every log-ratio is 0 and the loss its known constant."""
    dtype: Any = kind.split("+")[0]
    reference = model().to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    pairs = examples(4)
    with arithmetic(dtype, "cpu"):
        batches = batch_groups([pair.tokens.sequences for pair in pairs], layout, 100_000)
        stored = logps_in_order(SequenceLogps(reference), batches).view(4, 6).tolist()
    task = PreferenceObjective(
        [p._replace(reference=tuple(s)) for p, s in zip(pairs, stored, strict=True)], settings(num_steps=1)
    )
    policy = add_lora(reference, LoraSettings(rank=4), 0) if "lora" in kind else reference
    train_on(policy, task, tmp_path, layout=layout, dtype=dtype)
    log = log_of(tmp_path)
    assert {name: log[1, name] for _, name in log if name.startswith("log_ratio")} == dict.fromkeys(
        [name for _, name in log if name.startswith("log_ratio")], 0.0
    )
    assert log[1, "loss"] == pytest.approx(task.loss_at_start, rel=1e-6)


def test_log_ratios_of_another_batching_are_rounding_only(tmp_path: Path) -> None:
    """The reference pass batches other pairs together than a training step does: the same numbers within 1e-4 nats."""
    reference, pairs = model(), examples(16)
    batches = batch_groups([pair.tokens.sequences for pair in pairs], "trie", 700)
    stored = logps_in_order(SequenceLogps(reference), batches).view(16, 6).tolist()
    rows = [pair._replace(reference=tuple(values)) for pair, values in zip(pairs, stored, strict=True)]
    train_on(reference, PreferenceObjective(rows, settings(num_steps=1)), tmp_path)
    assert all(abs(value) < 1e-4 for (_, name), value in log_of(tmp_path).items() if name.startswith("log_ratio"))


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: Any, **options: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        seen.append(float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))))
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train_on(model(), objective(num_steps=2, max_grad_norm=0.01), tmp_path)
    assert seen == [pytest.approx(0.01, rel=1e-3)] * 2
    assert all(log_of(tmp_path)[step, "grad_norm"] > 0.02 for step in (1, 2))


def test_only_adapters_move_under_lora(tmp_path: Path) -> None:
    trained = with_lora()
    before = weights(trained)
    train_on(trained, objective(num_steps=2), tmp_path)
    moved = {name for name, value in weights(trained).items() if not torch.equal(value, before[name])}
    assert moved and all("lora_" in name for name in moved)


def test_every_metric_of_the_issue_is_logged_for_every_step(tmp_path: Path) -> None:
    train_on(model(), objective(num_steps=3), tmp_path)
    rows = pq.read_table(tmp_path / "training_log.parquet").to_pylist()
    names = {
        "loss",
        "loss/generative",
        "loss/self_improvement",
        "consistency_gap",
        "grad_norm",
        "learning_rate",
        "tokens_per_second",
    }
    names |= {"generative_accuracy", "self_improvement_given_chosen_accuracy", "log_ratio_chosen_given_rejected"}
    for step in (1, 2, 3):
        assert names <= {row["name"] for row in rows if row["step"] == step}


def test_gathered_weights_are_the_models_own(tmp_path: Path) -> None:
    trained, accelerator = model(), cpu()
    module = train_on(trained, objective(num_steps=1), tmp_path, accelerator=accelerator)
    assert_same(gather_weights(accelerator, module), trained.state_dict())


def test_more_processes_than_examples_is_refused(tmp_path: Path) -> None:
    class Two:
        num_processes = 2

    from srpo_core.training_loop import _accumulate

    with pytest.raises(WorkFailed, match=r"at least as many examples a step as processes \(2\), found 1"):
        _accumulate(None, objective(), [0], "trie", Two(), None, False)  # type: ignore[arg-type]


# --- resuming ------------------------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for whatever ends a process."""


def killed_after(step: int) -> Any:
    def report(done: int, *_: Any) -> None:
        if done == step:
            raise Killed

    return report


def sigterm_at(step: int) -> Any:
    def report(done: int, *_: Any) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return report


@pytest.mark.parametrize("make", [model, lambda: with_lora(dropout=0.2)], ids=["full", "lora with dropout"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, make: Any) -> None:
    """Killed in step 4 (after the checkpoint of step 2), ended by SIGTERM in step 5, killed again, then finished."""
    whole, pieces = make(), make()
    train_on(whole, objective(num_steps=8), tmp_path / "whole", checkpoint_every=2)
    folder = tmp_path / "pieces"
    with pytest.raises(Killed):
        train_on(pieces, objective(num_steps=8), folder, report=killed_after(4), checkpoint_every=2)
    assert [path.name for path in list_checkpoints(folder)] == ["step-0000002"]
    with pytest.raises(Interrupted, match="stopped after step 6 of 8"):
        train_on(make(), objective(num_steps=8), folder, report=sigterm_at(5), checkpoint_every=100)
    (folder / "checkpoints" / ".step-0000007").mkdir()  # half written: to be ignored
    with pytest.raises(Killed):
        train_on(make(), objective(num_steps=8), folder, report=killed_after(7), checkpoint_every=100)
    final = make()
    train_on(final, objective(num_steps=8), folder, checkpoint_every=2)
    assert_same(weights(whole), weights(final))
    assert log_of(tmp_path / "whole") == log_of(folder)


def test_sigterm_handler_is_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        train_on(model(), objective(num_steps=8), tmp_path, report=sigterm_at(1))
    assert signal.getsignal(signal.SIGTERM) is before


def test_checkpoints_and_policies_hold_no_pickled_weights(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train_on(model(), objective(num_steps=8), tmp_path, report=sigterm_at(1))
    (checkpoint,) = list_checkpoints(tmp_path)
    names = {path.name for path in checkpoint.iterdir()}
    assert "model.safetensors" in names and not [name for name in names if "model" in name and not name.endswith(".safetensors")]


# --- what stops it -------------------------------------------------------------------------------------------------------


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """A weight is poisoned in step 4: checkpoint 4 holds the NaN, checkpoint 2 does not, and 2 is what stays."""
    trained = model()

    def poison(done: int, *_: Any) -> None:
        if done == 4:
            with torch.no_grad():
                trained.lm_head.weight[7, 0] = math.nan

    with pytest.raises(
        WorkFailed, match=r"expected a finite loss, found nan at step 5; the last good checkpoint is .*step-0000002; lower"
    ):
        train_on(trained, objective(num_steps=8), tmp_path, report=poison, checkpoint_every=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-0000002"]
    fresh = model()
    train_on(fresh, objective(num_steps=8), tmp_path)
    assert all(torch.isfinite(value).all() for value in weights(fresh).values())


def test_a_learning_rate_beyond_all_measure_stops_with_a_sentence(tmp_path: Path) -> None:
    beyond_what_settings_allow = settings(num_steps=20, warmup_ratio=0).model_copy(update={"learning_rate": 1e30})
    task = PreferenceObjective(examples(16), beyond_what_settings_allow)
    with pytest.raises(
        WorkFailed, match=r"expected a finite (loss|grad_norm), found (nan|inf) at step 2; no checkpoint was written yet"
    ):
        train_on(model(), task, tmp_path)
    assert not (tmp_path / "training_log.parquet").exists()


class Growing(PreferenceObjective):
    """An objective whose loss is multiplied by `factor` from step 3 on."""

    factor = 1e4
    calls = 0

    def part(self, *arguments: Any) -> Any:
        part = super().part(*arguments)
        self.calls += 1
        return part if self.calls < 3 else part._replace(sums=part.sums | {"loss": part.sums["loss"] * self.factor})


def test_a_loss_a_hundred_times_its_start_for_five_steps_stops_the_run(tmp_path: Path) -> None:
    quiet = examples(16, spread=0.0)
    task = Growing(quiet, settings(num_steps=20))
    with pytest.raises(WorkFailed, match=r"expected the loss to stay near its start .* for 5 steps, at step 7; the last good"):
        train_on(model(), task, tmp_path, checkpoint_every=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-0000002"], "none is written while the loss diverges"


def test_a_quiet_first_step_is_no_measure_of_divergence(tmp_path: Path) -> None:
    """Ties first: the first step's loss is 0, any later loss is infinitely many times as much, and that is no divergence."""
    pairs = [e._replace(preference=0.5 if i % 2 else 1.0, reference=(-60.0,) * 6) for i, e in enumerate(examples(8))]
    task = PreferenceObjective(pairs, settings(num_steps=8, pairs_per_step=1, learning_rate=1e-6))
    assert statistics.mean((p.preference - 0.5) ** 2 for p in pairs) == pytest.approx(task.loss_at_start)
    task.step_size = lambda indices: 1e6  # type: ignore[method-assign]  # hold still: only the rule is looked at
    train_on(model(), task, tmp_path)
