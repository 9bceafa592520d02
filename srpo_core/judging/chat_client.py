"""One chat request to an OpenAI-compatible server, tried again on transient faults, with everything worth keeping of the answer.

The client's own retries are off: they take an exhausted quota for a rate limit. Replies are read from the raw body, because the
client's typed parsing discards what it cannot validate. A request that timed out may have been billed; no server key prevents it.
"""

import asyncio
import json
import math
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from srpo_core.errors import WorkFailed
from srpo_core.judging.judges import API_ERROR
from srpo_core.judging.reply_reading import count_tokens
from srpo_core.judging.request_limits import Admission, RequestLimits
from srpo_core.settings.judges import ApiJudgeSettings

_TRANSIENT_STATUS = (408, 409, 429)
_LONGEST_WAIT = 120.0  # seconds; a server that asks for more is not waited for
# Words of a server that does not accept a parameter. Of the last three also a value may be at fault, so its code must say so.
_REFUSED = {
    "response_format": ("response_format", "json_schema"),
    "structured_outputs": ("structured_outputs",),
    "seed": ("seed",),
    "logprobs": ("logprobs",),
}
_REFUSED_BY_CODE = ("temperature", "max_tokens", "max_completion_tokens")


class RequestFailed(Exception):
    """One request failed for good; `reason` is api_error:<class>."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the class of the fault and the server's own words."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class ParameterRefused(Exception):
    """The server does not accept a parameter of the request."""

    def __init__(self, name: str, detail: str) -> None:
        """Keep the parameter's name and the server's own words."""
        super().__init__(detail)
        self.name = name


class InvalidResponse(Exception):
    """The server said 200 and sent something that is not a chat completion."""


@dataclass(frozen=True)
class Answer:
    """A chat completion as received."""

    response: dict[str, Any]  # the whole body
    request_id: str | None
    seconds: float  # of the attempt that succeeded
    attempts: int


class ChatClient:
    """Sends chat requests to one server. One instance belongs to one event loop."""

    def __init__(
        self,
        settings: ApiJudgeSettings,
        *,
        base_url: str,
        api_key: str,
        limits: RequestLimits | None = None,
        backoff_seconds: float = 0.5,
    ) -> None:
        """`backoff_seconds` is the first wait after a fault; it doubles with each further one."""
        self._settings = settings
        self._base_url = base_url
        self._backoff_seconds = backoff_seconds
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=api_key, max_retries=0, timeout=openai.Timeout(settings.timeout_seconds)
        )
        self.limits = limits or RequestLimits(settings)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, request: dict[str, Any]) -> Answer:
        """Send `request` (the keyword arguments of a chat completion) until answered or out of attempts.

        Raises RequestFailed (this request), ParameterRefused, BudgetSpent, or WorkFailed (no request can succeed: no key, no
        quota, no such model).
        """
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._settings.max_attempts),
            wait=self._wait,
            retry=retry_if_exception(_is_transient),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    return await self._send(request, attempt.retry_state.attempt_number)
        except (openai.APIError, TimeoutError, InvalidResponse) as error:
            raise self._explain(error, request) from error
        raise AssertionError("tenacity ends with a result or an exception")

    async def _send(self, request: dict[str, Any], attempt: int) -> Answer:
        admission = await self.limits.admit(request)
        started = time.monotonic()
        try:
            # The client's timeout bounds each read; a server that drips bytes would never meet it.
            async with asyncio.timeout(self._settings.timeout_seconds):
                raw = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=_body_of(request))
            request_id = raw.headers.get("x-request-id")
            answer = Answer(_completion_body(raw.text), request_id, time.monotonic() - started, attempt)
        except BaseException as error:
            await self._settle_failure(admission, error)
            raise
        counts = (count_tokens(answer.response, name) for name in ("prompt_tokens", "completion_tokens"))
        await self.limits.settle(admission, *counts)
        return answer

    async def _settle_failure(self, admission: Admission, error: BaseException) -> None:
        """A status is an answer that costs nothing; silence and broken replies may have been billed."""
        if isinstance(error, openai.APIStatusError):
            await self.limits.settle(admission, 0, 0)
        else:
            await self.limits.settle(admission)

    def _wait(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: what the server asks for, else exponential; with jitter, so callers spread out."""
        error = state.outcome.exception() if state.outcome else None
        asked = _retry_after(error)
        if asked is not None:
            return asked + random.uniform(0, self._backoff_seconds)
        ceiling = min(self._backoff_seconds * 2 ** (state.attempt_number - 1), 30.0)
        return random.uniform(ceiling / 2, ceiling * 1.5)

    def _explain(self, error: Exception, request: dict[str, Any]) -> Exception:
        """What a final fault means for the request, for one of its parameters, or for the whole run."""
        detail = _detail(error)
        if isinstance(error, openai.AuthenticationError):
            return WorkFailed(
                f"expected {self._base_url} to accept the key in {self._settings.api_key_variable}, found {detail}; "
                "correct the key and run again"
            )
        if isinstance(error, openai.NotFoundError):
            return WorkFailed(
                f"expected model {request['model']!r} at {self._base_url}, found {detail}; "
                "correct judge.model or judge.base_url and run again"
            )
        if _is_out_of_quota(error):
            return WorkFailed(
                f"expected quota left at {self._base_url}, found {detail}; "
                "add credit and run again: stored replies are not asked for twice"
            )
        if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
            return _explain_bad_request(error, request, detail)
        # The two clocks (one read, the whole request) are one fault to the reader.
        kind = "APITimeoutError" if isinstance(error, TimeoutError) else type(error).__name__
        return RequestFailed(API_ERROR + kind, detail)


def _explain_bad_request(error: openai.APIStatusError, request: dict[str, Any], detail: str) -> Exception:
    sent = {*request, *request.get("extra_body", {})}
    for name, words in _REFUSED.items():
        if name in sent and (error.param == name or any(word in detail for word in words)):
            return ParameterRefused(name, detail)
    if error.param in _REFUSED_BY_CODE and error.param in sent and str(error.code).startswith("unsupported"):
        return ParameterRefused(str(error.param), detail)
    return RequestFailed(API_ERROR + type(error).__name__, detail)


def _body_of(request: dict[str, Any]) -> dict[str, Any]:
    """What is sent. The client's typed methods would walk through every field of it, at a fifth of a judge's throughput."""
    return {name: value for name, value in request.items() if name != "extra_body"} | request.get("extra_body", {})


def _completion_body(body: str) -> dict[str, Any]:
    try:
        response = json.loads(body)
        choice = response["choices"][0]
        if not isinstance(choice["message"], dict):
            raise TypeError("message is no object")
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidResponse(f"{body[:200]!r} ({error})") from error
    return response


def _detail(error: Exception) -> str:
    """The server's own words, on one line."""
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        return " ".join(f"{error.message} {cause or ''}".split())
    return " ".join(str(error).split())[:500] or type(error).__name__


def _is_out_of_quota(error: BaseException) -> bool:
    return isinstance(error, openai.APIError) and "insufficient_quota" in (error.code, error.type)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        asked = _retry_after(error)
        if _is_out_of_quota(error) or (asked is not None and asked > _LONGEST_WAIT):
            return False
        return error.status_code in _TRANSIENT_STATUS or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | TimeoutError | InvalidResponse)


def _retry_after(error: BaseException | None) -> float | None:
    """Seconds a `retry-after-ms` or `retry-after` header asks for; None without one (or with a date)."""
    if not isinstance(error, openai.APIStatusError):
        return None
    for header, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(error.response.headers[header]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None
