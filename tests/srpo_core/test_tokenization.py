"""Token ids of prompts, drafts and completions: the same in training and inference, whatever the texts contain."""

import hashlib
import json
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srpo_core.errors import InputError
from srpo_core.records import user_prompt
from srpo_core.settings.model import GenerationSettings, TemplateSettings
from srpo_core.tokenization import (
    PairTokens,
    PairTooLong,
    PromptTokenizer,
    hash_sequences,
    load_template,
    tokenize_demonstration,
    tokenize_demonstrations,
    tokenize_pair,
    tokenize_pairs,
)
from tests.fakes import CHAT_TEMPLATE, SPECIAL_TOKENS, byte_tokenizer

KINDS = ["tldr", "article", "chat"]
PAD, BOS, EOS, IM_START, IM_END = range(5)
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
SPECIAL_TEXT = st.lists(st.sampled_from([*SPECIAL_TOKENS, "a", " ", "\n"]), min_size=1, max_size=6).map("".join)
TOKENIZERS = {kind: byte_tokenizer(adds_bos=True) for kind in KINDS}


def tok(kind: str = "chat", max_length: int = 2048, **options) -> PromptTokenizer:
    tokenizer = byte_tokenizer(**options) if options else TOKENIZERS[kind]
    return PromptTokenizer(tokenizer, TemplateSettings(kind=kind), max_length)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(x=TEXT | SPECIAL_TEXT, a=TEXT | SPECIAL_TEXT, b=TEXT | SPECIAL_TEXT)
def test_training_and_inference_build_the_same_ids(kind, x, a, b):
    """The six sequences of training are what generation would have fed and emitted, token by token."""
    t, prompt = tok(kind), user_prompt(x)
    a_ids, b_ids = t.completion_ids(a), t.completion_ids(b)
    drafts = [None, t.decode(a_ids), t.decode(b_ids)]  # inference knows drafts as decoded text only
    prompts = [t.fit_prompt(prompt, room_for_completion=64, draft=draft).ids for draft in drafts]
    assert list(tokenize_pair(t, prompt, a, b).sequences) == [(p, c) for p in prompts for c in (a_ids, b_ids)]
    assert prompts == [t.prompt_ids(prompt), t.revision_prompt_ids(prompt, a), t.revision_prompt_ids(prompt, b)]
    for draft, text in ((a, b), (None, a)):
        demonstration = tokenize_demonstration(t, prompt, draft, text)
        assert demonstration == (t.fit_prompt(prompt, 0, draft).ids, t.completion_ids(text))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(text=TEXT | SPECIAL_TEXT)
def test_special_tokens_in_a_persons_text_stay_plain_text(kind, text):
    t = tok(kind)
    skeleton = [token for token in t.revision_prompt_ids(user_prompt("x"), "y") if token < len(SPECIAL_TOKENS)]
    assert [token for token in t.revision_prompt_ids(user_prompt(text), text) if token < len(SPECIAL_TOKENS)] == skeleton
    assert not [token for token in t.completion_ids(text, finished=False) if token < len(SPECIAL_TOKENS)]


@settings(max_examples=60, deadline=None)
@given(text=TEXT | SPECIAL_TEXT)
def test_decoding_a_completion_gives_its_text_back(text):
    for finished in (True, False):
        assert tok().decode(tok().completion_ids(text, finished)) == text


def test_decoding_stops_at_the_first_stop_token_and_drops_specials():
    t = tok()
    ids = t.completion_ids("ab", finished=False)
    assert t.decode([BOS, *ids, PAD, IM_END, *ids]) == "ab" == t.decode([*ids, EOS, *ids])


def test_a_draft_in_the_chat_prompt_extends_prompt_and_completion():
    """So that the token trie shares prompt and draft: 2 of 6 completions come free."""
    t, prompt = tok("chat"), user_prompt("Name a fruit <|im_end|>")
    shared = t.prompt_ids(prompt) + t.completion_ids("Pear\n")
    assert t.revision_prompt_ids(prompt, "Pear\n")[: len(shared)] == shared
    assert len(t.revision_prompt_ids(prompt, "Pear\n")) > len(shared)


def test_chat_ids_equal_the_tokenizers_own_on_harmless_text():
    t = tok("chat")
    own = t.tokenizer.apply_chat_template(user_prompt("Name a fruit"), add_generation_prompt=True, return_dict=False)
    assert t.prompt_ids(user_prompt("Name a fruit")) == own


@pytest.mark.parametrize("kind", ["tldr", "article"])
def test_bos_appears_once_also_where_the_text_brings_its_own(kind):
    for draft in (None, "<bos>y"):
        ids = tok(kind).fit_prompt(user_prompt("<bos>x"), 10, draft).ids
        assert ids[0] == BOS and ids.count(BOS) == 1


