"""The judging stage: completions and prompts in, one row per game out (table `games`).

A killed run started again reads its journal and the reply ledger first and asks only for what neither holds. A game whose call
failed after all attempts is unscored and counted; `retry_failed_calls` asks for just those. `reread_replies` reads the stored
replies again without a call. Both replace a complete artifact: it stays as it is until the new one is complete.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.errors import InputError
from srpo_core.judging.judges import JudgeGame, Verdict, is_failed_call, unscored
from srpo_core.judging.request_limits import Spent
from srpo_core.settings.judges import ApiJudgeSettings, JudgeSettings
from srpo_core.settings.resources import Resources
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, writing
from storage.names import name_artifact
from storage.part_stream import PartStream
from storage.schemas import GAMES
from tasks.deciding import Facts, decide_games, find_stored, remove_working_files
from tasks.judge_games import GamePlan
from tasks.judge_identity import fingerprint_settings, is_other_model, judge_name, parser_settings

VERSION = 1
ROWS_PER_PART = 5000  # about 10 MB of memory while they are collected
NO_REPLY = "api_error:no_reply_stored"  # counts as a failed call: it may be asked again
logger = logging.getLogger("srpo.judge")

Row = dict[str, Any]
Rows = Iterator[Row]


class Match(NamedTuple):
    """What plays whom, before whom."""

    completions: Artifact
    prompts: list[Artifact]
    settings: JudgeSettings
    opponents: Artifact | None = None  # None: the gold texts
    opponent_revision_index: int | None = None

    @property
    def repeats(self) -> int:
        """How often each question is asked."""
        return self.settings.repeats if isinstance(self.settings, ApiJudgeSettings) else 1

    @property
    def asked(self) -> dict[str, Any]:
        """The settings that change the games."""
        asked = {"judge": fingerprint_settings(self.settings), "opponent_revision_index": self.opponent_revision_index}
        return asked | parser_settings(self.settings) | ({"repeats": self.repeats} if self.repeats > 1 else {})

    @property
    def parents(self) -> dict[str, Artifact]:
        """By role; prompt sets in the order of their digests, so that naming them in another order is the same question."""
        ordered = sorted(self.prompts, key=lambda artifact: artifact.digest)
        parents = {"completions": self.completions} | {f"prompts_{i}": artifact for i, artifact in enumerate(ordered)}
        return parents if self.opponents is None else parents | {"opponents": self.opponents}

    def plan(self) -> GamePlan:
        """The games. Raises InputError when prompts, gold or opponents are missing."""
        if (self.opponents is None) != (self.opponent_revision_index is None):
            raise InputError(
                "expected opponents together with opponent_revision_index (--opponent-revision), found only one; "
                "give both or neither"
            )
        name = judge_name(self.settings)
        return GamePlan(self.completions, self.prompts, self.opponents, self.opponent_revision_index, name, self.repeats)


def judge_completions(
    completions: Artifact,
    prompts: list[Artifact],
    settings: JudgeSettings,
    home: Path,
    *,
    opponents: Artifact | None = None,
    opponent_revision_index: int | None = None,
    resources: Resources | None = None,
    spent: Spent | None = None,
) -> Artifact:
    """Judge every completion against each gold, or against `opponents`' completion of the same prompt, in both orders.

    Writes the artifact `games`. `spent` lets several stages share a budget. Raises InputError for unusable prompts, opponents,
    presets or a missing key, and WorkFailed when the judge cannot be reached, goes down or its budget is spent; nothing is then
    marked complete and no reply is lost.
    """
    match = Match(completions, prompts, settings, opponents, opponent_revision_index)
    found = find_games(match, home)
    if found is not None:
        return found
    plan = match.plan()
    with _writing(match, home) as writer:
        if writer.artifact is not None:
            return writer.artifact
        facts: Facts = {}
        options = {"journal_folder": writer.path, "resources": resources, "spent": spent, "facts": facts}
        options["about"] = name_artifact(completions)
        name = judge_name(settings)
        rows = (game_row(game, verdict, name) for game, verdict in decide_games(plan, settings, home, **options))
        return _complete(writer, rows, match, plan.prompts_without_gold, facts)


def retry_failed_calls(match: Match, home: Path, *, spent: Spent | None = None) -> Artifact:
    """Ask again for the games of a complete artifact whose call failed; every other verdict stays. Raises as judging does."""
    settings = _api_settings(match)
    with _writing(match, home) as writer:
        old = writer.artifact
        if old is None:
            raise InputError(
                f"expected complete games of these completions by {judge_name(settings)} in {home}, found none; "
                "run the same command without --retry-failed"
            )
        failed = {row["game_id"] for row in old.rows() if is_failed_call(row["unscored_reason"])}
        if not failed:
            return old
        games = [game for game in match.plan() if game.game_id in failed]
        facts = _facts_of(old)  # what these calls take is added to what the others took
        name = judge_name(settings)
        asking: dict[str, Any] = {"spent": spent, "facts": facts, "about": name_artifact(match.completions)}
        decided = decide_games(games, settings, home, journal_folder=writer.path, **asking)
        answered = {game.game_id: game_row(game, verdict, name) for game, verdict in decided}
        rows = (answered.get(row["game_id"], row) for row in old.rows())
        return _complete(writer, rows, match, old.counts["prompts_without_gold"], facts)


def reread_replies(match: Match, home: Path) -> Artifact:
    """Read the stored replies again, without a call; a game without one keeps its reason, or is unscored as a failed call.

    Raises InputError when no reply is stored at all.
    """
    settings = _api_settings(match)
    plan, name = match.plan(), judge_name(settings)
    _refuse_without(sum(verdict is None for _, verdict in find_stored(plan, settings, home)), len(plan), home)
    with _writing(match, home) as writer:
        old = writer.artifact
        failed = {row["game_id"]: row for row in old.rows() if is_failed_call(row["unscored_reason"])} if old else {}
        rows = (
            failed.get(game.game_id) or game_row(game, unscored(NO_REPLY), name)
            if verdict is None
            else game_row(game, verdict, name)
            for game, verdict in find_stored(plan, settings, home)
        )
        return _complete(writer, rows, match, plan.prompts_without_gold, _facts_of(old) if old else {})


def find_games(match: Match, home: Path) -> Artifact | None:
    """The complete games of `match`, or None."""
    return find_artifact(home, "games", compute_fingerprint("games", VERSION, match.asked, match.parents))


def game_row(game: JudgeGame, verdict: Verdict, judge: str) -> Row:
    """A row of the table `games`."""
    named = {
        "game_id": game.game_id,
        "prompt_id": game.prompt_id,
        "candidate": game.candidate_id,
        "opponent": game.opponent_id,
        "order": game.order,
        "judge": judge,
        "repeat_index": game.repeat_index,
    }
    return named | {name: getattr(verdict, name) for name in GAMES.names if name not in named}


class VerdictCounts:
    """Games scored and unscored, the unscored by reason, and who answered; counted row by row."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Nothing is counted yet."""
        self._model = settings.model if isinstance(settings, ApiJudgeSettings) else None
        self._games = self._identical = self._truncated = self._other_model = 0
        self._reasons: Counter[str] = Counter()
        self.models_answered: Counter[str] = Counter()

    def add(self, row: Row) -> Row:
        """Count a row and hand it on."""
        self._games += 1
        self._identical += bool(row.get("identical"))
        self._truncated += bool(row.get("prompt_truncated")) and row["outcome"] != "unscored"
        if row["outcome"] == "unscored":
            self._reasons[row["unscored_reason"]] += 1
        if row["model_answered"]:
            self.models_answered[row["model_answered"]] += 1
            self._other_model += self._model is not None and is_other_model(row["model_answered"], self._model)
        return row

    def counts(self) -> dict[str, int]:
        """By name, as manifests have them."""
        unscored_games = self._reasons.total()
        counts = {"identical": self._identical, "games": self._games, "scored": self._games - unscored_games}
        counts |= {"unscored": unscored_games} | {f"unscored:{reason}": n for reason, n in sorted(self._reasons.items())}
        counts |= {"prompts_truncated": self._truncated} if self._truncated else {}
        return counts if self._model is None else counts | {"answered_by_other_model": self._other_model}


