"""From a game to questions and from answers to a verdict, by hand; and cutting a prompt to what a model reads."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.errors import InputError
from srpo_core.judging.judges import JudgeGame
from srpo_core.judging.local_judges import (
    TOO_LONG,
    Answer,
    Question,
    fit_question,
    length_limit,
    questions_of,
    read_rewards,
    verdict_of,
    write_rewards,
)
from srpo_core.records import user_prompt
from srpo_core.settings.judges import LabelModelJudgeSettings, RewardModelJudgeSettings

REWARD = RewardModelJudgeSettings(model="m")
LABEL = LabelModelJudgeSettings(model="m", preset="arena-hard")
PROMPT = user_prompt("which?")
AS_IS = JudgeGame("g", PROMPT, "p", "c", "candidate", "gold:0", "opponent", "as_is")
SWAPPED = replace(AS_IS, order="swapped")


def answers(*values: float) -> list[Answer]:
    return [Answer([value], 7, False) for value in values]


def test_a_reward_model_reads_each_text_alone_and_knows_no_order() -> None:
    assert questions_of(AS_IS, REWARD) == (Question(PROMPT, ("candidate",)), Question(PROMPT, ("opponent",)))
    assert questions_of(SWAPPED, REWARD) == questions_of(AS_IS, REWARD)


def test_a_label_model_reads_both_texts_in_the_order_shown() -> None:
    assert questions_of(AS_IS, LABEL) == (Question(PROMPT, ("candidate", "opponent")),)
    assert questions_of(SWAPPED, LABEL) == (Question(PROMPT, ("opponent", "candidate")),)


@pytest.mark.parametrize("game", [AS_IS, SWAPPED])
def test_the_score_is_the_bradley_terry_probability(game: JudgeGame) -> None:
    """Odds of 3 to 1 are a difference of ln 3; at temperature 2 they are sqrt(3) to 1."""
    verdict = verdict_of(game, answers(1 + math.log(3), 1), REWARD, {"judge_model": "m"})
    assert verdict.score == pytest.approx(0.75, abs=1e-12)
    assert (verdict.outcome, verdict.judge_model, verdict.prompt_tokens, verdict.prompt_truncated) == ("win", "m", 14, False)
    cooler = verdict_of(game, answers(1, 1 + math.log(3)), REWARD.model_copy(update={"temperature": 2.0}), {})
    assert (cooler.outcome, cooler.score) == ("loss", pytest.approx(1 / (1 + math.sqrt(3)), abs=1e-12))


@pytest.mark.parametrize("difference", [-1e6, 1e6, -709.0, 745.0])
def test_extreme_rewards_give_a_score_in_the_unit_interval(difference: float) -> None:
    score = verdict_of(AS_IS, answers(difference, 0), REWARD, {}).score
    assert score == pytest.approx(float(difference > 0), abs=1e-12)


def test_equal_rewards_are_a_tie() -> None:
    verdict = verdict_of(AS_IS, answers(-3.25, -3.25), REWARD, {})
    assert (verdict.outcome, verdict.score) == ("tie", 0.5)


def test_the_label_score_is_the_mean_of_the_labels_scores() -> None:
    """A>>B .1, A>B .2, A=B .3, B>A .25, B>>A .15: the first text has .1 + .2 + .3 / 2 = .45."""
    answer = [Answer([0.1, 0.2, 0.3, 0.25, 0.15], 9, True)]
    shown_first, shown_second = (verdict_of(game, answer, LABEL, {}) for game in (AS_IS, SWAPPED))
    assert (shown_first.score, shown_first.outcome, shown_first.label) == (pytest.approx(0.45), "loss", "A=B")
    assert (shown_second.score, shown_second.outcome, shown_second.label) == (pytest.approx(0.55), "win", "A=B")
    assert shown_first.prompt_truncated and shown_first.prompt_tokens == 9


def test_a_text_that_was_not_read_is_no_loss() -> None:
    for read in ([Answer(None, 0, True), *answers(2.0)], [*answers(2.0), Answer(None, 0, True)]):
        verdict = verdict_of(AS_IS, read, REWARD, {})
        assert (verdict.outcome, verdict.score, verdict.unscored_reason) == ("unscored", None, TOO_LONG)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_label_keeps_both_rewards_to_the_last_bit(candidate: float, opponent: float) -> None:
    read = read_rewards(write_rewards(candidate, opponent))
    assert [np.float32(value) for value in read] == [np.float32(candidate), np.float32(opponent)]


@given(st.text(max_size=30), st.integers(0, 40), st.integers(0, 12))
def test_a_prompt_loses_no_more_of_its_end_than_it_must(content: str, limit: int, rest: int) -> None:
    """`rest` tokens besides the last message, of which each character is one."""

    def encode(prompt: list) -> str:
        return prompt[0]["content"] + "." * rest + prompt[1]["content"]

    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": content}]
    fitted = fit_question(turns, encode, limit)
    if 1 + rest + len(content) <= limit:
        assert fitted == (encode(turns), False)
    elif limit - 1 - rest >= 1:
        assert fitted == ("s" + "." * rest + content[: limit - 1 - rest], True)
    else:
        assert fitted == (None, True), "what is left must hold something of the last message"


def test_the_limit_is_the_models_own_unless_a_lower_one_is_asked() -> None:
    tokenizer, config = SimpleNamespace(model_max_length=512), SimpleNamespace(max_position_embeddings=514)
    assert length_limit(tokenizer, config, None) == 512
    assert length_limit(tokenizer, config, 100) == 100
    with pytest.raises(InputError, match="expected judge.max_length of at most 514, the model's own limit, found 600; lower it"):
        length_limit(tokenizer, config, 600)
    unknown = SimpleNamespace(model_max_length=10**30), SimpleNamespace(max_position_embeddings=-1)
    assert length_limit(*unknown, 4096) == 4096
    with pytest.raises(InputError, match="found no limit; set judge.max_length"):
        length_limit(*unknown, None)
