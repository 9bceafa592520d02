"""What a judging would send and cost, before anything is sent: `srpo judge --plan`. No key is needed.

Estimates take four characters for a token. What is said "at most" takes the sizes that a budget sets aside, a token for each
byte of a prompt and the longest replies that the settings allow, and counts the questions that probe the server. Further
attempts after faults come on top.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.judging.capabilities import most_probe_requests, probe_request
from srpo_core.judging.judge_presets import find_preset
from srpo_core.judging.judge_requests import estimate_tokens, most_tokens
from srpo_core.judging.judges import JudgeGame, is_failed_call, is_identical
from srpo_core.judging.reply_reading import cost_of
from srpo_core.settings.judges import ApiJudgeSettings
from storage.reply_ledger import ReplyLedger
from tasks.judge_identity import judge_name
from tasks.judging import Match, find_games


class JudgingPlan(NamedTuple):
    """The questions about some completions."""

    judge: str
    games: int
    identical: int  # a tie without a question
    stored: int  # answered already
    repeated: int  # the same question as another one here
    requests: int
    probe_requests_at_most: int  # with which a server is asked once a day what it honours; all below counts them in "at most"
    prompt_tokens_estimated: int
    prompt_tokens_at_most: int
    completion_tokens_at_most: int | None  # None: the settings do not bound a reply
    cost_estimated: float | None  # in the currency of the stated prices, every reply of the longest; None: unknown
    cost_at_most: float | None


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
_NOTHING_SENT |= {"prompt_tokens_at_most": 0, "completion_tokens_at_most": 0, "cost_estimated": 0.0, "cost_at_most": 0.0}


class _Counter:
    """Counts the questions that a model judge has not answered yet."""

    def __init__(self, settings: ApiJudgeSettings, ledger: ReplyLedger, asked: set[str]) -> None:
        from srpo_core.judging.api_judge import ApiJudge  # here, because importing the client takes a second

        self._settings, self._asked = settings, asked
        self._judge = ApiJudge(settings, ledger, name=judge_name(settings))
        self._requests = self._repeated = self._estimated = self._most = 0

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
        request = self._judge.request(game)
        self._estimated += estimate_tokens(request)
        self._most += most_tokens(request)
        return False

    def totals(self) -> dict[str, Any]:
        """The columns of a plan that are about requests."""
        limit = self._settings.max_tokens
        probes = self._probes()
        prompt = self._most + probes * most_tokens(probe_request(find_preset(self._settings.preset), self._settings))
        replies = None if limit is None and self._requests else (limit or 0) * self._requests
        completion = None if replies is None else replies + (limit or 0) * probes
        return {
            "repeated": self._repeated,
            "requests": self._requests,
            "probe_requests_at_most": probes,
            "prompt_tokens_estimated": self._estimated,
            "prompt_tokens_at_most": prompt,
            "completion_tokens_at_most": completion,
            "cost_estimated": cost_of(self._settings, self._estimated, replies),
            "cost_at_most": cost_of(self._settings, prompt, completion),
        }

    def _probes(self) -> int:
        """One probe serves all that is asked of a judge, so only the first of several plans counts it."""
        known = f"probe of {self._judge.name}"
        if not self._requests or known in self._asked or self._judge.find_capabilities() is not None:
            return 0
        self._asked.add(known)
        return most_probe_requests(self._settings)
