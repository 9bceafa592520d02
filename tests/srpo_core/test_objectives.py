"""The step's loss against one computed from separate forward passes, and the joining of pairs with reference rows."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_core.batches import batch_groups
from srpo_core.errors import InputError
from srpo_core.logprobs import SequenceLogps
from srpo_core.objectives import ImitationObjective, PairExample, PreferenceObjective, build_imitation_groups, build_pair_examples
from srpo_core.tokenization import PairTokens, tokenize_pair
from tests.fakes import tiny_llama
from tests.small_training import demonstration_rows, examples, objective, pair_rows, prompt_tokenizer, settings

MODEL = tiny_llama(initializer_range=0.2)


def loss_of(task: Any, layout: Any = "trie", budget: int = 100_000, model: Any = MODEL) -> tuple[Tensor, dict[str, float]]:
    """Loss and mean metrics of one step over all examples."""
    indices = list(range(len(task.groups)))
    size = task.step_size(indices)
    loss, sums = torch.zeros(()), {}
    for batch in batch_groups(task.groups, layout, budget):
        part = task.part(SequenceLogps(model)(batch), batch, indices, size)
        loss = loss + part.loss
        for name, value in part.sums.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    weights = dict.fromkeys(sums, size) | task.metric_weights(indices)
    return loss.detach(), {name: value / weights[name] for name, value in sums.items()}


def naive_logp(prompt: list[int], completion: list[int]) -> float:
    """One plain forward pass over one sequence, in float64."""
    with torch.no_grad():
        logits = MODEL(torch.tensor([[*prompt, *completion]])).logits[0].double()
    logps = torch.log_softmax(logits, -1)
    return sum(float(logps[len(prompt) - 1 + place, token]) for place, token in enumerate(completion))


def naive_srpo(example: PairExample, alpha: float, beta: float) -> float:
    """Docs/method.md 1.2 with the six sequences named by hand: w chosen, r rejected."""
    tok, row = prompt_tokenizer(), example.row  # type: ignore[attr-defined]
    draft, given = tok.prompt_ids(row["prompt"]), lambda text: tok.revision_prompt_ids(row["prompt"], text)
    w, r = row["chosen"], row["rejected"]
    prompts = {None: draft, w: given(w), r: given(r)}
    stored = dict(zip([(t, d) for d in (None, *sorted((w, r))) for t in sorted((w, r))], example.reference, strict=True))

    def ratio(text: str, drafted: str | None) -> float:
        return naive_logp(prompts[drafted], tok.completion_ids(text)) - stored[text, drafted]

    p = example.preference
    d_gen = ratio(w, None) - ratio(r, None) + ratio(w, r) - ratio(r, w)
    d_l, d_w = ratio(w, r) - ratio(r, r), ratio(w, w) - ratio(r, w)
    generative = (p - 0.5 - beta / 2 * d_gen) ** 2
    self_improvement = 0.5 * ((p - 0.5 - beta * d_l) ** 2 + (p - 0.5 - beta * d_w) ** 2)
    return (1 - alpha) * generative + alpha * self_improvement


class RowExample(PairExample):
    """A pair example that remembers its row."""

    row: dict[str, Any]


def with_rows(count: int) -> list[Any]:
    built = []
    for example, row in zip(examples(count), pair_rows(count), strict=True):
        one = RowExample(*example)
        one.row = row
        built.append(one)
    return built


@pytest.mark.parametrize("layout", ["trie", "plain"])
def test_srpo_step_equals_six_separate_forward_passes(layout: str) -> None:
    pairs = with_rows(6)
    assert len({pair.chosen_is_a for pair in pairs}) == 2, "both orders of the texts must occur"
    loss, metrics = loss_of(PreferenceObjective(pairs, settings(alpha=0.4, beta=0.1)), layout)
    expected = sum(naive_srpo(pair, 0.4, 0.1) for pair in pairs) / len(pairs)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", ["srpo", "dpo", "ipo", "dpo_both", "ipo_both"])
def test_sort_order_of_the_two_texts_does_not_matter(method: str) -> None:
    """Storing the pair as (b, a) permutes the six columns and turns the role round; the loss is the same."""
    tok, row, stored = prompt_tokenizer(), pair_rows(1)[0], [-50.0, -53.0, -51.0, -56.0, -54.0, -52.0]
    forward = tokenize_pair(tok, row["prompt"], row["chosen"], row["rejected"])
    backward = tokenize_pair(tok, row["prompt"], row["rejected"], row["chosen"])
    swapped = [stored[i] for i in (1, 0, 5, 4, 3, 2)]  # a, b, a|a, b|a, a|b, b|b with a and b exchanged
    losses = [
        float(loss_of(PreferenceObjective([PairExample(tokens, is_a, 0.8, tuple(logps))], settings(method=method)))[0])
        for tokens, is_a, logps in ((forward, True, stored), (backward, False, swapped))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("method", ["srpo", "dpo", "ipo", "dpo_both", "ipo_both"])
@pytest.mark.parametrize("layout", ["trie", "plain"])
def test_loss_does_not_depend_on_the_token_budget(method: str, layout: str) -> None:
    whole, _ = loss_of(objective(8, method=method), layout)
    pieces, _ = loss_of(objective(8, method=method), layout, budget=64)
    assert float(whole) == pytest.approx(float(pieces), rel=2e-6)


def test_mean_reduction_divides_every_log_ratio_by_its_completion_length() -> None:
    """With made-up policy log-probs: IPO's margin is G(w)/|w| - G(l)/|l|."""
    example = examples(1)[0]._replace(chosen_is_a=False, preference=1.0)
    task = PreferenceObjective([example], settings(method="ipo", beta=0.5, logp_reduction="mean"))
    (batch,) = batch_groups(task.groups, "trie", 100_000)
    part = task.part(torch.tensor([-10.0, -20.0]), batch, [0], 1.0)
    tokens, reference = example.tokens, example.reference
    margin = (-20 - reference[1]) / tokens.num_tokens_b - (-10 - reference[0]) / tokens.num_tokens_a
    assert float(part.loss) == pytest.approx((margin - 1.0) ** 2, rel=1e-5)


