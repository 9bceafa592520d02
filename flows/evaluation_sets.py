"""Judging many artifacts of completions: evaluation sets side by side where the judge is reached over a network.

Of one set the policies come one after the other: where two of them gave the same text, the question to the judge is the same, and
the second finds the reply. Between sets no question is the same. All share one budget, one rate and one number of requests in
flight, so what is gained is the waiting: small sets take about as long as the longest of them. The newsroom's rule judge keeps a
core busy and a model on this machine keeps its device busy, so with those two nothing would be gained by threads.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flows.training_stages import Stage
from srpo_core.settings.judges import ApiJudgeSettings, JudgeSettings
from storage.artifact import Artifact
from tasks.judging import judge_completions
from tasks.sentinel import look_at_sentinel
from tasks.side_by_side import raise_if_stopped, side_by_side


def judge_sets(
    completions: Sequence[Artifact],
    prompts: Mapping[str, Artifact],
    judge: JudgeSettings,
    home: Path,
    stage: Stage,
    **options: Any,
) -> list[Artifact]:
    """The games of each of `completions`, in their order; `prompts` by digest, `options` are those of `judge_completions`.

    Raises the first error; what other sets had answered by then is kept.
    """
    names = [one.manifest["parents"]["prompts"]["digest"] for one in completions]
    calls = [
        partial(stage(judge_completions), one, [prompts[name]], judge, home, **options)
        for one, name in zip(completions, names, strict=True)
    ]
    if not isinstance(judge, ApiJudgeSettings):
        return [call() for call in calls]
    by_set: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        by_set.setdefault(name, []).append(index)
    games = side_by_side([partial(_in_turn, [calls[index] for index in indices]) for indices in by_set.values()])
    found = {
        index: one for indices, row in zip(by_set.values(), games, strict=True) for index, one in zip(indices, row, strict=True)
    }
    return [found[index] for index in range(len(calls))]


def look_where_asked(
    completions: Sequence[Artifact], prompts: Sequence[Artifact], judge: JudgeSettings, home: Path, stage: Stage, **spread: Any
) -> None:
    """One look at the frozen games of a judge whose settings want them; the first time drafts of `completions` are frozen.

    `spread`: resources and spent. Raises InputError when there is nothing to freeze.
    """
    if isinstance(judge, ApiJudgeSettings) and judge.sentinel_games:
        stage(look_at_sentinel)(completions, prompts, judge, home, **spread)


def _in_turn(calls: Sequence[Callable[[], Artifact]]) -> list[Artifact]:
    games = []
    for call in calls:
        raise_if_stopped()
        games.append(call())
    return games
