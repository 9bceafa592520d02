"""What is sent to a model judge for one game, on each rung of the ladder, and the name a reply is kept under.

The ladder: a JSON reply by schema; where a server refuses or ignores that, a choice between the preset's label lines, enforced
by the server (`structured_outputs`, as vLLM understands it); else free text whose last line holds the label. The reply to a
question is kept under the hash of the request on its first rung, so that a question is not paid for again on another rung.
"""

import json
from typing import Any

from srpo_core.judging.judge_presets import JudgePreset
from srpo_core.judging.judges import JudgeGame, Rung
from srpo_core.judging.verdict_parsing import json_schema, verdict_lines
from srpo_core.records import content_id
from srpo_core.settings.judges import ApiJudgeSettings

Request = dict[str, Any]  # keyword arguments of a chat completion
LIMIT_NAMES = ("max_tokens", "max_completion_tokens")  # newer models refuse the first


def build_request(
    preset: JudgePreset, settings: ApiJudgeSettings, game: JudgeGame, rung: Rung, limit_name: str = LIMIT_NAMES[0]
) -> Request:
    """The complete chat request for `game`."""
    texts = (game.candidate_text, game.opponent_text)
    first, second = texts if game.order == "as_is" else texts[::-1]
    request: Request = {"model": settings.model, "messages": preset.messages(game.prompt, first, second)}
    if settings.temperature is not None:
        request["temperature"] = settings.temperature
    if settings.max_tokens is not None:
        request[limit_name] = settings.max_tokens
    return request | verdict_form(preset, rung)


def verdict_form(preset: JudgePreset, rung: Rung) -> Request:
    """The part of a request that asks for the verdict's form."""
    if rung == "json_schema":
        return {"response_format": json_schema(preset.form)}
    if rung == "choice":
        return {"extra_body": {"structured_outputs": {"choice": verdict_lines(preset.form)}}}
    return {}


def first_rung(settings: ApiJudgeSettings) -> Rung:
    """Where the ladder begins."""
    return "json_schema" if settings.structured else "last_line"


def question_hash(request: Request, base_url: str, repeat_index: int) -> str:
    """Names a question: its request on the first rung, the server, and which repetition of it this is."""
    return content_id("judge_request", base_url, request, repeat_index)


def sent_parameters(request: Request) -> str:
    """All that was sent beside model and messages, as JSON."""
    parameters = {name: value for name, value in request.items() if name not in ("model", "messages", "extra_body")}
    return json.dumps(parameters | request.get("extra_body", {}), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def rung_of(request: Request) -> Rung:
    """The rung that a kept request was sent on."""
    if "response_format" in request:
        return "json_schema"
    return "choice" if "structured_outputs" in request.get("extra_body", {}) else "last_line"


def estimate_tokens(request: Request) -> int:
    """Tokens of a prompt, estimated at four characters each: no tokenizer is at hand for a model behind an address."""
    return sum(len(turn["content"]) for turn in request["messages"]) // 4 + 1


def most_tokens(request: Request) -> int:
    """Tokens that a prompt can have at most: one for each byte, and some for the chat template around each turn."""
    return sum(len(turn["content"].encode()) + 16 for turn in request["messages"]) + 16
