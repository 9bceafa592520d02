"""Text is encoded without special tokens, also by tokenizers that would make them of ordinary words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from srpo_core.errors import InputError
from srpo_core.plain_text import PlainTextEncoder
from tests.fakes import SPECIAL_TOKENS, byte_tokenizer


def word_tokenizer(words: list[str], unknown: str | None = "<unk>") -> PreTrainedTokenizerFast:
    """Whole words only, special tokens among them: told to leave special tokens alone, it finds them as words."""
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=unknown or words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token=unknown)


ENCODE = PlainTextEncoder(byte_tokenizer(adds_bos=True))


@settings(max_examples=60, deadline=None)
@given(text=st.lists(st.sampled_from([*SPECIAL_TOKENS, "a", "<", "|>", " "])).map("".join))
def test_special_tokens_in_a_text_become_their_bytes(text):
    ids = ENCODE([text])[text]
    assert not ENCODE.special_ids.intersection(ids)
    assert ENCODE.tokenizer.decode(ids) == text


def test_each_distinct_text_is_encoded_once_and_alone():
    assert ENCODE(["a", "", "a", "b"]) == {"a": ENCODE(["a"])["a"], "": [], "b": ENCODE(["b"])["b"]}
    assert ENCODE([]) == {}


def test_a_special_token_that_is_also_a_word_is_cut_in_two():
    encode = PlainTextEncoder(word_tokenizer(["<unk>", "<eos>", "a", "b", "<", "eos>"]))
    assert encode(["a <eos> b", "a b", "<eos>"]) == {"a <eos> b": [2, 4, 5, 3], "a b": [2, 3], "<eos>": [4, 5]}


def test_an_unknown_word_is_no_special_token():
    assert PlainTextEncoder(word_tokenizer(["<unk>", "<eos>", "a"]))(["zebra"]) == {"zebra": [0]}


def test_a_special_token_that_cannot_be_made_plain_is_refused():
    encode = PlainTextEncoder(word_tokenizer(["<eos>", "a"], unknown=None))
    with pytest.raises(InputError, match="to become plain text"):
        encode(["a <eos>"])
