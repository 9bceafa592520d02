"""The knock-out stage: a judge picks among the drafts of a prompt by letting them meet, two at a time and in both orders.

A match's games are of draft against draft, so that no verdict of theirs is ever one that scores a pick against the gold.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.judging.judges import JudgeGame, is_identical
from srpo_core.judging.request_limits import Spent
from srpo_core.records import ORDERS, Prompt, content_id, seed_from
from srpo_core.scoring.knockout import Bracket, list_brackets
from srpo_core.settings.judges import JudgeSettings
from srpo_core.settings.resources import Resources
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, writing
from storage.part_stream import PartStream
from storage.schemas import COMPLETIONS, GAMES, KNOCKOUT_MATCHES, PROMPTS
from tasks.deciding import Facts, decide_games
from tasks.judge_identity import fingerprint_settings, judge_name, parser_settings
from tasks.judging import game_row

VERSION = 1
JOURNALS = "journals"  # folder of the verdicts that a killed run had
Row = dict[str, Any]
Places = dict[tuple[str, Bracket], Row]  # who won a bracket of a prompt


class Match(NamedTuple):
    """The winners of a bracket's two parts, as rows of `completions`."""

    prompt_id: str
    bracket: Bracket
    left: Row
    right: Row


def play_knockouts(
    drafts: Artifact,
    prompts: Artifact,
    judge: JudgeSettings,
    home: Path,
    *,
    seed: int,
    resources: Resources | None = None,
    spent: Spent | None = None,
) -> Artifact:
    """Every bracket of every prompt's drafts: the artifact `knockouts`, with matches as parts and their games beside them.

    A match without a better draft (a tie, identical texts, a verdict missing in one order) is decided by a coin from `seed`.
    Raises what `decide_games` raises; nothing is then marked complete, and the verdicts there are stay.
    """
    asked = {"judge": fingerprint_settings(judge), "seed": seed} | parser_settings(judge)
    parents = {"completions": drafts, "prompts": prompts}
    fingerprint = compute_fingerprint("knockouts", VERSION, asked, parents)
    found = find_artifact(home, "knockouts", fingerprint)
    if found is not None:
        return found
    with writing(home, "knockouts", fingerprint, version=VERSION, settings=asked, parents=parents) as writer:
        if writer.artifact is not None:
            return writer.artifact
        asking = {"resources": resources, "spent": spent or Spent()}  # one budget for all rounds
        return _Knockouts(drafts, prompts, judge, home, seed, asking, writer).play()


