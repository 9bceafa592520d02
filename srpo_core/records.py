"""The records that flow through the pipeline, and the ids that name them.

Ids are content hashes: the same text gets the same id on every machine and in every run.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

Split = Literal["train", "validation", "test"]
Order = Literal["as_is", "swapped"]  # as_is: a judge is shown the candidate first; swapped: second
ORDERS: tuple[Order, Order] = ("as_is", "swapped")


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


Prompt = list[Message]


@dataclass(frozen=True)
class Completion:
    """One generated text (table `completions`)."""

    completion_id: str
    prompt_id: str
    policy_id: str
    sample_index: int
    revision_index: int  # 0 = first draft
    parent_id: str | None  # the completion that was revised
    text: str
    num_tokens: int
    finish_reason: str  # stop, length or empty_draft
    prompt_truncated: bool
    seed: int
    temperature: float


def content_id(*parts: Any) -> str:
    """The first 16 hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pair_id(prompt: Prompt, completion: str, other: str) -> str:
    """Id of a pair, the same whichever of the two texts is named first."""
    return content_id("pair", prompt, sorted([completion, other]))


def prompt_id(eval_set: str, prompt: Prompt) -> str:
    """Id of an evaluation prompt within its set."""
    return content_id("prompt", eval_set, prompt)


def cluster_of(row: Mapping[str, Any]) -> str:
    """The cluster of an evaluation prompt, a row of `prompts`; a prompt without one is a cluster of its own."""
    return str(row["cluster_id"] or row["prompt_id"])


def seed_from(*parts: Any) -> int:
    """A 63-bit seed derived from (seed, stage, item id): no random choice depends on order or batch."""
    return int(content_id("seed", *parts), 16) >> 1


def user_prompt(text: str) -> Prompt:
    """A prompt of one user turn."""
    return [{"role": "user", "content": text}]
