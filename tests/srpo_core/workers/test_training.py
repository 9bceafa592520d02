"""Training jobs in this process: what they write, resuming, adapters, trackers."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from srpo_core.checkpoints import list_checkpoints
from srpo_core.errors import InputError
from srpo_core.models import load_model, load_tokenizer
from srpo_core.settings.model import LoraSettings
from srpo_core.settings.training import PreferenceSettings, SupervisedSettings
from srpo_core.tokenization import load_template
from srpo_core.workers import dispatch, training
from srpo_core.workers.dispatch import do_job
from srpo_core.workers.jobs import PreferenceJob, ReferenceJob, SftJob
from srpo_core.workers.parts import read_rows, write_part
from storage import schemas
from tests.small_training import (
    DECODING,
    TEMPLATE,
    cpu,
    demonstration_rows,
    pair_rows,
    resources,
    save_policy,
    settings,
    write_pairs,
)

REFERENCE_COLUMNS = [*training.REFERENCE_COLUMNS]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_policy(tmp_path / "policies/base/model")


def stored_reference(
    tmp_path: Path, model: Path, rows: list[dict[str, Any]], layout: str = "trie", dtype: Any = "float32"
) -> list[str]:
    """Reference rows by pair_id, as the reference stage joins them."""
    store = tmp_path / f"store-{layout}-{dtype}"
    store.mkdir(exist_ok=True)
    pairs = write_pairs(tmp_path / "preferences.parquet", rows)
    job = ReferenceJob(
        name="r",
        model_folder=str(model),
        dtype=dtype,
        layout=layout,
        preferences=pairs,
        splits=["train"],
        store=str(store),  # type: ignore[arg-type]
    )
    do_job(job, cpu(), resources())
    tok, _ = load_template(model, load_tokenizer(model))
    found = {row["token_hash"]: row for row in read_rows([str(p) for p in store.glob("part-*.parquet")])}
    from srpo_core.tokenization import tokenize_pair

    joined = []
    for row in rows:
        tokens = tokenize_pair(tok, row["prompt"], *sorted((row["chosen"], row["rejected"])))
        joined.append({"pair_id": row["pair_id"], **found[tokens.token_hash]})
    write_part(tmp_path / "reference.parquet", joined, schemas.REFERENCE)
    return [str(tmp_path / "reference.parquet")]


def preference_job(
    tmp_path: Path, base: Path, name: str = "srpo", *, reference: list[str] | None = None, **options: Any
) -> PreferenceJob:
    rows = pair_rows(12)
    dtype = options.pop("dtype", "float32")
    left_out = options.pop("left_out", [])
    stored = reference or stored_reference(tmp_path, base, rows, dtype=dtype)
    folder = tmp_path / "policies" / name
    folder.mkdir(parents=True, exist_ok=True)
    return PreferenceJob(
        name=name,
        model_folder=str(base),
        dtype=dtype,
        preferences=write_pairs(tmp_path / "preferences.parquet", rows),
        left_out=left_out,
        reference=stored,
        settings=settings(layout="trie", **options),
        folder=str(folder),
    )


def log_of(folder: str) -> dict[tuple[int, str], float]:
    rows = pq.read_table(Path(folder) / "training_log.parquet").to_pylist()
    return {(row["step"], row["name"]): row["value"] for row in rows if row["name"] != "tokens_per_second"}


def test_a_policy_folder_is_whole_and_without_pickles(tmp_path: Path, base: Path) -> None:
    job = preference_job(tmp_path, base, num_steps=2)
    do_job(job, cpu(), resources())
    folder = Path(job.folder)
    assert json.loads((folder / "result.json").read_text()) == {"pairs": 12, "pairs_too_long": 0, "layout": "trie"}
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    tok, decoding = load_template(folder / "model", load_tokenizer(folder / "model"))
    assert decoding == DECODING and tok.settings == TEMPLATE, "template and decoding go from the reference to the policy"
    assert load_model(folder / "model")


@pytest.mark.parametrize(("dtype", "lora"), [("float32", False), ("mixed", False), ("bfloat16", True)])
def test_stored_reference_rows_give_log_ratios_of_zero_at_step_0(tmp_path: Path, base: Path, dtype: str, lora: bool) -> None:
    """Through the files: the reference job's rows against the first step of training on all pairs, same layout and dtype."""
    adapters = LoraSettings(rank=4) if lora else None
    job = preference_job(tmp_path, base, dtype=dtype, lora=adapters, pairs_per_step=12, num_steps=1, beta=0.1)
    do_job(job, cpu(), resources())
    log = log_of(job.folder)
    ratios = {name: value for (_, name), value in log.items() if name.startswith("log_ratio")}
    assert len(ratios) == 6 and set(ratios.values()) == {0.0}
    expected = sum((row["preference"] - 0.5) ** 2 for row in pair_rows(12)) / 12
    assert log[1, "loss"] == pytest.approx(expected, rel=1e-6)


def test_pairs_left_out_are_not_trained_on(tmp_path: Path, base: Path) -> None:
    left_out = [row["pair_id"] for row in pair_rows(12)[:5]]
    job = preference_job(tmp_path, base, left_out=left_out, num_steps=1)
    do_job(job, cpu(), resources())
    assert json.loads((Path(job.folder) / "result.json").read_text())["pairs"] == 7


