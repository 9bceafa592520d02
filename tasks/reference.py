"""The reference stage: six log-probs of every pair under the frozen reference.

The rows live in a store that outlives fingerprints, keyed by what decides them (weights, tokenizer, template, truncation,
dtype, layout) and by the hash of a pair's tokens: a sweep over beta or learning rates computes nothing, new data only its new
pairs, new votes on old pairs nothing. The artifact is the store's rows for one set of preferences, by pair_id.
"""

import json
import logging
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from srpo_core.errors import InputError, WorkFailed
from srpo_core.settings.model import Dtype, ModelSettings
from srpo_core.settings.resources import Resources
from srpo_core.settings.training import LayoutChoice, TrainingSettings
from srpo_core.workers.jobs import ReferenceJob
from storage import parquet
from storage.artifact import Artifact, compute_fingerprint, find_artifact, hash_of, writing
from storage.lease import lease
from storage.part_stream import PartStream
from storage.schemas import REFERENCE
from tasks.launch import run_jobs
from tasks.models import model_folder

VERSION = 2
STORE = "reference_rows"
SPLITS = ["train", "validation"]
STORE_SCHEMA = pa.schema([field for field in REFERENCE if field.name != "pair_id"])
logger = logging.getLogger("srpo")


def compute_reference(
    reference: Artifact,
    preferences: Artifact,
    training: TrainingSettings,
    *,
    model: ModelSettings,
    resources: Resources,
    home: Path,
) -> Artifact:
    """Reference rows of the training and validation pairs; only pairs whose tokens the store does not know are computed.

    A pair that does not fit the context is counted and has no row.
    """
    asked: dict[str, Any] = {"dtype": model.dtype, "layout": training.layout, "splits": SPLITS}
    parents = {"reference": reference, "preferences": preferences}
    fingerprint = compute_fingerprint("reference", VERSION, asked, parents)
    found = find_artifact(home, "reference", fingerprint)
    if found is not None:
        return found
    key = store_name(reference, model.dtype, training.layout)
    store = home / STORE / key
    with writing(home, "reference", fingerprint, version=VERSION, settings=asked, parents=parents) as writer, lease(store):
        if writer.artifact is not None:
            return writer.artifact
        job = ReferenceJob(
            name="reference",
            model_folder=str(model_folder(reference)),
            dtype=model.dtype,
            layout=training.layout,
            preferences=[str(path) for path in preferences.parts()],
            splits=SPLITS,
            store=str(store),
        )
        before = _count(store)
        run_jobs("reference", [job], resources, writer.path)
        stream = PartStream(writer, REFERENCE)
        too_long = _join(stream, reference, preferences, store)
        files = stream.close()
        computed = _count(store) - before
        if not stream.num_rows:
            reason = (
                f"all {too_long} pairs exceed max_length; raise it" if too_long else "no pair is for training; look at the splits"
            )
            raise InputError(f"expected reference rows of at least one pair, found none: {reason}")
        layout = json.loads((store / "layout.json").read_text(encoding="utf-8"))["layout"]
        counts = {"pairs": stream.num_rows, "pairs_computed": computed, "pairs_too_long": too_long}
        return writer.complete(files, counts=counts, info={"store": key, "layout": layout})


def store_name(reference: Artifact, dtype: str, layout: str) -> str:
    """The folder of `reference_rows` that holds the rows of one reference."""
    return hash_of({"version": VERSION, "weights": reference.digest, "dtype": dtype, "layout": layout})


def store_names(reference: Artifact) -> set[str]:
    """Every folder of `reference_rows` that a policy as reference could use."""
    return {store_name(reference, dtype, layout) for dtype in get_args(Dtype) for layout in get_args(LayoutChoice)}


def _count(store: Path) -> int:
    return sum(parquet.pq.read_metadata(path).num_rows for path in store.glob("part-*.parquet"))


def _join(stream: PartStream, reference: Artifact, preferences: Artifact, store: Path) -> int:
    """Write the store's row of every pair under its pair_id; the number of pairs that do not fit."""
    from srpo_core.models import load_tokenizer
    from srpo_core.tokenization import PairTooLong, load_template, tokenize_pairs

    table = parquet.read_table(sorted(store.glob("part-*.parquet")), STORE_SCHEMA)
    rows = {row["token_hash"]: row for row in table.to_pylist()}
    tok, _ = load_template(model_folder(reference), load_tokenizer(model_folder(reference)))
    pairs = [pair for pair in preferences.rows() if pair["split"] in SPLITS]
    texts = [(pair["prompt"], *sorted((pair["chosen"], pair["rejected"]))) for pair in pairs]
    too_long = 0
    for pair, tokens in zip(pairs, tokenize_pairs(tok, texts), strict=True):
        if isinstance(tokens, PairTooLong):
            too_long += 1
            continue
        if tokens.token_hash not in rows:
            raise WorkFailed(
                f"expected a reference row of pair {pair['pair_id']} in {store}, found none; delete {store} and run again"
            )
        stream.add_row({"pair_id": pair["pair_id"], **rows[tokens.token_hash]})
    return too_long
