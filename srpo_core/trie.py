"""Token tries: the sequences of one preference pair merged into a tree, so that one forward pass gives all their log-probs.

The six sequences of SRPO (2406.01660) share long prefixes. Laid out in preorder, token j is visible to token i iff
`j <= i < ends[j]`, one integer per token describes the whole attention mask, and several tries side by side are simply a forest.
Built from token ids, a trie is exact for every prompt template; how much it saves is whatever the template allows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
TokenSequence = tuple[Sequence[int], Sequence[int]]  # prompt ids, completion ids


@dataclass(frozen=True)
class TokenTrie:
    """T tokens in preorder, and where each of the S sequences reads its predictions."""

    tokens: IntArray  # (T,)
    positions: IntArray  # (T,) depth in the tree, from 0: the position id
    ends: IntArray  # (T,) one past the last token of the subtree
    predictors: tuple[IntArray, ...]  # per sequence: the index of the token whose hidden state predicts each completion token
    targets: tuple[IntArray, ...]  # per sequence: its completion tokens

    @property
    def num_tokens(self) -> int:
        """Tokens of one forward pass over the trie."""
        return len(self.tokens)

    @property
    def num_sequences(self) -> int:
        """Sequences merged into the trie."""
        return len(self.predictors)


def build_trie(sequences: Sequence[TokenSequence]) -> TokenTrie:
    """Merge the sequences' common prefixes; any sequences will do, equal ones and prefixes of each other included.

    A sequence's last token is predicted but predicts nothing, so it is a target and no token of the trie, unless another
    sequence goes on behind it. Raises ValueError for no sequence, an empty completion, or an empty prompt (nothing would predict
    the first token).
    """
    _check(sequences)
    inputs = [np.asarray([*prompt, *completion[:-1]], dtype=np.int64) for prompt, completion in sequences]
    keys = [[*prompt, *completion[:-1]] for prompt, completion in sequences]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    predictors: list[IntArray] = [np.empty(0, np.int64)] * len(keys)
    tails, depths, path, ends, size = [], [], np.empty(0, np.int64), [], 0
    previous = np.empty(0, np.int64)
    # In lexicographic order a sequence shares more with its predecessor than with any earlier one, so appending what it
    # adds to the predecessor's path is already preorder.
    for index in order:
        current = inputs[index]
        shared = _common_prefix(previous, current)
        ends.append((path[shared:], size))  # the subtrees left behind end here
        tails.append(current[shared:])
        depths.append(np.arange(shared, len(current)))
        path = np.concatenate([path[:shared], np.arange(size, size + len(current) - shared)])
        predictors[index] = path[len(sequences[index][0]) - 1 :]
        size, previous = size + len(current) - shared, current
    return TokenTrie(
        tokens=np.concatenate(tails),
        positions=np.concatenate(depths),
        ends=_ends([*ends, (path, size)], size),
        predictors=tuple(predictors),
        targets=tuple(np.asarray(completion, dtype=np.int64) for _, completion in sequences),
    )


def pack_rows(tries: Sequence[TokenTrie], row_tokens: int) -> list[list[int]]:
    """Indices of the tries that share a row of at most `row_tokens` tokens: longest first, each into the first row with room.

    A trie longer than a row has one to itself. Attention over a row costs the square of its length, so packing pays where the
    kernel skips hidden blocks and not with a dense mask.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(tries)), key=lambda i: -tries[i].num_tokens):
        needed = tries[index].num_tokens
        row = next((r for r, left in enumerate(room) if left >= needed), None)
        if row is None:
            rows.append([index])
            room.append(row_tokens - needed)
        else:
            rows[row].append(index)
            room[row] -= needed
    return rows


def concatenate(tries: Sequence[TokenTrie]) -> TokenTrie:
    """The tries side by side in one row: positions restart, ends and predictors move by the tokens before them."""
    offsets = np.cumsum([0, *(trie.num_tokens for trie in tries[:-1])])
    pairs = list(zip(tries, offsets, strict=True))
    return TokenTrie(
        tokens=np.concatenate([trie.tokens for trie in tries]),
        positions=np.concatenate([trie.positions for trie in tries]),
        ends=np.concatenate([trie.ends + offset for trie, offset in pairs]),
        predictors=tuple(nodes + offset for trie, offset in pairs for nodes in trie.predictors),
        targets=tuple(targets for trie in tries for targets in trie.targets),
    )


def _check(sequences: Sequence[TokenSequence]) -> None:
    if not sequences:
        raise ValueError("expected at least one sequence to build a trie from, found none")
    for index, (prompt, completion) in enumerate(sequences):
        if not len(prompt) or not len(completion):
            part = "completion" if len(prompt) else "prompt"
            raise ValueError(f"expected at least one token in the {part} of sequence {index}, found none")


def _common_prefix(first: IntArray, second: IntArray) -> int:
    length = min(len(first), len(second))
    different = first[:length] != second[:length]
    return int(different.argmax()) if different.any() else length


def _ends(left_behind: Sequence[tuple[IntArray, int]], size: int) -> IntArray:
    ends = np.empty(size, dtype=np.int64)
    for nodes, end in left_behind:
        ends[nodes] = end
    return ends
