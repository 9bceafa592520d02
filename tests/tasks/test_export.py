"""Exported policies: plain transformers, in a process that knows nothing of this project, gives the policy's logits and texts.

The examples that are run there, and against a served endpoint, are the code blocks of the model card, as they stand.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from huggingface_hub import ModelCard

from flows.cli import main
from srpo_core.errors import InputError
from srpo_core.models import load_model, merge_adapter
from srpo_core.settings.model import GenerationSettings, LoraSettings, ModelSettings, TemplateSettings
from srpo_core.settings.training import PreferenceSettings
from storage.artifact import Artifact
from storage.schemas import CONTAMINATION
from tasks import export
from tasks.export import export_policy
from tasks.generation import generate_completions
from tasks.hub_upload import _check_portable
from tasks.models import adopt_reference, model_folder, prepare_base_model
from tasks.reference import compute_reference
from tasks.training import train_policies
from tests.homes import put
from tests.small_training import pair_rows, save_policy, settings
from tests.stages import RESOURCES, base_model, launches_here, model_settings, put_pairs, put_prompt_set
from tests.transformers_server import serving

GREEDY = GenerationSettings(num_revisions=2, temperature=0, max_new_tokens=12)
TEMPLATE = TemplateSettings(kind="chat", revision_request="Better?", system_prompt="Short.")
IDS = [[1, 7, 60, 100, 33, 90], [1, 200, 12, 45, 45, 9]]
# What a stranger's process does with the folders: run the card's example, and compute logits.
STRANGER = """
import contextlib, io, json, os, re, sys
for name in ("srpo_core", "tasks", "storage", "flows"):
    sys.modules[name] = None  # importing any of them fails
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM
found, ids = {}, torch.tensor(json.loads(sys.argv[1]))
for folder in sys.argv[2:]:
    os.chdir(folder)
    code = re.findall("```python\\n(.*?)```", open("README.md").read(), re.S)[0]
    with contextlib.redirect_stdout(io.StringIO()) as printed, torch.no_grad():
        exec(code, {})
        load = AutoPeftModelForCausalLM if os.path.exists("adapter_config.json") else AutoModelForCausalLM
        models = [load.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)]
        logits = [model.eval()(ids).logits.tolist() for model in models]
    found[folder] = {"printed": printed.getvalue(), "logits": logits}
