"""Where training pairs and evaluation sets overlap: the same prompt, a gold text as a completion, or a long shared passage.

The passage rule is that of the GPT-3 paper (2005.14165, appendix C): a shared run of 13 words, lower-cased and without
punctuation, where runs that are common property are left out. It calls a run common when more than 10 training documents
have it; here it is one that more than 10 evaluation prompts have, which needs no second pass over the pairs.
"""

import re
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from srpo_core.records import Prompt

WORDS_SHARED = 13
COMMON_ABOVE = 10
SAME_PROMPT, GOLD_AS_COMPLETION, SHARED_PASSAGE = "same_prompt", "gold_as_completion", "shared_13_words"
_WORD = re.compile(r"\w+")
_BASE = np.uint64(0x9E3779B97F4A7C15)


def normalised(text: str) -> str:
    """The text in one case with single spaces."""
    return " ".join(text.casefold().split())


def prompt_text(prompt: Prompt) -> str:
    """What the prompt says, without system turns, which whole sets share."""
    return "\n".join(message["content"] for message in prompt if message["role"] != "system")


def passage_hashes(text: str) -> np.ndarray:
    """64-bit hashes of all runs of 13 words, in text order; shape (runs,), uint64; the same in every process."""
    words = np.array([zlib.crc32(word.encode()) for word in _WORD.findall(text.lower())], dtype=np.uint64)
    if len(words) < WORDS_SHARED:
        return np.empty(0, dtype=np.uint64)
    runs = np.zeros(len(words) - WORDS_SHARED + 1, dtype=np.uint64)
    for offset in range(WORDS_SHARED):  # a polynomial in the word hashes, modulo 2**64
        runs = runs * _BASE + words[offset : offset + len(runs)] + np.uint64(1)
    return runs


class OverlapIndex:
    """Evaluation prompts, held in memory (12 bytes per word), against which pairs are checked one by one."""

    def __init__(self, prompts: Iterable[Mapping[str, Any]]) -> None:
        """`prompts`: rows with prompt_id, prompt and gold."""
        self._prompt_ids: list[str] = []
        self._by_prompt: dict[str, list[int]] = {}
        self._by_gold: dict[str, list[int]] = {}
        hashes: list[np.ndarray] = []
        for number, row in enumerate(prompts):
            self._prompt_ids.append(row["prompt_id"])
            self._by_prompt.setdefault(normalised(prompt_text(row["prompt"])), []).append(number)
            for gold in {normalised(text) for text in row["gold"]}:
                self._by_gold.setdefault(gold, []).append(number)
            texts = [prompt_text(row["prompt"]), *row["gold"]]
            hashes.append(np.unique(np.concatenate([passage_hashes(text) for text in texts])))
        self._index_passages(hashes)
        self._prompt_passages = lru_cache(maxsize=16)(passage_hashes)  # pairs of one prompt mostly follow each other

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self._prompt_ids)

    def _index_passages(self, hashes: list[np.ndarray]) -> None:
        runs = np.concatenate([*hashes, np.empty(0, dtype=np.uint64)])
        owners = np.repeat(np.arange(len(hashes), dtype=np.int32), [len(h) for h in hashes])
        order = np.argsort(runs, kind="stable")
        runs, owners = runs[order], owners[order]
        _, place, count = np.unique(runs, return_inverse=True, return_counts=True)
        kept = count[place] <= COMMON_ABOVE if len(runs) else np.empty(0, dtype=bool)
        self.num_common_passages = int((count > COMMON_ABOVE).sum()) if len(runs) else 0
        self._runs, self._owners = runs[kept], owners[kept]

    def overlaps(self, prompt: Prompt, completions: Iterable[str]) -> list[tuple[str, str]]:
        """Every (prompt_id, kind) the pair overlaps with, sorted."""
        text = prompt_text(prompt)
        found = {(number, SAME_PROMPT) for number in self._by_prompt.get(normalised(text), [])}
        found |= {(number, SHARED_PASSAGE) for number in self._sharing(self._prompt_passages(text))}
        for completion in completions:
            found |= {(number, GOLD_AS_COMPLETION) for number in self._by_gold.get(normalised(completion), [])}
            found |= {(number, SHARED_PASSAGE) for number in self._sharing(passage_hashes(completion))}
        return sorted({(self._prompt_ids[number], kind) for number, kind in found})

    def _sharing(self, runs: np.ndarray) -> set[int]:
        """Numbers of the prompts that hold one of the runs."""
        if not len(self._runs):
            return set()
        place = np.minimum(np.searchsorted(self._runs, runs), len(self._runs) - 1)
        shared = np.unique(runs[self._runs[place] == runs])
        first, last = np.searchsorted(self._runs, shared, "left"), np.searchsorted(self._runs, shared, "right")
        return {int(owner) for start, stop in zip(first, last, strict=True) for owner in self._owners[start:stop]}
