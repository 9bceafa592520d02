"""The judge's transport against an independent OpenAI-compatible server: `transformers serve` with a small random model.

Such a model says nothing sensible; what is shown is that requests and replies pass, that a server which ignores
`response_format` is noticed, and that replies without a label are unscored with a reason instead of counted as losses.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from srpo_core.config import ApiJudgeSettings
from storage.reply_ledger import find_reply
from storage.schemas import GAMES
from tasks.judging import judge_completions
from tests.tasks.judged_texts import WORDS, write_completions, write_prompts

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
    command = Path(sys.executable).parent / "transformers"
    if not command.exists() and shutil.which("transformers") is None:
        pytest.skip("the transformers command is not installed")
    pytest.importorskip("uvicorn", reason="transformers serve needs uvicorn")
    model = tmp_path / "model"
    _save_small_model(model)
    (tmp_path / "cache" / "hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = (tmp_path / "serve.log").open("w")
    arguments = [str(command), "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(arguments, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", server, tmp_path / "serve.log")
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _wait_until_healthy(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"transformers serve did not answer at {url}:\n{log.read_text()[-2000:]}")


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
