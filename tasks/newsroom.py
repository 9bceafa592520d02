"""The newsroom stage: the embedded world written as ordinary files, which the ordinary ingestion then reads."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from srpo_core import newsroom
from srpo_core.records import seed_from
from srpo_core.settings.data import ColumnMapping, NewsroomSettings, PreferenceSourceSettings, PromptSourceSettings
from storage import parquet
from storage.artifact import Artifact, compute_fingerprint, find_artifact, writing

VERSION = 2  # 2: fewer places and numbers, none twice in a document, frequent and rare places
DOMAIN = "newsroom-id"  # of the preference pairs; the evaluation sets long and mix are of other domains
VALIDATION = "validation"  # more documents like those of the preference pairs
logger = logging.getLogger("srpo")


def write_newsroom(settings: NewsroomSettings, home: Path) -> Artifact:
    """Write demonstrations, votes on pairs and three evaluation sets as JSON lines, and world.json with what is known of them."""
    asked = settings.model_dump()
    fingerprint = compute_fingerprint("newsroom", VERSION, asked, {})
    found = find_artifact(home, "newsroom", fingerprint)
    if found is not None:
        return found
    logger.info(
        "newsroom: writing %d demonstrations, %d pairs, 3 evaluation sets", settings.num_demonstrations, settings.num_pairs
    )
    with writing(home, "newsroom", fingerprint, version=VERSION, settings=asked, parents={}) as writer:
        if writer.artifact is not None:
            return writer.artifact
        rows: dict[str, Iterable[Mapping[str, Any]]] = {
            "demonstrations.jsonl": newsroom.draw_demonstrations(settings.num_demonstrations, _rng(settings, "demonstrations")),
            "preferences.jsonl": newsroom.draw_pairs(settings.num_pairs, settings.votes_per_pair, _rng(settings, "pairs")),
        }
        rows |= {
            f"{name}.jsonl": newsroom.draw_prompts(name, settings.num_prompts, _rng(settings, name)) for name in newsroom.DOMAINS
        }
        rows["validation.jsonl"] = newsroom.draw_prompts("id", settings.num_prompts, _rng(settings, VALIDATION))
        files = [_write_lines(writer.path / name, lines) for name, lines in rows.items()]
        files.append(writer.path / "world.json")
        parquet.write_json(files[-1], _measure_world(settings))
        counts = {"demonstrations": settings.num_demonstrations, "pairs": settings.num_pairs}
        return writer.complete(files, counts=counts)


def preference_source(artifact: Artifact) -> PreferenceSourceSettings:
    """How ingestion reads the newsroom's votes. All pairs are for training: settings are chosen on prompts of their own."""
    columns = ColumnMapping(prompt="prompt", text_a="summary_a", text_b="summary_b", votes="votes")
    path = str(artifact.path / "preferences.jsonl")
    return PreferenceSourceSettings(paths=[path], format="columns", columns=columns, domain=DOMAIN, validation_share=0)


def prompt_sources(artifact: Artifact, only: list[str] | None = None) -> list[PromptSourceSettings]:
    """How ingestion reads the newsroom's evaluation sets; `validation`, for choosing settings, must be asked for by name."""
    domains = dict.fromkeys(newsroom.DOMAINS) | ({VALIDATION: "id"} if VALIDATION in (only or []) else {})
    return [
        PromptSourceSettings(
            name=name, path=str(artifact.path / f"{name}.jsonl"), format="plain", domain=f"newsroom-{domain or name}"
        )
        for name, domain in domains.items()
    ]


def _measure_world(settings: NewsroomSettings) -> dict[str, Any]:
    """Intransitivity of each writer's summaries, and each writer's win rate against the gold, by domain."""
    rng = _rng(settings, "measure")
    writers = {"reference": newsroom.REFERENCE_WRITER, "behaviour": newsroom.BEHAVIOUR_WRITER, "gold": newsroom.GOLD_WRITER}
    world: dict[str, Any] = {"intransitive_triples": {}, "win_rate_against_gold": {}}
    for name, domain in newsroom.DOMAINS.items():
        documents = [newsroom.draw_document(domain, rng) for _ in range(200)]
        for writer_name, writer in writers.items():
            world["intransitive_triples"][f"{writer_name}/{name}"] = newsroom.intransitivity_rate(documents, writer, 2000, rng)
            world["win_rate_against_gold"][f"{writer_name}/{name}"] = float(
                np.mean([newsroom.win_probability(d, writer, newsroom.GOLD_WRITER, rng) for d in documents])
            )
    return world


def _rng(settings: NewsroomSettings, label: str) -> np.random.Generator:
    return np.random.default_rng(seed_from(settings.seed, "newsroom", label))


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    parquet.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path
