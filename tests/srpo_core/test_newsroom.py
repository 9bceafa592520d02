"""The newsroom: its judge by hand, its cycles, its neutral revisions, its text."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core import newsroom
from srpo_core.newsroom import (
    BEHAVIOUR_WRITER,
    DOMAINS,
    EVENTS,
    GOLD_WRITER,
    MAX_FACTS_IN_SUMMARY,
    NUMBERS,
    PLACES,
    REFERENCE_WRITER,
    Document,
    Fact,
    Quality,
    assess,
    draft_plan,
    draw_document,
    one_edit_pairs,
    preference_probability,
    read_document,
    revise_plan,
    write_document,
    write_summary,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "newsroom.json"
TEXT = "Major fire, Oslo, 17. Minor strike, Rome, 15. Minor flood, Lima, 21. Major trial, Perth, 12."
MAJOR, MINOR = "fire, Oslo, 17.", "strike, Rome, 15."
WRONG = "fire, Rome, 17."

facts = st.builds(Fact, st.sampled_from(EVENTS), st.sampled_from(PLACES), st.sampled_from(NUMBERS))
summaries = st.lists(facts, max_size=6).map(lambda said: " ".join(map(newsroom.write_fact, said)))


@pytest.mark.parametrize(
    ("summary", "wrong", "coverage", "length"),
    [
        (MAJOR, 0, 2, 1),
        (MINOR, 0, 1, 1),
        (f"{MAJOR} {MINOR}", 0, 3, 2),
        (f"{MINOR} {MAJOR}", 0, 3, 2),  # in any order
        (WRONG, 1, 0, 1),  # a right event in a wrong place
        (f"{MAJOR} {MAJOR}", 1, 2, 2),  # a repetition is wrong
        ("", 1, 0, 0),  # saying nothing is one mistake
        ("fire, Oslo.", 1, 0, 1),
        ("Fires broke out, we hear.", 1, 0, 1),
        (f"  {MAJOR}  .. ", 0, 2, 1),
    ],
)
def test_qualities_of_summaries_by_hand(summary: str, wrong: int, coverage: int, length: int) -> None:
    assert assess(TEXT, summary) == Quality(wrong, coverage, length)


@pytest.mark.parametrize(
    ("first", "second", "follows"),
    [
        # checker .40, cover .35, brief .25; half a weight where no criterion of a rule decides
        (MAJOR, MINOR, 0.40 + 0.35 / 2 + 0.25),  # coverage 2 to 1: too small a step for cover
        (f"{MAJOR} {MINOR}", MAJOR, 0.40 + 0 + 0.25),  # cover sees one step of coverage too few, and takes the shorter
        (MAJOR, WRONG, 1.0),
        (MAJOR, "", 1.0),
        (WRONG, "", 0 + 0 + 0.25 / 2),  # equally wrong and empty: the shorter; brief needs a difference of 3
        (MAJOR, f"{MAJOR} {MAJOR}", 0.40 + 0.35 + 0.25 / 2),  # one wrong sentence counts for checker alone
        (TEXT.replace("Major ", "").replace("Minor ", ""), MAJOR, 0.40 + 0.35 + 0),  # 4 facts to 1: too long for brief
        (MAJOR, MAJOR, 0.5),
    ],
)
def test_preferences_by_hand(first: str, second: str, follows: float) -> None:
    """p = .9 of the weight of the annotators whose rule prefers the first, and half of the .1 who toss a coin."""
    assert preference_probability(TEXT, first, second) == pytest.approx(0.9 * follows + 0.05)
    assert preference_probability(TEXT, second, first) == pytest.approx(0.9 * (1 - follows) + 0.05)


@given(summaries, summaries)
def test_the_two_orders_add_up_to_one(first: str, second: str) -> None:
    total = preference_probability(TEXT, first, second) + preference_probability(TEXT, second, first)
    assert total == pytest.approx(1, abs=1e-12)
    assert 0.05 - 1e-12 <= preference_probability(TEXT, first, second) <= 0.95 + 1e-12


def test_preferences_make_a_cycle() -> None:
    """Short and wrong beats long; long beats middling (what it covers); middling beats short. No Bradley-Terry scores do this."""
    short = WRONG  # wrong 1, coverage 0, length 1
    long = "fire, Oslo, 17. strike, Rome, 15. flood, Oslo, 21. trial, Lima, 12."  # 2, 3, 4
    middling = "strike, Rome, 15. trial, Lima, 12."  # 1, 1, 2
    assert [assess(TEXT, text) for text in (short, long, middling)] == [(1, 0, 1), (2, 3, 4), (1, 1, 2)]
    assert preference_probability(TEXT, short, long) == pytest.approx(0.9 * 0.65 + 0.05)  # checker and brief
    assert preference_probability(TEXT, long, middling) == pytest.approx(0.9 * 0.60 + 0.05)  # cover and brief
    assert preference_probability(TEXT, middling, short) == pytest.approx(0.9 * 0.65 + 0.05)  # checker and brief


def test_writers_make_cycles_at_about_the_stated_rate() -> None:
    """Between .3 and 1.2 % of the behaviour writer's triples (40,000 triples gave .62 %)."""
    rng = np.random.default_rng(0)
    documents = [draw_document(DOMAINS["id"], rng) for _ in range(200)]
    assert 0.003 < newsroom.intransitivity_rate(documents, BEHAVIOUR_WRITER, 6000, rng) < 0.012


