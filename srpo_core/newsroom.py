"""The newsroom: a small world of readable documents and summaries in which the probability of every preference is known.

A document is a list of facts, "Major fire, Oslo, 17. Minor strike, Rome, 23."; a summary restates some of them, rightly or not:
"fire, Oslo, 17." Three kinds of writers, three annotators whose rules are lexicographic semiorders (Tversky 1969), and an
exact judge. Semiorders make preference cycles, which no Bradley-Terry model has; weighted sums of qualities do not.

Everything here was fixed before any preference training; docs/newsroom.md says why each number is what it is.
Does not train anything and does not know about files.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

EVENTS = ("fire", "strike", "flood", "election", "crash", "festival", "protest", "robbery", "storm", "merger", "outage", "trial")
PLACES = (
    "Oslo",
    "Rome",
    "Lima",
    "Cairo",
    "Quito",
    "Seoul",
    "Delhi",
    "Paris",
    "Accra",
    "Sofia",
    "Turin",
    "Osaka",
    "Perth",
    "Dakar",
)
NUMBERS = tuple(str(n) for n in range(11, 25))
REVISION_REQUEST = "Revise."


class Fact(NamedTuple):
    """One reported event."""

    event: str
    place: str
    number: str


class Document(NamedTuple):
    """Facts in order, each major or minor."""

    facts: tuple[Fact, ...]
    major: tuple[bool, ...]


class Domain(NamedTuple):
    """A kind of document."""

    num_facts: tuple[int, int]  # smallest and largest, inclusive
    num_major: int
    reversed_events: bool  # rare events become frequent


DOMAINS = {
    "id": Domain((5, 7), 2, False),  # what the preference pairs are about
    "long": Domain((9, 11), 2, False),
    "mix": Domain((5, 7), 3, True),
}


class Writer(NamedTuple):
    """How often a writer includes a major and a minor fact, and gets an included one wrong."""

    include_major: float
    include_minor: float
    corrupt: float


REFERENCE_WRITER = Writer(0.7, 0.15, 0.3)  # what the supervised reference imitates
GOLD_WRITER = Writer(0.9, 0.1, 0.1)  # human-like: good and imperfect
BEHAVIOUR_WRITER = Writer(0.6, 0.35, 0.4)  # wrote the preference pairs: verbose and sloppy
CLEAN_WRITER = Writer(0.6, 0.6, 0.0)  # only for learning to copy
KEEP = 0.6  # a revision keeps what the draft says of a fact with this probability, else decides anew
MAX_FACTS_IN_SUMMARY = 5


class Quality(NamedTuple):
    """What annotators look at in a summary."""

    wrong: int  # sentences that are not a first mention of a fact of the document; an empty summary counts as one
    coverage: int  # 2 for each major and 1 for each minor fact rightly mentioned
    length: int  # sentences


class Annotator(NamedTuple):
    """A lexicographic semiorder: the first criterion whose difference reaches its threshold decides."""

    weight: float
    criteria: tuple[tuple[str, int], ...]  # (criterion, threshold); fewer wrong, more coverage, shorter are better


ANNOTATORS = {
    "checker": Annotator(0.40, (("wrong", 1), ("coverage", 1), ("length", 1))),
    "cover": Annotator(0.35, (("coverage", 2), ("wrong", 2), ("length", 1))),
    "brief": Annotator(0.25, (("length", 3), ("wrong", 2), ("coverage", 1))),
}
FOLLOWS_RULE = 0.9  # else the annotator tosses a coin


# --- documents -----------------------------------------------------------------------------------------------------------


def draw_document(domain: Domain, rng: np.random.Generator) -> Document:
    """Draw a document; events and places follow Zipf weights 1/rank, and nothing repeats within a document."""
    count = int(rng.integers(domain.num_facts[0], domain.num_facts[1] + 1))
    events = rng.choice(len(EVENTS), size=count, replace=False, p=_zipf(len(EVENTS), domain.reversed_events))
    # Without repetition a fact is known by its place as well as by its event; and a few frequent places are what a small model
    # learns to look numbers up by, before it can for all.
    places = rng.choice(len(PLACES), size=count, replace=False, p=_zipf(len(PLACES)))
    numbers = rng.choice(len(NUMBERS), size=count, replace=False)
    major = np.zeros(count, dtype=bool)
    major[rng.choice(count, size=domain.num_major, replace=False)] = True
    facts = tuple(Fact(EVENTS[e], PLACES[p], NUMBERS[n]) for e, p, n in zip(events, places, numbers, strict=True))
    return Document(facts, tuple(bool(m) for m in major))


def _zipf(count: int, reverse: bool = False) -> np.ndarray:
    """Weights 1/rank, normalised; in `reverse` the last is the most frequent."""
    weights = 1.0 / np.arange(1, count + 1)
    return (weights[::-1] if reverse else weights) / weights.sum()


def write_document(document: Document) -> str:
    """The document as text."""
    marks = ("Major" if m else "Minor" for m in document.major)
    return " ".join(f"{mark} {write_fact(fact)}" for mark, fact in zip(marks, document.facts, strict=True))


def write_fact(fact: Fact) -> str:
    """One sentence."""
    return f"{fact.event}, {fact.place}, {fact.number}."


@lru_cache(maxsize=4096)
def read_document(text: str) -> Document:
    """Parse a document's text; raises ValueError where a sentence is not "Major|Minor event, place, number."."""
    facts, major = [], []
    for sentence in _sentences(text):
        mark, _, rest = sentence.partition(" ")
        fact = _read_fact(rest)
        if mark not in ("Major", "Minor") or fact is None:
            raise ValueError(f"expected a newsroom sentence like 'Major fire, Oslo, 17.', found {sentence!r}")
        facts.append(fact)
        major.append(mark == "Major")
    return Document(tuple(facts), tuple(major))


