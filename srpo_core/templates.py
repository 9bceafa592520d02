"""How a prompt, and a prompt with an earlier draft, become text: the published TL;DR wording, its ARTICLE form, and chat.

Source of the TL;DR wording: SRPO (2406.01660) as in docs/method.md 1.3; the ARTICLE wording and the chat form are choices of
this project. A rendered prompt is a list of segments. Template text may contain special tokens; text that a person or a model
wrote never does, so the two are kept apart until they are tokenised. Contents stand in a prompt verbatim, also where a chat
template would trim them, so that a draft has the same tokens as the completion it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srpo_core.errors import InputError
from srpo_core.records import Message, Prompt
from srpo_core.settings.model import TemplateSettings

HEADERS: Mapping[str, tuple[str, str]] = {  # kind -> header without and with an example summary
    "tldr": (
        "Below is a reddit POST and the corresponding SUBREDDIT and TITLE. "
        "Write a both precise and concise summary of the contents of the POST.",
        "Below is a reddit POST and the corresponding SUBREDDIT, TITLE, and an EXAMPLE SUMMARY. "
        "Write a both precise and concise summary of the contents of the POST.",
    ),
    "article": (
        "Below is an ARTICLE. Write a both precise and concise summary of the contents of the ARTICLE.",
        "Below is an ARTICLE and an EXAMPLE SUMMARY. Write a both precise and concise summary of the contents of the ARTICLE.",
    ),
}
TEXT_LABELS: Mapping[str, str] = {"tldr": "", "article": "ARTICLE: "}  # a TL;DR post brings its own labels
FIXED_DATE = "26 Jul 2024"  # templates that print today's date would give other token ids every day


@dataclass(frozen=True)
class Segment:
    """A stretch of a rendered prompt."""

    text: str
    is_template: bool  # True: special tokens in it count as such; False: everything is plain text


@dataclass(frozen=True)
class Slot:
    """A place for a content: the message of that index, or the draft when `message_index` is None."""

    message_index: int | None


Skeleton = tuple[Segment | Slot, ...]


class PromptTemplate:
    """Renders prompts of one kind for one tokenizer. Skeletons depend on roles only: 100k prompts cost a few renderings."""

    def __init__(self, settings: TemplateSettings, tokenizer: Any) -> None:
        """Raises InputError where the settings need a chat template or a BOS token that the tokenizer does not have."""
        self.settings = settings
        self.tokenizer = tokenizer
        self._skeletons: dict[tuple[tuple[str, ...], bool], Skeleton] = {}
        if settings.kind == "chat" and not tokenizer.chat_template:
            raise InputError(
                f"template kind chat needs a tokenizer with a chat template, and the one of {_name(tokenizer)} has none; "
                "use an instruction-tuned model's tokenizer, or template kind tldr or article"
            )
        self.begins_with_bos = settings.kind != "chat" and self._wants_bos()

    def _wants_bos(self) -> bool:
        """The setting, or else the tokenizer's own habit."""
        bos_id = self.tokenizer.bos_token_id
        if self.settings.add_bos is None:
            ids = self.tokenizer("a")["input_ids"]
            return bos_id is not None and bool(ids) and ids[0] == bos_id
        if self.settings.add_bos and bos_id is None:
            raise InputError(
                f"add_bos is true, but the tokenizer of {_name(self.tokenizer)} has no BOS token; "
                "leave add_bos out or set it to false"
            )
        return self.settings.add_bos

    def render(self, prompt: Prompt, draft: str | None = None) -> list[Segment]:
        """The prompt as segments; with `draft`, the prompt that asks for its revision. Raises InputError if it is unusable."""
        segments = []
        for part in self.skeleton(roles_of(prompt), with_draft=draft is not None):
            if isinstance(part, Segment):
                segments.append(part)
            else:
                text = draft if part.message_index is None else prompt[part.message_index]["content"]
                segments.append(Segment(text or "", is_template=False))
        return segments

    def render_text(self, prompt: Prompt, draft: str | None = None) -> str:
        """The segments joined, for people to read."""
        return "".join(segment.text for segment in self.render(prompt, draft))

    def skeleton(self, roles: tuple[str, ...], *, with_draft: bool) -> Skeleton:
        """Template segments with slots for the contents, for a prompt whose messages have these roles."""
        key = (roles, with_draft)
        if key not in self._skeletons:
            _check_roles(roles)
            build = self._chat_skeleton if self.settings.kind == "chat" else self._plain_skeleton
            self._skeletons[key] = build(roles, with_draft)
        return self._skeletons[key]

    def _plain_skeleton(self, roles: tuple[str, ...], with_draft: bool) -> Skeleton:
        kind = self.settings.kind
        if roles != ("user",):
            raise InputError(
                f"template kind {kind} takes a prompt of one user message, found messages of {', '.join(roles)}; "
                "use template kind chat"
            )
        parts: list[Segment | Slot] = [Segment(self.tokenizer.bos_token, True)] if self.begins_with_bos else []
        parts += [Segment(f"{HEADERS[kind][with_draft]}\n\n{TEXT_LABELS[kind]}", True), Slot(0)]
        if with_draft:
            parts += [Segment("\n\nEXAMPLE SUMMARY: ", True), Slot(None)]
        return (*parts, Segment("\n\nTL;DR:", True))

    def _chat_skeleton(self, roles: tuple[str, ...], with_draft: bool) -> Skeleton:
        """Renders sentinels in place of the contents and cuts the text at them."""
        contents: list[tuple[str, Segment | Slot]] = [(role, Slot(index)) for index, role in enumerate(roles)]
        if self.settings.system_prompt is not None and roles[0] != "system":  # a prompt's own system turn takes precedence
            contents.insert(0, ("system", Segment(self.settings.system_prompt, is_template=False)))
        if with_draft:
            contents += [("assistant", Slot(None)), ("user", Segment(self.settings.revision_request, is_template=False))]
        return self._cut(contents, add_generation_prompt=True)

    def text_after_assistant(self) -> str:
        """What the chat template writes after the content of an assistant's last turn: the stop token, if it has one there."""
        *_, last = self._cut([("user", Slot(0)), ("assistant", Slot(None))], add_generation_prompt=False)
        return last.text if isinstance(last, Segment) else ""

    def _cut(self, contents: Sequence[tuple[str, Segment | Slot]], *, add_generation_prompt: bool) -> Skeleton:
        sentinels = [f"@@content{index}@@" for index in range(len(contents))]
        roles = [role for role, _ in contents]
        messages: list[Message] = [{"role": role, "content": text} for role, text in zip(roles, sentinels, strict=True)]
        text = render_chat(self.tokenizer, messages, add_generation_prompt=add_generation_prompt)
        missing = [message["role"] for message in messages if message["content"] not in text]
        if missing:
            raise InputError(
                f"the chat template of {_name(self.tokenizer)} leaves out the {missing[0]} turn "
                f"of a conversation of {_turns(messages)}; use prompts without that turn, or another template kind"
            )
        parts: list[Segment | Slot] = [Segment(text, is_template=True)]
        for sentinel, (_, content) in zip(sentinels, contents, strict=True):
            parts = [piece for part in parts for piece in _split(part, sentinel, content)]
        return tuple(part for part in parts if isinstance(part, Slot) or part.text)


