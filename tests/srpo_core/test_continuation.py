"""Continuing with what was read and guessed before gives the texts of reading everything anew, and runs fewer tokens through.

Texts may part only where floating-point numbers tie: the two most likely tokens within 1e-4 (greedy), or a random number within
1e-5 of a step of the cumulative distribution (sampled). `Parallel` looks at the place where two texts part and fails elsewhere.
"""

import logging
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from srpo_core import continuation, decoding
from srpo_core.continuation import Decoding, Generated, RevisionDecoder, choose_tokens
from srpo_core.kv_cache import log_once, slot_obstacle
from srpo_core.records import Completion
from srpo_core.settings.model import GenerationSettings, TemplateSettings
from srpo_core.speculation import GuessBudget
from srpo_core.tokenization import PromptTokenizer
from tests.fakes import byte_tokenizer, tiny_llama
from tests.small_training import TEMPLATE, prompt_rows
from tests.tiny_models import ARCHITECTURES, model_of

GREEDY, SAMPLED = {"temperature": 0.0}, {"temperature": 1.0}
LARGE = {"vocab_size": 261, "max_position_embeddings": 1024, "n_positions": 1024, "tie_word_embeddings": False}
GEMMA = {"sliding_window": 1024, "final_logit_softcapping": 30.0}  # windows longer than any text; a tight cap would make ties
NAMES = ["llama", "qwen2", "gpt2", "gpt_neox", "gemma2_eager_softcap", "gemma3_mixed_window"]
CHAT = PromptTokenizer(byte_tokenizer(), TEMPLATE, 200)
PUBLISHED = PromptTokenizer(byte_tokenizer(), TemplateSettings(kind="tldr"), 500)


def model_for_bytes(name: str) -> Any:
    """A model of the architecture for the byte tokenizer, whose texts end at various lengths."""
    config_class, overrides = ARCHITECTURES[name]
    model = model_of(config_class, overrides | LARGE | (GEMMA if "gemma" in name else {}))
    if name != "gpt_neox":  # which stops often enough as it is
        model.get_output_embeddings().weight.data[CHAT.stop_ids] *= 1.5
    return model


class Parallel:
    """Notes every completion of two ways of decoding, by its seed, and compares them."""

    def __init__(self, model: Any, how: Decoding) -> None:
        self.model, self.how = model, how
        self.results: dict[int, list[tuple[list[int], list[int]]]] = {}

    def note(self, prompts: Any, seeds: Any, results: list[Generated]) -> None:
        for prompt, seed, result in zip(prompts, seeds, results, strict=True):
            self.results.setdefault(seed, []).append((list(prompt), result.ids))

    def compare(self) -> None:
        """Two texts to one prompt are the same, or part at a tie; where a text parted, its revisions have other prompts."""
        same = 0
        for seed, ways in self.results.items():
            if len(ways) == 2 and ways[0][0] == ways[1][0]:
                (prompt, one), (_, other) = ways
                same += one == other
                assert one == other or self._tied(prompt, one, other, seed), (seed, one, other)
        assert same >= 0.9 * len(self.results)

    def _tied(self, prompt: list[int], one: list[int], other: list[int], seed: int) -> bool:
        place = next(place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        with torch.no_grad():
            logits = self.model(torch.tensor([prompt + one[:place]]), use_cache=False).logits[0, -1].double()
        if self.how.temperature == 0:
            first, second = logits.topk(2).values.tolist()
            return first - second < 1e-4
        cumulative = torch.softmax(logits / self.how.temperature, -1).cumsum(-1)
        uniform = np.random.default_rng(seed).random(self.how.max_new_tokens)[place]
        return float((cumulative - uniform).abs().min()) < 1e-5


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[Completion]]]:
    """Writes chains both ways and compares them; returns those with reuse."""

    def write(model: Any, tok: PromptTokenizer, rows: Any, settings: GenerationSettings) -> list[list[Completion]]:
        how = Decoding(tok.stop_ids, settings.max_new_tokens, settings.temperature, settings.top_p)
        parallel = Parallel(model, how)

        class Noting(RevisionDecoder):
            def decode(self, prompts: Any, seeds: Any, parents: Any = None) -> list[Generated]:
                results = super().decode(prompts, seeds, parents)
                parallel.note(prompts, seeds, results)
                return results

        monkeypatch.setattr(decoding, "RevisionDecoder", Noting)
        plain, lean = (list(decoding.write_chains(model, tok, rows, "p", settings, reuse=reuse)) for reuse in (False, True))
        parallel.compare()
        assert len(plain) == len(lean)
        return lean

    return write


