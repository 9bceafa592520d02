"""Overlaps that exist are found and named; shared words short of a passage are not."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.data.contamination import COMMON_ABOVE, OverlapIndex, passage_hashes
from srpo_core.records import user_prompt

WORDS = [f"word{i}" for i in range(400)]


def entry(name: str, prompt: str, *gold: str) -> dict[str, object]:
    return {"prompt_id": name, "prompt": user_prompt(prompt), "gold": list(gold)}


def test_the_same_prompt_is_found_whatever_its_case_and_spacing() -> None:
    index = OverlapIndex([entry("p", "How do  I\nbake?", "Well."), entry("q", "Other", "Gold")])
    assert index.overlaps(user_prompt("how DO i bake?"), ["a", "b"]) == [("p", "same_prompt")]
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How do I bake?"}]
    assert index.overlaps(system, ["a", "b"]) == [("p", "same_prompt")]  # type: ignore[arg-type]


def test_a_gold_text_as_chosen_or_rejected_is_found() -> None:
    index = OverlapIndex([entry("p", "P", "One gold.", "Two gold."), entry("q", "Q", "two  GOLD.")])
    assert index.overlaps(user_prompt("X"), ["a", "Two gold."]) == [("p", "gold_as_completion"), ("q", "gold_as_completion")]


def test_thirteen_shared_words_are_a_passage_and_twelve_are_not() -> None:
    article = " ".join(WORDS[:100])
    index = OverlapIndex([entry("p", article, "Gold.")])
    shared = WORDS[40:53]
    assert index.overlaps(user_prompt("See: " + "; ".join(shared).upper()), ["a", "b"]) == [("p", "shared_13_words")]
    assert index.overlaps(user_prompt("Q"), ["a", "so " + ", ".join(shared) + "!"]) == [("p", "shared_13_words")]
    assert index.overlaps(user_prompt("See: " + " ".join(shared[:12])), ["a", "b"]) == []


def test_a_passage_of_a_gold_text_counts_too() -> None:
    index = OverlapIndex([entry("p", "P", "short", " ".join(WORDS[:20]))])
    assert index.overlaps(user_prompt("Q"), [" ".join(WORDS[5:25]), "b"]) == [("p", "shared_13_words")]


def test_a_passage_that_many_prompts_share_is_common_property() -> None:
    header = " ".join(WORDS[:20])
    rows = [entry(f"p{i}", f"{header} number{i}", f"gold {i}") for i in range(COMMON_ABOVE + 1)]
    assert OverlapIndex(rows).overlaps(user_prompt(header), ["a", "b"]) == []
    assert len(OverlapIndex(rows[:-1]).overlaps(user_prompt(header), ["a", "b"])) == COMMON_ABOVE


def test_an_empty_index_and_empty_texts_overlap_with_nothing() -> None:
    assert OverlapIndex([]).overlaps(user_prompt(" ".join(WORDS)), ["a", ""]) == []


@given(st.integers(0, 10**6))
def test_passages_found_are_those_of_a_naive_search(seed: int) -> None:
    """Naive: every run of 13 words as a tuple. Few distinct words make shared runs likely."""
    rng = random.Random(seed)
    common = rng.choices(WORDS[:3], k=16)
    texts = [rng.choices(WORDS[:3], k=rng.randint(5, 20)) + common[: rng.randint(0, 16)] for _ in range(6)]
    index = OverlapIndex([entry(f"p{i}", " ".join(words)) for i, words in enumerate(texts[:4])])

    def runs(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}

    for words in texts[4:]:
        expected = [f"p{i}" for i, other in enumerate(texts[:4]) if runs(words) & runs(other)]
        assert [name for name, kind in index.overlaps(user_prompt(" ".join(words)), []) if kind == "shared_13_words"] == expected


def test_hashes_are_the_same_on_every_machine() -> None:
    """They decide what training leaves out; computed once by hand-written integer arithmetic modulo 2**64."""
    import zlib

    expected = 0
    for word in WORDS[:13]:
        expected = (expected * 0x9E3779B97F4A7C15 + zlib.crc32(word.encode()) + 1) % 2**64
    assert passage_hashes(" ".join(WORDS[:13])).tolist() == [expected]
    assert passage_hashes("a b").dtype == np.uint64
