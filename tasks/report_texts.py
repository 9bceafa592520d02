"""The texts of the report: a dozen prompts with their revisions side by side, the changed words marked.

The prompts are those with the smallest hashes of their ids: fixed, and not chosen by how well they came out.
"""

import difflib
import re
from typing import Any, NamedTuple

import duckdb

NUM_CHAINS = 12
LONGEST_PROMPT = 600  # characters shown before the reader unfolds the rest

# One policy speaks for the method of the paper where it is there, else the first by name; one temperature, one sample.
_POLICY = """
SELECT policy_id, name, method FROM policies WHERE policy_id IN (SELECT DISTINCT policy_id FROM verdicts)
ORDER BY method <> 'srpo', method IN ('sft', 'hub'), name, seed, policy_id LIMIT 1
"""
_CHOSEN = """
SELECT eval_set, prompt_id, min(temperature) AS temperature, min(sample_index) AS sample_index, min(judge) AS judge
FROM verdicts WHERE policy_id = ? GROUP BY eval_set, prompt_id
QUALIFY row_number() OVER (PARTITION BY eval_set ORDER BY md5(prompt_id)) <= ?
ORDER BY row_number() OVER (PARTITION BY eval_set ORDER BY md5(prompt_id)), eval_set
"""
_CHAIN = """
SELECT revision_index, candidate_text, num_tokens, finish_reason, any_value(prompt) AS prompt, any_value(opponent) AS opponent,
    min(opponent_text) AS opponent_text, avg(score) AS score, count(*) FILTER (score IS NULL) AS unscored
FROM verdicts
WHERE policy_id = ? AND prompt_id = ? AND temperature IS NOT DISTINCT FROM ? AND sample_index IS NOT DISTINCT FROM ? AND judge = ?
GROUP BY revision_index, candidate, candidate_text, num_tokens, finish_reason ORDER BY revision_index, candidate
"""


class Piece(NamedTuple):
    """A run of text and whether the revision before lacked it."""

    text: str
    is_new: bool


class Revision(NamedTuple):
    """One text of a chain."""

    revision_index: int
    pieces: list[Piece]
    score: float | None  # mean over opponents and orders
    unscored: int
    num_tokens: int | None
    truncated: bool
    unchanged: bool  # the same text as the revision before


class Chain(NamedTuple):
    """A prompt, what it was judged against, and a policy's draft with its revisions."""

    policy: str
    eval_set: str
    prompt_id: str
    prompt: str
    rest_of_prompt: str  # what is folded away
    opponent: str
    opponent_text: str
    revisions: list[Revision]


def revision_chains(connection: duckdb.DuckDBPyConnection, count: int = NUM_CHAINS) -> list[Chain]:
    """Up to `count` chains, spread over the evaluation sets; empty when nothing was judged."""
    policy = connection.execute(_POLICY).fetchone()
    if policy is None:
        return []
    chosen = connection.execute(_CHOSEN, [policy[0], count]).fetchall()[:count]
    chains = [_chain(connection, policy, eval_set, prompt_id, key) for eval_set, prompt_id, *key in chosen]
    return sorted(chains, key=lambda chain: chain.eval_set)


def _chain(
    connection: duckdb.DuckDBPyConnection, policy: tuple[Any, ...], eval_set: str, prompt_id: str, key: list[Any]
) -> Chain:
    cursor = connection.execute(_CHAIN, [policy[0], prompt_id, *key])
    names = [column[0] for column in cursor.description or []]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    prompt = "\n\n".join(message["content"] for message in rows[0]["prompt"])
    texts = [""] + [row["candidate_text"] for row in rows]
    revisions = [_revision(row, before) for row, before in zip(rows, texts, strict=False)]
    return Chain(
        policy[1],
        eval_set,
        prompt_id,
        prompt[:LONGEST_PROMPT],
        prompt[LONGEST_PROMPT:],
        rows[0]["opponent"],
        rows[0]["opponent_text"] or "",
        revisions,
    )


def _revision(row: dict[str, Any], before: str) -> Revision:
    text, index = row["candidate_text"], row["revision_index"]
    pieces = [Piece(text, False)] if index == 0 else mark_changes(before, text)
    truncated, unchanged = row["finish_reason"] == "length", index > 0 and text == before
    return Revision(index, pieces, row["score"], row["unscored"], row["num_tokens"], truncated, unchanged)


def mark_changes(before: str, after: str) -> list[Piece]:
    """`after` cut into runs of words that `before` has in the same order and runs that it lacks; space is never new."""
    old, new = re.findall(r"\s+|\S+", before), re.findall(r"\s+|\S+", after)
    pieces: list[Piece] = []
    for tag, _, _, start, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        run = "".join(new[start:end])
        word = run.strip()
        space, after_it = run[: len(run) - len(run.lstrip())], run[len(run.rstrip()) :] if word else ""
        pieces += [Piece(text, tag != "equal" and text == word) for text in (space, word, after_it) if text]
    return pieces
