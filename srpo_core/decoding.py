"""Drafts and self-revisions: y0 ~ pi(.|x), then y(k+1) ~ pi'(.|y(k), x) (SRPO, arXiv 2406.01660, section 1).

Every completion draws its random numbers from a seed of its own, so a text does not depend on what it was batched with
(up to floating-point ties). A revision's prompt is read from where it parts from what its chain has read before.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from srpo_core.continuation import Decoding, Generated, RevisionDecoder
from srpo_core.records import Completion, content_id, seed_from
from srpo_core.settings.model import Dtype, GenerationSettings
from srpo_core.tokenization import PairTooLong, PromptTokenizer


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    reuse: bool = True,
) -> list[Generated]:
    """Continue each prompt until a stop token or `max_new_tokens`; temperature 0 takes the most likely token.

    `reuse`: a prompt that stands there several times is read once.
    """
    how = Decoding(stop_ids, max_new_tokens, temperature, top_p)
    return RevisionDecoder(model, how, reuse=reuse).decode(prompts, seeds)


class Turn(NamedTuple):
    """What the next completion of a chain answers: a prompt, and from the first revision on the chain's last completion."""

    row: Mapping[str, Any]  # of table `prompts`
    sample_index: int
    parent: Completion | None


def write_chains(
    model: Any,
    tok: PromptTokenizer,
    prompts: Sequence[Mapping[str, Any]],
    policy_id: str,
    settings: GenerationSettings,
    *,
    dtype: Dtype = "float32",
    reuse: bool = True,
) -> Iterator[list[Completion]]:
    """Yield, revision by revision, one completion for each (prompt, sample) of rows of `prompts`.

    An empty completion cannot be revised; its chain stays empty (finish_reason empty_draft), so that no revision is judged on
    fewer prompts than another. A prompt that does not fit is truncated and marked so; PairTooLong when it cannot be made to.
    `dtype`, the arithmetic they are written in, is part of the completions' ids. `reuse` = False reads every prompt from its
    start and guesses nothing: slower, and the same texts.
    """
    how = Decoding(tok.stop_ids, settings.max_new_tokens, settings.temperature, settings.top_p)
    decoder = RevisionDecoder(model, how, reuse=reuse)
    turns = [Turn(row, sample, None) for row in prompts for sample in range(settings.num_samples)]
    places: dict[int, int] = {}  # turn -> its place in the decoder's last batch
    for revision_index in range(settings.num_revisions + 1):
        answered = [index for index, turn in enumerate(turns) if turn.parent is None or turn.parent.text]
        fitted = [
            fit(tok, turn.row, turn.parent.text if turn.parent else None, settings) for turn in map(turns.__getitem__, answered)
        ]
        seeds = [_seed(turns[index], revision_index, settings) for index in answered]
        ids = [prompt.ids for prompt in fitted]
        results = decoder.decode(ids, seeds, [places.get(index) for index in answered]) if answered else []
        places = {index: place for place, index in enumerate(answered)}
        completions = []
        for index, turn in enumerate(turns):
            place = places.get(index)
            result = Generated([], "empty_draft") if place is None else results[place]
            truncated = place is not None and fitted[place].truncated
            completions.append(_completion(tok, turn, result, truncated, revision_index, policy_id, settings, dtype))
        yield completions
        turns = [turn._replace(parent=completion) for turn, completion in zip(turns, completions, strict=True)]


def _seed(turn: Turn, revision_index: int, settings: GenerationSettings) -> int:
    return seed_from(settings.seed, "generate", turn.row["prompt_id"], turn.sample_index, revision_index)


def _completion(
    tok: PromptTokenizer,
    turn: Turn,
    result: Generated,
    truncated: bool,
    revision_index: int,
    policy_id: str,
    settings: GenerationSettings,
    dtype: Dtype,
) -> Completion:
    prompt_id = turn.row["prompt_id"]
    asked = settings.model_dump() | {"dtype": dtype}
    return Completion(
        completion_id=content_id("completion", policy_id, prompt_id, turn.sample_index, revision_index, asked),
        prompt_id=prompt_id,
        policy_id=policy_id,
        sample_index=turn.sample_index,
        revision_index=revision_index,
        parent_id=turn.parent.completion_id if turn.parent else None,
        text=tok.decode(result.ids).strip(),
        num_tokens=len(result.ids),
        finish_reason=result.finish_reason,
        prompt_truncated=truncated,
        seed=_seed(turn, revision_index, settings),
        temperature=settings.temperature,
    )


def fit(tok: PromptTokenizer, row: Mapping[str, Any], draft: str | None, settings: GenerationSettings) -> Any:
    """The prompt's ids with room for the answer; PairTooLong names the prompt."""
    try:
        return tok.fit_prompt(row["prompt"], settings.max_new_tokens, draft)
    except PairTooLong as error:
        raise PairTooLong(f"evaluation prompt {row['prompt_id']}: {error}") from error