# --- text ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(facts, st.booleans()), min_size=1, max_size=12))
def test_a_document_comes_back_from_its_text(sentences: list[tuple[Fact, bool]]) -> None:
    document = Document(tuple(fact for fact, _ in sentences), tuple(major for _, major in sentences))
    assert read_document(write_document(document)) == document


@pytest.mark.parametrize("text", ["fire, Oslo, 17.", "Major fire, Oslo.", "Huge fire, Oslo, 17."])
def test_other_text_is_no_document(text: str) -> None:
    with pytest.raises(ValueError, match="expected a newsroom sentence like"):
        read_document(text)


@pytest.mark.parametrize("name", DOMAINS)
def test_documents_are_of_their_domain(name: str) -> None:
    rng, domain = np.random.default_rng(1), DOMAINS[name]
    for _ in range(100):
        document = draw_document(domain, rng)
        assert domain.num_facts[0] <= len(document.facts) <= domain.num_facts[1] and sum(document.major) == domain.num_major
        assert len({fact.event for fact in document.facts}) == len(document.facts)


def test_rare_events_of_one_domain_are_frequent_in_the_other() -> None:
    rng = np.random.default_rng(2)
    first = {
        name: np.mean([draw_document(DOMAINS[name], rng).facts[0].event in EVENTS[:3] for _ in range(400)])
        for name in ("id", "mix")
    }
    assert first["id"] > 0.5 > 0.2 > first["mix"]


# --- writers -------------------------------------------------------------------------------------------------------------


def test_summaries_are_as_right_and_as_complete_as_their_writer() -> None:
    """Majors are included with .7 and .9, included facts corrupted with .3 and .1 (a little more where 1 to 5 facts must fit)."""
    rng = np.random.default_rng(3)
    for writer in (REFERENCE_WRITER, GOLD_WRITER):
        plans = [(d := draw_document(DOMAINS["id"], rng), draft_plan(d, writer, rng)) for _ in range(3000)]
        said = [(fact, s, major) for d, plan in plans for fact, s, major in zip(d.facts, plan, d.major, strict=True)]
        assert np.mean([s is not None for _, s, major in said if major]) == pytest.approx(writer.include_major, abs=0.06)
        assert np.mean([s != fact for fact, s, _ in said if s is not None]) == pytest.approx(writer.corrupt, abs=0.02)
        assert all(1 <= sum(s is not None for s in plan) <= MAX_FACTS_IN_SUMMARY for _, plan in plans)
        assert all((s.event == fact.event) and sum(a != b for a, b in zip(s, fact, strict=True)) <= 1 for fact, s, _ in said if s)


def test_the_references_own_revisions_neither_improve_nor_spoil() -> None:
    """Eight revisions of each of 1,500 drafts: wrong, coverage, length and win rate move by less than chance and by little."""
    rng = np.random.default_rng(4)
    before, after = [], []
    for _ in range(1500):
        document = draw_document(DOMAINS["id"], rng)
        text, plan = write_document(document), draft_plan(document, REFERENCE_WRITER, rng)
        gold = write_summary(draft_plan(document, GOLD_WRITER, rng))
        before.append((*assess(text, write_summary(plan)), preference_probability(text, write_summary(plan), gold)))
        for _ in range(8):
            plan = revise_plan(document, plan, REFERENCE_WRITER, rng)
        after.append((*assess(text, write_summary(plan)), preference_probability(text, write_summary(plan), gold)))
    change = np.array(after) - np.array(before)
    error = change.std(0) / np.sqrt(len(change))
    assert (np.abs(change.mean(0)) < 3.5 * error).all(), (change.mean(0), error)
    assert np.abs(change.mean(0)).max() < 0.15


