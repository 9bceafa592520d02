"""The token trie against its definition: paths spell the sequences, visibility is the ancestor relation, computed naively."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srpo_core.trie import TokenTrie, build_trie, concatenate, pack_rows

TOKENS = st.integers(0, 3)  # few tokens, so that prefixes are shared often
SEQUENCE = st.tuples(st.lists(TOKENS, min_size=1, max_size=6), st.lists(TOKENS, min_size=1, max_size=5))
SEQUENCES = st.lists(SEQUENCE, min_size=1, max_size=7)


def parents(trie: TokenTrie) -> list[int | None]:
    """Each token's parent: the last token before it that is one less deep."""
    result: list[int | None] = []
    for index, depth in enumerate(trie.positions):
        before = [j for j in range(index) if trie.positions[j] == depth - 1]
        result.append(before[-1] if depth else None)
    return result


def path_to(trie: TokenTrie, index: int) -> list[int]:
    """Indices from the root to the token, by parents."""
    up, parent = [index], parents(trie)
    while (above := parent[up[-1]]) is not None:
        up.append(above)
    return up[::-1]


@settings(deadline=None)
@given(SEQUENCES)
def test_the_path_to_each_predictor_spells_the_sequence_before_its_target(sequences):
    trie = build_trie(sequences)
    for (prompt, completion), rows, targets in zip(sequences, trie.predictors, trie.targets, strict=True):
        assert list(targets) == completion
        for k, row in enumerate(rows):
            spelled = [int(trie.tokens[node]) for node in path_to(trie, int(row))]
            assert spelled == prompt + completion[:k]


@settings(deadline=None)
@given(SEQUENCES)
def test_ends_describe_exactly_the_ancestor_relation(sequences):
    trie = build_trie(sequences)
    for i in range(trie.num_tokens):
        seen = {j for j in range(trie.num_tokens) if j <= i < trie.ends[j]}
        assert seen == set(path_to(trie, i))


@settings(deadline=None)
@given(SEQUENCES)
def test_no_two_tokens_stand_at_the_end_of_the_same_path(sequences):
    """The trie is minimal: as many tokens as there are distinct non-empty prefixes of the inputs."""
    inputs = [prompt + completion[:-1] for prompt, completion in sequences]
    assert build_trie(sequences).num_tokens == len({tuple(ids[:n]) for ids in inputs for n in range(1, len(ids) + 1)})


@settings(deadline=None)
@given(SEQUENCES, SEQUENCES)
def test_a_forest_keeps_its_tries_apart(first, second):
    tries = [build_trie(first), build_trie(second)]
    forest = concatenate(tries)
    size = tries[0].num_tokens
    assert list(forest.positions[size:]) == list(tries[1].positions)
    assert all(end <= size for end in forest.ends[:size])
    assert all(row.min() >= size for row in forest.predictors[len(first) :])


def test_the_six_sequences_of_a_pair_by_hand():
    """x = 7 8; a = 1 0, b = 1 2 0 (0 stops); the revision prompt is x, the draft, 9.

    Preorder: 7 8 and the 1 both texts begin with; under it 0 9 1 2 (draft a; inputs end before the last token) and 2 0 9 1 2
    (draft b).
    """
    x, a, b = [7, 8], [1, 0], [1, 2, 0]
    sequences = [(x, a), (x, b), (x + a + [9], a), (x + a + [9], b), (x + b + [9], a), (x + b + [9], b)]
    trie = build_trie(sequences)
    assert trie.tokens.tolist() == [7, 8, 1, 0, 9, 1, 2, 2, 0, 9, 1, 2]
    assert trie.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7]
    assert trie.ends.tolist() == [12, 12, 12, 7, 7, 7, 7, 12, 12, 12, 12, 12]
    assert [rows.tolist() for rows in trie.predictors] == [[1, 2], [1, 2, 7], [4, 5], [4, 5, 6], [9, 10], [9, 10, 11]]


def test_equal_sequences_cost_nothing_more():
    assert build_trie([([1, 2], [3, 4])] * 4).num_tokens == build_trie([([1, 2], [3, 4])]).num_tokens == 3


def test_a_single_sequence_is_a_chain():
    trie = build_trie([([5, 6], [7, 8])])
    assert trie.tokens.tolist() == [5, 6, 7]
    assert trie.positions.tolist() == [0, 1, 2]
    assert trie.ends.tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [([], "at least one sequence"), ([([1], [2]), ([], [1])], "prompt of sequence 1"), ([([1], [])], "completion of sequence 0")],
)
def test_what_nothing_would_predict_is_refused(sequences, message):
    with pytest.raises(ValueError, match=message):
        build_trie(sequences)


def test_packing_fills_rows_and_loses_no_trie():
    tries = [build_trie([(list(range(n)), [1])]) for n in (5, 3, 2, 9, 2)]
    rows = pack_rows(tries, 8)
    assert sorted(index for row in rows for index in row) == [0, 1, 2, 3, 4]
    assert rows == [[3], [0, 1], [2, 4]]  # 9 alone, 5 + 3, 2 + 2


def test_thousands_of_small_pairs_a_second():
    rng = np.random.default_rng(0)
    x, a, b = (rng.integers(0, 200, n).tolist() for n in (40, 12, 12))
    sequences = [(x, a), (x, b), (x + a, a), (x + a, b), (x + b, a), (x + b, b)]
    start = time.process_time()
    for _ in range(300):
        build_trie(sequences)
    assert time.process_time() - start < 300 / 1000  # 10k a second of processor time were measured; this allows a tenth
