"""Which texts the report shows, and which words it marks as new."""

from hypothesis import given
from hypothesis import strategies as st

from storage.results_db import open_results
from tasks.publishing import publish_results
from tasks.report_texts import mark_changes, revision_chains
from tests.homes import make_home

words = st.lists(st.sampled_from(["a", "b", "c", " ", "\n", "<i>"]), max_size=20).map(" ".join)


@given(words, words)
def test_marking_never_changes_the_text(before, after):
    pieces = mark_changes(before, after)
    assert "".join(piece.text for piece in pieces) == after
    assert not any(piece.is_new and piece.text != piece.text.strip() for piece in pieces)


@given(words)
def test_an_unchanged_text_has_nothing_marked(text):
    assert not any(piece.is_new for piece in mark_changes(text, text))


def test_only_the_inserted_word_is_marked():
    assert [p.text for p in mark_changes("the old bridge", "the very old bridge now") if p.is_new] == ["very", "now"]


def test_a_dozen_prompts_spread_over_the_sets_with_all_revisions_of_the_srpo_policy(tmp_path):
    publish_results(make_home(tmp_path, size=9, revisions=2))
    with open_results(tmp_path) as connection:
        chains = revision_chains(connection)
        assert chains == revision_chains(connection)
    assert [chain.eval_set for chain in chains] == ["id"] * 6 + ["long"] * 6
    assert {chain.policy for chain in chains} == {"srpo"}
    for chain in chains:
        assert [text.revision_index for text in chain.revisions] == [0, 1, 2]
        assert [text.unchanged for text in chain.revisions] == [False, False, True]
        assert chain.opponent_text.startswith("gold 0 of")


def test_nothing_judged_gives_no_texts(tmp_path):
    publish_results(tmp_path)
    with open_results(tmp_path) as connection:
        assert revision_chains(connection) == []
