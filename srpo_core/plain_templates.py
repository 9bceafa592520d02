"""A policy's prompts as plain transformers renders them: a Jinja chat template, and the exact strings by themselves.

The convention of the chat template: a conversation that ends with the user's turn asks for a draft; one that ends with the
assistant's turn, that turn being a draft, asks for its revision. So a loop of revisions needs nothing but `apply_chat_template`
or an OpenAI-compatible server. Joined text is tokenised in one piece there and in pieces here (docs/method.md 1.2a), so at a
joint the token ids may differ: `same_ids` tells for given texts, and the strings serve whoever needs the exact ids.
"""

import json
from collections.abc import Iterable
from typing import Any

from srpo_core.errors import WorkFailed
from srpo_core.records import Message, Prompt, user_prompt
from srpo_core.templates import FIXED_DATE, Segment
from srpo_core.tokenization import PromptTokenizer

_WRONG_TURNS = "expected one user turn, or a user turn and the draft as the assistant's turn"


def chat_template(tok: PromptTokenizer) -> str:
    """The Jinja chat template that renders prompts and revision prompts as the policy was trained on."""
    return _around_native(tok) if tok.settings.kind == "chat" else _from_skeletons(tok)


def _from_skeletons(tok: PromptTokenizer) -> str:
    """Of the plain kinds: one user turn, with or without a draft behind it."""
    return (
        "{%- set roles = messages | map(attribute='role') | join(' ') %}"
        f"{{%- if roles == 'user' %}}{_written(tok, with_draft=False)}"
        f"{{%- elif roles == 'user assistant' %}}{_written(tok, with_draft=True)}"
        f"{{%- else %}}{{{{- raise_exception({_literal(_WRONG_TURNS)}) }}}}{{%- endif %}}"
    )


def _written(tok: PromptTokenizer, *, with_draft: bool) -> str:
    parts = []
    for part in tok.template.skeleton(("user",), with_draft=with_draft):
        if isinstance(part, Segment):
            parts.append(f"{{{{- {_literal(part.text)} }}}}")
        else:
            parts.append(f"{{{{- messages[{0 if part.message_index == 0 else 1}]['content'] }}}}")
    return "".join(parts)


def _around_native(tok: PromptTokenizer) -> str:
    """The tokenizer's own template behind the settings that this policy was trained with."""
    native = tok.tokenizer.get_chat_template()
    lines = []
    if "strftime_now" in native:
        lines.append(f"{{%- macro strftime_now(format) -%}}{FIXED_DATE}{{%- endmacro %}}")
    for name, value in (("date_string", _literal(FIXED_DATE)), ("enable_thinking", "false")):
        if name in native:
            lines.append(f"{{%- set {name} = {value} %}}")
    if tok.settings.system_prompt is not None:
        system = f"{{'role': 'system', 'content': {_literal(tok.settings.system_prompt)}}}"
        lines.append(f"{{%- if messages[0]['role'] != 'system' %}}{{%- set messages = [{system}] + messages %}}{{%- endif %}}")
    request = f"{{'role': 'user', 'content': {_literal(tok.settings.revision_request)}}}"
    lines.append(
        "{%- if add_generation_prompt and messages[-1]['role'] == 'assistant' %}"
        f"{{%- set messages = messages + [{request}] %}}{{%- endif %}}"
    )
    return "".join(lines) + "{{ '' }}" + native  # behind a block Jinja would drop a newline that the native one begins with


def _literal(text: str) -> str:
    """A Jinja string literal; the escapes of JSON are among those of Jinja."""
    return json.dumps(text, ensure_ascii=False)


def written_templates(tok: PromptTokenizer) -> dict[str, Any]:
    """The exact strings around a prompt of one user turn, in order, and what else decides a prompt's ids."""
    return {
        "kind": tok.settings.kind,
        "draft": _pieces(tok, with_draft=False),
        "revision": _pieces(tok, with_draft=True),
        "revision_request": tok.settings.revision_request if tok.settings.kind == "chat" else None,
        "system_prompt": tok.settings.system_prompt,
        "stop_ids": list(tok.stop_ids),
        "max_length": tok.max_length,
    }


def _pieces(tok: PromptTokenizer, *, with_draft: bool) -> list[dict[str, str]]:
    return [
        {"text": part.text} if isinstance(part, Segment) else {"slot": "prompt" if part.message_index == 0 else "draft"}
        for part in tok.template.skeleton(("user",), with_draft=with_draft)
    ]


def conversation(prompt: Prompt, draft: str | None) -> list[Message]:
    """The messages that ask for a draft, or with `draft` for its revision."""
    return [*prompt] if draft is None else [*prompt, {"role": "assistant", "content": draft}]


def check_rendering(tok: PromptTokenizer, tokenizer: Any) -> None:
    """Raises WorkFailed when `tokenizer`, with its new chat template, renders other text than the policy was trained on."""
    prompt = user_prompt("A question with a name: Ada.")
    for draft in (None, "A draft."):
        rendered = tokenizer.apply_chat_template(conversation(prompt, draft), add_generation_prompt=True, tokenize=False)
        expected = tok.template.render_text(prompt, draft)
        if rendered != expected:
            raise WorkFailed(
                f"expected the exported chat template to render {expected!r}, found {rendered!r}: this tokenizer's own template "
                "cannot be written as one that stands alone; use templates.json of a policy of kind tldr or article"
            )


def same_ids(tok: PromptTokenizer, tokenizer: Any, texts: Iterable[tuple[Prompt, str | None]]) -> tuple[int, int]:
    """Of (prompt, draft) pairs: how many have the same ids through `tokenizer.apply_chat_template`, and how many there were."""
    same = count = 0
    for prompt, draft in texts:
        expected = tok.prompt_ids(prompt) if draft is None else tok.revision_prompt_ids(prompt, draft)
        messages = conversation(prompt, draft)
        found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        same, count = same + (list(found) == list(expected)), count + 1
    return same, count