def test_unit_gradient_scales_the_loss_and_not_the_metric() -> None:
    paper, metrics = loss_of(objective(4, beta=0.05))
    scaled, scaled_metrics = loss_of(objective(4, beta=0.05, loss_scale="unit_gradient"))
    assert float(scaled) == pytest.approx(float(paper) / 0.05, rel=1e-6)
    assert scaled_metrics["loss"] == pytest.approx(metrics["loss"])


@pytest.mark.parametrize(("method", "expected"), [("srpo", 0.09), ("dpo", math.log(2)), ("ipo", 9.0), ("ipo_both", 9.0)])
def test_loss_at_start_is_the_known_constant(method: str, expected: float) -> None:
    """All log-ratios 0 and p = .8: SRPO (p - 1/2)^2, DPO log 2, IPO ((p - 1/2)/beta)^2 at beta = .1."""
    pairs = [example._replace(preference=0.8) for example in examples(3)]
    assert PreferenceObjective(pairs, settings(method=method, beta=0.1)).loss_at_start == pytest.approx(expected)


def test_imitation_loss_is_the_mean_over_completion_tokens() -> None:
    tok = prompt_tokenizer()
    rows = demonstration_rows(8)
    groups, flags, too_long = build_imitation_groups(tok, rows)
    assert (len(groups), too_long) == (4, 0) and flags == [[True, False]] * 4, "a prompt's draft and revision share a group"
    loss, metrics = loss_of(ImitationObjective(groups, flags, 8))
    logps = [naive_logp(prompt, completion) for group in groups for prompt, completion in group]
    tokens = sum(len(completion) for group in groups for _, completion in group)
    assert float(loss) == pytest.approx(-sum(logps) / tokens, rel=1e-5)
    assert metrics["nll/draft"] == pytest.approx(-sum(logps[::2]) / 4, rel=1e-5)
    assert metrics["nll/revision"] == pytest.approx(-sum(logps[1::2]) / 4, rel=1e-5)


def test_imitation_counts_examples_and_not_groups_per_step() -> None:
    groups, flags, _ = build_imitation_groups(prompt_tokenizer(), demonstration_rows(8))
    assert ImitationObjective(groups, flags, 4).examples_per_step == 2  # groups of two


def test_pairs_are_joined_by_id_and_a_missing_row_is_named() -> None:
    rows = pair_rows(3)
    reference = {row["pair_id"]: (float(i),) * 6 for i, row in enumerate(rows)}
    built, too_long = build_pair_examples(prompt_tokenizer(), rows, reference)
    assert too_long == 0 and [example.reference[0] for example in built] == [0.0, 1.0, 2.0]
    assert [example.chosen_is_a for example in built] == [row["chosen"] < row["rejected"] for row in rows]
    with pytest.raises(InputError, match=f"log-probs of pair {rows[1]['pair_id']}, found none"):
        build_pair_examples(prompt_tokenizer(), rows, {rows[0]["pair_id"]: (0.0,) * 6})


def test_pairs_that_do_not_fit_are_counted_and_need_no_reference_row() -> None:
    rows = pair_rows(2)
    rows[1]["chosen"] = "x" * 200
    built, too_long = build_pair_examples(prompt_tokenizer(), rows, {rows[0]["pair_id"]: (0.0,) * 6})
    assert (len(built), too_long) == (1, 1)
    assert isinstance(built[0].tokens, PairTokens)


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(InputError, match="at least one preference pair"):
        PreferenceObjective([], settings())
    with pytest.raises(InputError, match="ties alone in all 2"):
        PreferenceObjective([example._replace(preference=0.5) for example in examples(2)], settings())
    with pytest.raises(InputError, match="at least one demonstration"):
        ImitationObjective([], [], 8)


def test_many_answers_to_one_question_are_many_groups() -> None:
    prompt = [{"role": "user", "content": "why"}]
    drafts = (None, "a draft", "another")
    rows = [{"prompt": prompt, "draft": draft, "completion": f"answer {i}"} for i in range(5) for draft in drafts]
    groups, flags, too_long = build_imitation_groups(prompt_tokenizer(), rows)
    assert [len(group) for group in groups] == [3] * 5
    assert flags == [[True, False, False]] * 5
    assert too_long == 0