def test_a_chat_template_that_writes_bos_is_not_given_a_second():
    t = tok("chat", chat_template="{{- bos_token }}" + CHAT_TEMPLATE, adds_bos=True)
    for ids in (t.prompt_ids(user_prompt("x")), t.revision_prompt_ids(user_prompt("x"), "y")):
        assert ids[0] == BOS and ids.count(BOS) == 1


class TestStopToken:
    def test_chat_stops_at_the_end_of_a_turn_and_at_eos(self):
        assert tok("chat").stop_ids == [IM_END, EOS]
        assert tok("chat").completion_ids("a")[-1] == IM_END

    @pytest.mark.parametrize("kind", ["tldr", "article"])
    def test_plain_kinds_stop_at_eos(self, kind):
        assert tok(kind).stop_ids == [EOS]
        assert tok(kind).completion_ids("a")[-1] == EOS

    def test_a_chat_template_that_ends_turns_in_plain_text_stops_at_eos(self):
        t = tok(chat_template="{%- for m in messages %}{{- m['role'] + ': ' + m['content'] + '\\n' }}{%- endfor %}")
        assert t.stop_ids == [EOS]

    def test_a_completion_cut_by_the_length_limit_has_no_stop_token(self):
        assert tok().completion_ids("ab", finished=False) == tok().completion_ids("ab")[:-1]

    def test_a_tokenizer_that_cannot_stop_is_refused(self):
        tokenizer = byte_tokenizer()
        tokenizer.eos_token = None
        with pytest.raises(InputError, match="EOS token"):
            PromptTokenizer(tokenizer, TemplateSettings(kind="tldr"), 64)


class TestTruncation:
    def test_the_longest_of_the_six_fits_exactly_and_all_share_the_cut_prompt(self):
        prompt, a, b = user_prompt("0123456789" * 10), "short", "rather longer"
        whole = tokenize_pair(tok(), prompt, a, b)
        longest = max(len(p) + len(c) for p, c in whole.sequences)
        cut = tokenize_pair(tok(max_length=longest - 7), prompt, a, b)
        assert not whole.prompt_truncated and cut.prompt_truncated
        assert max(len(p) + len(c) for p, c in cut.sequences) == longest - 7
        shorter = tokenize_pair(tok(), user_prompt(prompt[0]["content"][:-7]), a, b)
        assert cut.sequences == shorter.sequences

    def test_only_the_last_user_message_is_cut(self):
        prompt = [*user_prompt("first"), {"role": "assistant", "content": "second"}, *user_prompt("third" * 9)]
        length = len(tok().prompt_ids(prompt))
        fitted = tok(max_length=length + 10 - 4).fit_prompt(prompt, room_for_completion=10)
        shorter = [*prompt[:2], *user_prompt(("third" * 9)[:-4])]
        assert fitted == (tok().prompt_ids(shorter), True)

    def test_generation_and_training_cut_the_same_tokens(self):
        prompt, t = user_prompt("0123456789" * 10), tok(max_length=128)
        demonstration = tokenize_demonstration(t, prompt, "a draft", "a text")
        assert demonstration.prompt_ids == t.fit_prompt(prompt, len(t.completion_ids("a text")), "a draft").ids
        assert len(demonstration.prompt_ids) + len(demonstration.completion_ids) == 128

    def test_nothing_is_cut_where_everything_fits(self):
        t, prompt = tok(), user_prompt("0123456789")
        exact = tok(max_length=len(t.prompt_ids(prompt)) + 5)
        assert exact.fit_prompt(prompt, 5) == (t.prompt_ids(prompt), False)

    def test_at_least_one_token_of_the_message_stays(self):
        whole = len(tok().prompt_ids(user_prompt("abc")))
        assert tok(max_length=whole - 2).fit_prompt(user_prompt("abc"), 0).ids == tok().prompt_ids(user_prompt("a"))
        with pytest.raises(PairTooLong, match="only 3 belong to the last user message"):
            tok(max_length=whole - 3).fit_prompt(user_prompt("abc"), 0)

    @pytest.mark.parametrize("x", ["", "x", "x" * 200])
    def test_what_cannot_fit_is_marked_and_the_others_go_on(self, x):
        t = tok(max_length=150)
        too_long, fits = tokenize_pairs(t, [(user_prompt(x), "a" * 160, "b"), (user_prompt("x"), "a", "b")])
        assert isinstance(too_long, PairTooLong) and "max_length" in str(too_long)
        assert isinstance(fits, PairTokens)
        with pytest.raises(PairTooLong):
            tokenize_pair(t, user_prompt(x), "a" * 160, "b")
        with pytest.raises(PairTooLong):
            t.fit_prompt(user_prompt(x), room_for_completion=160)
        assert isinstance(tokenize_demonstrations(t, [(user_prompt(x), None, "a" * 160)])[0], PairTooLong)


