"""Local judges of a few thousand random weights, saved as their real counterparts are, and games for them to decide."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from srpo_core.judging.judges import JudgeGame
from srpo_core.records import ORDERS, Prompt, content_id, user_prompt
from tests.fakes import CHAT_TEMPLATE, byte_tokenizer, tiny_llama

WORDS = "storm port strike vote fire court bridge snow market train".split()
SIZES = {"vocab_size": 263, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def save_reward_model(
    folder: Path, *, seed: int = 0, chat_template: str | None = CHAT_TEMPLATE, pad_token_id: int | None = 0, **overrides: Any
) -> Path:
    """A decoder with one output, whose rewards spread over several units."""
    sizes: dict[str, Any] = SIZES | {"num_labels": 1, "max_position_embeddings": 512, "initializer_range": 0.3} | overrides
    config = LlamaConfig(**sizes, num_key_value_heads=2, pad_token_id=pad_token_id, bos_token_id=1, eos_token_id=2)
    return _save(LlamaForSequenceClassification, config, byte_tokenizer(chat_template=chat_template), folder, seed)


def save_encoder(folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """An encoder with one output that reads a pair of segments: <bos> prompt <sep> answer <sep>."""
    tokenizer = byte_tokenizer(chat_template=None)
    tokenizer.add_special_tokens({"sep_token": "<sep>"})
    special = [("<bos>", 1), ("<sep>", tokenizer.sep_token_id)]
    template = processors.TemplateProcessing(single="<bos> $A <sep>", pair="<bos> $A <sep> $B:1 <sep>:1", special_tokens=special)
    tokenizer._tokenizer.post_processor = template
    sizes: dict[str, Any] = SIZES | {"num_labels": 1, "max_position_embeddings": 512, "initializer_range": 0.3} | overrides
    _save(BertForSequenceClassification, BertConfig(**sizes, pad_token_id=0), tokenizer, folder, seed)
    return name_model_inputs(folder)


def name_model_inputs(folder: Path) -> Path:
    """Let the tokenizer of a folder say which segment each token belongs to."""
    file = folder / "tokenizer_config.json"
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | names))
    return folder


def save_language_model(folder: Path, *, seed: int = 0, chat_template: str | None = CHAT_TEMPLATE, **overrides: Any) -> Path:
    """A causal language model, its logits spread wide."""
    model = tiny_llama(seed=seed, **({"initializer_range": 0.2} | overrides))
    model.config.max_position_embeddings = 4096  # a preset is long in bytes; rotary positions know no other limit
    model.save_pretrained(folder)
    byte_tokenizer(chat_template=chat_template).save_pretrained(folder)
    return folder


def _save(kind: Any, config: Any, tokenizer: Any, folder: Path, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompt(number: int, words: int = 3) -> Prompt:
    return user_prompt(f"{number} {' '.join(random.Random(number).sample(WORDS, words))}")


def games(num_prompts: int, revisions: int = 2) -> list[JudgeGame]:
    """A chain of texts for each prompt against its gold in both orders; the last revision repeats the one before."""
    played = []
    for number in range(num_prompts):
        rng = random.Random(number)
        texts = [" ".join(rng.sample(WORDS, rng.randint(1, 4))) for _ in range(revisions)]
        for revision, text in enumerate([*texts, texts[-1]]):
            for order in ORDERS:
                asked = {"prompt": prompt(number), "prompt_id": f"p{number}", "order": order}
                asked |= {"candidate_id": f"c{number}-{revision}", "candidate_text": text}
                asked |= {"opponent_id": "gold:0", "opponent_text": f"gold of {number}"}
                played.append(JudgeGame(game_id=content_id(asked), **asked))
    return played