print(json.dumps(found))
"""


class Made(NamedTuple):
    """A home with an adopted model, an adapter trained on it and one on both, merged; and exports of them."""

    home: Path
    reference: Artifact
    adapted: Artifact
    went_on: Artifact
    folders: dict[str, Path]
    stranger: dict[str, Any]  # by folder


def train_adapter(
    home: Path, reference: Artifact, model: Any, num_steps: int, start: Artifact | None = None, seed: int = 0
) -> Artifact:
    """A low-rank adapter on `start`, none = `reference`, far enough from it to show."""
    pairs = put_pairs(home, pair_rows(8))
    shared: dict[str, Any] = {"model": model, "resources": RESOURCES, "home": home}
    rows = compute_reference(reference, pairs, PreferenceSettings(layout="trie"), **shared)
    overlaps = [{"pair_id": pair_rows(8)[0]["pair_id"], "prompt_id": p, "kind": "prompt"} for p in "ab"]
    left_out = put(home, "contamination", {"part": (overlaps, CONTAMINATION)})
    asked = settings(
        lora=LoraSettings(rank=2), num_steps=num_steps, learning_rate=0.05, layout="trie", pairs_per_step=4, seed=seed
    )
    (adapted,) = train_policies(reference, pairs, rows, left_out, [asked], start=start, **shared)
    return adapted


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    root = tmp_path_factory.mktemp("export")
    home = root / "home"
    with pytest.MonkeyPatch.context() as patch:
        launches_here(patch)
        base, model = base_model(root, home)
        reference = adopt_reference(base, model=model, template=TEMPLATE, decoding=GREEDY, home=home)
        adapted = train_adapter(home, reference, model, num_steps=4)
        went_on = train_adapter(home, reference, model, num_steps=2, start=adapted, seed=1)
        generate_completions([reference], [put_prompt_set(home, 3)], GREEDY, model=model, resources=RESOURCES, home=home)
    folders = {name: root / "exports" / name for name in ("adopted", "merged", "apart", "went_on")}
    export_policy(reference, folders["adopted"])
    export_policy(adapted, folders["merged"])
    export_policy(adapted, folders["apart"], merge=False)
    export_policy(went_on, folders["went_on"], merge=False)
    arguments = [sys.executable, "-c", STRANGER, json.dumps(IDS), *map(str, folders.values())]
    ran = subprocess.run(arguments, cwd=root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    yield Made(home, reference, adapted, went_on, folders, json.loads(ran.stdout.splitlines()[-1]))


def logits_of(policy: Artifact) -> torch.Tensor:
    with torch.no_grad():
        return merge_adapter(load_model(model_folder(policy)))(torch.tensor(IDS)).logits


def revised(capsys: pytest.CaptureFixture[str], policy: str, prompt: str) -> list[str]:
    """What `srpo revise` writes."""
    capsys.readouterr()
    assert main(["revise", "--policy", policy, "--prompt", prompt, "--revisions", "2", "--json"]) == 0
    return [one["text"] for one in json.loads(capsys.readouterr().out)["completions"]]


def code_blocks(folder: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)


def prompt_of(folder: Path) -> str:
    found = re.search(r'"content": "(.*?)"}\]', code_blocks(folder)[0])
    assert found is not None
    return found[1]


def lines_of(texts: list[str]) -> str:
    return "".join(f"{index} {text}\n" for index, text in enumerate(texts))


@pytest.mark.parametrize("name", ["adopted", "merged", "apart", "went_on"])
def test_plain_transformers_gives_the_policys_logits_and_greedy_revisions(
    made: Made, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = {"adopted": made.reference, "went_on": made.went_on}
    policy, folder = policies.get(name, made.adapted), made.folders[name]
    found = made.stranger[str(folder)]
    for logits in found["logits"]:
        torch.testing.assert_close(torch.tensor(logits), logits_of(policy), atol=1e-5, rtol=1e-5)
    texts = revised(capsys, str(policy.path), prompt_of(folder))
    assert len(texts) == 3 and found["printed"] == lines_of(texts)


def test_training_moved_the_logits_so_that_merging_was_worth_a_test(made: Made) -> None:
    assert (logits_of(made.adapted) - logits_of(made.reference)).abs().max() > 1e-3


def test_the_exported_folder_is_a_policy_for_srpo_revise_too(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = prompt_of(made.folders["merged"])
    assert revised(capsys, str(made.folders["merged"]), prompt) == revised(capsys, str(made.adapted.path), prompt)


def test_full_weights_are_copied_byte_by_byte(made: Made) -> None:
    name = "model.safetensors"
    assert (made.folders["adopted"] / name).read_bytes() == (model_folder(made.reference) / name).read_bytes()


def test_a_served_endpoint_revises_as_the_card_says(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made.folders["merged"]
    texts = revised(capsys, str(made.adapted.path), prompt_of(folder))
    client = next(block for block in code_blocks(folder) if "OpenAI" in block)
    with serving(".", folder, tmp_path) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        exec(client, {})
    assert capsys.readouterr().out == lines_of(texts)
    for block in (client, code_blocks(folder)[0]):
        assert len([line for line in block.splitlines() if line.strip()]) <= 10


class TestCard:
    """The card says what the records hold."""

    def test_its_front_matter_is_what_the_hub_reads(self, made: Made) -> None:
        merged, apart = (ModelCard.load(made.folders[name] / "README.md").data for name in ("merged", "apart"))
        assert (merged.license, merged.pipeline_tag) == ("unknown", "text-generation") and "srpo" in (merged.tags or [])
        assert (merged.library_name, apart.library_name) == ("transformers", "peft")

    def test_it_names_method_convention_reference_and_records(self, made: Made) -> None:
        text = (made.folders["merged"] / "README.md").read_text()
        for part in (
            "| alpha | 0.666667 |",
            "(1-α) L + α L†",
            "its α of .8 is 2/3 here",
            f"`policies/{made.adapted.fingerprint}`",
            f"`policies/{made.reference.fingerprint}`",
            made.adapted.digest,
            "low-rank adapter (rank 2",
            "1 pairs that overlap with an evaluation prompt",
            "This policy was not judged.",
        ):
            assert part in text
        assert str(made.home) not in text  # where it lay is nobody's business

    def test_it_names_the_policy_that_training_began_with(self, made: Made) -> None:
        assert "training began with" not in (made.folders["apart"] / "README.md").read_text()
        text = (made.folders["went_on"] / "README.md").read_text()
        assert f"| training began with | `policies/{made.adapted.fingerprint}` |" in text
        assert f"(`policies/{made.reference.fingerprint}`) |" in text.split("| reference model | ")[1].splitlines()[0]

    def test_it_counts_the_prompts_whose_ids_are_those_of_training(self, made: Made) -> None:
        assert re.search(r"Of (\d+) prompts and revision prompts \1 have", (made.folders["adopted"] / "README.md").read_text())


class TestTargets:
    """Nothing is overwritten by accident, and nothing half-written is left."""

    def test_a_folder_that_is_not_empty_is_refused_unless_it_is_an_earlier_export(self, made: Made, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(InputError, match="notes.txt"):
            export_policy(made.reference, tmp_path)
        with pytest.raises(InputError, match="earlier export"):
            export_policy(made.reference, tmp_path, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_an_earlier_export_is_replaced_whole(self, made: Made, tmp_path: Path) -> None:
        target = tmp_path / "out"
        shutil.copytree(made.folders["apart"], target)
        export_policy(made.reference, target, overwrite=True)
        assert not (target / "adapter_config.json").exists() and (target / "model.safetensors").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_an_export_that_fails_leaves_the_target_as_it_was(
        self, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(export, "write_card", fail)
        with pytest.raises(OSError, match="disk full"):
            export_policy(made.reference, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_full_weights_have_no_adapter_to_keep_apart(self, made: Made, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="leave --no-merge out"):
            export_policy(made.reference, tmp_path / "out", merge=False)


def test_an_adapter_on_a_folder_of_this_machine_is_refused_to_a_push_before_it_is_exported(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    options = ["--no-merge", "--push", "ada/reviser", "--home", str(made.home)]
    assert main(["export", made.adapted.fingerprint, str(tmp_path / "out"), *options]) == 2
    assert "export it merged instead" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_model_as_it_was_found_is_exported_with_its_own_chat_template(made: Made, tmp_path: Path) -> None:
    """The artifact of a model folder holds no template and no weights of its own (`info.model_folder`)."""
    (base,) = (one for one in (made.home / "policies").iterdir() if not (one / "model").exists())
    folder = tmp_path / "found"
    shutil.copytree(model_settings_folder(base), folder)
    (folder / "srpo_template.json").unlink()
    assert main(["export", str(folder), str(tmp_path / "out"), "--home", str(tmp_path / "home")]) == 0
    strings = json.loads((tmp_path / "out" / "templates.json").read_text())
    assert strings["kind"] == "chat" and strings["revision_request"] == "Please write a better answer."


def model_settings_folder(artifact: Path) -> str:
    return str(model_settings(Path(json.loads((artifact / "manifest.json").read_text())["info"]["model_folder"])).name_or_path)


def test_an_adapter_on_an_unchanged_hub_model_names_it_by_commit_and_carries_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches_here(monkeypatch)
    folder, commit = save_policy(tmp_path / "snapshot"), "c" * 40
    monkeypatch.setattr("tasks.models._resolve_commit", lambda name, revision: commit)
    monkeypatch.setattr("tasks.models._download", lambda name, found: folder)
    model = ModelSettings(name_or_path="ada/base", max_length=160)
    base = prepare_base_model(model, tmp_path / "home", None)
    reference = adopt_reference(base, model=model, template=TEMPLATE, decoding=GREEDY, home=tmp_path / "home")
    adapted = train_adapter(tmp_path / "home", reference, model, num_steps=1)
    target = export_policy(adapted, tmp_path / "out", merge=False)
    config = json.loads((target / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("ada/base", commit)
    assert not (target / "base").exists() and not (target / "model.safetensors").exists()
    assert ModelCard.load(target / "README.md").data.base_model == "ada/base"
    assert f"AutoModelForCausalLM.from_pretrained('ada/base', revision='{commit}')" in code_blocks(target)[0]
    _check_portable(target)  # it may be pushed


def test_decoding_in_the_form_of_transformers_leaves_nothing_to_its_defaults(made: Made) -> None:
    config = json.loads((made.folders["merged"] / "generation_config.json").read_text())
    assert (config["do_sample"], config["max_new_tokens"]) == (False, 12)
    assert config["eos_token_id"] == json.loads((made.folders["merged"] / "templates.json").read_text())["stop_ids"]


def test_a_server_that_takes_the_decoding_of_an_adapters_base_finds_that_of_the_policy(made: Made) -> None:
    own, base = (made.folders["apart"] / place / "generation_config.json" for place in (".", "base"))
    assert base.read_text() == own.read_text()


def test_prompts_that_another_policy_answered_are_none_of_this_ones_card(made: Made) -> None:
    assert "prompts and revision prompts" not in (made.folders["merged"] / "README.md").read_text()
