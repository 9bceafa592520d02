"""Model folders: loading, saving as safetensors, adapters that survive a move, small models."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from srpo_core.errors import InputError
from srpo_core.models import (
    add_lora,
    create_small_model,
    load_model,
    load_tokenizer,
    merge_adapter,
    save_model,
    train_tokenizer,
)
from srpo_core.settings.model import LoraSettings, SmallModelSettings
from srpo_core.tokenization import PromptTokenizer
from srpo_core.workers.training import prepare_model
from tests.fakes import byte_tokenizer, tiny_llama
from tests.small_training import TEMPLATE, cpu, resources, save_policy

IDS = torch.tensor([[5, 80, 33, 7]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def with_random_adapter(folder: Path, seed: int = 0) -> Any:
    """The model in `folder` with an adapter that does something."""
    model = add_lora(load_model(folder), LoraSettings(rank=2), seed)
    model.name_or_path = str(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(seed))
    return model.eval()


def test_a_saved_model_loads_as_it_was_from_safetensors_alone(tmp_path: Path) -> None:
    folder = save_policy(tmp_path / "model")
    assert torch.equal(logits(load_model(folder)), logits(tiny_llama(initializer_range=0.2)))
    names = {path.name for path in folder.iterdir()}
    assert "model.safetensors" in names and not [n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert load_model(folder).config._attn_implementation == "sdpa" and not load_model(folder).training


def test_weights_given_apart_are_what_is_saved(tmp_path: Path) -> None:
    """As where they are sharded: the model's own tensors are not looked at."""
    model, other = tiny_llama(seed=0), tiny_llama(seed=1)
    save_model(model, byte_tokenizer(), tmp_path, other.state_dict())
    assert torch.equal(logits(load_model(tmp_path)), logits(other))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_folder_without_usable_weights_is_named(tmp_path: Path, name: str) -> None:
    folder = save_policy(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"no weights")
    with pytest.raises(InputError, match=f"safetensors weights in {folder}, found none that loads") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_missing_folders_and_tokenizers_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a model folder at .*none, found nothing"):
        load_model(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="found a file"):
        load_model(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected a tokenizer in .*empty, found none that loads"):
        load_tokenizer(tmp_path / "empty")


def test_bfloat16_is_for_the_weights_and_mixed_leaves_them(tmp_path: Path) -> None:
    folder = save_policy(tmp_path / "model")
    assert load_model(folder, "bfloat16").dtype == torch.bfloat16
    assert load_model(folder, "mixed").dtype == torch.float32


def test_full_bfloat16_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float32 or mixed for full fine-tuning"):
        prepare_model(str(save_policy(tmp_path / "model")), "bfloat16", None, 0, cpu(), resources())


# --- adapters ------------------------------------------------------------------------------------------------------------


def test_an_adapter_follows_its_base_when_the_home_is_moved(tmp_path: Path) -> None:
    base = save_policy(tmp_path / "home/policies/aaa/model")
    adapter = tmp_path / "home/policies/bbb/model"
    model = with_random_adapter(base)
    save_model(model, byte_tokenizer(), adapter)
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "../../aaa/model"
    shutil.move(tmp_path / "home", tmp_path / "moved")
    moved = tmp_path / "moved/policies/bbb/model"
    assert torch.equal(logits(load_model(moved)), logits(model))
    assert not torch.equal(logits(load_model(moved)), logits(tiny_llama(initializer_range=0.2)))
    assert {p.name for p in moved.glob("*.safetensors")} == {"adapter_model.safetensors"} and not (moved / "README.md").exists()


def test_the_same_adapter_is_the_same_bytes_in_any_home(tmp_path: Path) -> None:
    folders = []
    for home in ("one", "two"):
        base = save_policy(tmp_path / home / "policies/aaa/model")
        folders.append(tmp_path / home / "policies/bbb/model")
        save_model(with_random_adapter(base), byte_tokenizer(), folders[-1])
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]


def test_a_base_outside_the_home_keeps_its_path(tmp_path: Path) -> None:
    base = save_policy(tmp_path / "elsewhere/model")
    adapter = tmp_path / "home/policies/bbb/model"
    save_model(with_random_adapter(base), byte_tokenizer(), adapter)
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert load_model(adapter)


