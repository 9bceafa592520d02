"""The judge that asks a model behind an OpenAI-compatible server.

A verdict is a function of the stored reply alone, so a reply from the ledger and a fresh one are read by the same code.
"""

import asyncio
import logging
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from srpo_core.judging.capabilities import PROBE_VERSION, Capabilities, choose_rung, probe, probe_request, refused_setting
from srpo_core.judging.chat_client import Answer, ChatClient, ParameterRefused, RequestFailed
from srpo_core.judging.judge_presets import JudgePreset, find_preset
from srpo_core.judging.judge_requests import LIMIT_NAMES, Request, build_request, first_rung, question_hash, rung_of
from srpo_core.judging.judges import JudgeGame, ReplyStore, RequestRate, Rung, Verdict, read_api_key, resolve_base_url, unscored
from srpo_core.judging.judging_queue import judge_is_down
from srpo_core.judging.reply_reading import read_verdict
from srpo_core.judging.request_limits import RequestLimits, Spent
from srpo_core.records import content_id
from srpo_core.settings.judges import ApiJudgeSettings

logger = logging.getLogger("srpo.judge")


class ApiJudge:
    """A model behind an OpenAI-compatible server. Kept replies are used, new ones kept in `replies`."""

    def __init__(
        self,
        settings: ApiJudgeSettings,
        replies: ReplyStore,
        *,
        name: str,
        spent: Spent | None = None,
        rate: RequestRate | None = None,
        backoff_seconds: float = 0.5,
    ) -> None:
        """The judge belongs to one event loop. Raises InputError for an unknown preset; the key is read at the first request."""
        self.name = name
        self.address = resolve_base_url(settings)
        self.last_fault = ""
        self.requests_answered = 0  # questions about games; the probe's are counted in `capabilities`
        self.capabilities: Capabilities | None = None
        self.limits = RequestLimits(settings, spent, rate)
        self._rung: Rung = first_rung(settings)
        self._limit_name = LIMIT_NAMES[0]
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

    async def prepare(self) -> bool:
        """Learn what the server honours, from a probe kept today or by a new one, and choose the rung of the ladder.

        Whether the server has answered just now. Raises WorkFailed or InputError when no request to this server can succeed.
        """
        found = self.find_capabilities()
        was_asked = found is None
        if found is None:
            try:
                found = await probe(self._send, self._preset, self._settings)
            except RequestFailed as failure:
                self.last_fault = str(failure)
                if "APIConnectionError" in failure.reason:
                    raise judge_is_down(self, "no connection") from failure
                return False  # a passing fault: the games are asked as if all were honoured
            self._keep_capabilities(found)
        self.capabilities, self._limit_name = found, found["limit_name"]
        self._rung = choose_rung(self._settings, found)
        return was_asked

    def find_capabilities(self) -> Capabilities | None:
        """What a probe of today found, by whichever run."""
        if self.capabilities is None:
            record = self._replies.find(self._probe_key())
            return None if record is None else record["response"]
        return self.capabilities

    def _keep_capabilities(self, found: Capabilities) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"request_hash": self._probe_key(), "base_url": self.address, "probed_at": now, "response": dict(found)}
        self._replies.keep(record)

    def _probe_key(self) -> str:
        """A server may be another one tomorrow, so a probe counts for its day."""
        request = probe_request(self._preset, self._settings)
        today = datetime.now(UTC).date().isoformat()
        return content_id("judge_probe", PROBE_VERSION, question_hash(request, self.address, 0), today)

    @property
    def rung(self) -> Rung:
        """How games are asked for at the moment."""
        return self._rung

    def find_verdict(self, game: JudgeGame) -> Verdict | None:
        """The verdict of a reply that is already kept, without any call."""
        record = self.find_reply(game)
        return None if record is None else read_verdict(record, game, self._preset, self._settings)

    def find_reply(self, game: JudgeGame) -> dict[str, Any] | None:
        """The kept record of the question about `game`, on whichever rung it was asked."""
        record = self._replies.find(self.question_hash(game))
        if record is None and self._settings.structured:  # kept under the hash of what was sent, by an earlier version
            record = self._replies.find(question_hash(self._build(game, "last_line"), self.address, game.repeat_index))
        return record

    def question_hash(self, game: JudgeGame) -> str:
        """What the reply to the question about `game` is kept under."""
        return question_hash(self._build(game, first_rung(self._settings)), self.address, game.repeat_index)

    def request(self, game: JudgeGame) -> Request:
        """What would be sent for `game` now."""
        return self._build(game, self._rung, self._limit_name)

    async def judge(self, game: JudgeGame) -> Verdict:
        """The verdict on `game`. Raises WorkFailed or InputError when no request to this server can succeed."""
        key = self.question_hash(game)
        try:
            return read_verdict(await self._obtain(key, game), game, self._preset, self._settings)
        except RequestFailed as failure:
            self.last_fault = str(failure)
            facts = {"judge_model": self._settings.model, "prompt_hash": self._preset.hash, "rung": self._rung}
            return unscored(failure.reason, request_hash=key, **facts)

    async def _obtain(self, key: str, game: JudgeGame) -> dict[str, Any]:
        """The kept record, the one another game is waiting for (equal texts give equal questions), or a new one."""
        record = self._replies.find(key)
        if record is not None:
            return record
        asking = self._in_flight.get(key)
        if asking is None:
            asking = asyncio.ensure_future(self._ask(key, game))
            self._in_flight[key] = asking
            asking.add_done_callback(lambda _: self._in_flight.pop(key, None))
        return await asking

    async def _ask(self, key: str, game: JudgeGame) -> dict[str, Any]:
        """Ask on the rung in force, and on the next ones while the server refuses, and keep the reply."""
        while True:
            request = self.request(game)
            try:
                answer = await self._send(request)
                break
            except ParameterRefused as refusal:
                self._give_way(request, refusal)
        record = {
            "request_hash": key,
            "base_url": self.address,
            "request": request,
            "repeat_index": game.repeat_index,
            "answered_at": datetime.now(UTC).isoformat(timespec="seconds"),
        } | vars(answer)
        self._replies.keep(record)
        self.requests_answered += 1
        return record

    async def _send(self, request: Request) -> Answer:
        if self._client is None:
            key = read_api_key(self._settings)
            self._client = ChatClient(
                self._settings, base_url=self.address, api_key=key, limits=self.limits, backoff_seconds=self._backoff_seconds
            )
        return await self._client.ask(request)

    def _give_way(self, request: Request, refusal: ParameterRefused) -> None:
        """Step down the ladder, or rename the limit, unless another request in flight did so already; else raise InputError."""
        if refusal.name in ("response_format", "structured_outputs"):
            if rung_of(request) == self._rung:
                self._rung = "last_line"
                logger.warning("%s refuses %s (%s): asking for a last line", self.address, refusal.name, refusal)
        elif refusal.name == LIMIT_NAMES[0]:
            self._limit_name = LIMIT_NAMES[1]
        else:
            raise refused_setting(self._settings, refusal)

    def _build(self, game: JudgeGame, rung: Rung, limit_name: str = LIMIT_NAMES[0]) -> Request:
        return build_request(self._preset, self._settings, game, rung, limit_name)