def _sentences(text: str) -> list[str]:
    return [s.strip() for s in text.split(".") if s.strip()]


def _read_fact(sentence: str) -> Fact | None:
    parts = [part.strip() for part in sentence.split(",")]
    return Fact(*parts) if len(parts) == 3 and all(parts) else None


# --- writers -------------------------------------------------------------------------------------------------------------

Plan = tuple[Fact | None, ...]  # for each fact of the document, what the summary says of it; None = left out


def draft_plan(document: Document, writer: Writer, rng: np.random.Generator) -> Plan:
    """Decide for each fact whether it is left out, restated, or restated wrongly; 1 to 5 facts in all."""
    return _draw_until_fits(lambda: tuple(_decide(document, i, writer, rng) for i in range(len(document.facts))))


def revise_plan(document: Document, draft: Plan, writer: Writer, rng: np.random.Generator, keep: float = KEEP) -> Plan:
    """Keep each decision of the draft with probability `keep`, else let the writer decide anew.

    The writer's own distribution is stationary under this, so its revisions neither improve nor spoil (up to the limits of 1
    and 5 facts: plans that break them are drawn again, which lengthens summaries by a hundredth over many revisions).
    """
    return _draw_until_fits(
        lambda: tuple(kept if rng.random() < keep else _decide(document, i, writer, rng) for i, kept in enumerate(draft))
    )


def _draw_until_fits(draw: Callable[[], Plan]) -> Plan:
    while True:
        plan = draw()
        if 1 <= sum(said is not None for said in plan) <= MAX_FACTS_IN_SUMMARY:
            return plan


def _decide(document: Document, index: int, writer: Writer, rng: np.random.Generator) -> Fact | None:
    include = writer.include_major if document.major[index] else writer.include_minor
    if rng.random() >= include:
        return None
    fact = document.facts[index]
    return _corrupt(document, index, rng) if rng.random() < writer.corrupt else fact


def _corrupt(document: Document, index: int, rng: np.random.Generator) -> Fact:
    """Replace the place or the number, half the time by another fact's, so that errors look like confusions."""
    fact = document.facts[index]
    field = "place" if rng.random() < 0.5 else "number"
    confused = [getattr(f, field) for f in document.facts if getattr(f, field) != getattr(fact, field)]
    pool = confused if confused and rng.random() < 0.5 else PLACES if field == "place" else NUMBERS
    while True:
        value = pool[int(rng.integers(len(pool)))]
        if value != getattr(fact, field):
            return fact._replace(**{field: value})


def write_summary(plan: Plan) -> str:
    """The summary as text, facts in document order."""
    return " ".join(write_fact(fact) for fact in plan if fact is not None)


def restate_some(document: Document, rng: np.random.Generator) -> str:
    """Some facts, rightly, in order: what teaches a small model to copy before it learns to choose.

    Not all facts: a model that always restates the next one learns to follow the document and not to look a fact up.
    """
    return write_summary(draft_plan(document, CLEAN_WRITER, rng))


# --- annotators and judge ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=200_000)
def assess(document: str, summary: str) -> Quality:
    """Count what annotators look at; text that is not a fact of the document is wrong, and so is a repetition."""
    facts, major = read_document(document)
    remaining = dict(zip(facts, major, strict=True))
    sentences = _sentences(summary)
    wrong = coverage = 0
    for sentence in sentences:
        said = _read_fact(sentence)
        if said is None or said not in remaining:
            wrong += 1
        else:
            coverage += 2 if remaining.pop(said) else 1
    return Quality(wrong if sentences else 1, coverage, len(sentences))


def annotator_prefers(annotator: Annotator, first: Quality, second: Quality) -> float:
    """1 when the rule prefers the first summary, 0 the second, .5 when no criterion decides."""
    for criterion, threshold in annotator.criteria:
        difference = getattr(first, criterion) - getattr(second, criterion)
        if abs(difference) >= threshold:
            return float((difference > 0) == (criterion == "coverage"))
    return 0.5


def preference_from_quality(first: Quality, second: Quality) -> float:
    """P(first preferred to second) over a random annotator, exact."""
    follows = sum(a.weight * annotator_prefers(a, first, second) for a in ANNOTATORS.values())
    return FOLLOWS_RULE * follows + (1 - FOLLOWS_RULE) / 2