def _writing(match: Match, home: Path) -> Any:
    asked, parents = match.asked, match.parents
    fingerprint = compute_fingerprint("games", VERSION, asked, parents)
    return writing(home, "games", fingerprint, version=VERSION, settings=asked, parents=parents)


def _facts_of(old: Artifact) -> Facts:
    """What is known of games that others replace, with when they were first complete: their replies were paid for by then."""
    return {"first_complete_at": old.manifest["created_at"]} | old.info


def _complete(writer: ArtifactWriter, rows: Rows, match: Match, prompts_without_gold: int, facts: Facts) -> Artifact:
    """Write `rows` beside what an earlier attempt wrote, list them in the manifest, then remove what is not listed."""
    attempts = [int(path.stem.rsplit("-", 1)[1]) for path in writer.finished_parts()]
    counts = VerdictCounts(match.settings)
    stream = PartStream(writer, GAMES, attempt=max(attempts, default=-1) + 1, rows_per_part=ROWS_PER_PART)
    for row in rows:
        stream.add_row(counts.add(row))
    files = stream.close()
    info = facts | {"judge": judge_name(match.settings), "models_answered": dict(counts.models_answered)}
    artifact = writer.complete(files, counts={"prompts_without_gold": prompts_without_gold} | counts.counts(), info=info)
    for path in set(writer.finished_parts()) - set(files):
        path.unlink()
    remove_working_files(writer.path)
    _warn(artifact, match.settings)
    return artifact


def _api_settings(match: Match) -> ApiJudgeSettings:
    if not isinstance(match.settings, ApiJudgeSettings):
        raise InputError(
            f"expected an api judge, whose calls can fail and whose replies are stored, found {match.settings.kind}; "
            "leave out --retry-failed and --reparse"
        )
    return match.settings


def _refuse_without(without: int, games: int, home: Path) -> None:
    if without == games:
        raise InputError(
            f"expected stored replies for these games in {home}, found none for any of {games}; "
            "run the same command without --reparse to ask"
        )
    if without:
        logger.warning("%d of %d games have no stored reply and are unscored; --retry-failed asks for them", without, games)


def _warn(artifact: Artifact, settings: JudgeSettings) -> None:
    counts = artifact.counts
    other = counts.get("answered_by_other_model", 0)
    if other and isinstance(settings, ApiJudgeSettings):
        logger.warning("%d of %d games were answered by another model than %s", other, counts["games"], settings.model)
    failed = sum(n for name, n in counts.items() if is_failed_call(name.removeprefix("unscored:")))
    if failed:
        logger.warning(
            "%d of %d games have no reply after all attempts and are unscored; srpo judge --retry-failed asks for just those",
            failed,
            counts["games"],
        )
