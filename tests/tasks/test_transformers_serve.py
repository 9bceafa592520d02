"""The judge's transport against an independent OpenAI-compatible server: `transformers serve` with a small random model.

Such a model says nothing sensible; what is shown is that requests and replies pass, that a server which ignores
`response_format` is noticed, and that replies without a label are unscored with a reason instead of counted as losses.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from srpo_core.settings.judges import ApiJudgeSettings
from storage.reply_ledger import find_reply
from storage.schemas import GAMES
from tasks.judging import judge_completions
from tests.tasks.judged_texts import WORDS, write_completions, write_prompts
from tests.transformers_server import serving

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


def _save_small_model(folder: Path) -> None:
    """A random Llama of two layers over a vocabulary of the test's words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<eos>", "user", "system", "assistant", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(words), max_position_embeddings=1024, eos_token_id=1, pad_token_id=1, **sizes)
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = True  # else every reply runs to the length limit
    model.save_pretrained(folder)


@pytest.fixture
def served_model(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a running server, and the folder of the model it serves."""
    model = tmp_path / "model"
    _save_small_model(model)
    with serving(str(model), tmp_path, tmp_path) as url:
        yield url, model


def test_label_less_replies_of_a_served_model_are_unscored_with_a_reason(tmp_path: Path, served_model: tuple[str, Path]) -> None:
    url, model = served_model
    prompts = write_prompts(tmp_path, 20)
    completions = write_completions(tmp_path, [prompts])
    settings = ApiJudgeSettings(model=str(model), base_url=url, max_tokens=100, temperature=1.0, max_concurrency=4)
    artifact = judge_completions(completions, [prompts], settings, tmp_path)
    rows = artifact.read(GAMES).to_pylist()
    assert artifact.counts["games"] == 40 and artifact.counts["scored"] == 0
    assert {row["unscored_reason"] for row in rows} <= {"parse_failure", "truncated", "empty_reply"}
    assert artifact.counts["unscored:parse_failure"] > 20
    assert all(row["score"] is None and row["model_answered"].startswith(str(model)) for row in rows)
    assert all(row["completion_tokens"] >= 1 and find_reply(tmp_path, row["request_hash"]) for row in rows)
    assert artifact.info["capabilities"]["logprobs"] == "ignored" and artifact.counts["answered_by_other_model"] == 0
