"""Judges that run on this machine's devices: what they are asked about a game, and the verdict that follows from their numbers.

A reward model (Bradley-Terry) reads each text by itself, so that order cannot matter:

    score of the candidate = sigmoid((r_candidate - r_opponent) / temperature)

A label model reads both texts in the order shown and gives each label of its preset a probability:

    score of the first text = sum over labels of p(label) * score(label)

Does not load a model: `reward_model.py` and `label_model.py` do, in the workers.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from srpo_core.errors import InputError
from srpo_core.judging.judge_presets import find_preset
from srpo_core.judging.judges import JudgeGame, Verdict, outcome_of, unscored
from srpo_core.records import Message, Prompt
from srpo_core.settings.judges import LabelModelJudgeSettings, RewardModelJudgeSettings

LocalSettings = RewardModelJudgeSettings | LabelModelJudgeSettings
TOO_LONG = "too_long"  # the reason of a verdict whose texts do not fit the model, however little of the prompt is kept
NO_LIMIT = 10**9  # tokenizers say so, or more, when they know of no limit
# What tasks ask of workers, and what these answer row by row.
QUESTIONS = pa.schema(
    [
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("texts", pa.list_(pa.string())),
    ]
)
ANSWERS = pa.schema([("values", pa.list_(pa.float64())), ("num_tokens", pa.int32()), ("truncated", pa.bool_())])
_Encoded = TypeVar("_Encoded", bound=Sized)


class Question(NamedTuple):
    """What a model reads at once."""

    prompt: Prompt
    texts: tuple[str, ...]  # a reward model's one text, or a label model's two in the order shown


class Answer(NamedTuple):
    """What a model says of a question."""

    values: list[float] | None  # [reward], or the probability of each label in the preset's order; None: too long
    num_tokens: int  # read, of the question
    truncated: bool  # the prompt lost its end


def questions_of(game: JudgeGame, settings: LocalSettings) -> tuple[Question, ...]:
    """What must be asked to decide `game`: its candidate and its opponent, or both at once in the game's order."""
    texts = (game.candidate_text, game.opponent_text)
    if settings.kind == "reward_model":
        return Question(game.prompt, texts[:1]), Question(game.prompt, texts[1:])
    return (Question(game.prompt, texts if game.order == "as_is" else texts[::-1]),)


def verdict_of(game: JudgeGame, answers: Sequence[Answer], settings: LocalSettings, facts: Mapping[str, Any]) -> Verdict:
    """The verdict from the answers to `questions_of(game, settings)`; `facts` are fields of it that say who judged."""
    read = {"prompt_tokens": sum(a.num_tokens for a in answers), "prompt_truncated": any(a.truncated for a in answers)}
    facts = {**facts, **read}
    values = [answer.values for answer in answers if answer.values is not None]
    if len(values) < len(answers):
        return unscored(TOO_LONG, **facts)
    if settings.kind == "reward_model":
        (candidate,), (opponent,) = values
        score = _sigmoid((candidate - opponent) / settings.temperature)
        return Verdict(outcome_of(score), score, label=write_rewards(candidate, opponent), **facts)
    scores = find_preset(settings.preset).form.scores
    first = min(1.0, math.fsum(p * score for p, score in zip(values[0], scores.values(), strict=True)))  # not 1 + 1e-16
    score = first if game.order == "as_is" else 1 - first
    likeliest = max(zip(values[0], scores, strict=True))[1]
    return Verdict(outcome_of(score), score, label=likeliest, **facts)


def write_rewards(candidate: float, opponent: float) -> str:
    """The label of a reward model's verdict, which loses nothing of a float32: candidate first, whatever the order."""
    return f"candidate {candidate:.9g}, opponent {opponent:.9g}"


def read_rewards(label: str) -> tuple[float, float]:
    """The rewards of candidate and opponent in such a label."""
    candidate, opponent = label.removeprefix("candidate ").split(", opponent ")
    return float(candidate), float(opponent)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


class Fitted(NamedTuple):
    """A question as token ids; None where it cannot be made to fit."""

    encoded: Any
    truncated: bool


def fit_question(prompt: Prompt, encode: Callable[[Prompt], _Encoded], limit: int) -> Fitted:
    """`encode(prompt)` in at most `limit` tokens, the prompt's last message cut at the end where it must be.

    Other messages and the judged texts stay whole: a text must not win or lose by words the judge was not shown.
    """
    whole = encode(prompt)
    if len(whole) <= limit:
        return Fitted(whole, False)
    kept = bisect.bisect_left(
        range(len(prompt[-1]["content"]) + 1), True, key=lambda characters: len(encode(_cut(prompt, characters))) > limit
    )
    return Fitted(encode(_cut(prompt, kept - 1)) if kept > 1 else None, True)


def _cut(prompt: Prompt, characters: int) -> Prompt:
    last: Message = {"role": prompt[-1]["role"], "content": prompt[-1]["content"][:characters]}
    return [*prompt[:-1], last]


def length_limit(tokenizer: Any, config: Any, asked: int | None) -> int:
    """Tokens the model reads at once. Raises InputError when `asked` is more than it can, or when nobody says how many."""
    positions = getattr(config, "max_position_embeddings", None)
    positions = positions if positions is not None and positions > 0 else NO_LIMIT
    if asked is not None and asked > positions:
        raise InputError(f"expected judge.max_length of at most {positions}, the model's own limit, found {asked}; lower it")
    limit = asked or min(positions, tokenizer.model_max_length)
    if limit >= NO_LIMIT:
        raise InputError("expected a judge model that knows how many tokens it reads, found no limit; set judge.max_length")
    return limit
