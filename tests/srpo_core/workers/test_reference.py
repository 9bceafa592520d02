"""The reference pass: six right numbers for every pair, none computed twice, a kill loses the part under way."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from srpo_core.errors import InputError
from srpo_core.models import load_model, load_tokenizer
from srpo_core.tokenization import load_template, tokenize_pair
from srpo_core.workers import reference
from srpo_core.workers.dispatch import do_job
from srpo_core.workers.jobs import ReferenceJob
from srpo_core.workers.parts import read_rows
from srpo_core.workers.training import REFERENCE_COLUMNS
from storage.schemas import REFERENCE, REFERENCE_LOGPS
from tests.small_training import cpu, pair_rows, resources, save_policy, write_pairs


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return save_policy(tmp_path / "policy")


def job(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> ReferenceJob:
    values = {"dtype": "float32", "layout": "trie", "splits": ["train"]} | options
    return ReferenceJob(
        name="reference",
        model_folder=str(tmp_path / "policy"),
        preferences=write_pairs(tmp_path / "preferences.parquet", rows),
        store=str(tmp_path / "store"),
        **values,
    )


def stored(tmp_path: Path) -> dict[str, dict[str, Any]]:
    rows = read_rows([str(path) for path in sorted((tmp_path / "store").glob("part-*.parquet"))])
    assert len({row["token_hash"] for row in rows}) == len(rows), "no pair is stored twice"
    return {row["token_hash"]: row for row in rows}


def naive_logp(model: Any, prompt: list[int], completion: list[int]) -> float:
    with torch.no_grad():
        logps = torch.log_softmax(model(torch.tensor([[*prompt, *completion]])).logits[0].double(), -1)
    return sum(float(logps[len(prompt) - 1 + place, token]) for place, token in enumerate(completion))


@pytest.mark.parametrize("layout", ["trie", "plain"])
def test_rows_hold_the_six_log_probs_by_text(tmp_path: Path, policy: Path, layout: str) -> None:
    """Each column against one forward pass of its own, with the sequence written out by hand."""
    rows = pair_rows(3)
    do_job(job(tmp_path, rows, layout=layout), cpu(), resources())
    found, model = stored(tmp_path), load_model(policy)
    tok, _ = load_template(policy, load_tokenizer(policy))
    for row in rows:
        a, b = sorted((row["chosen"], row["rejected"]))
        values = found[tokenize_pair(tok, row["prompt"], a, b).token_hash]
        drafts = {"": tok.prompt_ids(row["prompt"])}
        drafts |= {f"_given_{n}": tok.revision_prompt_ids(row["prompt"], text) for n, text in (("a", a), ("b", b))}
        for suffix, prompt in drafts.items():
            for name, text in (("a", a), ("b", b)):
                expected = naive_logp(model, prompt, tok.completion_ids(text))
                assert values[f"logp_{name}{suffix}"] == pytest.approx(expected, abs=2e-4), (name, suffix)
        assert (values["num_tokens_a"], values["num_tokens_b"]) == (len(a) + 1, len(b) + 1)


def test_columns_are_those_of_the_table() -> None:
    assert REFERENCE_COLUMNS == REFERENCE_LOGPS
    assert ["pair_id", *reference.SCHEMA.names] == REFERENCE.names
    assert all(REFERENCE.field(name).type == reference.SCHEMA.field(name).type for name in reference.SCHEMA.names)


def test_only_pairs_whose_tokens_are_new_are_computed(tmp_path: Path, policy: Path) -> None:
    rows = pair_rows(6)
    do_job(job(tmp_path, rows[:4]), cpu(), resources())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    do_job(job(tmp_path, rows[:4]), cpu(), resources())
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[:4]]  # new votes turned them round
    do_job(job(tmp_path, swapped), cpu(), resources())
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}, "nothing was computed"
    do_job(job(tmp_path, rows), cpu(), resources())
    added = [path for path in (tmp_path / "store").glob("part-*") if path not in before]
    assert [pq.read_metadata(path).num_rows for path in added] == [2] and len(stored(tmp_path)) == 6


def test_splits_that_are_not_asked_for_are_left_out(tmp_path: Path, policy: Path) -> None:
    rows = pair_rows(4)
    rows[0]["split"], rows[1]["split"] = "test", "validation"
    do_job(job(tmp_path, rows, splits=["train", "validation"]), cpu(), resources())
    assert len(stored(tmp_path)) == 3


class Killed(Exception):
    """Stands for whatever ends a process."""


def test_a_killed_pass_loses_the_part_under_way_alone(tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pair_rows(8)
    real, calls = reference.logps_in_order, []

    def dying(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(reference, "logps_in_order", dying)
        with pytest.raises(Killed):
            do_job(job(tmp_path, rows, pairs_per_part=2), cpu(), resources())
    assert len(stored(tmp_path)) == 4
    monkeypatch.setattr(reference, "logps_in_order", lambda *arguments: calls.append(1) or real(*arguments))
    do_job(job(tmp_path, rows, pairs_per_part=2), cpu(), resources())
    assert len(stored(tmp_path)) == 8 and len(calls) == 5, "two parts were there, two were computed"


def test_a_store_keeps_the_layout_it_began_with(tmp_path: Path, policy: Path) -> None:
    """Two layouts differ in rounding; new pairs that would resolve to another one must not be mixed in."""
    do_job(job(tmp_path, pair_rows(2), layout="plain"), cpu(), resources())
    do_job(job(tmp_path, pair_rows(4), layout="auto"), cpu(), resources())
    assert (tmp_path / "store/layout.json").read_text() == '{"layout": "plain"}'


def test_a_model_folder_that_is_not_a_policy_is_named(tmp_path: Path, policy: Path) -> None:
    (policy / "srpo_template.json").unlink()
    with pytest.raises(InputError, match="expected a policy folder with srpo_template.json"):
        do_job(job(tmp_path, pair_rows(2)), cpu(), resources())
