"""What a judging would send and cost, before anything is sent: `srpo judge --plan`. No key is needed.

Prompt tokens are estimated at four characters each; completion tokens are the most that the settings allow; money is the two at
the stated prices. Further attempts after faults come on top.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.config import ApiJudgeSettings
from srpo_core.judging.judge_requests import estimate_tokens
from srpo_core.judging.judges import JudgeGame, is_failed_call, is_identical
from srpo_core.judging.reply_reading import cost_of
from storage.reply_ledger import ReplyLedger
from tasks.judge_identity import judge_name
from tasks.judging import Match, find_games

MOST_PROBES = 7  # requests with which a server is asked once a day what it honours


class JudgingPlan(NamedTuple):
    """The questions about some completions."""

    judge: str
    games: int
    identical: int  # a tie without a question
    stored: int  # answered already
    repeated: int  # the same question as another one here
    requests: int
    probe_requests_at_most: int
    prompt_tokens_estimated: int
    completion_tokens_at_most: int | None  # None: the settings do not bound a reply
    cost_at_most: float | None  # in the currency of the stated prices; None: unknown


def plan_judging(matches: Sequence[Match], home: Path, *, retry_failed: bool = False) -> list[JudgingPlan]:
    """What each of `matches` would ask of its judge, in order; a question that an earlier one asks is not counted again.

    Complete games are not asked again, but for failed calls with `retry_failed`. Raises InputError when something is missing.
    """
    asked: set[str] = set()
    with ReplyLedger(home) as ledger:
        return [_plan(match, home, ledger, asked, retry_failed) for match in matches]


def _plan(match: Match, home: Path, ledger: ReplyLedger, asked: set[str], retry_failed: bool) -> JudgingPlan:
    found = find_games(match, home)
    wanted = (
        {row["game_id"] for row in found.rows() if is_failed_call(row["unscored_reason"])} if found and retry_failed else set()
    )
    settings = match.settings
    counter = _Counter(settings, ledger, asked) if isinstance(settings, ApiJudgeSettings) else None
    games = identical = stored = 0
    for game in match.plan():
        games += 1
        if is_identical(game):
            identical += 1
        elif found is not None and game.game_id not in wanted:
            stored += 1
        elif counter is not None:
            stored += counter.add(game)
    sent = _NOTHING_SENT if counter is None else counter.totals()
    return JudgingPlan(judge=judge_name(settings), games=games, identical=identical, stored=stored, **sent)


# Of a judge on this machine.
_NOTHING_SENT: dict[str, Any] = {"repeated": 0, "requests": 0, "probe_requests_at_most": 0, "prompt_tokens_estimated": 0}
_NOTHING_SENT |= {"completion_tokens_at_most": 0, "cost_at_most": 0.0}


class _Counter:
    """Counts the questions that a model judge has not answered yet."""

    def __init__(self, settings: ApiJudgeSettings, ledger: ReplyLedger, asked: set[str]) -> None:
        from srpo_core.judging.api_judge import ApiJudge  # here, because importing the client takes a second

        self._settings, self._asked = settings, asked
        self._judge = ApiJudge(settings, ledger, name=judge_name(settings))
        self._requests = self._tokens = self._repeated = 0

    def add(self, game: JudgeGame) -> bool:
        """Whether the question has an answer already; else it is counted."""
        key = self._judge.question_hash(game)
        if key in self._asked:
            self._repeated += 1
            return False
        if self._judge.find_reply(game) is not None:
            return True
        self._asked.add(key)
        self._requests += 1
        self._tokens += estimate_tokens(self._judge.request(game))
        return False

    def totals(self) -> dict[str, Any]:
        """The columns of a plan that are about requests."""
        limit = self._settings.max_tokens
        completion = 0 if not self._requests else None if limit is None else limit * self._requests
        probes = MOST_PROBES if self._requests and self._judge.find_capabilities() is None else 0
        return {
            "repeated": self._repeated,
            "requests": self._requests,
            "probe_requests_at_most": probes,
            "prompt_tokens_estimated": self._tokens,
            "completion_tokens_at_most": completion,
            "cost_at_most": cost_of(self._settings, self._tokens, completion),
        }