@pytest.mark.parametrize("tok", [CHAT, PUBLISHED], ids=["chat", "published"])
@pytest.mark.parametrize("name", NAMES)
def test_revisions_equal_those_decoded_from_scratch(name: str, tok: PromptTokenizer, chains: Any) -> None:
    """Greedy and sampled, one and three samples, prompts of several lengths, texts and chains that end early and late."""
    model = model_for_bytes(name)
    assert slot_obstacle(model, tok.max_length) is None
    written = []
    for number, choice in enumerate((GREEDY, SAMPLED)):
        for samples in (1, 3):
            settings = GenerationSettings(num_revisions=3, num_samples=samples, max_new_tokens=9, seed=number, **choice)
            written += [c for level in chains(model, tok, prompt_rows(4), settings) for c in level]
    assert {"stop", "length"} <= {c.finish_reason for c in written}
    assert len({c.num_tokens for c in written}) > 3, "rows must leave at different times"


def test_chains_that_end_leave_the_others_their_memory(chains: Any) -> None:
    model = model_for_bytes("llama")
    model.get_output_embeddings().weight.data[CHAT.stop_id] *= 3.0
    levels = chains(model, CHAT, prompt_rows(8), GenerationSettings(num_revisions=4, temperature=1.0, max_new_tokens=9))
    alive = [sum(c.finish_reason != "empty_draft" for c in level) for level in levels]
    assert len(set(alive)) > 2 and alive[-1] > 0, "some chains must end, at different revisions, and some must not"