def test_a_revision_keeps_part_of_its_draft() -> None:
    """Of the facts of a draft .6 + .4 * (drawn the same again) stay as they are; two independent drafts agree on far fewer."""
    rng = np.random.default_rng(5)
    kept, redrawn = [], []
    for _ in range(1000):
        document = draw_document(DOMAINS["id"], rng)
        draft = draft_plan(document, REFERENCE_WRITER, rng)
        revision, other = revise_plan(document, draft, REFERENCE_WRITER, rng), draft_plan(document, REFERENCE_WRITER, rng)
        kept += [a == b for a, b in zip(draft, revision, strict=True) if a is not None]
        redrawn += [a == b for a, b in zip(draft, other, strict=True) if a is not None]
    assert np.mean(kept) > 0.68 > 0.45 > np.mean(redrawn)
    assert np.mean(kept) == pytest.approx(0.6 + 0.4 * np.mean(redrawn), abs=0.03)


# --- data sets -----------------------------------------------------------------------------------------------------------


def test_data_sets_depend_on_the_generator_alone() -> None:
    for draw in (
        lambda rng: list(newsroom.draw_demonstrations(40, rng)),
        lambda rng: list(newsroom.draw_pairs(20, 5, rng)),
        lambda rng: list(newsroom.draw_prompts("long", 20, rng)),
    ):
        first, again, other = (draw(np.random.default_rng(seed)) for seed in (6, 6, 7))
        assert first == again != other


def test_demonstrations_are_drafts_followed_by_their_revisions() -> None:
    rows = list(newsroom.draw_demonstrations(200, np.random.default_rng(8)))
    assert len(rows) == 200
    for draft, revision in (
        itertools.batched(rows, 2) if hasattr(itertools, "batched") else zip(rows[::2], rows[1::2], strict=True)
    ):
        assert draft["draft"] is None and revision["draft"] == draft["completion"] and revision["prompt"] == draft["prompt"]
    first = [row for row in rows[:40] if assess(str(row["prompt"]), str(row["completion"])).wrong]
    assert not first, "the curriculum begins without errors"


def test_pairs_are_two_texts_with_votes_and_half_of_them_edits() -> None:
    pairs = list(newsroom.draw_pairs(300, 5, np.random.default_rng(9)))
    assert all(pair["summary_a"] != pair["summary_b"] and len(pair["votes"]) == 5 for pair in pairs)
    shared = [len(set(str(p["summary_a"]).split(". ")) & set(str(p["summary_b"]).split(". "))) for p in pairs]
    assert np.mean(shared[1::2]) > np.mean(shared[::2]) + 0.5
    share = np.mean([pair["votes"].count("a") / 5 for pair in pairs])  # type: ignore[union-attr]
    expected = np.mean([preference_probability(*(str(p[k]) for k in ("prompt", "summary_a", "summary_b"))) for p in pairs])
    assert share == pytest.approx(expected, abs=0.05)


def test_one_edit_pairs_differ_by_exactly_one_fact_in_the_named_way() -> None:
    rng = np.random.default_rng(10)
    kinds = set()
    for _ in range(60):
        document = draw_document(DOMAINS["id"], rng)
        text = write_document(document)
        for kind, draft, edited in one_edit_pairs(document, rng):
            before, after = assess(text, draft), assess(text, edited)
            said, now = (set(filter(None, (s.strip() for s in t.split(".")))) for t in (draft, edited))
            assert (len(said - now), len(now - said)) == {"add": (0, 1), "drop": (1, 0)}.get(kind.split()[0], (1, 1)), kind
            gain = {"add a right major fact": (0, 2), "add a right minor fact": (0, 1), "drop a wrong fact": (-1, 0)}
            gain |= {"add a wrong major fact": (1, 0), "add a wrong minor fact": (1, 0)}
            if kind in gain:
                assert (after.wrong - before.wrong, after.coverage - before.coverage) == gain[kind]
            else:
                sign = 1 if kind == "corrupt a right fact" else -1
                assert after.wrong - before.wrong == sign and (before.coverage - after.coverage) * sign in (1, 2)
            kinds.add(kind)
    assert len(kinds) == 7


def test_the_world_is_the_one_that_was_fixed() -> None:
    """What the seeds drew when the world was fixed.

    After a wanted change: raise VERSION in tasks/newsroom.py, run `python -m tests.srpo_core.test_newsroom`, and say why.
    """
    assert json.loads(GOLDEN.read_text(encoding="utf-8"))["values"] == world_sample()


def world_sample() -> dict[str, object]:
    rng = np.random.default_rng(2024)
    pair, prompt = next(newsroom.draw_pairs(1, 5, rng)), next(newsroom.draw_prompts("mix", 1, rng))
    demonstrations = list(newsroom.draw_demonstrations(10, rng))
    p = preference_probability(str(pair["prompt"]), str(pair["summary_a"]), str(pair["summary_b"]))
    return {"pair": pair, "p": round(p, 12), "prompt": prompt, "demonstration": demonstrations[-1]}


if __name__ == "__main__":
    content = {"source": "srpo_core/newsroom.py with numpy's PCG64", "values": world_sample()}
    GOLDEN.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