def test_an_adapter_without_its_base_says_what_is_missing(tmp_path: Path) -> None:
    base = save_policy(tmp_path / "home/policies/aaa/model")
    adapter = tmp_path / "home/policies/bbb/model"
    save_model(with_random_adapter(base), byte_tokenizer(), adapter)
    shutil.rmtree(base)
    with pytest.raises(InputError, match=r"expected a model folder at .*aaa/model, found nothing"):
        load_model(adapter)


def test_merging_an_adapter_changes_rounding_only(tmp_path: Path) -> None:
    model = with_random_adapter(save_policy(tmp_path / "model"))
    before = logits(model)
    torch.testing.assert_close(logits(merge_adapter(model)), before, rtol=1e-4, atol=1e-4)
    assert merge_adapter(plain := tiny_llama()) is plain


def test_an_adapter_on_a_policy_that_is_an_adapter(tmp_path: Path) -> None:
    """SRPO by LoRA from a reference trained by LoRA: the new adapter's base is the reference, not the reference's base."""
    first = save_policy(tmp_path / "policies/aaa/model")
    second = tmp_path / "policies/bbb/model"
    save_model(with_random_adapter(first, 1), byte_tokenizer(), second)
    model = prepare_model(str(second), "float32", LoraSettings(rank=2), 0, cpu(), resources())
    reference = logits(merge_adapter(load_model(second)))
    assert torch.equal(logits(model.eval()), reference), "a fresh adapter is the identity on the reference"
    third = tmp_path / "policies/ccc/model"
    save_model(model, byte_tokenizer(), third)
    assert json.loads((third / "adapter_config.json").read_text())["base_model_name_or_path"] == "../../bbb/model"
    assert torch.equal(logits(load_model(third)), reference)


def test_full_fine_tuning_of_an_adapter_trains_every_weight(tmp_path: Path) -> None:
    base = save_policy(tmp_path / "policies/aaa/model")
    adapter = tmp_path / "policies/bbb/model"
    save_model(with_random_adapter(base), byte_tokenizer(), adapter)
    model = prepare_model(str(adapter), "float32", None, 0, cpu(), resources())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not hasattr(model, "peft_config")


def test_gradient_checkpointing_is_switched_on(tmp_path: Path) -> None:
    model = prepare_model(str(save_policy(tmp_path / "m")), "float32", None, 0, cpu(), resources(gradient_checkpointing=True))
    assert model.is_gradient_checkpointing


# --- small models --------------------------------------------------------------------------------------------------------

TEXTS = ["Major fire, Oslo, 17.", "Minor strike, Rome, 5. Major flood, Lima, 29.", "Revise."] * 4


def test_words_with_their_punctuation_are_tokens_wherever_they_stand() -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    first, later = tokenizer("fire, Oslo, 17.")["input_ids"], tokenizer("Major fire, Oslo, 17.")["input_ids"]
    assert later[1:] == first and len(first) == 3
    assert tokenizer.decode(later) == "Major fire, Oslo, 17."


def test_roles_are_special_tokens_and_any_text_comes_back() -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "fire,"}], tokenize=False, add_generation_prompt=True)
    assert chat == "<|user|>fire,<|assistant|>"
    for text in ("naïve – ünïcode", "tabs\tand\nlines", "<|user|> as text"):
        ids = PromptTokenizer(tokenizer, TEMPLATE, 64).completion_ids(text)
        assert PromptTokenizer(tokenizer, TEMPLATE, 64).decode(ids) == text


def test_a_small_model_is_its_seed(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    settings = SmallModelSettings(hidden_size=16, num_layers=1, num_heads=2)
    first, again = (create_small_model(settings, tokenizer, 64).state_dict() for _ in range(2))
    other = create_small_model(settings.model_copy(update={"seed": 1}), tokenizer, 64).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())
    save_model(create_small_model(settings, tokenizer, 64), tokenizer, tmp_path)
    assert load_file(tmp_path / "model.safetensors") and load_model(tmp_path).config.tie_word_embeddings


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads, found 18 and 4"):
        SmallModelSettings(hidden_size=18, num_heads=4)