@pytest.mark.parametrize("choice", [GREEDY, SAMPLED, {"temperature": 0.7, "top_p": 0.8}], ids=["greedy", "sampled", "top-p"])
def test_no_guess_however_wrong_changes_a_text(choice: dict[str, float], chains: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to seven tokens at random, stop tokens among them, guessed in every row and step."""
    rng = random.Random(0)
    guess = lambda written, draft, count: [rng.choice([2, 4, *range(5, 261)]) for _ in range(rng.randint(0, count))]  # noqa: E731
    monkeypatch.setattr(continuation, "propose", guess)
    monkeypatch.setattr(GuessBudget, "guesses", lambda self, num_rows: 7)
    chains(model_for_bytes("llama"), CHAT, prompt_rows(4), GenerationSettings(num_revisions=2, max_new_tokens=9, **choice))


def test_guesses_never_pass_the_last_position_a_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt and completion fill the 16 learned positions to the last; seven tokens are guessed wherever they may be."""
    monkeypatch.setattr(continuation, "propose", lambda written, draft, count: [3] * count)
    monkeypatch.setattr(GuessBudget, "guesses", lambda self, num_rows: 7)
    model = model_of("GPT2Config", ARCHITECTURES["gpt2"][1] | {"n_positions": 16, "max_position_embeddings": 16})
    decoder = RevisionDecoder(model, Decoding([], 6, 0.0, 1.0))
    prompts = [[5, 6, 7, 8, 9, 10, 11, 12, 13, last] for last in (14, 15)]
    drafts = decoder.decode(prompts, [1, 2])
    assert decoder.decode(prompts, [1, 2], [0, 1]) == drafts


def test_texts_longer_than_the_room_made_for_them_are_the_same(chains: Any) -> None:
    tok = PromptTokenizer(byte_tokenizer(), TEMPLATE, 700)
    settings = GenerationSettings(num_revisions=2, max_new_tokens=3 * continuation.ROOM, temperature=1.0)
    levels = chains(tiny_llama(initializer_range=0.3), tok, prompt_rows(3), settings)
    assert max(c.num_tokens for level in levels for c in level) > 2 * continuation.ROOM


def test_a_windowed_model_is_decoded_plainly_and_the_log_says_so_once(chains: Any, caplog: pytest.LogCaptureFixture) -> None:
    log_once.cache_clear()
    model = model_of(*(ARCHITECTURES["mistral_window"][0], {"sliding_window": 8, "vocab_size": 261}))
    with caplog.at_level(logging.WARNING, "srpo"):
        chains(model, CHAT, prompt_rows(3), GenerationSettings(num_revisions=2, max_new_tokens=5, temperature=0))
    reason = "the model's window of 8 tokens is shorter than the texts"
    assert caplog.messages == [f"decoding without reuse of what was read, which is slower: {reason}"]


# --- what goes through the model -----------------------------------------------------------------------------------------


def successor_model() -> Any:
    """A Llama that writes token t + 1 behind token t: its layers add nothing, and its head is its embedding, one row on."""
    model = tiny_llama(initializer_range=0.5, hidden_size=64)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    embedding = nn.functional.normalize(
        model.model.embed_tokens.weight.data + torch.randn(261, 64, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    model.model.embed_tokens.weight.data = embedding
    model.lm_head.weight.data = embedding.roll(1, 0)
    return model


def input_shapes(model: Any) -> list[tuple[int, int]]:
    """Will hold (rows, columns) of every forward pass from now on; the self-test's are over."""
    assert slot_obstacle(model, 200) is None
    shapes: list[tuple[int, int]] = []
    model.register_forward_pre_hook(lambda _, args, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True)
    return shapes


def prompts_of(count: int, length: int) -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(5, 200) for _ in range(length)] for _ in range(count)]


def test_a_revision_reads_only_what_follows_the_text_its_chain_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt of 20, drafts of 6, request of 4. Revision 1 asks behind the draft, whose last token is not read yet: 1 + 4 tokens.

    Revision 2 has another draft behind the prompt: 6 + 4. A prompt with another beginning is read whole.
    """
    monkeypatch.setattr(GuessBudget, "guesses", lambda self, num_rows: 0)
    model = tiny_llama(initializer_range=0.3)
    shapes = input_shapes(model)
    decoder = RevisionDecoder(model, Decoding([], 6, 1.0, 1.0))
    prompts, request, parents = prompts_of(3, 20), [7, 8, 9, 10], [0, 1, 2]
    first = decoder.decode(prompts, [1, 2, 3])
    second = decoder.decode([p + r.ids + request for p, r in zip(prompts, first, strict=True)], [4, 5, 6], parents)
    assert all(one.ids[0] != other.ids[0] for one, other in zip(first, second, strict=True))
    decoder.decode([p + r.ids + request for p, r in zip(prompts, second, strict=True)], [7, 8, 9], parents)
    decoder.decode([[1, *p] for p in prompts], [1, 2, 3], parents)
    assert [shapes[call] for call in (0, 6, 12, 18)] == [(3, 20), (3, 5), (3, 10), (3, 21)]
    assert {shape for call, shape in enumerate(shapes) if call % 6} == {(3, 1)}


def test_samples_of_a_prompt_read_it_once() -> None:
    model = tiny_llama(initializer_range=0.3)
    shapes = input_shapes(model)
    one, other = prompts_of(2, 30)
    how = Decoding([], 3, 1.0, 1.0)
    results = RevisionDecoder(model, how).decode([one, one, other, one], [1, 2, 3, 4])
    assert shapes == [(2, 29), (4, 1), (4, 1), (4, 1)]
    assert len({tuple(result.ids) for result in results}) == 4
    assert results == RevisionDecoder(model, how, reuse=False).decode([one, one, other, one], [1, 2, 3, 4])


def test_rows_that_stopped_are_not_computed() -> None:
    model = successor_model()
    shapes = input_shapes(model)
    results = RevisionDecoder(model, Decoding([60], 20, 0.0, 1.0)).decode([[50], [58], [10], [55]], [1, 2, 3, 4])
    assert [len(result.ids) for result in results] == [10, 2, 20, 5]
    assert [rows for rows, _ in shapes] == [4, 4, 3, 3, 3, *[2] * 5, *[1] * 10]


@pytest.mark.parametrize("choice", [GREEDY, {"temperature": 0.02}], ids=["greedy", "sampled"])
def test_a_revision_that_repeats_its_draft_takes_few_passes(choice: dict[str, float]) -> None:
    """The model counts on from the last token of a prompt, 100, so both texts are 101, 102, ..."""
    model = successor_model()
    shapes = input_shapes(model)
    decoder = RevisionDecoder(model, Decoding([], 40, top_p=1.0, **choice))
    prompts = [[*ids, 100] for ids in prompts_of(2, 10)]
    drafts = decoder.decode(prompts, [1, 2])
    assert [result.ids for result in drafts] == [list(range(101, 141))] * 2
    assert len(shapes) == 40
    again = decoder.decode([[*p, *r.ids, 100] for p, r in zip(prompts, drafts, strict=True)], [3, 4], [0, 1])
    assert again == drafts
    assert len(shapes) - 40 <= 8, "40 tokens in at most 8 passes"
    shapes.clear()
    other = decoder.decode([[*p, *r.ids, 190] for p, r in zip(prompts, drafts, strict=True)], [3, 4], [0, 1])
    assert [result.ids for result in other] == [list(range(191, 231))] * 2
    assert len(shapes) == 40, "a text of its own takes a pass a token"
    assert sum(columns for _, columns in shapes[1:]) <= 60, "and hardly a guess"


# --- choosing tokens -----------------------------------------------------------------------------------------------------


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).double().log()


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 0), (0.49, 0), (0.5, 1), (0.79, 1), (0.81, 2), (0.999, 2)])
def test_tokens_are_chosen_by_the_cumulative_distribution(uniform: float, token: int) -> None:
    assert int(choose_tokens(logits_of(0.5, 0.3, 0.2), torch.tensor([uniform]), 1.0, 1.0)) == token


@pytest.mark.parametrize(
    ("top_p", "uniform", "token"),
    [(0.4, 0.99, 1), (0.6, 0.99, 2), (0.6, 0.55, 1), (0.6, 0.56, 2), (0.85, 0.99, 2), (1.0, 0.99, 2)],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, uniform: float, token: int) -> None:
    """Probabilities .1, .5, .4: top-p .4 keeps token 1, .6 and .85 keep 1 and 2, of which 1 has 5/9 = .556."""
    logits = logits_of(0.1, 0.5, 0.4)
    assert int(choose_tokens(logits, torch.tensor([uniform]), 1.0, top_p)) == token


def test_temperature_zero_is_the_most_likely_token_and_low_temperature_near_it() -> None:
    logits = logits_of(0.3, 0.4, 0.3)
    assert int(choose_tokens(logits, torch.tensor([0.99]), 0.0, 1.0)) == 1
    assert int(choose_tokens(logits, torch.tensor([0.99]), 0.01, 1.0)) == 1


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=40), st.floats(0, 1, exclude_max=True), st.floats(0.05, 1))
def test_no_token_of_zero_probability_is_ever_chosen(logits: list[float], uniform: float, top_p: float) -> None:
    values = torch.tensor([[*logits, -torch.inf]], dtype=torch.double)
    token = int(choose_tokens(values, torch.tensor([uniform], dtype=torch.double), 1.0, top_p))
    assert token < len(logits)
