"""Fingerprints and numbers that must not move unless a stage's VERSION rises.

A fingerprint that moves makes everybody's homes compute again; a number that moves under an unmoved fingerprint mixes old
results with new ones. After a wanted change: raise the stage's VERSION, run `python -m tests.test_golden`, and say why in the
changelog.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from srpo_core.errors import WorkFailed
from srpo_core.models import load_model, load_tokenizer
from srpo_core.settings.model import GenerationSettings, ModelSettings, SmallModelSettings
from srpo_core.settings.training import PreferenceSettings, SupervisedSettings
from srpo_core.tokenization import load_template
from srpo_core.workers.dispatch import do_job
from srpo_core.workers.generate import finished_files
from srpo_core.workers.jobs import GenerateJob, PreferenceJob, ReferenceJob, SftJob
from srpo_core.workers.parts import read_rows, write_part
from storage.artifact import Artifact, environment, list_incomplete
from storage.schemas import DEMONSTRATIONS, PROMPTS, REFERENCE
from tasks import generation, reference, training
from tests.small_training import (
    DECODING,
    TEMPLATE,
    cpu,
    demonstration_rows,
    pair_rows,
    prompt_rows,
    resources,
    save_policy,
    write_pairs,
)

GOLDEN = Path(__file__).parent / "golden" / "training.json"


def parent(stage: str, digest: str, **info: Any) -> Artifact:
    """An artifact of which only the digest matters."""
    manifest = {"stage": stage, "fingerprint": f"fp-{digest}", "digest": digest, "info": info, "files": [], "counts": {}}
    return Artifact(Path(f"/nowhere/{stage}/{digest}"), manifest | {"settings": {"method": "sft", "name": "set"}})


def fingerprints(patch: pytest.MonkeyPatch, home: Path) -> dict[str, list[str]]:
    """What each stage around a model would be named, from the folders it opens before it would start a worker."""

    def no_work(*_: Any) -> None:
        raise WorkFailed("only the name is wanted")

    for module in (training, reference, generation):
        patch.setattr(module, "run_jobs", no_work)
    model = ModelSettings(small=SmallModelSettings(), max_length=160)
    shared: dict[str, Any] = {"model": model, "resources": resources(), "home": home}
    base, pairs, policy = parent("policies", "base"), parent("preferences", "pairs"), parent("policies", "policy", name="srpo")
    rows = parent("reference", "rows", layout="trie")
    stages: list[Any] = [
        lambda: training.train_reference(base, pairs, SupervisedSettings(), template=TEMPLATE, decoding=DECODING, **shared),
        lambda: reference.compute_reference(policy, pairs, PreferenceSettings(), **shared),
        lambda: training.train_policies(policy, pairs, rows, None, [PreferenceSettings()], **shared),
        lambda: generation.generate_completions([policy], [parent("prompts", "set")], GenerationSettings(), **shared),
    ]
    for stage in stages:
        with pytest.raises(WorkFailed):
            stage()
    return {name: [path.name for path in list_incomplete(home, name)] for name in ("policies", "reference", "completions")}


def numbers(folder: Path) -> dict[str, Any]:
    """Log-probs, losses and a greedy text of a tiny model."""
    policy = save_policy(folder / "policy")
    pairs = pair_rows(6)
    for name in ("store", "sft", "srpo", "ipo_both", "texts"):
        (folder / name).mkdir()
    shared: dict[str, Any] = {"model_folder": str(policy), "dtype": "float32"}
    preferences = write_pairs(folder / "pairs.parquet", pairs)
    write_part(folder / "demonstrations.parquet", demonstration_rows(6), DEMONSTRATIONS)
    write_part(folder / "prompts.parquet", prompt_rows(2), PROMPTS)
    do_job(
        ReferenceJob(name="r", layout="trie", preferences=preferences, splits=["train"], store=str(folder / "store"), **shared),
        cpu(),
        resources(),
    )
    stored = {row["token_hash"]: row for row in read_rows([str(path) for path in (folder / "store").glob("part-*")])}
    tok, _ = load_template(policy, load_tokenizer(policy))
    texts = [(row["pair_id"], row["prompt"], *sorted((row["chosen"], row["rejected"]))) for row in pairs]
    rows = [
        {"pair_id": name} | stored[tok.pair(p, a, b, tok.encode_texts([p[0]["content"], a, b])).token_hash]
        for name, p, a, b in texts
    ]
    write_part(folder / "rows.parquet", rows, REFERENCE)
    sft = SupervisedSettings(num_steps=3, examples_per_step=4, learning_rate=1e-3)
    job = SftJob(
        name="sft",
        template=TEMPLATE,
        max_length=160,
        demonstrations=[str(folder / "demonstrations.parquet")],
        settings=sft,
        decoding=None,
        folder=str(folder / "sft"),
        **shared,
    )
    do_job(job, cpu(), resources())
    for method in ("srpo", "ipo_both"):
        settings = PreferenceSettings(method=method, num_steps=3, pairs_per_step=4, learning_rate=1e-3, layout="trie")  # type: ignore[arg-type]
        asked = {
            "left_out": [],
            "reference": [str(folder / "rows.parquet")],
            "settings": settings,
            "folder": str(folder / method),
        }
        do_job(PreferenceJob(name=method, preferences=preferences, **asked, **shared), cpu(), resources())
    greedy = GenerationSettings(num_revisions=1, temperature=0, max_new_tokens=6)
    prompts = {"prompts": [str(folder / "prompts.parquet")], "settings": greedy, "folder": str(folder / "texts")}
    do_job(GenerateJob(name="g", policy_id="p", **prompts, **shared), cpu(), resources())
    losses = {
        name: [row["value"] for row in read_rows([str(folder / name / "training_log.parquet")]) if row["name"] == "loss"]
        for name in ("sft", "srpo", "ipo_both")
    }
    logps = [[row[name] for name in REFERENCE.names if name.startswith("logp")] for row in rows[:3]]
    parameters = sum(parameter.numel() for parameter in load_model(policy).parameters())
    completions = [row["text"] for row in read_rows(finished_files(folder / "texts"))]
    return {"parameters": parameters, "logps": logps, "losses": losses, "completions": completions}


def test_fingerprints_have_not_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert fingerprints(monkeypatch, tmp_path) == golden["fingerprints"]


def test_numbers_have_not_moved(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["numbers"]
    found = numbers(tmp_path)
    assert (found["parameters"], found["completions"]) == (golden["parameters"], golden["completions"])
    for name, losses in golden["losses"].items():
        assert found["losses"][name] == pytest.approx(losses, rel=1e-3), name
    for row, expected in zip(found["logps"], golden["logps"], strict=True):
        assert row == pytest.approx(expected, abs=2e-3)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as monkeypatch:
        content = {
            "source": "tests/test_golden.py: a random Llama of 2 layers and its byte tokenizer, on the CPU",
            "environment": {name: version for name, version in environment().items() if name != "platform"},
            "fingerprints": fingerprints(monkeypatch, Path(scratch) / "home"),
            "numbers": numbers(Path(scratch)),
        }
    GOLDEN.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
