"""What the benchmarks run on: pairs of fixed lengths, a tokenizer of words, and a randomly initialised Llama.

Lengths are those of TL;DR, HH and UltraFeedback; contents do not matter for time, so ids are drawn at random. Two templates:
multi_turn (the draft is the assistant's turn, so a revision's prompt continues the draft's sequence) and published (the header
differs, so everything is encoded twice).
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from srpo_core.models import ASSISTANT, CHAT_TEMPLATE, END, PAD, SYSTEM, USER
from srpo_core.objectives import PairExample
from srpo_core.records import Prompt, user_prompt
from srpo_core.settings.model import TemplateSettings
from srpo_core.tokenization import PairTokens, PromptTokenizer, hash_sequences

SPECIAL = (PAD, END, USER, ASSISTANT, SYSTEM)  # ids 0 to 4; every other id is a word
END_ID, USER_ID, ASSISTANT_ID = 1, 2, 3
TEMPLATE_TOKENS = 30  # what stands between a draft and its revision
TEMPLATES = ("multi_turn", "published")
VOCABULARIES = (49152, 8192)


class Size(NamedTuple):
    """A Llama's, in the words of its configuration."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int


SMALL = Size(576, 1536, 6, 9, 3)  # a fifth of the layers of SmolLM-135M
LLAMA_1B = Size(2048, 8192, 16, 32, 8)
TOY = Size(32, 64, 2, 4, 2)


class Shape(NamedTuple):
    """Tokens of the prompt (its template included) and of a completion (its stop token included)."""

    prompt: int
    completion: int


SHAPES = {"tldr": Shape(350, 40), "hh": Shape(200, 80), "uf": Shape(180, 300)}
TOY_SHAPES = {"tldr": Shape(24, 4), "hh": Shape(14, 6), "uf": Shape(12, 9)}


def make_model(vocab: int, size: Size, *, tied: bool = True, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """A Llama with random weights that never predicts a special token; `tied`: the head is the embedding."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    values: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, **size._asdict()}
    config = LlamaConfig(vocab_size=vocab, max_position_embeddings=8192, tie_word_embeddings=tied, **values)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    with torch.no_grad():
        model.get_output_embeddings().weight[: len(SPECIAL)] = 0  # the largest of the others is above zero
    return model


def make_pairs(shape: Shape, template: str, count: int, vocab: int, seed: int = 0) -> list[PairTokens]:
    """Pairs of exactly this shape, as the project's tokenization returns them."""
    rng = random.Random(seed)
    return [_pair(shape, template, vocab, rng) for _ in range(count)]


def _pair(shape: Shape, template: str, vocab: int, rng: random.Random) -> PairTokens:
    def words(count: int) -> list[int]:
        return [rng.randrange(len(SPECIAL), vocab) for _ in range(count)]

    prompt = [USER_ID, *words(shape.prompt - 2), ASSISTANT_ID]
    completions = [[*words(shape.completion - 1), END_ID] for _ in range(2)]
    request = [USER_ID, *range(len(SPECIAL), len(SPECIAL) + TEMPLATE_TOKENS - 2), ASSISTANT_ID]
    if template == "multi_turn":
        prompts = [prompt, *(prompt + draft + request for draft in completions)]
    else:  # another header: not even the first token is shared
        prompts = [prompt, *([ASSISTANT_ID, *prompt[1:], *draft[:-1], *request] for draft in completions)]
    sequences = tuple((ids, completion) for ids in prompts for completion in completions)
    return PairTokens(sequences, shape.completion, shape.completion, hash_sequences(sequences), False)


def as_examples(pairs: Sequence[PairTokens], logp_per_token: float = -10.0) -> list[PairExample]:
    """The pairs with made-up reference log-probs, ready for an objective."""
    return [PairExample(pair, True, 1.0, tuple(logp_per_token * len(c) for _, c in pair.sequences)) for pair in pairs]


def word_tokenizer(vocab: int) -> PromptTokenizer:
    """One token a word, `w5` to `w<vocab - 1>`; a text and its tokens map to each other exactly. Template: multi_turn."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = [*SPECIAL, *(f"w{index}" for index in range(len(SPECIAL), vocab))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(entries)}, unk_token=entries[-1]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=END, unk_token=entries[-1], chat_template=CHAT_TEMPLATE
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [USER, ASSISTANT, SYSTEM]})
    request = " ".join(entries[len(SPECIAL) : len(SPECIAL) + TEMPLATE_TOKENS - 2])
    return PromptTokenizer(tokenizer, TemplateSettings(kind="chat", revision_request=request), 8192)


def make_prompts(shape: Shape, count: int, vocab: int, seed: int = 0) -> list[Prompt]:
    """Prompts of `shape.prompt` tokens once `word_tokenizer` has added its template."""
    rng = random.Random(seed)
    texts = [[f"w{rng.randrange(len(SPECIAL), vocab)}" for _ in range(shape.prompt - 2)] for _ in range(count)]
    return [user_prompt(" ".join(words)) for words in texts]
