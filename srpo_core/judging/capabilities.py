"""What a server honours of a judge's request, found by asking: servers ignore fields without saying so.

One small question of the judge's own form is put with everything a judge may want (schema, token limit, temperature, seed,
log-probs); what is refused is left out and asked without, what is accepted is looked for in the reply. Three more questions
tell whether a seed does anything. Nothing is judged by these replies.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypedDict

from srpo_core.errors import InputError
from srpo_core.judging.chat_client import Answer, ParameterRefused, RequestFailed
from srpo_core.judging.judge_presets import JudgePreset
from srpo_core.judging.judge_requests import LIMIT_NAMES, Request, build_request, first_rung, verdict_form
from srpo_core.judging.judges import JudgeGame, Rung, is_server_fault
from srpo_core.judging.reply_reading import reply_text
from srpo_core.judging.verdict_parsing import parse_verdict, verdict_lines
from srpo_core.records import user_prompt
from srpo_core.settings.judges import ApiJudgeSettings

PROBE_VERSION = 1
PROBE_GAME = JudgeGame(
    game_id="capability-probe",
    prompt=user_prompt("The town council met on Monday. It decided to repair the old bridge and close it for two weeks in May."),
    prompt_id="capability-probe",
    candidate_id="capability-probe",
    candidate_text="The council will repair the bridge, which closes for two weeks in May.",
    opponent_id="capability-probe",
    opponent_text="There was a meeting.",
    order="as_is",
)
Finding = Literal["honoured", "accepted", "ignored", "refused", "not asked", "unknown"]
Ask = Callable[[Request], Awaitable[Answer]]
_SEEDS = (1, 1, 2)  # equal seeds must give equal replies, and another seed another one
_EXTRAS: Request = {"seed": 1, "logprobs": True}


class Capabilities(TypedDict):
    """Of each thing asked for: honoured (seen in the reply), accepted (not refused), ignored, refused, not asked, or unknown."""

    json_schema: Finding
    choice: Finding
    logprobs: Finding
    seed: Finding
    temperature: Finding
    limit_name: str  # what the server calls the limit on a reply's tokens
    model_answered: str | None
    system_fingerprint: str | None
    requests: int


def choose_rung(settings: ApiJudgeSettings, found: Capabilities | None) -> Rung:
    """The best rung that the server honours; the first where nothing is known against it."""
    rung = first_rung(settings)
    if rung == "json_schema" and found is not None and found["json_schema"] in ("ignored", "refused"):
        return "choice" if found["choice"] == "honoured" else "last_line"
    return rung


def most_probe_requests(settings: ApiJudgeSettings) -> int:
    """Requests of one probe at the worst of servers, which refuses one thing at a time; tries after faults come on top."""
    own = settings.structured + (settings.max_tokens is not None)  # what may be refused beside the extras
    choice = int(settings.structured)
    answered = own + (len(_EXTRAS) - 1) + 1 + choice + len(_SEEDS)  # all is refused but the seed, which is then tried out
    failed = own + len(_EXTRAS) + 1 + own + 1 + choice  # all is refused and the rest fails: once more without the extras
    return max(answered, failed)


def probe_request(preset: JudgePreset, settings: ApiJudgeSettings) -> Request:
    """The question that the probe begins with, less the extras; no later one has a longer prompt."""
    return build_request(preset, settings, PROBE_GAME, first_rung(settings))


async def probe(ask: Ask, preset: JudgePreset, settings: ApiJudgeSettings) -> Capabilities:
    """Ask the server. Raises InputError when it refuses the temperature, and what `ask` raises when it fails or refuses all."""
    found = Capabilities(
        json_schema="unknown" if settings.structured else "not asked",
        choice="not asked",
        logprobs="unknown",
        seed="unknown",
        temperature="not asked" if settings.temperature is None else "unknown",
        limit_name=LIMIT_NAMES[0],
        model_answered=None,
        system_fingerprint=None,
        requests=0,
    )
    session = _Probe(ask, preset, settings, found)
    if await session.ask_for_everything():
        if found["json_schema"] in ("ignored", "refused"):
            await session.ask_for_a_choice()
        if found["seed"] == "accepted":
            await session.ask_with_seeds()
    return found


class _Probe:
    """One round of questions; `found` is filled as the replies come."""

    def __init__(self, ask: Ask, preset: JudgePreset, settings: ApiJudgeSettings, found: Capabilities) -> None:
        self._ask, self._preset, self._settings, self._found = ask, preset, settings, found

    async def ask_for_everything(self) -> bool:
        """Whether the server answers such questions at all."""
        request = probe_request(self._preset, self._settings)
        for extra in (_EXTRAS, {}):
            try:
                self._note(await self._without_what_is_refused(request | extra))
                return True
            except RequestFailed as failure:  # perhaps for an extra that it does not name: then without any
                if is_server_fault(failure.reason):
                    raise
        return False

    async def ask_for_a_choice(self) -> None:
        """A model that is free to answer begins with its comparison, so a bare label line means the choice was enforced."""
        request = self._plain_request() | verdict_form(self._preset, "choice")
        try:
            text = reply_text((await self._send(request)).response).strip()
            self._found["choice"] = "honoured" if text in verdict_lines(self._preset.form) else "ignored"
        except (ParameterRefused, RequestFailed):
            self._found["choice"] = "refused"

    async def ask_with_seeds(self) -> None:
        """Whether a seed does anything, at temperature 1."""
        hot = {} if self._settings.temperature is None else {"temperature": 1.0}
        try:
            first, again, other = await asyncio.gather(*(self._seeded(hot, seed) for seed in _SEEDS))
            if first != again:
                self._found["seed"] = "ignored"
            elif first != other:
                self._found["seed"] = "honoured"
        except (ParameterRefused, RequestFailed):
            return

    async def _seeded(self, hot: Request, seed: int) -> str:
        return reply_text((await self._send(self._plain_request() | hot | {"seed": seed})).response)

    def _plain_request(self) -> Request:
        return build_request(self._preset, self._settings, PROBE_GAME, "last_line", self._found["limit_name"])

    async def _send(self, request: Request) -> Answer:
        self._found["requests"] += 1
        return await self._ask(request)

    async def _without_what_is_refused(self, request: Request) -> dict[str, Any]:
        """The reply to `request` less what the server refuses, which is noted."""
        while True:
            try:
                response = (await self._send(request)).response
            except ParameterRefused as refusal:
                request = self._leave_out(request, refusal)
                continue
            self._look_for(request, response)
            return response

    def _leave_out(self, request: Request, refusal: ParameterRefused) -> Request:
        rest = {name: value for name, value in request.items() if name != refusal.name}
        if refusal.name == "response_format":
            self._found["json_schema"] = "refused"
        elif refusal.name == "seed":
            self._found["seed"] = "refused"
        elif refusal.name == "logprobs":
            self._found["logprobs"] = "refused"
        elif refusal.name == LIMIT_NAMES[0]:
            self._found["limit_name"] = LIMIT_NAMES[1]
            rest[LIMIT_NAMES[1]] = request[LIMIT_NAMES[0]]
        else:
            raise refused_setting(self._settings, refusal)
        return rest

    def _look_for(self, request: Request, response: dict[str, Any]) -> None:
        """Note what became of everything that was sent and not refused."""
        if "response_format" in request:
            self._found["json_schema"] = self._schema_in(response)
        if "logprobs" in request:
            given = response["choices"][0].get("logprobs")
            self._found["logprobs"] = "honoured" if isinstance(given, dict) and given.get("content") else "ignored"
        for name in ("seed", "temperature"):
            if name in request:
                self._found[name] = "accepted"  # type: ignore[literal-required]

    def _schema_in(self, response: dict[str, Any]) -> Finding:
        text = reply_text(response).strip()
        if not text or response["choices"][0].get("finish_reason") not in (None, "stop"):
            return "unknown"
        try:
            is_object = isinstance(json.loads(text), dict)
        except ValueError:
            return "ignored"
        return "honoured" if is_object and parse_verdict(text, self._preset.form).label else "ignored"

    def _note(self, response: dict[str, Any]) -> None:
        for name, key in (("model_answered", "model"), ("system_fingerprint", "system_fingerprint")):
            value = response.get(key)
            self._found[name] = value if isinstance(value, str) else None  # type: ignore[literal-required]


def refused_setting(settings: ApiJudgeSettings, refusal: ParameterRefused) -> InputError:
    """The sentence for a setting that changes verdicts and that the server refuses: nothing else is sent in its stead."""
    name = "max_tokens" if refusal.name in LIMIT_NAMES else refusal.name
    return InputError(
        f"expected model {settings.model!r} to accept {refusal.name} = {getattr(settings, name)!r}, found {refusal}; "
        f"set judge.{name} to none"
    )