class _Knockouts:
    """One artifact in the making: the rounds are played one after the other, all prompts' matches of a round together."""

    def __init__(
        self,
        drafts: Artifact,
        prompts: Artifact,
        judge: JudgeSettings,
        home: Path,
        seed: int,
        asking: dict[str, Any],
        writer: ArtifactWriter,
    ) -> None:
        self.judge, self.home, self.seed, self.asking, self.writer = judge, home, seed, asking, writer
        self.name = judge_name(judge)
        self.facts: Facts = {}  # of all rounds together
        read = prompts.read(PROMPTS, columns=["prompt_id", "prompt"]).to_pylist()
        self.prompts: dict[str, Prompt] = {row["prompt_id"]: row["prompt"] for row in read}
        columns = ["completion_id", "prompt_id", "sample_index", "text"]
        rows = sorted(drafts.read(COMPLETIONS, columns=columns).to_pylist(), key=lambda r: (r["prompt_id"], r["sample_index"]))
        self.drafts = {prompt_id: list(own) for prompt_id, own in groupby(rows, key=lambda row: row["prompt_id"])}
        self.winners: Places = {}
        self.scores: dict[str, float | None] = {}  # of every game asked: two brackets may need the same one
        self.matches = PartStream(writer, KNOCKOUT_MATCHES)
        self.games = PartStream(writer, GAMES, "games")
        self.counts = Counter({"decided_by_coin": 0, "games_unscored": 0})

    def play(self) -> Artifact:
        """All rounds, then the manifest."""
        brackets = {prompt_id: list_brackets(len(own)) for prompt_id, own in self.drafts.items()}
        for prompt_id, own in self.drafts.items():
            self.winners |= {(prompt_id, Bracket(place, 1)): row for place, row in enumerate(own)}
        for number in range(1, max((one.round for own in brackets.values() for one in own), default=0) + 1):
            matches = [self._match(name, one) for name, own in brackets.items() for one in own if one.round == number]
            self._ask({game.game_id: game for match in matches for game in self._games(match)}, f"round-{number}")
            for match in matches:
                self._settle(match, [self.scores.get(game.game_id) for game in self._games(match)])
        files = [*self.matches.close(), *self.games.close()]
        counts = {"matches": self.matches.num_rows, "games": self.games.num_rows} | dict(sorted(self.counts.items()))
        artifact = self.writer.complete(files, counts=counts, info=self.facts | {"judge": self.name})
        shutil.rmtree(self.writer.path / JOURNALS, ignore_errors=True)
        return artifact

    def _match(self, prompt_id: str, bracket: Bracket) -> Match:
        left, right = bracket.halves
        return Match(prompt_id, bracket, self.winners[prompt_id, left], self.winners[prompt_id, right])

    def _ask(self, games: Mapping[str, JudgeGame], round_name: str) -> None:
        """Put to the judge what was not asked yet; identical texts need no question."""
        new = [game for name, game in games.items() if name not in self.scores and not is_identical(game)]
        folder = self.writer.path / JOURNALS / round_name
        asking = self.asking | {"facts": self.facts, "about": f"knockout {round_name}"}
        for game, verdict in decide_games(new, self.judge, self.home, journal_folder=folder, **asking):
            self.scores[game.game_id] = verdict.score
            self.games.add_row(game_row(game, verdict, self.name))
            self.counts["games_unscored"] += verdict.score is None

    def _games(self, match: Match) -> Iterable[JudgeGame]:
        for order in ORDERS:
            left, right = match.left, match.right
            yield JudgeGame(
                game_id=content_id("knockout", *_texts(left), *_texts(right), order, self.name),
                prompt=self.prompts[match.prompt_id],
                prompt_id=match.prompt_id,
                candidate_id=left["completion_id"],
                candidate_text=left["text"],
                opponent_id=right["completion_id"],
                opponent_text=right["text"],
                order=order,
            )

    def _settle(self, match: Match, scores: Sequence[float | None]) -> None:
        known = [score for score in scores if score is not None]
        score = sum(known) / len(known) if len(known) == len(ORDERS) else None
        decided = score is not None and score != 0.5
        left_wins = self._coin(match) if score is None or score == 0.5 else score > 0.5
        winner = match.left if left_wins else match.right
        self.winners[match.prompt_id, match.bracket] = winner
        self.counts["decided_by_coin"] += not decided
        self.matches.add_row(
            {
                "prompt_id": match.prompt_id,
                "start": match.bracket.start,
                "size": match.bracket.size,
                "left_sample": match.left["sample_index"],
                "right_sample": match.right["sample_index"],
                "score": score,
                "decided_by": "judge" if decided else "coin",
                "winner_sample": winner["sample_index"],
            }
        )

    def _coin(self, match: Match) -> bool:
        """Heads: the left one. The same whenever it is asked for, so that a match is settled alike in every attempt."""
        return seed_from(self.seed, "knockout", match.prompt_id, *match.bracket) % 2 == 0


def _texts(draft: Mapping[str, Any]) -> tuple[str, str]:
    return draft["completion_id"], draft["text"]


def read_winners(knockouts: Artifact) -> Iterator[tuple[str, dict[Bracket, int]]]:
    """For each prompt the sample that won each bracket of two or more drafts."""
    rows = knockouts.read(KNOCKOUT_MATCHES, columns=["prompt_id", "start", "size", "winner_sample"]).to_pylist()
    for prompt_id, own in groupby(sorted(rows, key=lambda row: row["prompt_id"]), key=lambda row: row["prompt_id"]):
        yield prompt_id, {Bracket(row["start"], row["size"]): row["winner_sample"] for row in own}