def test_two_jobs_of_one_launch_equal_two_launches(tmp_path: Path, base: Path) -> None:
    first, second = preference_job(tmp_path, base, "one"), preference_job(tmp_path, base, "two", method="dpo")
    accelerator = cpu()
    do_job(first, accelerator, resources())
    do_job(second, accelerator, resources())
    alone = preference_job(tmp_path, base, "alone", method="dpo")
    do_job(alone, cpu(), resources())
    assert log_of(second.folder) == log_of(alone.folder)
    files = [(Path(job.folder) / "model/model.safetensors").read_bytes() for job in (second, alone)]
    assert files[0] == files[1]


class Killed(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("lora", [False, True])
def test_a_killed_job_goes_on_to_the_same_bytes(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, lora: bool) -> None:
    adapters = LoraSettings(rank=4) if lora else None
    whole = preference_job(tmp_path, base, "whole", lora=adapters, num_steps=6)
    do_job(whole, cpu(), resources())
    pieces = preference_job(tmp_path, base, "pieces", reference=whole.reference, lora=adapters, num_steps=6)

    def die(done: int, *_: Any) -> None:
        if done == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training.ProgressLines, "show", lambda self, done, values=None: die(done))
        with pytest.raises(Killed):
            do_job(pieces, cpu(), resources(checkpoint_every=2))
    assert [path.name for path in list_checkpoints(Path(pieces.folder))] == ["step-0000004"]
    (Path(pieces.folder) / "model").mkdir()  # and another attempt was ended while it saved
    (Path(pieces.folder) / "model" / "model-00001-of-00002.safetensors").write_bytes(b"half")
    do_job(pieces, cpu(), resources())
    names = {path.name for path in (Path(whole.folder) / "model").iterdir()}
    assert names == {path.name for path in (Path(pieces.folder) / "model").iterdir()}
    for name in names:
        assert (Path(whole.folder) / "model" / name).read_bytes() == (Path(pieces.folder) / "model" / name).read_bytes(), name
    assert log_of(whole.folder) == log_of(pieces.folder)


def test_an_adapter_policy_is_loaded_for_generation(tmp_path: Path, base: Path) -> None:
    job = preference_job(tmp_path, base, lora=LoraSettings(rank=4), learning_rate=0.05, num_steps=3)
    do_job(job, cpu(), resources())
    folder = Path(job.folder) / "model"
    assert set(load_file(folder / "adapter_model.safetensors")) and not (folder / "model.safetensors").exists()
    ids = torch.tensor([[5, 80, 33]])
    with torch.no_grad():
        assert not torch.allclose(load_model(folder)(ids).logits, load_model(base)(ids).logits)


def test_supervised_training_lowers_the_loss_and_writes_the_template(tmp_path: Path, base: Path) -> None:
    write_part(tmp_path / "demonstrations.parquet", demonstration_rows(16), schemas.DEMONSTRATIONS)
    folder = tmp_path / "policies/sft"
    folder.mkdir()
    job = SftJob(
        name="sft",
        model_folder=str(base),
        template=TEMPLATE,
        max_length=160,
        dtype="float32",
        demonstrations=[str(tmp_path / "demonstrations.parquet")],
        settings=SupervisedSettings(num_steps=12, examples_per_step=16, learning_rate=0.01),
        decoding=DECODING,
        folder=str(folder),
    )
    do_job(job, cpu(), resources())
    log = log_of(job.folder)
    assert log[12, "loss"] < log[1, "loss"] - 0.5
    assert load_template(folder / "model", load_tokenizer(folder / "model"))[1] == DECODING


def test_missing_reference_rows_and_a_folder_without_template_are_named(tmp_path: Path, base: Path) -> None:
    job = preference_job(tmp_path, base)
    write_part(tmp_path / "none.parquet", [], schemas.REFERENCE)
    with pytest.raises(InputError, match="expected reference log-probs of pair"):
        do_job(job.model_copy(update={"reference": [str(tmp_path / "none.parquet")]}), cpu(), resources())
    (base / "srpo_template.json").unlink()
    with pytest.raises(InputError, match="expected a policy folder with srpo_template.json"):
        do_job(job, cpu(), resources())


# --- trackers ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_accelerator() -> Any:
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def test_tensorboard_gets_an_event_file_per_policy(tmp_path: Path, base: Path, fresh_accelerator: None) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    jobs = [preference_job(tmp_path, base, name, num_steps=3) for name in ("one", "two")]
    accelerator = dispatch._make_accelerator(["tensorboard"], tmp_path)
    for job in jobs:
        do_job(job, accelerator, resources(trackers=["tensorboard"]))
    for job in jobs:
        events = list((Path(job.folder) / "srpo").glob("events.out.tfevents.*"))
        assert len(events) == 1
        accumulator = reader.EventAccumulator(str(events[0].parent))
        accumulator.Reload()
        values = [(event.step, event.value) for event in accumulator.Scalars("loss")]
        log = log_of(job.folder)
        assert values == [(step, pytest.approx(log[step, "loss"])) for step in (1, 2, 3)]


def test_a_tracker_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the package of tracker mlflow_of_the_moon, found none"):
        dispatch._make_accelerator(["mlflow_of_the_moon"], tmp_path)


def test_settings_of_a_job_survive_its_file(tmp_path: Path) -> None:
    job = PreferenceJob(
        name="n",
        model_folder="m",
        dtype="float32",
        preferences=[],
        left_out=[],
        reference=[],
        settings=PreferenceSettings(),
        folder="f",
    )
    assert PreferenceJob.model_validate_json(job.model_dump_json()) == job
    assert isinstance(cpu(), Accelerator)
