"""Likelihood jobs: each completion's log-prob under its own prompt, none computed twice, a kill loses the part under way."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srpo_core.models import load_model, load_tokenizer
from srpo_core.tokenization import load_template
from srpo_core.workers import likelihood
from srpo_core.workers.dispatch import do_job
from srpo_core.workers.jobs import LikelihoodJob
from srpo_core.workers.parts import read_rows, write_part
from storage.schemas import COMPLETIONS, LIKELIHOODS, PROMPTS
from tests.small_training import cpu, prompt_rows, resources, save_policy
from tests.srpo_core.workers.test_reference import naive_logp

TEXTS = [("storm", "stop"), ("storm port", "length"), ("", "stop"), ("", "length"), ("storm", "stop")]
KEPT = COMPLETIONS.empty_table().select(["completion_id", "prompt_id", "text", "finish_reason"]).schema


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return save_policy(tmp_path / "policy")


def completions(prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"completion_id": f"{row['prompt_id']}/{i}", "prompt_id": row["prompt_id"], "text": text, "finish_reason": reason}
        for row in prompts
        for i, (text, reason) in enumerate(TEXTS)
    ]


def job(tmp_path: Path, prompts: list[dict[str, Any]], name: str = "out", **options: Any) -> LikelihoodJob:
    (tmp_path / name).mkdir(exist_ok=True)
    write_part(tmp_path / "prompts.parquet", prompts, PROMPTS)
    write_part(tmp_path / "completions.parquet", completions(prompts), KEPT)
    return LikelihoodJob(
        name="likelihood",
        model_folder=str(tmp_path / "policy"),
        dtype="float32",
        prompts=[str(tmp_path / "prompts.parquet")],
        completions=[str(tmp_path / "completions.parquet")],
        max_new_tokens=16,
        folder=str(tmp_path / name),
        **options,
    )


def written(tmp_path: Path, name: str = "out") -> dict[str, tuple[float | None, int]]:
    rows = read_rows([str(path) for path in sorted((tmp_path / name).glob("batch-*.parquet"))])
    assert len({row["completion_id"] for row in rows}) == len(rows), "no completion is scored twice"
    return {row["completion_id"]: (row["logp"], row["num_tokens"]) for row in rows}


def test_columns_are_those_of_the_table() -> None:
    assert likelihood.SCHEMA == LIKELIHOODS


def test_a_log_prob_is_the_sum_over_the_text_and_the_stop_token_of_a_finished_one(tmp_path: Path, policy: Path) -> None:
    """Each against one forward pass of its own, the sequence written out; a stop token alone is a completion too."""
    prompts = prompt_rows(3)
    do_job(job(tmp_path, prompts), cpu(), resources())
    found, model = written(tmp_path), load_model(policy)
    tok, _ = load_template(policy, load_tokenizer(policy))
    for row in completions(prompts):
        prompt = next(one["prompt"] for one in prompts if one["prompt_id"] == row["prompt_id"])
        ids = tok.completion_ids(row["text"], finished=False) if row["text"] else []
        ids += [tok.stop_id] if row["finish_reason"] == "stop" else []
        logp, num_tokens = found[row["completion_id"]]
        assert num_tokens == len(ids)
        if ids:
            assert logp == pytest.approx(naive_logp(model, tok.prompt_ids(prompt), ids), abs=2e-4)
        else:
            assert logp is None, "nothing was written, and nothing was finished"


def test_a_prompt_is_cut_as_generation_cuts_it(tmp_path: Path, policy: Path) -> None:
    prompts = prompt_rows(1)
    prompts[0]["prompt"][-1]["content"] = "storm " * 60
    do_job(job(tmp_path, prompts), cpu(), resources())
    tok, _ = load_template(policy, load_tokenizer(policy))
    fitted = tok.fit_prompt(prompts[0]["prompt"], 16)
    assert fitted.truncated
    expected = naive_logp(load_model(policy), fitted.ids, tok.completion_ids("storm"))
    assert written(tmp_path)[f"{prompts[0]['prompt_id']}/0"][0] == pytest.approx(expected, abs=2e-4)


def test_batches_do_not_change_the_numbers(tmp_path: Path, policy: Path) -> None:
    prompts = prompt_rows(5)
    do_job(job(tmp_path, prompts), cpu(), resources())
    do_job(job(tmp_path, prompts, "other", prompts_per_part=1), cpu(), resources(tokens_per_microbatch=64))
    one, other = written(tmp_path), written(tmp_path, "other")
    assert one.keys() == other.keys()
    for name, (logp, num_tokens) in one.items():
        assert other[name] == (pytest.approx(logp, abs=2e-4) if logp is not None else None, num_tokens)


def test_processes_share_the_prompts(tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompt_rows(5)
    do_job(job(tmp_path, prompts), cpu(), resources())
    with monkeypatch.context() as patch:
        patch.setattr(likelihood, "finished_files", lambda folder: [])  # both look before either has written
        for index in (0, 1):
            rank: Any = SimpleNamespace(process_index=index, num_processes=2, is_main_process=index == 0, device="cpu")
            rank.wait_for_everyone = lambda: None
            likelihood.write_likelihoods(job(tmp_path, prompts, "shared"), rank, resources())
    one, shared = written(tmp_path), written(tmp_path, "shared")
    assert shared.keys() == one.keys() and len(list((tmp_path / "shared").glob("batch-*"))) == 2


class Killed(Exception):
    """Stands for whatever ends a process."""


def test_a_killed_job_goes_on_with_the_prompts_it_lacks(tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompt_rows(5)
    real, calls = likelihood.logps_in_order, []

    def dying(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(likelihood, "logps_in_order", dying)
        with pytest.raises(Killed):
            do_job(job(tmp_path, prompts, prompts_per_part=1), cpu(), resources())
    assert len(written(tmp_path)) == 2 * len(TEXTS)
    monkeypatch.setattr(likelihood, "logps_in_order", lambda *arguments: calls.append(1) or real(*arguments))
    do_job(job(tmp_path, prompts, prompts_per_part=1), cpu(), resources())
    assert len(written(tmp_path)) == 5 * len(TEXTS) and len(calls) == 6, "two prompts were there, three were computed"
