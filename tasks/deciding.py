"""Any judge's verdicts on any games: the one way in which a judge is asked.

The rule judge computes. A model behind an address is asked for what neither the journals of the folder nor the reply ledger
holds; each verdict is journalled as it comes, so that a killed run loses only the requests in flight. A local model works through
workers that keep their parts. Games and verdicts stream: memory holds one offset a game, never the texts.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import fields
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srpo_core.errors import InputError, WorkFailed
from srpo_core.judging.judges import (
    IDENTICAL,
    Games,
    JudgeGame,
    Verdict,
    is_failed_call,
    is_identical,
    outcome_of,
    resolve_base_url,
)
from srpo_core.judging.judging_queue import Report, ask_judge
from srpo_core.judging.request_limits import Spent
from srpo_core.records import Prompt
from srpo_core.settings.judges import ApiJudgeSettings, JudgeSettings, RuleJudgeSettings
from srpo_core.settings.resources import Resources
from storage.artifact import hash_of
from storage.journal import JournalledRows, remove_journals
from storage.reply_ledger import ReplyLedger
from storage.request_rate import SharedRate
from tasks.judge_identity import judge_name
from tasks.progress import LOG_PERIOD, ProgressDisplay
from tasks.side_by_side import raise_if_stopped, stoppable

if TYPE_CHECKING:
    from srpo_core.judging.api_judge import ApiJudge

GAMES_PER_LOOK = 500  # of the rule judge, between two looks whether progress is due
LOCAL_FOLDER = "local"  # of a local judge's parts, beside the journals
_FIRST_WAIT = 0.5  # seconds before the second attempt of a request; doubles with each further one
_JOURNALLED = [field.name for field in fields(Verdict) if field.name != "reply"]  # the reply is in the ledger
logger = logging.getLogger("srpo.judge")

Decided = Iterator[tuple[JudgeGame, Verdict]]
Facts = dict[str, Any]


def decide_games(
    games: Iterable[JudgeGame],
    settings: JudgeSettings,
    home: Path,
    *,
    journal_folder: Path,
    resources: Resources | None = None,
    spent: Spent | None = None,
    facts: Facts | None = None,
    about: str = "games",
) -> Decided:
    """Every game with its verdict, in the order of `games`; identical texts are a tie without a question.

    `journal_folder` belongs to these games and this judge: a verdict in it counts by its game's id. `games` is read several
    times, so a mere iterator is put into a list first. `spent` goes on counting against the budget; `facts` receives what is
    worth knowing of the run; what several calls with one dict took adds up. `about` says in progress lines whose games these are.
    Raises InputError for a wrong setting or a missing key, and WorkFailed when the judge cannot be reached, goes down, or its
    budget is spent; what was answered by then is kept, and the same call goes on from there.
    """
    known = games if isinstance(games, Sized) and iter(games) is not games else list(games)
    told = {} if facts is None else facts
    if isinstance(settings, RuleJudgeSettings):
        yield from _decide_by_rule(known, about)  # type: ignore[arg-type]
    elif isinstance(settings, ApiJudgeSettings):
        yield from _decide_by_api(known, settings, home, journal_folder, spent, told, about)  # type: ignore[arg-type]
    else:
        from tasks.local_judging import decide_locally

        asked = (game for game in known if not is_identical(game))
        decided = decide_locally(asked, settings, resources or Resources(), journal_folder / LOCAL_FOLDER, about)
        yield from _with_identical(known, decided)


def remove_working_files(journal_folder: Path) -> None:
    """Delete journals and parts, once their verdicts stand in a complete artifact."""
    remove_journals(journal_folder)
    shutil.rmtree(journal_folder / LOCAL_FOLDER, ignore_errors=True)


def find_stored(games: Iterable[JudgeGame], settings: ApiJudgeSettings, home: Path) -> Iterator[tuple[JudgeGame, Verdict | None]]:
    """Every game with the verdict of its stored reply, read anew, or None where no reply is stored; nothing is asked."""
    from srpo_core.judging.api_judge import ApiJudge  # here, because importing the client takes a second

    with ReplyLedger(home) as ledger:
        judge = ApiJudge(settings, ledger, name=judge_name(settings))
        for game in games:
            yield game, IDENTICAL if is_identical(game) else judge.find_verdict(game)


class _Pending:
    """The games that a condition leaves, judged anew at each reading."""

    def __init__(self, games: Games, is_pending: Callable[[JudgeGame], bool], size: int) -> None:
        self._games, self._is_pending, self._size = games, is_pending, size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[JudgeGame]:
        for game in self._games:
            if self._is_pending(game):
                raise_if_stopped()  # what is in flight by then comes back first
                yield game


def _with_identical(games: Iterable[JudgeGame], decided: Decided) -> Decided:
    """Put the games with identical texts back between the `decided` others; without others nothing is started."""
    asked = 0
    for game in games:
        if is_identical(game):
            yield game, IDENTICAL
        else:
            asked += 1
            yield game, next(decided)[1]
    if asked:
        next(decided, None)  # lets it say what it has to say at its end


def _decide_by_rule(games: Games, about: str) -> Decided:
    """The newsroom's exact probability; it knows no order, so one computation serves both. Short work shows no progress."""
    with ProgressDisplay("judge", patience=LOG_PERIOD) as display:
        for done, decided in enumerate(_verdicts_by_rule(games), start=1):
            if done % GAMES_PER_LOOK == 0 or done == len(games):
                display.update(about, done, len(games), "games")
            yield decided


