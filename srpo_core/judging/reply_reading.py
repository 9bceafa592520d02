"""From a kept reply to a verdict: a function of the stored record alone, so that replies can be read again at any time."""

from typing import Any

from srpo_core.judging.judge_presets import JudgePreset
from srpo_core.judging.judge_requests import rung_of, sent_parameters
from srpo_core.judging.judges import JudgeGame, Verdict, outcome_of, unscored
from srpo_core.judging.verdict_parsing import EMPTY_REPLY, parse_verdict
from srpo_core.settings.judges import ApiJudgeSettings

Record = dict[str, Any]  # request, response, request_id, seconds, ... as the reply store keeps them


def read_verdict(record: Record, game: JudgeGame, preset: JudgePreset, settings: ApiJudgeSettings) -> Verdict:
    """What the reply says of `game`, with all that is known of how it came about."""
    response = record["response"]
    facts = _facts(record, settings) | {"prompt_hash": preset.hash}
    reason = _unusable(response)
    if reason is not None:
        return unscored(reason, **facts)
    judged = (game.candidate_text, game.opponent_text, *(turn["content"] for turn in game.prompt))
    parsed = parse_verdict(facts["reply"], preset.form, judged)
    if parsed.first_score is None:
        return unscored(str(parsed.unscored_reason), **facts)
    score = parsed.first_score if game.order == "as_is" else 1 - parsed.first_score
    return Verdict(outcome_of(score), score, label=parsed.label, **facts)


def count_tokens(response: Record, name: str) -> int | None:
    """A token count (prompt_tokens, completion_tokens) as the server states it; None when it does not."""
    usage = response.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def cost_of(settings: ApiJudgeSettings, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
    """In the currency of the stated prices; None when a price or a count is not known."""
    prices = settings.price_per_million_prompt_tokens, settings.price_per_million_completion_tokens
    if prices[0] is None or prices[1] is None or prompt_tokens is None or completion_tokens is None:
        return None
    return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6


def reply_text(response: Record) -> str:
    """The assistant's words; some servers send them in pieces."""
    content = response["choices"][0]["message"].get("content")
    if isinstance(content, list):
        content = "".join(piece.get("text") or "" for piece in content if isinstance(piece, dict))
    return content if isinstance(content, str) else ""


def _facts(record: Record, settings: ApiJudgeSettings) -> dict[str, Any]:
    response, request = record["response"], record.get("request") or {}
    tokens = count_tokens(response, "prompt_tokens"), count_tokens(response, "completion_tokens")
    return {
        "request_hash": record["request_hash"],
        "model_answered": _text(response.get("model")),
        "prompt_tokens": tokens[0],
        "completion_tokens": tokens[1],
        "cost": cost_of(settings, *tokens),
        "seconds": record["seconds"],
        "rung": rung_of(request),
        "judge_model": _text(request.get("model")),
        "parameters": sent_parameters(request),
        "system_fingerprint": _text(response.get("system_fingerprint")),
        "request_id": _text(record.get("request_id")),
        "reply": reply_text(response),
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _unusable(response: Record) -> str | None:
    """Why a reply holds no verdict whatever its words: refusal, truncated or empty_reply."""
    choice = response["choices"][0]
    if choice["message"].get("refusal") or choice.get("finish_reason") == "content_filter":
        return "refusal"
    if choice.get("finish_reason") == "length":
        return "truncated"
    return None if reply_text(response).strip() else EMPTY_REPLY
