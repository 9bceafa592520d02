"""The judging stage: completions and prompts in, one row per game out (table `games`).

A killed run started again reads its journal and the reply ledger first and asks only for what neither holds. A game whose call
failed after all attempts is unscored and counted; delete the artifact's folder and run again to ask for just those.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from srpo_core.config import ApiJudgeSettings, JudgeSettings
from srpo_core.errors import InputError
from srpo_core.judge_presets import find_preset
from srpo_core.judges import IDENTICAL, JudgeGame, Verdict, is_failed_call, outcome_of, resolve_base_url
from srpo_core.judging_queue import Keep, ask_judge
from srpo_core.records import Prompt
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, hash_of, writing
from storage.journal import list_journals, new_journal, read_journal, write_parts
from storage.reply_ledger import ReplyLedger
from storage.schemas import GAMES
from tasks.judge_games import plan_games

VERSION = 1
_RULE_ROWS_PER_PART = 100_000  # computed in one go: small parts would only cost time
logger = logging.getLogger("srpo.judge")

Row = dict[str, Any]


def judge_completions(
    completions: Artifact,
    prompts: list[Artifact],
    settings: JudgeSettings,
    home: Path,
    *,
    opponents: Artifact | None = None,
    opponent_revision_index: int | None = None,
) -> Artifact:
    """Judge every completion against each gold, or against `opponents`' completion of the same prompt, in both orders.

    Writes the artifact `games`. Raises InputError for unusable prompts, opponents, presets or a missing key, and WorkFailed when
    the judge cannot be reached or goes down; nothing is then marked complete and no reply is lost.
    """
    if (opponents is None) != (opponent_revision_index is None):
        raise InputError("expected opponents together with opponent_revision_index, found only one of them; give both or neither")
    judged_by = fingerprint_settings(settings)
    asked = {"judge": judged_by, "opponent_revision_index": opponent_revision_index}
    parents = _parents(completions, prompts, opponents)
    fingerprint = compute_fingerprint("games", VERSION, asked, parents)
    found = find_artifact(home, "games", fingerprint)
    if found is not None:
        return found
    name = judge_name(settings)
    plan = plan_games(completions, prompts, opponents, opponent_revision_index, name)
    with writing(home, "games", fingerprint, version=VERSION, settings=asked, parents=parents) as writer:
        if writer.artifact is not None:
            return writer.artifact
        counts = {"prompts_without_gold": plan.prompts_without_gold}
        if isinstance(settings, ApiJudgeSettings):
            return _finish_api(writer, plan.games, settings, home, name, counts)
        counts |= {"identical": sum(map(_is_identical, plan.games))}
        rows = [_row(game, verdict, name) for game, verdict in _decide_by_rule(plan.games)]
        files = write_parts(writer, rows, GAMES, _RULE_ROWS_PER_PART)
        return writer.complete(files, counts=counts | count_verdicts(rows), info={"judge": name})


def fingerprint_settings(settings: JudgeSettings) -> dict[str, Any]:
    """What of a judge's settings changes its numbers; the rest is speed, prices and patience."""
    if not isinstance(settings, ApiJudgeSettings):
        return {"kind": settings.kind}
    chosen = settings.model_dump(include={"kind", "model", "preset", "temperature", "max_tokens", "structured"})
    return chosen | {"base_url": resolve_base_url(settings), "preset_hash": find_preset(settings.preset).hash}


def judge_name(settings: JudgeSettings) -> str:
    """The judge in tables: rule, or model:preset:hash, where the hash tells apart what changes numbers."""
    if not isinstance(settings, ApiJudgeSettings):
        return settings.kind
    return f"{settings.model}:{settings.preset}:{hash_of(fingerprint_settings(settings), 6)}"


def count_verdicts(rows: Sequence[Row]) -> dict[str, int]:
    """Games scored and unscored, and the unscored by reason."""
    reasons = Counter(row["unscored_reason"] for row in rows if row["outcome"] == "unscored")
    counts = {"games": len(rows), "scored": len(rows) - reasons.total(), "unscored": reasons.total()}
    return counts | {f"unscored:{reason}": n for reason, n in sorted(reasons.items())}


def _parents(completions: Artifact, prompts: list[Artifact], opponents: Artifact | None) -> dict[str, Artifact]:
    """By role; prompt sets in the order of their digests, so that naming them in another order is the same question."""
    ordered = sorted(prompts, key=lambda artifact: artifact.digest)
    parents = {"completions": completions} | {f"prompts_{i}": artifact for i, artifact in enumerate(ordered)}
    return parents if opponents is None else parents | {"opponents": opponents}


def _is_identical(game: JudgeGame) -> bool:
    return game.candidate_text.strip() == game.opponent_text.strip()