def _verdicts_by_rule(games: Games) -> Decided:
    from srpo_core.newsroom import preference_probability

    probability = lru_cache(maxsize=1000)(preference_probability)  # both orders, and revisions that changed nothing
    for game in games:
        if is_identical(game):
            yield game, IDENTICAL
        else:
            try:
                score = probability(_document(game.prompt), game.candidate_text, game.opponent_text)
            except ValueError as error:
                raise InputError(
                    f"expected newsroom documents for the rule judge, found prompt {game.prompt_id} ({error}); use another judge"
                ) from error
            yield game, Verdict(outcome_of(score), score)


def _document(prompt: Prompt) -> str:
    """What the user gave to summarise: the last user turn."""
    turns = [turn["content"] for turn in prompt if turn["role"] == "user"]
    if not turns:
        raise InputError("expected a user turn in every prompt the rule judge reads, found none; use prompts with a document")
    return turns[-1]


def _decide_by_api(
    games: Games, settings: ApiJudgeSettings, home: Path, folder: Path, spent: Spent | None, facts: Facts, about: str
) -> Decided:
    """Ask what is not known yet, then read all verdicts in the order of the games."""
    with JournalledRows(folder, "game_id", usable=_holds_a_verdict) as rows:
        with ReplyLedger(home) as ledger, ProgressDisplay("judge") as display:
            report = partial(_show_asking, display, about)
            _add_facts(facts, run_in_own_loop(_ask(games, settings, ledger, rows, spent, _shared_rate(settings, home), report)))
        for game in games:
            row = None if is_identical(game) else rows.find(game.game_id)
            if row is None and not is_identical(game):
                raise WorkFailed(f"expected a verdict on game {game.game_id} in {folder}, found none; run the same command again")
            yield game, IDENTICAL if row is None else Verdict(**{name: row[name] for name in _JOURNALLED if name in row})


def _show_asking(display: ProgressDisplay, about: str, done: int, total: int) -> None:
    display.update(about, done, total, "games")


def _add_facts(told: Facts, found: Facts) -> None:
    """Put what one call found out to what earlier calls did; where no capabilities are known, those known before stay."""
    before = told.get("spent", {})
    told["spent"] = {name: before.get(name, 0) + value for name, value in found["spent"].items()}
    told["requests_answered"] = told.get("requests_answered", 0) + found["requests_answered"]
    told["capabilities"] = found["capabilities"] or told.get("capabilities")


def _holds_a_verdict(row: Mapping[str, Any]) -> bool:
    """A failed call is no verdict: it is asked again."""
    return not is_failed_call(row["unscored_reason"])


def _shared_rate(settings: ApiJudgeSettings, home: Path) -> SharedRate | None:
    requests, tokens = settings.requests_per_minute, settings.tokens_per_minute
    if requests is None and tokens is None:
        return None
    name = hash_of([resolve_base_url(settings), settings.model])
    return SharedRate(home, name, requests_per_minute=requests, tokens_per_minute=tokens)


async def _ask(
    games: Games,
    settings: ApiJudgeSettings,
    ledger: ReplyLedger,
    rows: JournalledRows,
    spent: Spent | None,
    rate: SharedRate | None,
    report: Report,
) -> Facts:
    """Take kept replies first, ask for the rest, and tell how it went."""
    from srpo_core.judging.api_judge import ApiJudge  # here, because importing the client takes a second

    def keep(game: JudgeGame, verdict: Verdict) -> None:
        rows.append({"game_id": game.game_id} | {name: getattr(verdict, name) for name in _JOURNALLED})

    def is_pending(game: JudgeGame) -> bool:
        return not is_identical(game) and game.game_id not in rows

    spent = spent or Spent()
    how = {"spent": spent, "rate": rate, "backoff_seconds": _FIRST_WAIT}
    async with ApiJudge(settings, ledger, name=judge_name(settings), **how) as judge:  # type: ignore[arg-type]
        pending, total = _take_kept_replies(games, is_pending, judge.find_verdict if len(ledger) else None, keep)
        logger.info("%d games: %d to ask, %d known", total, pending, total - pending)
        has_answered = await _prepare(judge, ledger, spent) if pending else False
        waiting = _Pending(games, is_pending, pending)
        if pending:
            report(0, pending)
        options: dict[str, Any] = {"max_concurrency": settings.max_concurrency, "answered_before": total - pending}
        options["report"] = report
        await ask_judge(judge, waiting, keep, has_answered=has_answered, **options)
        return {
            "requests_answered": judge.requests_answered,
            "capabilities": judge.find_capabilities(),
            "spent": vars(judge.limits.own).copy(),
        }


async def _prepare(judge: "ApiJudge", ledger: ReplyLedger, spent: Spent) -> bool:
    """Whether the judge has answered just now; of stages side by side one probes the server, the others read what it found."""
    probing = spent.slots("probing", 1)
    await probing.take()
    try:
        len(ledger)  # reads what others kept meanwhile
        return await judge.prepare()
    finally:
        probing.give_back()


def _take_kept_replies(
    games: Iterable[JudgeGame],
    is_pending: Callable[[JudgeGame], bool],
    find: Callable[[JudgeGame], Verdict | None] | None,
    keep: Callable[[JudgeGame, Verdict], None],
) -> tuple[int, int]:
    """Hand the verdicts of kept replies to `keep`; how many games are left to ask, and how many there are."""
    pending = total = 0
    for game in games:
        total += 1
        if is_pending(game):
            verdict = find(game) if find is not None else None
            if verdict is None:
                pending += 1
            else:
                keep(game, verdict)
    return pending, total


def run_in_own_loop(work: Coroutine[Any, Any, Facts]) -> Facts:
    """Run `work` to its end, also from a notebook, whose thread already runs an event loop; of work side by side see there."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(stoppable(work))
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(copy_context().run, asyncio.run, work).result()
