"""Judges: what a game and a verdict are, and where a model judge is reached.

A game is two texts for one prompt, shown in one order; a verdict is seen from the candidate. The judge that asks a model is in
`api_judge.py`; the rule judge's arithmetic is in `newsroom.py`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from srpo_core.errors import InputError
from srpo_core.records import Order, Prompt
from srpo_core.settings.judges import ApiJudgeSettings

Outcome = Literal["win", "tie", "loss", "unscored"]
Rung = Literal["json_schema", "choice", "last_line"]  # how a model is asked to state its verdict, best first
API_ERROR = "api_error:"  # prefix of the reasons that stand for a failed call: no reply exists
DEFAULT_BASE_URL = "https://api.openai.com/v1"
# The server's answer to what was asked, not a sign that it is down or overloaded.
_FAULTS_OF_THE_REQUEST = ("BadRequestError", "UnprocessableEntityError", "PermissionDeniedError", "APIStatusError")


@dataclass(frozen=True)
class JudgeGame:
    """One question to a judge."""

    game_id: str
    prompt: Prompt
    prompt_id: str
    candidate_id: str
    candidate_text: str
    opponent_id: str  # gold:<index> or a completion id
    opponent_text: str
    order: Order  # as_is: the candidate is shown first
    repeat_index: int = 0


@dataclass(frozen=True)
class Verdict:
    """What a judge said of one game; the names are those of the table `games`, `reply` stays in the ledger."""

    outcome: Outcome
    score: float | None
    unscored_reason: str | None = None
    label: str | None = None
    request_hash: str | None = None
    model_answered: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None
    identical: bool = False
    rung: Rung | None = None
    judge_model: str | None = None
    prompt_hash: str | None = None
    parameters: str | None = None
    system_fingerprint: str | None = None
    request_id: str | None = None
    prompt_truncated: bool | None = None  # a local judge read a prompt without its end
    reply: str | None = None


class Judge(Protocol):
    """Anything that can decide a game."""

    name: str
    address: str  # where it is, for messages
    last_fault: str  # the last failed call in the server's words

    async def judge(self, game: JudgeGame) -> Verdict:
        """Decide `game`; a fault of this one game is an unscored verdict, a fault of the judge an exception."""
        ...


class Games(Protocol):
    """Games that can be counted, and read as often as needed."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __iter__(self) -> Iterator[JudgeGame]:
        """Read them from the first on."""
        ...


class ReplyStore(Protocol):
    """Where replies are kept by request hash."""

    def find(self, request_hash: str) -> dict[str, Any] | None:
        """The record kept under that hash, or None."""
        ...

    def keep(self, record: dict[str, Any]) -> None:
        """Keep a record; a failed call never comes here."""
        ...


class RequestRate(Protocol):
    """A limit on requests and tokens a minute, shared with whoever else asks the same model."""

    def reserve(self, tokens: int) -> float:
        """Take the next place for a request of about `tokens` and return the seconds to wait for it."""
        ...

    def settle(self, tokens: int) -> None:
        """Correct a request's estimate by so many tokens, which may be negative."""
        ...


IDENTICAL = Verdict("tie", 0.5, identical=True)  # the two texts are the same: nothing to ask


def outcome_of(score: float) -> Outcome:
    """A win above one half, a loss below."""
    return "win" if score > 0.5 else "loss" if score < 0.5 else "tie"


def unscored(reason: str, **facts: Any) -> Verdict:
    """A verdict without a score, which is neither a loss nor a tie."""
    return Verdict("unscored", None, reason, **facts)


def is_identical(game: JudgeGame) -> bool:
    """Whether both texts are the same but for white space around them."""
    return game.candidate_text.strip() == game.opponent_text.strip()


def is_failed_call(reason: str | None) -> bool:
    """Whether an unscored verdict stands for a call without a reply, which may be tried again."""
    return reason is not None and reason.startswith(API_ERROR)


def is_server_fault(reason: str | None) -> bool:
    """Whether a call failed for a reason that would fail other games as well."""
    return reason is not None and is_failed_call(reason) and reason.removeprefix(API_ERROR) not in _FAULTS_OF_THE_REQUEST


def resolve_base_url(settings: ApiJudgeSettings) -> str:
    """The server a judge's requests go to, without a trailing slash."""
    return (settings.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")


def secret_block(variable: str) -> str:
    """The Prefect Secret block that stands in for an environment variable: openai-api-key for OPENAI_API_KEY."""
    return variable.lower().replace("_", "-")


def read_api_key(settings: ApiJudgeSettings) -> str:
    """The key from the environment; a server on this machine needs none. Raises InputError when it is missing."""
    key = os.environ.get(settings.api_key_variable)
    if key:
        return key
    base_url = resolve_base_url(settings)
    host = urlsplit(base_url).hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        return "none"
    raise InputError(
        f"expected an API key for {base_url} in the environment variable {settings.api_key_variable}, found none; set it, or "
        f"under Prefect keep the key in the Secret block {secret_block(settings.api_key_variable)}, or name another variable in "
        "judge.api_key_variable"
    )
