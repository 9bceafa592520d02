"""Chat templates that stand alone render and tokenise what the policy was trained on, for every kind of template."""

import json
from typing import Any

import jinja2
import pytest

from srpo_core.errors import WorkFailed
from srpo_core.plain_templates import chat_template, check_rendering, conversation, same_ids, written_templates
from srpo_core.records import Prompt, user_prompt
from srpo_core.settings.model import TemplateSettings
from srpo_core.tokenization import PromptTokenizer
from tests.fakes import byte_tokenizer

DATED = "{{- '[' + date_string + strftime_now('%d') + ('thinking' if enable_thinking else 'plain') + ']' }}"
NATIVE = byte_tokenizer().chat_template
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tldr": ({"kind": "tldr"}, {}),
    "tldr_with_bos": ({"kind": "tldr", "add_bos": True}, {}),
    "article": ({"kind": "article"}, {}),
    "chat": ({"kind": "chat", "revision_request": 'Better, "much" better?\nYes: ☃ 🎈 \\ {{ 1 }}'}, {}),
    "chat_with_system": ({"kind": "chat", "system_prompt": "Be brief."}, {}),
    "chat_with_date": ({"kind": "chat"}, {"chat_template": DATED + NATIVE}),
    "chat_that_begins_with_a_newline": ({"kind": "chat"}, {"chat_template": "\n" + NATIVE}),
}
PROMPT = user_prompt("Post with {{ braces }}, 'quotes', \\ and\na line. ☃")
DRAFTS = (None, 'A draft {% if %} of "mine".')
each_kind = pytest.mark.parametrize("kind", KINDS)


def policy_and_plain(kind: str) -> tuple[PromptTokenizer, Any]:
    """The policy's own prompt tokenizer, and a plain tokenizer with the exported template."""
    template, tokenizer = KINDS[kind]
    tok = PromptTokenizer(byte_tokenizer(**tokenizer), TemplateSettings.model_validate(template), 512)
    plain = byte_tokenizer()
    plain.chat_template = chat_template(tok)
    return tok, plain


@each_kind
def test_the_exported_template_renders_prompts_and_revision_prompts_as_the_policy_does(kind: str) -> None:
    tok, plain = policy_and_plain(kind)
    for draft in DRAFTS:
        text = plain.apply_chat_template(conversation(PROMPT, draft), add_generation_prompt=True, tokenize=False)
        assert text == tok.template.render_text(PROMPT, draft)
    check_rendering(tok, plain)
    assert same_ids(tok, plain, [(PROMPT, draft) for draft in DRAFTS]) == (2, 2)


@each_kind
def test_the_written_strings_give_the_ids_of_training(kind: str) -> None:
    tok, plain = policy_and_plain(kind)
    strings = json.loads(json.dumps(written_templates(tok)))
    for key, draft in zip(("draft", "revision"), DRAFTS, strict=True):
        texts = {"prompt": PROMPT[0]["content"], "draft": draft}
        pieces = [part.get("text") or texts[part["slot"]] for part in strings[key]]
        ids = [token for piece in pieces for token in plain(piece, add_special_tokens=False)["input_ids"]]
        assert ids == (tok.prompt_ids(PROMPT) if draft is None else tok.revision_prompt_ids(PROMPT, draft))


def test_a_conversation_of_several_turns_is_revised_at_its_last_answer() -> None:
    tok, plain = policy_and_plain("chat_with_system")
    turns: Prompt = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    for draft in (None, "d"):
        text = plain.apply_chat_template(conversation(turns, draft), add_generation_prompt=True, tokenize=False)
        assert text == tok.template.render_text(turns, draft)


def test_a_conversation_that_is_not_to_be_continued_has_no_request_in_it() -> None:
    """As when somebody trains on with the exported tokenizer."""
    tok, plain = policy_and_plain("chat")
    text = plain.apply_chat_template(conversation(PROMPT, "draft"), tokenize=False)
    assert text == tok.tokenizer.apply_chat_template(conversation(PROMPT, "draft"), tokenize=False)


def test_a_plain_kind_refuses_turns_it_has_no_words_for() -> None:
    _, plain = policy_and_plain("tldr")
    with pytest.raises(jinja2.TemplateError, match="one user turn"):
        plain.apply_chat_template([{"role": "system", "content": "a"}, *PROMPT], add_generation_prompt=True, tokenize=False)


def test_another_rendering_is_noticed() -> None:
    tok, plain = policy_and_plain("tldr")
    plain.chat_template = plain.chat_template.replace("EXAMPLE", "SAMPLE")
    with pytest.raises(WorkFailed, match="SAMPLE"):
        check_rendering(tok, plain)


def test_prompts_whose_joints_are_tokenised_otherwise_are_counted() -> None:
    """A special token inside a person's text is plain text in training, and is not when all text is tokenised in one piece."""
    tok, plain = policy_and_plain("chat")
    assert same_ids(tok, plain, [(user_prompt("an <|im_end|> inside"), None), (PROMPT, None)]) == (1, 2)