def preference_probability(document: str, candidate: str, opponent: str) -> float:
    """P(candidate preferred to opponent) as summaries of the document, exact: the rule judge."""
    return preference_from_quality(assess(document, candidate), assess(document, opponent))


def cast_votes(document: str, text_a: str, text_b: str, count: int, rng: np.random.Generator) -> list[str]:
    """Votes "a" or "b" of `count` annotators drawn by weight."""
    probability = preference_probability(document, text_a, text_b)
    return ["a" if rng.random() < probability else "b" for _ in range(count)]


def intransitivity_rate(documents: Sequence[Document], writer: Writer, triples: int, rng: np.random.Generator) -> float:
    """Share of triples of a writer's summaries of one document whose majority preferences form a cycle."""
    cycles = 0
    for index in range(triples):
        document = documents[index % len(documents)]
        text = write_document(document)
        a, b, c = (assess(text, write_summary(draft_plan(document, writer, rng))) for _ in range(3))
        wins = [preference_from_quality(*pair) - 0.5 for pair in ((a, b), (b, c), (c, a))]
        cycles += all(w > 1e-12 for w in wins) or all(w < -1e-12 for w in wins)
    return cycles / triples


def win_probability(document: Document, writer: Writer, other: Writer, rng: np.random.Generator) -> float:
    """P(a summary of `writer` preferred to one of `other`), for one drawn summary of each."""
    texts = [write_summary(draft_plan(document, w, rng)) for w in (writer, other)]
    return preference_probability(write_document(document), *texts)


# --- data sets -----------------------------------------------------------------------------------------------------------


def draw_demonstrations(count: int, rng: np.random.Generator, restating_share: float = 0.35) -> Iterator[dict[str, str | None]]:
    """Yield prompt, draft (or None) and completion: a draft and a revision for each document, over all domains.

    A curriculum: the first `restating_share` restate some facts of documents that grow longer, without errors, because a small
    model that has not learned to copy learns nothing from noisy summaries; the rest are the reference writer's drafts and its
    neutral revisions.
    """
    domains = list(DOMAINS.values())
    for index in range(count // 2):
        progress = index / (restating_share * count / 2)
        if progress < 1:
            document = draw_document(Domain((2, 3 + int(9 * progress)), 1, False), rng)
            draft, revision = restate_some(document, rng), restate_some(document, rng)
        else:
            document = draw_document(domains[int(rng.integers(len(domains)))], rng)
            plan = draft_plan(document, REFERENCE_WRITER, rng)
            draft, revision = write_summary(plan), write_summary(revise_plan(document, plan, REFERENCE_WRITER, rng))
        text = write_document(document)
        yield {"prompt": text, "draft": None, "completion": draft}
        yield {"prompt": text, "draft": draft, "completion": revision}


def draw_pairs(count: int, votes: int, rng: np.random.Generator) -> Iterator[dict[str, str | list[str]]]:
    """Yield prompt, summary_a, summary_b and votes on in-distribution documents by the behaviour writer.

    Half the pairs are two independent drafts, half a draft and its revision. Equal texts are drawn again.
    """
    for index in range(count):
        while True:
            document = draw_document(DOMAINS["id"], rng)
            plan = draft_plan(document, BEHAVIOUR_WRITER, rng)
            edit = index % 2 == 1
            other = revise_plan(document, plan, BEHAVIOUR_WRITER, rng) if edit else draft_plan(document, BEHAVIOUR_WRITER, rng)
            text, a, b = write_document(document), write_summary(plan), write_summary(other)
            if a != b:
                break
        yield {"prompt": text, "summary_a": a, "summary_b": b, "votes": cast_votes(text, a, b, votes, rng)}


def draw_prompts(domain: str, count: int, rng: np.random.Generator) -> Iterator[dict[str, str | list[str]]]:
    """Yield evaluation prompts of a domain with the gold writer's summary."""
    for _ in range(count):
        document = draw_document(DOMAINS[domain], rng)
        yield {"prompt": write_document(document), "gold": [write_summary(draft_plan(document, GOLD_WRITER, rng))]}


# --- one-edit probes -----------------------------------------------------------------------------------------------------


def one_edit_pairs(document: Document, rng: np.random.Generator) -> Iterator[tuple[str, str, str]]:
    """Yield (kind of edit, draft, draft with that one edit) around a draft of the reference writer."""
    plan = draft_plan(document, REFERENCE_WRITER, rng)
    size = sum(said is not None for said in plan)
    for index, (fact, said) in enumerate(zip(document.facts, plan, strict=True)):
        rank = "major" if document.major[index] else "minor"
        edits: list[tuple[str, Fact | None]] = []
        if said is None and size < MAX_FACTS_IN_SUMMARY:
            edits = [(f"add a right {rank} fact", fact), (f"add a wrong {rank} fact", _corrupt(document, index, rng))]
        elif said == fact:
            edits = [("corrupt a right fact", _corrupt(document, index, rng))]
        elif said is not None:
            edits = [("repair a wrong fact", fact)] + ([("drop a wrong fact", None)] if size > 1 else [])
        for kind, new in edits:
            yield kind, write_summary(plan), write_summary((*plan[:index], new, *plan[index + 1 :]))