def _row(game: JudgeGame, verdict: Verdict, judge: str) -> Row:
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


def _decide_by_rule(games: Sequence[JudgeGame]) -> Iterator[tuple[JudgeGame, Verdict]]:
    """The newsroom's exact probability; it knows no order, so one computation serves both."""
    from srpo_core.newsroom import preference_probability

    probability = cache(preference_probability)
    for game in games:
        if _is_identical(game):
            yield game, IDENTICAL
        else:
            try:
                score = probability(_document(game.prompt), game.candidate_text, game.opponent_text)
            except ValueError as error:
                raise InputError(
                    f"expected newsroom documents for the rule judge, found prompt {game.prompt_id} ({error}); use an api judge"
                ) from error
            yield game, Verdict(outcome_of(score), score)


def _document(prompt: Prompt) -> str:
    """What the user gave to summarise: the last user turn."""
    turns = [turn["content"] for turn in prompt if turn["role"] == "user"]
    if not turns:
        raise InputError("expected a user turn in every prompt the rule judge reads, found none; use prompts with a document")
    return turns[-1]


def _finish_api(
    writer: ArtifactWriter, games: list[JudgeGame], settings: ApiJudgeSettings, home: Path, name: str, counts: dict[str, int]
) -> Artifact:
    """Ask what is not known yet, then compact everything into parts in the order of the plan."""
    journals = list_journals(writer.path)
    rows = {game.game_id: _row(game, IDENTICAL, name) for game in games if _is_identical(game)}
    counts = counts | {"identical": len(rows)}
    rows |= _journalled_rows(journals, {game.game_id for game in games})
    with new_journal(writer.path) as journal, ReplyLedger(home) as ledger:

        def keep(game: JudgeGame, verdict: Verdict) -> None:
            rows[game.game_id] = _row(game, verdict, name)
            journal.append(rows[game.game_id])

        pending = [game for game in games if game.game_id not in rows]
        info = run_in_own_loop(_ask(pending, settings, ledger, name, keep, len(rows)))
    ordered = [rows[game.game_id] for game in games]
    other = sum(_is_other_model(row["model_answered"], settings.model) for row in ordered)
    if other:
        logger.warning("%d of %d games were answered by another model than %s", other, len(ordered), settings.model)
    counts |= count_verdicts(ordered) | {"answered_by_other_model": other}
    info |= {"judge": name, "models_answered": dict(Counter(r["model_answered"] for r in ordered if r["model_answered"]))}
    artifact = writer.complete(write_parts(writer, ordered, GAMES), counts=counts, info=info)
    for path in [*journals, journal.path]:
        path.unlink()
    _warn_of_failed_calls(artifact)
    return artifact


def _journalled_rows(journals: list[Path], planned: set[str]) -> dict[str, Row]:
    """Verdicts of earlier, interrupted attempts. A failed call is no verdict: it is asked again."""
    rows = (row for path in journals for row in read_journal(path))
    return {row["game_id"]: row for row in rows if row["game_id"] in planned and not is_failed_call(row["unscored_reason"])}


async def _ask(
    games: list[JudgeGame], settings: ApiJudgeSettings, ledger: ReplyLedger, name: str, keep: Keep, known: int
) -> dict[str, Any]:
    """Take kept replies first, ask for the rest, and tell how it went."""
    from srpo_core.api_judge import ApiJudge  # here, because importing the client takes a second

    async with ApiJudge(settings, ledger, name=name) as judge:
        pending = []
        for game in games:
            verdict = judge.find_verdict(game)
            if verdict is None:
                pending.append(game)
            else:
                keep(game, verdict)
        logger.info("%d games: %d to ask, %d known", known + len(games), len(pending), known + len(games) - len(pending))
        await ask_judge(
            judge, pending, keep, max_concurrency=settings.max_concurrency, answered_before=known + len(games) - len(pending)
        )
        return {"requests_answered": judge.requests_answered, "reply_schema": judge.reply_schema}


def run_in_own_loop(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Run `work` to its end, also from a notebook, whose thread already runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _is_other_model(answered: str | None, asked: str) -> bool:
    """Servers add a version (gpt-x-2025-01-01, name@main) or drop a folder; anything else is another model."""
    return answered is not None and not answered.startswith(asked) and not asked.endswith(answered)


def _warn_of_failed_calls(artifact: Artifact) -> None:
    failed = sum(n for name, n in artifact.counts.items() if is_failed_call(name.removeprefix("unscored:")))
    if failed:
        logger.warning(
            "%d of %d games have no reply after all attempts and are unscored; delete %s and run again to ask for just those",
            failed,
            artifact.counts["games"],
            artifact.path,
        )
