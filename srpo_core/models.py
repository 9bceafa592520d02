"""Policies on disk: loading from a folder or the hub, making a small new one, adding adapters, saving as safetensors."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from srpo_core.errors import InputError, first_line
from srpo_core.settings.model import ADAPTER_FILE, Dtype, LoraSettings, SmallModelSettings

PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% if m['role'] == 'assistant' %}{{ '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a model folder. Raises InputError when there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"expected a tokenizer in {folder}, found none that loads ({first_line(error)}); save one there"
        ) from error


def load_model(folder: str | Path, dtype: Dtype = "float32") -> Any:
    """The causal language model in a folder, or a base model with the adapter in the folder, in SDPA attention and eval mode.

    Raises InputError when the folder holds no weights or not a causal language model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"expected a model folder at {folder}, found {'a file' if folder.exists() else 'nothing'}; check the path"
        )
    try:
        if (folder / ADAPTER_FILE).exists():
            return _load_adapter(folder, dtype).eval()
        # use_safetensors: a pickle can run code when it is loaded
        options: dict[str, Any] = {"dtype": model_dtype(dtype), "use_safetensors": True, "attn_implementation": "sdpa"}
        return AutoModelForCausalLM.from_pretrained(str(folder), **options).eval()
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"expected a causal language model with safetensors weights in {folder}, found none that loads "
            f"({first_line(error)}); download or convert it first"
        ) from error


def _load_adapter(folder: Path, dtype: Dtype) -> Any:
    from peft import PeftModel

    base = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))["base_model_name_or_path"]
    inside = folder / base  # an absolute path stays what it is
    return PeftModel.from_pretrained(merge_adapter(load_model(inside if inside.is_dir() else base, dtype)), str(folder))


def add_lora(model: Any, settings: LoraSettings, seed: int) -> Any:
    """The model with fresh low-rank adapters (peft), which start as the identity; only they are trainable."""
    from peft import LoraConfig, TaskType, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
    )
    return get_peft_model(model, config)


def causal_model(model: nn.Module) -> Any:
    """The transformers model itself, out of a peft wrapper; its adapter layers stay in place."""
    return cast(Any, model).get_base_model() if hasattr(model, "get_base_model") else model


def merge_adapter(model: Any) -> Any:
    """The model with any adapter folded into its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def save_model(model: Any, tokenizer: Any, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write weights (or the adapter alone) as safetensors, and the tokenizer, into `folder`.

    `weights`: the model's state dict where the model itself does not hold it, as when it is sharded. An adapter names its base
    by a path relative to `folder` where both lie in the same home, so that a home can be moved.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a bar of its own, for a second of writing, in the middle of ours
    model.save_pretrained(str(folder), state_dict=None if weights is None else dict(weights))
    tokenizer.save_pretrained(str(folder))
    if (folder / ADAPTER_FILE).exists():
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card, with the base's absolute path
        _make_base_relative(folder.resolve())


def _make_base_relative(folder: Path) -> None:
    file = folder / ADAPTER_FILE
    config = json.loads(file.read_text(encoding="utf-8"))
    base = Path(config["base_model_name_or_path"])
    if base.is_dir() and base.resolve().is_relative_to(folder.parent.parent):
        config["base_model_name_or_path"] = os.path.relpath(base.resolve(), folder)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def arithmetic(dtype: Dtype, device: torch.device | str) -> Iterator[None]:
    """Run the body in the arithmetic of `dtype`: bfloat16 autocast for mixed, else as the weights are."""
    context = torch.autocast(torch.device(device).type, torch.bfloat16) if dtype == "mixed" else nullcontext()
    with context:
        yield


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer whose pre-tokens are words with their punctuation, with the roles' special tokens.

    A space is put before every text, so that a word has one token wherever it stands.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    words = pre_tokenizers.Split(Regex(r" ?[^ ]+| +"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    special = [PAD, END, USER, ASSISTANT, SYSTEM]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE)
    fast.add_special_tokens({"additional_special_tokens": [USER, ASSISTANT, SYSTEM]})
    return fast


def create_small_model(settings: SmallModelSettings, tokenizer: Any, max_length: int) -> nn.Module:
    """A Llama with random weights drawn from the seed and tied embeddings, for the given tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=2 * settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config)


def model_dtype(dtype: Dtype) -> torch.dtype:
    """Of the weights; mixed changes the arithmetic alone."""
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32
