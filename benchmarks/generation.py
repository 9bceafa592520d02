"""A draft and its revisions, greedy: the project's decoding against transformers' `generate` from scratch for every revision.

`python -m benchmarks.generation [--quick] [--json]`. The model never predicts a stop token, so every completion has the length
of its shape. A random model's revisions repeat nothing of their draft, so speculation from the draft gains nothing here.
Sides: plain_generate, chains (the project), chains_without_reuse (the project, every revision read anew), steps_alone (as many
tokens from a prompt of one token: what reading nothing would leave). `identical`: share of texts equal to plain_generate's.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.measure import Cell, Setting, Side, compare, parse, run
from benchmarks.shapes import ASSISTANT_ID, TEMPLATES, Shape, make_model, make_prompts, word_tokenizer
from benchmarks.sides import attending, finish
from srpo_core.decoding import fit, write_chains
from srpo_core.settings.model import GenerationSettings
from srpo_core.tokenization import PromptTokenizer

PROMPTS = {"tldr": 8, "hh": 8, "uf": 8}
REVISIONS = 5
RATIOS = {
    "time_over_plain": ("chains", "plain_generate"),
    "without_reuse_over_plain": ("chains_without_reuse", "plain_generate"),
    "steps_alone_over_plain": ("steps_alone", "plain_generate"),
}
Rows = Sequence[Mapping[str, Any]]


def prompt_rows(shape: Shape, count: int, vocab: int) -> Rows:
    """Rows as decoding takes them."""
    return [{"prompt_id": str(index), "prompt": prompt} for index, prompt in enumerate(make_prompts(shape, count, vocab))]


def write_with_project(
    model: Any, tok: PromptTokenizer, rows: Rows, settings: GenerationSettings, reuse: bool = True
) -> list[list[str]]:
    """Texts by revision and prompt."""
    chains = write_chains(model, tok, rows, "policy", settings, reuse=reuse)
    return [[completion.text for completion in written] for written in chains]


def write_from_scratch(model: Any, tok: PromptTokenizer, rows: Rows, settings: GenerationSettings) -> list[list[str]]:
    """The same by transformers alone: every revision reads its whole prompt anew."""
    texts: list[list[str]] = []
    for _ in range(settings.num_revisions + 1):
        drafts = texts[-1] if texts else [None] * len(rows)
        prompts = [fit(tok, row, draft, settings).ids for row, draft in zip(rows, drafts, strict=True)]
        texts.append([tok.decode(ids).strip() for ids in continue_plainly(model, prompts, settings.max_new_tokens)])
    return texts


def write_steps_alone(model: Any, tok: PromptTokenizer, rows: Rows, settings: GenerationSettings) -> list[list[str]]:
    """As many tokens in as many rounds, with nothing to read."""
    for _ in range(settings.num_revisions + 1):
        continue_plainly(model, [[ASSISTANT_ID]] * len(rows), settings.max_new_tokens)
    return []


def continue_plainly(model: Any, prompts: Sequence[list[int]], max_new_tokens: int) -> list[list[int]]:
    """The new tokens of each prompt by transformers' greedy `generate`."""
    from transformers import GenerationConfig

    config = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=0, eos_token_id=None)
    device = next(model.parameters()).device
    length = max(map(len, prompts))
    tokens = torch.tensor([[0] * (length - len(ids)) + ids for ids in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    return model.generate(input_ids=tokens, attention_mask=mask, generation_config=config)[:, length:].tolist()


def generation_sides(model: Any, tok: PromptTokenizer, rows: Rows, shape: Shape) -> dict[str, Side]:
    """All sides; how many of their texts agree is known once they ran."""
    settings = GenerationSettings(num_revisions=REVISIONS, temperature=0.0, max_new_tokens=shape.completion)
    texts: dict[str, list[list[str]]] = {}

    def side(name: str, write: Callable[..., list[list[str]]]) -> Side:
        facts: dict[str, float] = {}

        def work() -> None:
            texts[name] = write(model, tok, rows, settings)
            finish(next(model.parameters()).device)
            if texts[name]:
                facts["identical"] = _share_identical(texts[name], texts["plain_generate"])

        return Side(attending(model, "sdpa", work), facts)

    return {
        "plain_generate": side("plain_generate", write_from_scratch),
        "chains": side("chains", write_with_project),
        "chains_without_reuse": side("chains_without_reuse", functools.partial(write_with_project, reuse=False)),
        "steps_alone": side("steps_alone", write_steps_alone),
    }


def _share_identical(ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> float:
    same = [one == other for written in zip(ours, theirs, strict=True) for one, other in zip(*written, strict=True)]
    return sum(same) / len(same)


def measure_generation(options: argparse.Namespace, setting: Setting, shape: Shape) -> list[Cell]:
    """The cells of one setting."""
    count = options.count[setting.shape]
    model = make_model(setting.vocab, options.size, tied=False).eval()  # a tied random head would repeat one word for ever
    rows = prompt_rows(shape, count, setting.vocab)
    return compare(setting, generation_sides(model, word_tokenizer(setting.vocab), rows, shape), count, options.repeats)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = parse(__doc__, arguments, PROMPTS)
    options.templates = TEMPLATES[:1]  # the only one whose revisions share anything but the prompt's header
    return run("generation", options, lambda setting, shape: measure_generation(options, setting, shape), RATIOS)


if __name__ == "__main__":
    sys.exit(main())
