"""Decoding: independent of the batch, equal to the library's greedy search, and revisions asked for as in training."""

from typing import Any

import numpy as np
import pytest
import torch

from srpo_core.decoding import generate, write_chains
from srpo_core.records import Completion, seed_from
from srpo_core.settings.model import GenerationSettings
from srpo_core.tokenization import PairTooLong, tokenize_pair
from tests.fakes import tiny_llama
from tests.small_training import prompt_rows, prompt_tokenizer

MODEL = tiny_llama(initializer_range=0.3)
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(5, 261, size=length).tolist() for length in (3, 17, 1, 9, 30, 4)]
SEEDS = [seed_from(i) for i in range(len(PROMPTS))]
CHAINS = GenerationSettings(num_revisions=2, num_samples=2, temperature=1.0, max_new_tokens=12)


def decode(prompts: list[list[int]], seeds: list[int], stop_ids: list[int], **options: Any) -> list[tuple[list[int], str]]:
    chosen = {"max_new_tokens": 20, "temperature": 0.0, "top_p": 1.0} | options
    return [tuple(result) for result in generate(MODEL, prompts, seeds, stop_ids=stop_ids, **chosen)]


def common_stops(**options: Any) -> list[int]:
    """Two tokens that end some rows early and others late or never."""
    free = decode(PROMPTS, SEEDS, [], **options)
    return [free[0][0][2], free[3][0][7]]


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}],
    ids=["greedy", "sampled", "top-p"],
)
def test_a_completion_is_the_same_alone_and_in_any_batch(options: dict[str, float]) -> None:
    """Prompts of six lengths, some of whose rows leave the batch early."""
    stops = common_stops(**options)
    together = decode(PROMPTS, SEEDS, stops, **options)
    assert {reason for _, reason in together} == {"stop", "length"}
    assert len({len(ids) for ids, _ in together}) >= 3, "rows must leave at different times"
    alone = [decode([prompt], [seed], stops, **options)[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    assert together == alone
    backwards = decode(PROMPTS[::-1], SEEDS[::-1], stops, **options)[::-1]
    assert together == backwards


def test_greedy_equals_the_librarys_generate() -> None:
    stops = common_stops()
    for (ids, reason), prompt in zip(decode(PROMPTS, SEEDS, stops), PROMPTS, strict=True):
        output = MODEL.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=stops, pad_token_id=0, use_cache=True
        )
        assert ids == output[0, len(prompt) :].tolist()
        assert reason == ("stop" if ids[-1] in stops else "length") and len(ids) <= 20


def test_sampling_equals_a_loop_without_cache_or_padding() -> None:
    """Independent reference: whole forward passes, inverse of the cumulative distribution by numpy."""
    for (ids, _), prompt, seed in zip(decode(PROMPTS, SEEDS, [], temperature=0.9), PROMPTS, SEEDS, strict=True):
        sequence = list(prompt)
        for uniform in np.random.default_rng(seed).random(20):
            with torch.no_grad():
                logits = MODEL(torch.tensor([sequence])).logits[0, -1].double().numpy() / 0.9
            probabilities = np.exp(logits - logits.max())
            sequence.append(int(np.searchsorted(np.cumsum(probabilities / probabilities.sum()), uniform, side="right")))
        assert ids == sequence[len(prompt) :]


def test_another_seed_writes_another_text_and_the_same_seed_the_same() -> None:
    first, again, other = (decode([PROMPTS[1]], [seed], [], temperature=1.0)[0][0] for seed in (7, 7, 8))
    assert first == again != other


# --- chains --------------------------------------------------------------------------------------------------------------


def chains(rows: list[dict[str, Any]], settings: GenerationSettings = CHAINS, model: Any = MODEL) -> list[list[Completion]]:
    return list(write_chains(model, prompt_tokenizer(), rows, "policy", settings))


def test_every_prompt_and_sample_has_a_chain_that_names_its_parents() -> None:
    revisions = chains(prompt_rows(3))
    assert [len(completions) for completions in revisions] == [6, 6, 6]
    assert [c.parent_id for c in revisions[0]] == [None] * 6
    for earlier, later in zip(revisions, revisions[1:], strict=False):
        assert [c.parent_id for c in later] == [c.completion_id for c in earlier]
    everything = [c for completions in revisions for c in completions]
    assert len({c.completion_id for c in everything}) == len({c.seed for c in everything}) == 18
    assert {(c.prompt_id, c.sample_index) for c in revisions[2]} == {(r["prompt_id"], s) for r in prompt_rows(3) for s in (0, 1)}


def test_a_chain_does_not_depend_on_the_prompts_beside_it() -> None:
    rows = prompt_rows(5)
    together = {(c.prompt_id, c.sample_index, c.revision_index): c for level in chains(rows) for c in level}
    alone = {(c.prompt_id, c.sample_index, c.revision_index): c for row in rows for level in chains([row]) for c in level}
    assert together == alone


class Recorder:
    """A model that notes the prompts it is given."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []

    def parameters(self) -> Any:
        return MODEL.parameters()

    def __call__(self, **inputs: Any) -> Any:
        if inputs["past_key_values"] is None:
            rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
            self.prompts += [ids[mask.bool()].tolist() for ids, mask in rows]
        return MODEL(**inputs)


def test_prompts_of_drafts_and_revisions_are_the_ids_of_training() -> None:
    """What the model is asked at generation against the pair's sequences: logp_a's prompt, and those of a|a and of b|b."""
    recorder, tok = Recorder(), prompt_tokenizer()
    rows = prompt_rows(4)
    revisions = chains(rows, GenerationSettings(num_revisions=1, temperature=1.0, max_new_tokens=12), recorder)
    drafts = [c.text for c in revisions[0]]
    assert all(drafts)
    for place, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
        sequences = tokenize_pair(tok, row["prompt"], draft, "another text").sequences
        assert recorder.prompts[place] == sequences[0][0]
        assert recorder.prompts[len(rows) + place] == sequences[2][0]
    assert len(recorder.prompts) == 2 * len(rows)


class Stopping:
    """A model that ends its first turn at once, so that the draft is empty, and must not be asked again."""

    def __init__(self, stop_id: int) -> None:
        self.stop_id, self.calls = stop_id, 0

    def parameters(self) -> Any:
        return MODEL.parameters()

    def __call__(self, **inputs: Any) -> Any:
        self.calls += 1
        result = MODEL(**inputs)
        result.logits[..., self.stop_id] = 1e4
        return result


def test_an_empty_draft_stays_empty_and_is_marked() -> None:
    model = Stopping(prompt_tokenizer().stop_id)
    revisions = chains(prompt_rows(2), model=model)
    assert [[c.text for c in level] for level in revisions] == [[""] * 4] * 3
    assert [level[0].finish_reason for level in revisions] == ["stop", "empty_draft", "empty_draft"]
    assert [level[0].num_tokens for level in revisions] == [1, 0, 0]
    assert model.calls == 1


def test_length_limit_and_truncated_prompts_are_recorded() -> None:
    rows = prompt_rows(2)
    rows[1]["prompt"][0]["content"] = "x" * 400
    (level,) = chains(rows, GenerationSettings(num_revisions=0, temperature=0, max_new_tokens=3))
    assert [c.prompt_truncated for c in level] == [False, True]
    assert all(c.num_tokens == 3 for c in level if c.finish_reason == "length")


def test_a_prompt_that_cannot_fit_is_named() -> None:
    rows = prompt_rows(1)
    with pytest.raises(PairTooLong, match=f"evaluation prompt {rows[0]['prompt_id']}: expected at most 160 tokens"):
        chains(rows, GenerationSettings(num_revisions=0, max_new_tokens=159))


def test_text_after_the_stop_token_is_not_text() -> None:
    revisions = chains(prompt_rows(2))
    assert not [c for level in revisions for c in level if "<|im_end|>" in c.text or c.text != c.text.strip()]
