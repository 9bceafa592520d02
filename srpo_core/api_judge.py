"""The judge that asks a model behind an OpenAI-compatible server.

A verdict is a function of the stored reply alone, so a reply from the ledger and a fresh one are read by the same code.
"""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from srpo_core.chat_client import ChatClient, RequestFailed, SchemaRefused
from srpo_core.config import ApiJudgeSettings
from srpo_core.judge_presets import JudgePreset, find_preset
from srpo_core.judges import JudgeGame, ReplyStore, Verdict, outcome_of, read_api_key, resolve_base_url, unscored
from srpo_core.records import content_id
from srpo_core.verdict_parsing import EMPTY_REPLY, json_schema, parse_verdict


class ApiJudge:
    """A model behind an OpenAI-compatible server. Kept replies are used, new ones kept in `replies`."""

    def __init__(self, settings: ApiJudgeSettings, replies: ReplyStore, *, name: str, backoff_seconds: float = 0.5) -> None:
        """The judge belongs to one event loop. Raises InputError for an unknown preset; the key is read at the first request."""
        self.name = name
        self.address = resolve_base_url(settings)
        self.last_fault = ""
        self.schema_refused = False
        self.requests_answered = 0
        self.json_replies = 0  # among those read, kept ones included
        self.replies_read = 0
        self._preset: JudgePreset = find_preset(settings.preset)
        self._settings = settings
        self._replies = replies
        self._backoff_seconds = backoff_seconds
        self._client: ChatClient | None = None
        self._in_flight: dict[str, asyncio.Task[dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        """The judge itself."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections, if any were made."""
        if self._client is not None:
            await self._client.close()

    @property
    def reply_schema(self) -> str:
        """What became of the JSON schema: not asked, refused, ignored or honoured; unknown before any reply was read."""
        if not self._settings.structured:
            return "not asked"
        if self.schema_refused:
            return "refused"
        if not self.replies_read:
            return "unknown"
        return "honoured" if 2 * self.json_replies > self.replies_read else "ignored"

    def find_verdict(self, game: JudgeGame) -> Verdict | None:
        """The verdict of a reply that is already kept, without any call."""
        request = self._request(game)
        record = self._replies.find(_hash_request(request, self.address, game.repeat_index))
        return None if record is None else self._read(record, game)

    async def judge(self, game: JudgeGame) -> Verdict:
        """The verdict on `game`. Raises WorkFailed or InputError when no request to this server can succeed."""
        request = self._request(game)
        request_hash = _hash_request(request, self.address, game.repeat_index)
        try:
            return self._read(await self._obtain(request_hash, request, game.repeat_index), game)
        except RequestFailed as failure:
            self.last_fault = str(failure)
            return unscored(failure.reason, request_hash=request_hash)
        except SchemaRefused:
            self.schema_refused = True
            return await self.judge(game)

    async def _obtain(self, request_hash: str, request: dict[str, Any], repeat_index: int) -> dict[str, Any]:
        """The kept record, the one another game is waiting for (equal texts give equal requests), or a new one."""
        record = self._replies.find(request_hash)
        if record is not None:
            return record
        asking = self._in_flight.get(request_hash)
        if asking is None:
            asking = asyncio.ensure_future(self._ask(request_hash, request, repeat_index))
            self._in_flight[request_hash] = asking
            asking.add_done_callback(lambda _: self._in_flight.pop(request_hash, None))
        return await asking

    async def _ask(self, request_hash: str, request: dict[str, Any], repeat_index: int) -> dict[str, Any]:
        if self._client is None:
            key = read_api_key(self._settings)
            self._client = ChatClient(self._settings, base_url=self.address, api_key=key, backoff_seconds=self._backoff_seconds)
        answer = await self._client.ask(request)
        record = {
            "request_hash": request_hash,
            "base_url": self.address,
            "request": request,
            "repeat_index": repeat_index,
            "answered_at": datetime.now(UTC).isoformat(timespec="seconds"),
        } | asdict(answer)
        self._replies.keep(record)
        self.requests_answered += 1
        return record

    def _request(self, game: JudgeGame) -> dict[str, Any]:
        """The complete chat request for `game`."""
        texts = (game.candidate_text, game.opponent_text)
        first, second = texts if game.order == "as_is" else texts[::-1]
        request: dict[str, Any] = {"model": self._settings.model, "messages": self._preset.messages(game.prompt, first, second)}
        for name in ("temperature", "max_tokens"):
            if getattr(self._settings, name) is not None:
                request[name] = getattr(self._settings, name)
        if self._settings.structured and not self.schema_refused:
            request["response_format"] = json_schema(self._preset.form)
        return request

    def _read(self, record: dict[str, Any], game: JudgeGame) -> Verdict:
        """The verdict in a kept reply."""
        response = record["response"]
        tokens = _count(response, "prompt_tokens"), _count(response, "completion_tokens")
        model = response.get("model")
        facts: dict[str, Any] = {
            "request_hash": record["request_hash"],
            "model_answered": model if isinstance(model, str) else None,
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "cost": self._cost(*tokens),
            "seconds": record["seconds"],
            "reply": _reply_text(response),
        }
        self.replies_read += 1
        self.json_replies += facts["reply"].lstrip().startswith("{")
        reason = _unusable(response)
        if reason is not None:
            return unscored(reason, **facts)
        judged = (game.candidate_text, game.opponent_text, *(turn["content"] for turn in game.prompt))
        parsed = parse_verdict(facts["reply"], self._preset.form, judged)
        if parsed.first_score is None:
            return unscored(str(parsed.unscored_reason), **facts)
        score = parsed.first_score if game.order == "as_is" else 1 - parsed.first_score
        return Verdict(outcome_of(score), score, label=parsed.label, **facts)

    def _cost(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """In the currency of the stated prices; None when a price or a count is not known."""
        prices = self._settings.price_per_million_prompt_tokens, self._settings.price_per_million_completion_tokens
        if prices[0] is None or prices[1] is None or prompt_tokens is None or completion_tokens is None:
            return None
        return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6


def _hash_request(request: dict[str, Any], base_url: str, repeat_index: int) -> str:
    """Names the complete request as sent, its server, and which repetition of it this is."""
    return content_id("judge_request", base_url, request, repeat_index)


def _count(response: dict[str, Any], name: str) -> int | None:
    """A token count as the server states it; None when it does not."""
    usage = response.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


def _reply_text(response: dict[str, Any]) -> str:
    """The assistant's words; some servers send them in pieces."""
    content = response["choices"][0]["message"].get("content")
    if isinstance(content, list):
        content = "".join(piece.get("text") or "" for piece in content if isinstance(piece, dict))
    return content if isinstance(content, str) else ""


def _unusable(response: dict[str, Any]) -> str | None:
    """Why a reply holds no verdict whatever its words: refusal, truncated or empty_reply."""
    choice = response["choices"][0]
    if choice["message"].get("refusal") or choice.get("finish_reason") == "content_filter":
        return "refusal"
    if choice.get("finish_reason") == "length":
        return "truncated"
    return None if _reply_text(response).strip() else EMPTY_REPLY
