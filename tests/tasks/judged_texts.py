"""Completions and prompts to judge, written as the artifacts the stages before would have written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from srpo_core.records import content_id, prompt_id, user_prompt
from storage.artifact import Artifact, compute_fingerprint, writing
from storage.journal import write_parts
from storage.schemas import COMPLETIONS, PROMPTS

WORDS = "amber basin cedar delta ember fjord grove haven inlet jetty knoll ledge marsh notch ocean pines".split()


def source_text(number: int) -> str:
    """A source of its own words, so that each prompt's requests can be told apart."""
    return f"document{number} " + " ".join(WORDS[(number + k) % len(WORDS)] for k in range(8))


def good_summary(number: int) -> str:
    """Six words of the source."""
    return " ".join(source_text(number).split()[:6])


def poor_summary(number: int) -> str:
    """One word of the source among others."""
    return f"{WORDS[number % len(WORDS)]} and much that nobody wrote"


def write_prompts(
    home: Path, count: int, *, golds: Sequence[str] | None = None, eval_set: str = "test", start: int = 0
) -> Artifact:
    """`count` prompts; the gold is the poor summary unless given."""
    rows = [
        {
            "prompt_id": prompt_id(eval_set, user_prompt(source_text(n))),
            "prompt": user_prompt(source_text(n)),
            "gold": [poor_summary(n)] if golds is None else list(golds),
            "eval_set": eval_set,
            "domain": "test",
            "cluster_id": str(n),
        }
        for n in range(start, start + count)
    ]
    return write_artifact(home, "prompts", rows, PROMPTS)


def write_completions(
    home: Path, prompts: Sequence[Artifact], *, revisions: int = 0, policy: str = "policy", texts: Sequence[str] | None = None
) -> Artifact:
    """One completion per prompt and revision; the good summary unless `texts` gives one text per revision."""
    rows = []
    for artifact in prompts:
        for row in artifact.rows():
            number = int(row["prompt"][0]["content"].split()[0].removeprefix("document"))
            for k in range(revisions + 1):
                rows.append(completion_row(row["prompt_id"], policy, k, good_summary(number) if texts is None else texts[k]))
    return write_artifact(home, "completions", rows, COMPLETIONS)


def completion_row(prompt: str, policy: str, revision: int, text: str) -> dict[str, Any]:
    """A row of `completions`."""
    names = [content_id("completion", prompt, policy, k) for k in range(revision + 1)]
    return {
        "completion_id": names[-1],
        "prompt_id": prompt,
        "policy_id": policy,
        "sample_index": 0,
        "revision_index": revision,
        "parent_id": names[-2] if revision else None,
        "text": text,
        "num_tokens": len(text.split()),
        "finish_reason": "stop",
        "prompt_truncated": False,
        "seed": 0,
        "temperature": 1.0,
    }


def write_artifact(home: Path, stage: str, rows: list[dict[str, Any]], schema: pa.Schema) -> Artifact:
    """A complete artifact of `rows`, fingerprinted by its content."""
    settings = {"content": content_id(rows)}
    fingerprint = compute_fingerprint(stage, 1, settings, {})
    with writing(home, stage, fingerprint, version=1, settings=settings, parents={}) as writer:
        return writer.artifact or writer.complete(write_parts(writer, rows, schema))
