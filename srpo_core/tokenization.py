"""How prompts, drafts and completions become token ids: one rule for reference pass, training and generation.

Source: docs/method.md 1.2a. Template, contents and completion are tokenised apart and their ids concatenated, so a draft has
the same tokens wherever it stands and special tokens in a person's text stay plain text. A completion is its text and the stop
token; one cut by the length limit has none. A prompt that does not fit loses tokens from the end of its last user message, the
same ones in all sequences of a pair.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from srpo_core.errors import InputError
from srpo_core.plain_text import Ids, PlainTextEncoder
from srpo_core.records import Prompt
from srpo_core.settings.base import parse_settings
from srpo_core.settings.model import GenerationSettings, TemplateSettings
from srpo_core.templates import PromptTemplate, Segment, roles_of

TEMPLATE_FILE = "srpo_template.json"
TextIds = Mapping[str, Ids]  # texts that were tokenised together, and their ids


class PairTooLong(InputError):
    """A prompt, pair or demonstration that does not fit `max_length` with any of its prompt left; callers count these."""


class FittedPrompt(NamedTuple):
    """A prompt that leaves room for its completion."""

    ids: Ids
    truncated: bool


class TokenizedDemonstration(NamedTuple):
    """A completion to imitate, as ids."""

    prompt_ids: Ids
    completion_ids: Ids


@dataclass(frozen=True)
class PairTokens:
    """The six sequences of a pair of texts a, b, in the order logp_a, logp_b, a|a, b|a, a|b, b|b (`x|y`: x given the draft y)."""

    sequences: tuple[tuple[Ids, Ids], ...]  # six of (prompt ids, completion ids)
    num_tokens_a: int  # completion tokens, the stop token included
    num_tokens_b: int
    token_hash: str  # SHA-256 of the six
    prompt_truncated: bool


class PromptTokenizer:
    """A tokenizer, a template and a length limit. Raises InputError at construction where they do not go together."""

    def __init__(self, tokenizer: Any, template: TemplateSettings, max_length: int) -> None:
        """`max_length`: tokens of prompt plus completion."""
        self.tokenizer = tokenizer
        self.settings = template
        self.max_length = max_length
        self.template = PromptTemplate(template, tokenizer)
        self._template_ids: dict[str, Ids] = {}
        self._fixed_ids: dict[str, Ids] = {}
        self.encode_texts = PlainTextEncoder(tokenizer)
        self.stop_id = self._find_stop_id()
        eos_id = tokenizer.eos_token_id
        self.stop_ids: Ids = [self.stop_id] if eos_id in (None, self.stop_id) else [self.stop_id, eos_id]

    # Prompts and completions

    def prompt_ids(self, prompt: Prompt) -> Ids:
        """The prompt that asks for a draft, whole, however long."""
        return self._assemble(prompt, None, self.encode_texts(_contents(prompt)), None)

    def revision_prompt_ids(self, prompt: Prompt, draft: str) -> Ids:
        """The prompt that asks for a revision of the draft, whole, however long."""
        return self._assemble(prompt, draft, self.encode_texts([*_contents(prompt), draft]), None)

    def fit_prompt(self, prompt: Prompt, room_for_completion: int, draft: str | None = None) -> FittedPrompt:
        """The prompt, or with `draft` the revision prompt, shortened so that `room_for_completion` tokens fit behind it.

        Raises PairTooLong when no token of the last user message would be left.
        """
        text_ids = self.encode_texts([*_contents(prompt), *([] if draft is None else [draft])])
        length = len(self._assemble(prompt, draft, text_ids, None)) + room_for_completion
        keep = self._content_tokens_to_keep(prompt, text_ids, length)
        return FittedPrompt(self._assemble(prompt, draft, text_ids, keep), keep is not None)

    def completion_ids(self, text: str, finished: bool = True) -> Ids:
        """The text's tokens and the stop token; `finished` = False where the length limit cut the completion: no stop token.

        Raises InputError for no text.
        """
        return self._completion(text, self.encode_texts([text]), finished)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids: what stands before the first stop token, special tokens left out."""
        stops = [place for place, token in enumerate(ids) if token in self.stop_ids]
        text_ids = [token for token in ids[: stops[0] if stops else None] if token not in self.encode_texts.special_ids]
        return self.tokenizer.decode(text_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    # Pairs and demonstrations, from texts that were tokenised in one call

    def pair(self, prompt: Prompt, text_a: str, text_b: str, text_ids: TextIds) -> PairTokens:
        """The pair's six sequences with one truncation for all. Raises PairTooLong, or InputError for an empty completion."""
        completions = [self._completion(text, text_ids, True) for text in (text_a, text_b)]
        drafts: tuple[str | None, ...] = (None, text_a, text_b)
        longest_prompt = max(len(self._assemble(prompt, draft, text_ids, None)) for draft in drafts)
        keep = self._content_tokens_to_keep(prompt, text_ids, longest_prompt + max(map(len, completions)))
        prompts = [self._assemble(prompt, draft, text_ids, keep) for draft in drafts]
        sequences = tuple((ids, completion) for ids in prompts for completion in completions)
        return PairTokens(sequences, len(completions[0]), len(completions[1]), hash_sequences(sequences), keep is not None)

    def demonstration(self, prompt: Prompt, draft: str | None, completion: str, text_ids: TextIds) -> TokenizedDemonstration:
        """Its prompt, truncated to fit, and its completion. Raises PairTooLong, or InputError for an empty completion."""
        completion_ids = self._completion(completion, text_ids, True)
        length = len(self._assemble(prompt, draft, text_ids, None)) + len(completion_ids)
        keep = self._content_tokens_to_keep(prompt, text_ids, length)
        return TokenizedDemonstration(self._assemble(prompt, draft, text_ids, keep), completion_ids)

    # What a policy folder remembers

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides which ids a text becomes, beside the tokenizer itself."""
        return {
            "template": self.settings.model_dump(),
            "max_length": self.max_length,
            "stop_ids": self.stop_ids,
            "begins_with_bos": self.template.begins_with_bos,
        }

    def save_template(self, folder: str | Path, decoding: GenerationSettings | None = None) -> None:
        """Write `srpo_template.json` into a policy folder, with the default decoding of drafts and revisions if given."""
        values = self.to_dict() | {"decoding": None if decoding is None else decoding.model_dump()}
        (Path(folder) / TEMPLATE_FILE).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    # How

    def _encode_template(self, text: str) -> Ids:
        if text not in self._template_ids:
            encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)
            self._template_ids[text] = encoded["input_ids"]
        return self._template_ids[text]

    def _encode_fixed(self, text: str) -> Ids:
        """Plain text that comes from the settings and not from the data."""
        if text not in self._fixed_ids:
            self._fixed_ids.update(self.encode_texts([text]))
        return self._fixed_ids[text]

    def _assemble(self, prompt: Prompt, draft: str | None, text_ids: TextIds, keep: int | None) -> Ids:
        """The prompt's ids; `keep` = how many tokens of the last message stay, None for all."""
        ids: Ids = []
        for part in self.template.skeleton(roles_of(prompt), with_draft=draft is not None):
            if isinstance(part, Segment):
                ids += self._encode_template(part.text) if part.is_template else self._encode_fixed(part.text)
            elif part.message_index is None:
                ids += text_ids[draft or ""]
            else:
                content = text_ids[prompt[part.message_index]["content"]]
                ids += content[:keep] if part.message_index == len(prompt) - 1 else content
        return ids

    def _content_tokens_to_keep(self, prompt: Prompt, text_ids: TextIds, longest: int) -> int | None:
        """How many tokens of the last message fit when the longest sequence has `longest` tokens; None when nothing is cut."""
        excess = longest - self.max_length
        if excess <= 0:
            return None
        available = len(text_ids[prompt[-1]["content"]])
        if excess >= available:
            raise PairTooLong(
                f"expected at most {self.max_length} tokens (max_length) in the longest sequence, found {longest}, of which only "
                f"{available} belong to the last user message and can be cut; raise max_length or leave the text out"
            )
        return available - excess

    def _completion(self, text: str, text_ids: TextIds, finished: bool) -> Ids:
        ids = text_ids[text]
        if not ids:
            raise InputError(f"expected a completion with at least one token, found {text!r}; leave empty completions out")
        return [*ids, self.stop_id] if finished else list(ids)

    def _find_stop_id(self) -> int:
        """The chat template's end of turn if it is a special token, else EOS."""
        if self.settings.kind == "chat":
            for token in self._encode_template(self.template.text_after_assistant()):
                if token in self.encode_texts.special_ids:
                    return token
                if self.tokenizer.decode([token]).strip():
                    break
        if self.tokenizer.eos_token_id is None:
            raise InputError(
                f"expected a tokenizer with an EOS token, or with a chat template that ends turns with a special token; "
                f"the one of {getattr(self.tokenizer, 'name_or_path', '') or 'this model'} has neither; set its eos_token"
            )
        return self.tokenizer.eos_token_id


def tokenize_pair(tok: PromptTokenizer, prompt: Prompt, text_a: str, text_b: str) -> PairTokens:
    """The six sequences of one pair, a and b in the order given. Raises PairTooLong, or InputError for an empty completion."""
    return tok.pair(prompt, text_a, text_b, tok.encode_texts([*_contents(prompt), text_a, text_b]))


def tokenize_pairs(tok: PromptTokenizer, pairs: Sequence[tuple[Prompt, str, str]]) -> list[PairTokens | PairTooLong]:
    """`tokenize_pair` of many, tokenised in one call; a pair that does not fit is returned as its PairTooLong, to be counted."""
    text_ids = tok.encode_texts(text for prompt, a, b in pairs for text in (*_contents(prompt), a, b))
    results: list[PairTokens | PairTooLong] = []
    for prompt, text_a, text_b in pairs:
        try:
            results.append(tok.pair(prompt, text_a, text_b, text_ids))
        except PairTooLong as too_long:
            results.append(too_long)
    return results


def tokenize_demonstration(tok: PromptTokenizer, prompt: Prompt, draft: str | None, completion: str) -> TokenizedDemonstration:
    """One demonstration as ids. Raises PairTooLong, or InputError for an empty completion."""
    texts = [*_contents(prompt), completion, *([] if draft is None else [draft])]
    return tok.demonstration(prompt, draft, completion, tok.encode_texts(texts))


def tokenize_demonstrations(
    tok: PromptTokenizer, demonstrations: Sequence[tuple[Prompt, str | None, str]]
) -> list[TokenizedDemonstration | PairTooLong]:
    """`tokenize_demonstration` of many (prompt, draft, completion) in one call; what does not fit is returned as PairTooLong."""
    items = [[*_contents(prompt), draft, completion] for prompt, draft, completion in demonstrations]
    text_ids = tok.encode_texts(text for texts in items for text in texts if text is not None)
    results: list[TokenizedDemonstration | PairTooLong] = []
    for prompt, draft, completion in demonstrations:
        try:
            results.append(tok.demonstration(prompt, draft, completion, text_ids))
        except PairTooLong as too_long:
            results.append(too_long)
    return results


def load_template(folder: str | Path, tokenizer: Any) -> tuple[PromptTokenizer, GenerationSettings | None]:
    """What `save_template` wrote: the prompt tokenizer, and the default decoding if there is one.

    Raises InputError when the file is missing or unreadable, or when the tokenizer no longer gives the stop ids and BOS rule
    of training.
    """
    path = Path(folder) / TEMPLATE_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        template, max_length, decoding = values["template"], int(values["max_length"]), values.get("decoding")
    except FileNotFoundError as error:
        raise InputError(
            f"expected a policy folder with {TEMPLATE_FILE}, found none in {folder}; train or export the policy again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"expected template settings in {path}, found unusable content ({error!r}); train or export the policy again"
        ) from error
    tok = PromptTokenizer(tokenizer, parse_settings(TemplateSettings, template, str(path)), max_length)
    for name in ("stop_ids", "begins_with_bos"):
        if tok.to_dict()[name] != values.get(name):
            raise InputError(
                f"expected {name} {values.get(name)} as in {path}, but the tokenizer beside it gives {tok.to_dict()[name]}; "
                "restore the tokenizer that the policy was trained with"
            )
    return tok, None if decoding is None else parse_settings(GenerationSettings, decoding, str(path))


def hash_sequences(sequences: Iterable[tuple[Sequence[int], Sequence[int]]]) -> str:
    """SHA-256 over ordered (prompt ids, completion ids), each preceded by its length; hexadecimal."""
    digest = hashlib.sha256()
    for sequence in sequences:
        for ids in sequence:
            digest.update(np.asarray([len(ids), *ids], dtype="<i8").tobytes())
    return digest.hexdigest()


def _contents(prompt: Prompt) -> list[str]:
    return [message["content"] for message in prompt]