def render_chat(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """The text that the tokenizer's chat template makes of a conversation, the same every day.

    Raises InputError when the template refuses the conversation.
    """
    try:
        template = tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = "{%- macro strftime_now(format) -%}" + FIXED_DATE + "{%- endmacro %}" + template
        return tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            date_string=FIXED_DATE,
            enable_thinking=False,  # the completion is the whole answer: nothing is thought before it
        )
    except Exception as error:  # whatever a template raises is a statement about the conversation
        raise InputError(
            f"the chat template of {_name(tokenizer)} refuses a conversation of {_turns(messages)}: {error}; "
            "change the prompts' turns or the system_prompt setting"
        ) from error


def roles_of(prompt: Prompt) -> tuple[str, ...]:
    """The roles of the prompt's messages, in order."""
    return tuple(message["role"] for message in prompt)


def _check_roles(roles: tuple[str, ...]) -> None:
    if not roles or roles[-1] != "user":
        found = ", ".join(roles) or "no message"
        raise InputError(f"expected a prompt that ends with a user message, found {found}; cut it after its last user turn")


def _split(part: Segment | Slot, sentinel: str, content: Segment | Slot) -> list[Segment | Slot]:
    """The part with every occurrence of the sentinel replaced by the content."""
    if isinstance(part, Slot) or not part.is_template:
        return [part]
    first, *rest = part.text.split(sentinel)
    return [Segment(first, True), *(piece for text in rest for piece in (content, Segment(text, True)))]


def _turns(messages: Sequence[Message]) -> str:
    return ", ".join(message["role"] for message in messages)


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or "this model"
