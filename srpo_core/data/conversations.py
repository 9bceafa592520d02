"""Prompts and completions from the shapes public sets use: plain text, message lists, transcripts, sentence lists.

A trailing "TL;DR:" belongs to the template that renders a prompt, not to the prompt (docs/method.md 1.3), and is taken off.
"""

import json
import re
from typing import Any

from srpo_core.data.labelled_pairs import UnusableRow
from srpo_core.records import Message, Prompt, user_prompt

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
}
TEMPLATE_CUE = "TL;DR:"
HUMAN_TURN = "\n\nHuman:"
ASSISTANT_TURN = "\n\nAssistant:"
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def read_text(value: Any, what: str, join_with: str = " ") -> str:
    """A text, or a list of sentences joined by `join_with`, without outer whitespace. Raises UnusableRow."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return join_with.join(item.strip() for item in value).strip()
    if not isinstance(value, str):
        raise UnusableRow(f"{what} is not a text: {type(value).__name__}")
    return value.strip()


def read_prompt(value: Any, join_with: str = " ") -> Prompt:
    """A prompt from a message list, a transcript, a list of sentences, or plain text (one user turn)."""
    messages = as_messages(value)
    if messages is not None:
        return messages
    text = read_text(value, "prompt", join_with)
    if text.startswith(HUMAN_TURN.strip()):
        return _without_open_turn(split_transcript(text))
    return user_prompt(without_cue(text))


def read_completion(value: Any) -> str:
    """A completion from plain text or from a list that holds one assistant message. Raises UnusableRow."""
    messages = as_messages(value)
    if messages is None:
        return read_text(value, "completion")
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise UnusableRow(f"expected one assistant message as completion: {[m['role'] for m in messages]}")
    return messages[0]["content"]


def without_cue(text: str) -> str:
    """The text without a trailing "TL;DR:"."""
    return text.rstrip().removesuffix(TEMPLATE_CUE).rstrip()


def as_messages(value: Any) -> list[Message] | None:
    """The messages of a conversation, also when it comes as JSON text (as in CSV files); None when it is none."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if not isinstance(value, list) or not value or not all(_looks_like_message(item) for item in value):
        return None
    return [_as_message(item) for item in value]


def split_after_shared_prompt(chosen: list[Message], rejected: list[Message]) -> tuple[Prompt, str, str]:
    """Split two whole conversations into their shared prompt and their last answers.

    Raises UnusableRow when they differ before the last turn: then no prompt is shared and the vote says nothing about it.
    """
    if len(chosen) != len(rejected) or chosen[:-1] != rejected[:-1]:
        raise UnusableRow("the two conversations differ before the last answer")
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise UnusableRow("the conversation does not end with an assistant turn")
    return chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]


def split_transcript(text: str) -> list[Message]:
    """The turns of "\\n\\nHuman: … \\n\\nAssistant: …"; a last turn without words is kept as an empty one."""
    pieces = _TURN.split(text.strip())
    if pieces[0].strip():
        raise UnusableRow("the transcript does not open with Human: or Assistant:")
    names, contents = pieces[1::2], pieces[2::2]
    return [{"role": ROLES[name.lower()], "content": content.strip()} for name, content in zip(names, contents, strict=True)]


def split_transcripts(chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    """Split two HH-RLHF transcripts at the last assistant turn of the text they share. Raises UnusableRow."""
    shared = _shared_length(chosen, rejected)
    cut = chosen.rfind(ASSISTANT_TURN, 0, shared)
    if cut < 0:
        raise UnusableRow("the two conversations differ before the last answer")
    answers = [text[cut + len(ASSISTANT_TURN) :] for text in (chosen, rejected)]
    if any(HUMAN_TURN in answer or ASSISTANT_TURN in answer for answer in answers):
        raise UnusableRow("the two conversations differ before the last answer")
    return split_transcript(chosen[:cut]), answers[0], answers[1]


def split_plain_texts(chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    """Split two texts after the whole words they share (TRL's implicit prompt)."""
    shared = _shared_length(chosen, rejected)
    while shared and not chosen[shared - 1].isspace():
        shared -= 1
    return user_prompt(without_cue(chosen[:shared].strip())), chosen[shared:], rejected[shared:]


def _looks_like_message(item: Any) -> bool:
    return isinstance(item, dict) and ("role" in item or "from" in item)


def _as_message(item: dict[str, Any]) -> Message:
    role = ROLES.get(str(item.get("role", item.get("from"))).lower())
    if role is None:
        raise UnusableRow(f"unknown role: {item.get('role', item.get('from'))!r}")
    return {"role": role, "content": _content_text(item.get("content", item.get("value"))).strip()}


def _content_text(content: Any) -> str:
    """Message content as text; a list of typed parts must hold text alone."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict) and isinstance(content.get("answer"), str):  # Arena-Hard wraps the answer in an object
        return content["answer"]
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in content):
            return "".join(part["text"] for part in content)
    raise UnusableRow("message content is not text")


def _without_open_turn(messages: list[Message]) -> list[Message]:
    """Drop the empty "Assistant:" with which transcript prompts ask for an answer."""
    return messages[:-1] if messages and messages[-1] == {"role": "assistant", "content": ""} else messages


def _shared_length(first: str, second: str) -> int:
    """Characters that two texts share at their start."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # bisection compares slices in C
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
