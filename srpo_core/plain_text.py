"""Text of a person or a model as token ids that never contain a special token, whatever the text says.

A text that spells `<|im_end|>` must not end a turn. Fast tokenizers can be told so; the few whose vocabulary holds a special
token as an ordinary word make it all the same, and there the word is cut in two.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from srpo_core.errors import InputError

Ids = list[int]


class PlainTextEncoder:
    """Encodes texts without special tokens, many in one call of the tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """`special_ids` are all ids that mean something to the model and not to a reader."""
        self.tokenizer = tokenizer
        added = {token for token, properties in tokenizer.added_tokens_decoder.items() if properties.special}
        self.special_ids = frozenset(added | set(tokenizer.all_special_ids))
        self._forbidden_ids = self.special_ids - {tokenizer.unk_token_id}  # an unknown word is no attack
        self._leaking_words = self._find_leaking_words()

    def __call__(self, texts: Iterable[str]) -> dict[str, Ids]:
        """Every distinct text and its ids. Raises InputError for a text that this tokenizer cannot make plain."""
        unique = list(dict.fromkeys(texts))
        encoded = dict(zip(unique, self._encode(unique), strict=True))
        if self._leaking_words:
            leaking = [text for text, ids in encoded.items() if self._forbidden_ids.intersection(ids)]
            encoded.update((text, self._encode_in_pieces(text)) for text in leaking)
        return encoded

    def _encode(self, texts: list[str]) -> list[Ids]:
        if not texts:
            return []
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]

    def _find_leaking_words(self) -> list[str]:
        """Special tokens that the tokenizer makes of their text although told not to; none for nearly all tokenizers."""
        words = self.tokenizer.convert_ids_to_tokens(sorted(self._forbidden_ids))
        encoded = self._encode(words)
        return [word for word, ids in zip(words, encoded, strict=True) if self._forbidden_ids.intersection(ids)]

    def _encode_in_pieces(self, text: str) -> Ids:
        """The text with each leaking word cut after its first character."""
        words = "|".join(map(re.escape, self._leaking_words))
        pieces = [part for piece in re.split(f"({words})", text) for part in _cut(piece, self._leaking_words) if part]
        ids = [token for piece_ids in self._encode(pieces) for token in piece_ids]
        if self._forbidden_ids.intersection(ids):
            raise InputError(
                f"expected special tokens in a text to become plain text, but this tokenizer makes them of {text[:80]!r}; "
                "use a fast tokenizer whose special tokens are not words of its vocabulary, or leave the text out"
            )
        return ids


def _cut(piece: str, words: Sequence[str]) -> tuple[str, ...]:
    return (piece[:1], piece[1:]) if piece in words else (piece,)