def test_many_pairs_at_once_equal_one_at_a_time():
    pairs = [(user_prompt(f"x{n}" * n), f"a{n}", f"b{n % 3} <eos>") for n in range(1, 9)]
    assert tokenize_pairs(tok(), pairs) == [tokenize_pair(tok(), *pair) for pair in pairs]
    demonstrations = [(prompt, draft, text) for prompt, text, other in pairs for draft in (None, other)]
    assert tokenize_demonstrations(tok(), demonstrations) == [tokenize_demonstration(tok(), *item) for item in demonstrations]
    assert tokenize_pairs(tok(), []) == [] == tokenize_demonstrations(tok(), [])


def test_token_counts_include_the_stop_token():
    pair = tokenize_pair(tok(), user_prompt("x"), "abc", "de")
    assert (pair.num_tokens_a, pair.num_tokens_b) == (4, 3)
    assert [len(completion) for _, completion in pair.sequences] == [4, 3] * 3


def test_the_hash_depends_on_the_order_and_on_where_sequences_are_cut():
    prompt = user_prompt("x")
    hashes = {tokenize_pair(tok(), prompt, a, b).token_hash for a, b in [("a", "b"), ("b", "a"), ("a", "bb"), ("a", "b")]}
    assert len(hashes) == 3
    assert hash_sequences([([1], [2, 3])]) != hash_sequences([([1, 2], [3])])
    assert hash_sequences([([1], [2])]) == hashlib.sha256(struct.pack("<4q", 1, 1, 1, 2)).hexdigest()


@pytest.mark.parametrize("pair", [("", "b"), ("a", "")])
def test_an_empty_completion_is_refused(pair):
    with pytest.raises(InputError, match="at least one token"):
        tokenize_pair(tok(), user_prompt("x"), *pair)
    with pytest.raises(InputError, match="at least one token"):
        tok().completion_ids("")


def test_an_empty_draft_can_be_revised():
    """A policy may stop at once; its revision prompt shows an empty draft."""
    t = tok()
    assert t.revision_prompt_ids(user_prompt("x"), "") == t.fit_prompt(user_prompt("x"), 10, "").ids
    assert "<|im_start|>assistant\n<|im_end|>" in t.tokenizer.decode(t.revision_prompt_ids(user_prompt("x"), ""))


class TestPolicyFolder:
    def test_what_is_saved_is_read_back(self, tmp_path: Path):
        written = PromptTokenizer(byte_tokenizer(), TemplateSettings(kind="chat", system_prompt="Sei nett ☂"), 300)
        written.save_template(tmp_path, GenerationSettings(temperature=0.7))
        read, decoding = load_template(tmp_path, byte_tokenizer())
        assert read.to_dict() == written.to_dict() and decoding == GenerationSettings(temperature=0.7)
        assert read.prompt_ids(user_prompt("x")) == written.prompt_ids(user_prompt("x"))

    def test_decoding_is_optional(self, tmp_path: Path):
        tok().save_template(tmp_path)
        assert load_template(tmp_path, byte_tokenizer())[1] is None

    def test_another_tokenizer_beside_the_file_is_refused(self, tmp_path: Path):
        tok("tldr", adds_bos=True).save_template(tmp_path)
        with pytest.raises(InputError, match="begins_with_bos True"):
            load_template(tmp_path, byte_tokenizer(adds_bos=False))

    def test_a_folder_without_the_file_is_refused(self, tmp_path: Path):
        with pytest.raises(InputError, match="found none in"):
            load_template(tmp_path, byte_tokenizer())

    @pytest.mark.parametrize("content", ["", "[]", "{}", "\x00", json.dumps({"template": {"kind": "chat"}, "max_length": "x"})])
    def test_an_unusable_file_is_refused(self, tmp_path: Path, content: str):
        (tmp_path / "srpo_template.json").write_text(content)
        with pytest.raises(InputError, match=r"srpo_template\.json"):
            load_template(tmp_path, byte_tokenizer())

    def test_an_unknown_template_kind_is_refused(self, tmp_path: Path):
        (tmp_path / "srpo_template.json").write_text(json.dumps({"template": {"kind": "poem"}, "max_length": 9}))
        with pytest.raises(InputError, match="kind"):
            load_template(tmp_path, byte_tokenizer())


def test_thousands_of_short_pairs_a_second():
    pairs = [(user_prompt(f"what is item {n}"), f"item {n}", f"thing {n}") for n in range(1000)]
    start = time.process_time()
    tokenize_pairs(tok(), pairs)
    assert time.process_time() - start < 1000 / 500  # 5k a second of processor time were measured; this allows a tenth
