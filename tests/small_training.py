"""A policy folder, pairs, demonstrations and prompts so small that training on them takes a second."""

import random
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from srpo_core.models import save_model
from srpo_core.objectives import PairExample, PreferenceObjective
from srpo_core.records import content_id, pair_id, prompt_id, user_prompt
from srpo_core.settings.model import GenerationSettings, TemplateSettings
from srpo_core.settings.resources import Resources
from srpo_core.settings.training import OptimizerSettings, PreferenceSettings
from srpo_core.tokenization import PairTokens, PromptTokenizer, tokenize_pairs
from srpo_core.workers.parts import write_part
from storage import schemas
from tests.fakes import byte_tokenizer, tiny_llama

TEMPLATE = TemplateSettings(kind="chat", revision_request="Better?")
MAX_LENGTH = 160
DECODING = GenerationSettings(num_revisions=2, temperature=0.8, max_new_tokens=8)
SETTINGS_OF_CHAINS = GenerationSettings(num_revisions=2, num_samples=2, temperature=1.0, max_new_tokens=6)
WORDS = "storm port strike vote fire court bridge snow market train".split()
ONE_PASS = 100_000  # tokens per micro-batch that no test exceeds


def save_policy(folder: Path, seed: int = 0, **overrides: Any) -> Path:
    """A policy folder as training writes it; logits are spread wide, so that mistakes show."""
    model = tiny_llama(seed=seed, **({"initializer_range": 0.2} | overrides))
    save_model(model, byte_tokenizer(), folder)
    prompt_tokenizer().save_template(folder, DECODING)
    return folder


def prompt_tokenizer(max_length: int = MAX_LENGTH) -> PromptTokenizer:
    return PromptTokenizer(byte_tokenizer(), TEMPLATE, max_length)


def resources(**overrides: Any) -> Resources:
    quiet = {"threads_per_process": 1, "tokens_per_microbatch": ONE_PASS, "log_every": 1}
    return Resources.model_validate(quiet | overrides)


def settings(**overrides: Any) -> PreferenceSettings:
    return PreferenceSettings.model_validate({"learning_rate": 1e-3, "num_steps": 4, "pairs_per_step": 4} | overrides)


def cpu() -> Accelerator:
    return Accelerator(cpu=True)


def pair_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of `preferences` with soft labels; which of the two texts sorts first varies."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        prompt = user_prompt(f"{index} {' '.join(rng.sample(WORDS, 2))}")
        chosen, rejected = (" ".join(rng.sample(WORDS, rng.randint(1, 3))) + end for end in ("", "!"))
        row = {"pair_id": pair_id(prompt, chosen, rejected), "prompt": prompt, "chosen": chosen, "rejected": rejected}
        row |= {"preference": rng.choice([0.6, 0.8, 1.0]), "num_votes": 5, "source": "test", "domain": "test"}
        rows.append(row | {"split": "train", "cluster_id": f"c{index}"})
    return rows


def demonstration_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """A draft and a revision of it for every prompt."""
    rows = []
    for pair in pair_rows(count // 2, seed):
        for draft, completion in ((None, pair["rejected"]), (pair["rejected"], pair["chosen"])):
            name = content_id(pair["prompt"], draft, completion)
            rows.append(
                {"demonstration_id": name, "prompt": pair["prompt"], "draft": draft, "completion": completion, "source": "t"}
            )
    return rows


def prompt_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    prompts = [user_prompt(f"{index} {' '.join(rng.sample(WORDS, rng.randint(1, 4)))}") for index in range(count)]
    return [
        {
            "prompt_id": prompt_id("set", prompt),
            "prompt": prompt,
            "gold": ["gold"],
            "eval_set": "set",
            "domain": "t",
            "cluster_id": str(i),
        }
        for i, prompt in enumerate(prompts)
    ]


def write_pairs(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    write_part(path, rows, schemas.PREFERENCES)
    return [str(path)]


def examples(count: int, seed: int = 0, spread: float = 2.0) -> list[PairExample]:
    """Tokenised pairs with made-up reference log-probs."""
    generator = torch.Generator().manual_seed(seed)
    rows = pair_rows(count, seed)
    texts = [(row["prompt"], *sorted((row["chosen"], row["rejected"]))) for row in rows]
    built = []
    for row, tokens in zip(rows, tokenize_pairs(prompt_tokenizer(), texts), strict=True):
        assert isinstance(tokens, PairTokens)
        reference = tuple((torch.randn(6, generator=generator) * spread - 60).tolist())
        built.append(PairExample(tokens, row["chosen"] < row["rejected"], row["preference"], reference))
    return built


def objective(count: int = 16, **overrides: Any) -> PreferenceObjective:
    return PreferenceObjective(examples(count), settings(**overrides))


def train_on(
    model: Any, task: Any, folder: Path, optimizer: OptimizerSettings | None = None, *, report: Any = None, **spread: Any
) -> Any:
    """`train` with the settings of an objective made here; the prepared module."""
    from srpo_core.training_loop import train

    folder.mkdir(parents=True, exist_ok=True)
    return train(
        model,
        task,
        optimizer or task.settings,
        seed=0,
        shuffle=True,
        layout=spread.pop("layout", "trie"),
        dtype=spread.pop("dtype", "float32"),
        accelerator=spread.pop("accelerator", None) or cpu(),
        resources=resources(**spread),
        folder=folder,
        report=report or (lambda *_: None),
    )
