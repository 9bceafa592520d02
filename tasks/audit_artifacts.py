"""A judge asked about the games of an audit, and the artifact `audits` that an audit becomes.

The several rounds of one audit share a budget, and what the server was found to honour is kept with the artifact.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from srpo_core.judging.judges import JudgeGame, Verdict, is_failed_call
from srpo_core.judging.request_limits import Spent
from srpo_core.scoring.win_rate import without_nan
from srpo_core.settings.judges import ApiJudgeSettings, JudgeSettings
from srpo_core.settings.resources import Resources
from storage import parquet
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, writing
from storage.schemas import JUDGED
from tasks.deciding import Facts, decide_games
from tasks.judge_identity import fingerprint_settings, is_other_model, judge_name, parser_settings
from tasks.log_lines import below_home

logger = logging.getLogger("srpo.judge")
Row = dict[str, Any]
Decided = dict[str, tuple[JudgeGame, Verdict]]  # by game id


@dataclass(frozen=True)
class AskedJudge:
    """A judge with all that it takes to ask it."""

    settings: JudgeSettings
    home: Path
    resources: Resources | None = None
    spent: Spent = field(default_factory=Spent)
    facts: Facts = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The judge in tables."""
        return judge_name(self.settings)

    def decide(self, games: Sequence[JudgeGame], folder: Path) -> Decided:
        """Every verdict, in the order of `games`; `folder` keeps what a killed run had."""
        folder.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"resources": self.resources, "spent": self.spent, "facts": self.facts}
        options["about"] = f"audit {folder.name}"
        decided = decide_games(games, self.settings, self.home, journal_folder=folder, **options)
        found = {game.game_id: (game, verdict) for game, verdict in decided}
        self._warn_of_other_models({verdict.model_answered for _, verdict in found.values() if verdict.model_answered})
        return found

    def _warn_of_other_models(self, answered: set[str]) -> None:
        asked = self.settings.model if isinstance(self.settings, ApiJudgeSettings) else None
        other = sorted(name for name in answered if asked is not None and is_other_model(name, asked))
        if other:
            logger.warning(
                "expected answers of %s, found answers of %s; look at judge.model and the server", asked, ", ".join(other)
            )

    def columns(self, game: JudgeGame, verdict: Verdict) -> Row:
        """The columns that the tables of all audits have."""
        own = {"game_id": game.game_id, "prompt_id": game.prompt_id, "order": game.order, "repeat_index": game.repeat_index}
        named = own | {"judge": self.name}
        return named | {column.name: getattr(verdict, column.name) for column in JUDGED if column.name not in named}


def judged_by(settings: JudgeSettings) -> dict[str, Any]:
    """What of a judge and of the reading of its replies changes verdicts: part of every audit's fingerprint."""
    return fingerprint_settings(settings) | parser_settings(settings)


def complete_audit(
    source: Artifact,
    judge: AskedJudge,
    version: int,
    asked: Row,
    rounds: Sequence[str],
    work: Callable[[ArtifactWriter], Artifact],
) -> Artifact:
    """The audit that is there already, or what `work` makes of a writer; `rounds` are its folders, which are then removed."""
    asked, parents = asked | {"judge": judged_by(judge.settings)}, {"source": source}
    fingerprint = compute_fingerprint("audits", version, asked, parents)
    found = find_artifact(judge.home, "audits", fingerprint)
    if found is not None:
        return found
    with writing(judge.home, "audits", fingerprint, version=version, settings=asked, parents=parents) as writer:
        artifact = writer.artifact or work(writer)
    for name in rounds:
        shutil.rmtree(artifact.path / name, ignore_errors=True)
    _warn_of_failed_calls(artifact)
    return artifact


def write_table(writer: ArtifactWriter, prefix: str, rows: Sequence[Row], schema: pa.Schema) -> Path:
    """Write one part `prefix-*`; a number that does not exist is null."""
    path = writer.part_path(0, prefix)
    parquet.write_rows(path, map(without_nan, rows), schema)
    return path


def count_unscored(rows: Sequence[Row]) -> dict[str, int]:
    """Games, those without a score, and of these the calls that failed."""
    return {
        "games": len(rows),
        "unscored": sum(row["score"] is None for row in rows),
        "failed_calls": sum(is_failed_call(row["unscored_reason"]) for row in rows),
    }


def _warn_of_failed_calls(artifact: Artifact) -> None:
    if artifact.counts["failed_calls"]:
        logger.warning(
            "%d of %d games of the audit have no reply after all attempts; delete %s in the home and run again to ask for them",
            artifact.counts["failed_calls"],
            artifact.counts["games"],
            below_home(artifact.path),
        )
