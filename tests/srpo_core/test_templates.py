"""Rendered prompts: the published wording byte by byte, contents kept apart, and chat templates of several habits."""

import pytest

from srpo_core.errors import InputError
from srpo_core.records import user_prompt
from srpo_core.settings.model import TemplateSettings
from srpo_core.templates import FIXED_DATE, PromptTemplate, Segment
from tests.fakes import CHAT_TEMPLATE, byte_tokenizer

POST = "SUBREDDIT: r/pets\n\nTITLE: My cat\n\nPOST: She hid."
CONVERSATION = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Name a fruit"},
]


def template(chat_template: str | None = CHAT_TEMPLATE, *, adds_bos: bool = False, **settings) -> PromptTemplate:
    return PromptTemplate(TemplateSettings(**settings), byte_tokenizer(chat_template=chat_template, adds_bos=adds_bos))


def test_tldr_prompt_has_the_published_wording():
    assert template(kind="tldr").render_text(user_prompt(POST)) == (
        "Below is a reddit POST and the corresponding SUBREDDIT and TITLE. Write a both precise and concise summary "
        "of the contents of the POST.\n\nSUBREDDIT: r/pets\n\nTITLE: My cat\n\nPOST: She hid.\n\nTL;DR:"
    )


def test_tldr_revision_prompt_has_the_published_wording():
    assert template(kind="tldr").render_text(user_prompt(POST), "Cat hid.") == (
        "Below is a reddit POST and the corresponding SUBREDDIT, TITLE, and an EXAMPLE SUMMARY. "
        "Write a both precise and concise summary of the contents of the POST.\n\n"
        "SUBREDDIT: r/pets\n\nTITLE: My cat\n\nPOST: She hid.\n\nEXAMPLE SUMMARY: Cat hid.\n\nTL;DR:"
    )


def test_article_prompts_follow_the_same_pattern():
    article = template(kind="article")
    wording = "Write a both precise and concise summary of the contents of the ARTICLE.\n\nARTICLE: Rain."
    assert article.render_text(user_prompt("Rain.")) == f"Below is an ARTICLE. {wording}\n\nTL;DR:"
    assert article.render_text(user_prompt("Rain."), "Wet.") == (
        f"Below is an ARTICLE and an EXAMPLE SUMMARY. {wording}\n\nEXAMPLE SUMMARY: Wet.\n\nTL;DR:"
    )


def test_the_wording_never_asks_to_improve():
    for kind in ("tldr", "article"):
        assert "improve" not in template(kind=kind).render_text(user_prompt("x"), "y")


def test_chat_text_is_what_the_chat_template_writes():
    chat = template(kind="chat", revision_request="Better?", system_prompt="Be kind")
    whole = [{"role": "system", "content": "Be kind"}, *CONVERSATION]

    def rendered(messages: list) -> str:
        return chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    assert chat.render_text(CONVERSATION) == rendered(whole)
    revision = [*whole, {"role": "assistant", "content": "Pear"}, {"role": "user", "content": "Better?"}]
    assert chat.render_text(CONVERSATION, "Pear") == rendered(revision)


def test_every_content_is_a_segment_of_its_own_and_no_template():
    plain = [s.text for s in template(kind="chat", system_prompt="Be kind").render(CONVERSATION, "Pear") if not s.is_template]
    assert plain == ["Be kind", "Hi", "Hello", "Name a fruit", "Pear", "Please write a better answer."]
    assert Segment("x", False) in template(kind="tldr").render(user_prompt("x"))


def test_a_prompts_own_system_turn_takes_precedence():
    prompt = [{"role": "system", "content": "Be brief"}, *user_prompt("Hi")]
    text = template(kind="chat", system_prompt="Be kind").render_text(prompt)
    assert "Be brief" in text and "Be kind" not in text


def test_contents_that_look_like_template_code_are_left_alone():
    hostile = "{{ messages }} @@content0@@ @@content1@@ {% if %}"
    assert hostile in template(kind="chat").render_text(user_prompt(hostile), hostile)


def test_a_template_that_prints_the_date_gives_the_same_text_every_day():
    dated = "{{- 'Today is ' + strftime_now('%d %b %Y') + '. ' }}" + CHAT_TEMPLATE
    assert template(dated, kind="chat").render_text(user_prompt("Hi")).startswith(f"Today is {FIXED_DATE}. <|im_start|>user")


def test_a_template_that_folds_the_system_turn_into_the_user_turn_keeps_both():
    folding = (
        "{%- if messages[0]['role'] == 'system' %}"
        "{%- set system = messages[0]['content'] %}{%- set messages = messages[1:] %}"
        "{%- endif %}{%- for m in messages %}"
        "{{- '[' + m['role'] + ']' + (system + ': ' if loop.last and system else '') + m['content'] }}"
        "{%- endfor %}"
    )
    assert template(folding, kind="chat", system_prompt="Be kind").render_text(CONVERSATION) == (
        "[user]Hi[assistant]Hello[user]Be kind: Name a fruit"
    )


@pytest.mark.parametrize("kind", ["tldr", "article"])
@pytest.mark.parametrize("prompt", [CONVERSATION, [{"role": "system", "content": "x"}, *user_prompt("y")]])
def test_a_plain_kind_takes_one_user_message_only(kind, prompt):
    with pytest.raises(InputError, match=f"template kind {kind} takes a prompt of one user message"):
        template(kind=kind).render(prompt)


@pytest.mark.parametrize("prompt", [[], CONVERSATION[:2]])
def test_a_prompt_must_end_with_a_user_message(prompt):
    with pytest.raises(InputError, match="ends with a user message"):
        template(kind="chat").render(prompt)


def test_chat_without_a_chat_template_is_refused():
    with pytest.raises(InputError, match="needs a tokenizer with a chat template"):
        template(None, kind="chat")
    template(None, kind="tldr")


def test_what_a_chat_template_refuses_is_an_input_error_with_its_words():
    refusal = "{{- raise_exception('System role not supported') }}"
    strict = "{%- if messages[0]['role'] == 'system' %}" + refusal + "{%- endif %}" + CHAT_TEMPLATE
    with pytest.raises(InputError, match="System role not supported"):
        template(strict, kind="chat", system_prompt="Be kind").render(user_prompt("Hi"))


def test_a_chat_template_that_drops_a_turn_is_refused():
    forgetful = "{%- for m in messages if m['role'] != 'assistant' %}{{- m['content'] }}{%- endfor %}"
    with pytest.raises(InputError, match="leaves out the assistant turn"):
        template(forgetful, kind="chat").render(user_prompt("Hi"), "draft")


@pytest.mark.parametrize(
    ("add_bos", "adds_bos", "begins"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_bos_is_the_setting_or_else_the_tokenizers_habit(add_bos, adds_bos, begins):
    text = template(kind="tldr", add_bos=add_bos, adds_bos=adds_bos).render_text(user_prompt("x"))
    assert text.startswith("<bos>") == begins and text.count("<bos>") == begins


def test_bos_without_a_bos_token_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(InputError, match="no BOS token"):
        PromptTemplate(TemplateSettings(kind="tldr", add_bos=True), tokenizer)
