"""Stages `sources` and `preferences`: source files → labelled pairs, one artifact per file and a merge over them.

Adding a file reads only that file. Row order is kept (first occurrence), duplicates are merged with their votes added, every
row that was not used is kept with its reason, and memory does not grow with the input.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from srpo_core.data.format_functions import FormatFunction, is_format_function, load_format_function
from srpo_core.data.labelled_pairs import LabelledPair, UnusableRow
from srpo_core.data.preference_formats import Convert, choose_converter, outcomes
from srpo_core.data.row_readers import Place, SourceRow
from srpo_core.data.sources import Source, find_sources
from srpo_core.data.splits import ClusterSplitter
from srpo_core.errors import InputError
from srpo_core.records import content_id, pair_id
from srpo_core.settings.data import PreferenceSourceSettings
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, writing
from storage.part_stream import PartStream
from storage.schemas import PREFERENCES, REJECTED_ROWS
from storage.vote_tally import VoteTally
from tasks.log_lines import in_words
from tasks.progress import LOG_PERIOD, ProgressDisplay

SOURCES_VERSION = 1  # rises when the pairs read from one file change
VERSION = 1  # rises when the merge changes
ROWS_PER_LOOK = 1000  # between two looks whether progress is due
MEGABYTE = 10**6
BATCH_ROWS = 4096
log = logging.getLogger("srpo.preferences")


def ingest_preferences(settings: PreferenceSourceSettings, home: Path) -> Artifact:
    """Read every source that was not read before, and merge them. Raises InputError.

    Counts: rows_read = pairs + rejected_rows + merged_duplicates, where each comparison of an n-way row is a row.
    """
    function = load_format_function(settings.format) if is_format_function(settings.format) else None
    sources = _ingest_sources(settings, function, home)
    parents = {f"source-{index:05d}": source for index, source in enumerate(sources)}
    merge_settings = settings.model_dump(include={"domain", "validation_share", "test_share", "seed"})
    fingerprint = compute_fingerprint("preferences", VERSION, merge_settings, parents)
    with writing(home, "preferences", fingerprint, version=VERSION, settings=merge_settings, parents=parents) as writer:
        return writer.artifact or _Merge(settings, sources, writer).run()


def _ingest_sources(settings: PreferenceSourceSettings, function: FormatFunction | None, home: Path) -> list[Artifact]:
    """One artifact per source, each source once, `max_rows` counted along each path."""
    artifacts, seen = [], set()
    for path in settings.paths:
        left = settings.max_rows
        for source in find_sources(path):
            if source.location in seen or left == 0:
                continue
            seen.add(source.location)
            artifacts.append(_ingest_source(source, settings, function, left, home))
            left = None if left is None else left - artifacts[-1].info["source_rows"]
    return artifacts


def _ingest_source(
    source: Source, settings: PreferenceSourceSettings, function: FormatFunction | None, max_rows: int | None, home: Path
) -> Artifact:
    source_settings = source.identity() | {
        "format": settings.format if function is None else function.identity,
        "columns": settings.columns.model_dump() if settings.columns else None,
        "cluster_by": settings.cluster_by,
        "max_rows": max_rows,
    }
    fingerprint = compute_fingerprint("sources", SOURCES_VERSION, source_settings, {})
    found = find_artifact(home, "sources", fingerprint)
    if found is not None:
        log.info("%s was read before: %s", source.name, in_words({"pairs": found.counts["pairs"]}))
        return found
    with writing(home, "sources", fingerprint, version=SOURCES_VERSION, settings=source_settings, parents={}) as writer:
        return writer.artifact or _SourceReading(source, settings, function, max_rows, writer).run()


class _SourceReading:
    """One source on its way into its artifact: pairs before split and merge, and rejected rows."""

    def __init__(
        self,
        source: Source,
        settings: PreferenceSourceSettings,
        function: FormatFunction | None,
        max_rows: int | None,
        writer: ArtifactWriter,
    ) -> None:
        self._source, self._settings, self._function, self._max_rows = source, settings, function, max_rows
        self._writer = writer
        self._pairs = PartStream(writer, PREFERENCES)
        self._rejected = PartStream(writer, REJECTED_ROWS, "rejected")
        self._reasons: Counter[str] = Counter()
        self._first_reason = ""
        self._format_name = "none"
        self._convert: Convert | None = None
        self._source_rows = 0

    def run(self) -> Artifact:
        """Read all rows and complete the artifact. Raises InputError when not one pair came of it."""
        _clear(self._writer)
        place = Place()
        with ProgressDisplay("ingest", patience=LOG_PERIOD) as display:
            for row in self._source.rows(place):
                self._source_rows += 1
                self._take(row)
                if self._source_rows % ROWS_PER_LOOK == 0:
                    self._show(display, place)
                if self._source_rows == self._max_rows:
                    break
        self._check_yield()
        files = self._pairs.close() + self._rejected.close()
        counts = {"pairs": self._pairs.num_rows, "rejected_rows": self._rejected.num_rows}
        counts["rows_read"] = sum(counts.values())
        log.info("%s: format %s, %s", self._source.name, self._format_name, in_words(counts))
        info = {"source": str(self._source), "format": self._format_name, "source_rows": self._source_rows}
        return self._writer.complete(files, counts=counts, info=info | {"rejected_by_reason": dict(self._reasons)})

    def _show(self, display: ProgressDisplay, place: Place) -> None:
        """Rows where it is known how many there are or how many are wanted, else the file's megabytes."""
        counts = {"pairs": self._pairs.num_rows, "rejected_rows": self._rejected.num_rows}
        done, total, unit = place.done, place.total, place.unit
        if self._max_rows is not None:
            done, total, unit = self._source_rows, self._max_rows, "rows"
        elif unit == "bytes":
            done, total, unit = done // MEGABYTE, total // MEGABYTE, "MB"
        display.update(self._source.name, done, total, unit, counts)

    def _take(self, row: SourceRow) -> None:
        if row.row is None:
            self._reject(row, UnusableRow(row.problem))
            return
        if self._convert is None:
            self._format_name, self._convert = choose_converter(
                self._settings.format, self._settings.columns, self._function, row.row, str(self._source)
            )
        for outcome in outcomes(self._convert, row.row):
            if isinstance(outcome, LabelledPair) and self._settings.cluster_by == "column" and outcome.cluster is None:
                outcome = UnusableRow("no cluster, though cluster_by is column")
            if isinstance(outcome, LabelledPair):
                self._pairs.add_row(_pair_row(outcome, self._source.name))
            else:
                self._reject(row, outcome)

    def _reject(self, row: SourceRow, reason: UnusableRow) -> None:
        self._reasons[reason.kind] += 1
        self._first_reason = self._first_reason or f"{reason} (row {row.line})"
        self._rejected.add_row({"file": self._source.name, "line": row.line, "reason": _storable(str(reason)), "row": row.text()})

    def _check_yield(self) -> None:
        if not self._source_rows:
            raise InputError(f"expected preference pairs in {self._source}, found an empty file; leave it out or replace it")
        if not self._pairs.num_rows:
            raise InputError(
                f"expected preference pairs in {self._source}, found none among {self._source_rows} rows; the first reason is "
                f"{_storable(self._first_reason)}; correct the file, or its format or column mapping"
            )


class _Merge:
    """All sources on their way into one artifact: duplicates merged, splits assigned, order kept."""

    def __init__(self, settings: PreferenceSourceSettings, sources: list[Artifact], writer: ArtifactWriter) -> None:
        self._settings, self._sources, self._writer = settings, sources, writer
        self._shuffle = writer.path / "shuffle"
        self._splitter = ClusterSplitter(
            seed=settings.seed, validation_share=settings.validation_share, test_share=settings.test_share
        )
        self._facts: Counter[str] = Counter()
        self._num_read = sum(source.counts["pairs"] for source in sources)

    def run(self) -> Artifact:
        """Two passes over the sources' pairs. Raises InputError when there is nothing to learn from or to split."""
        _clear(self._writer)
        shutil.rmtree(self._shuffle, ignore_errors=True)
        try:
            with ProgressDisplay("ingest", patience=LOG_PERIOD) as display:
                tally = self._count_votes(display)
                self._splitter.settle()
                pairs = self._write_pairs(tally, display)
        finally:
            shutil.rmtree(self._shuffle, ignore_errors=True)
        rejected = self._copy_rejected()
        merged = self._num_read - pairs.num_rows
        counts = {"pairs": pairs.num_rows, "rejected_rows": rejected.num_rows, "merged_duplicates": merged}
        counts["rows_read"] = sum(counts.values())
        log.info("preferences: %s", in_words(counts))
        return self._writer.complete(pairs.files + rejected.files, counts=counts, info=self._info())

    def _count_votes(self, display: ProgressDisplay) -> VoteTally:
        tally, counted = VoteTally(self._shuffle, self._num_read), 0
        for batch in self._batches(["pair_id", "chosen", "rejected", "preference", "num_votes", "cluster_id"]):
            preference = batch["preference"].to_numpy()
            for_a = np.where(_a_is_chosen(batch), preference, 1 - preference)
            tally.add(batch["pair_id"].to_pylist(), for_a, batch["num_votes"].to_numpy())
            counted += batch.num_rows
            display.update("votes", counted, self._num_read, "pairs")
            for cluster in pc.unique(batch["cluster_id"]).to_pylist():
                self._splitter.observe(cluster)
        tally.close()
        return tally

    def _write_pairs(self, tally: VoteTally, display: ProgressDisplay) -> PartStream:
        pairs, position = PartStream(self._writer, PREFERENCES), 0
        for batch in self._batches(PREFERENCES.names):
            merged = self._merge_batch(batch, tally.read(position, position + batch.num_rows))
            position += batch.num_rows
            pairs.add_table(merged)
            display.update("merge", position, self._num_read, "pairs")
            self._facts["ties"] += pc.sum(pc.equal(merged["preference"], 0.5)).as_py() or 0
            self._facts.update({f"{v['values']}_pairs": v["counts"] for v in pc.value_counts(merged["split"]).to_pylist()})
        pairs.close()
        if self._facts["ties"] == pairs.num_rows:
            raise InputError(
                f"expected pairs with a preferred side, found ties alone in all {pairs.num_rows} pairs of "
                f"{', '.join(self._settings.paths)}; check the label column or give data with preferences"
            )
        return pairs

    def _merge_batch(self, batch: pa.Table, tally: np.ndarray) -> pa.Table:
        """First occurrences with the votes of all; a pair that occurs once keeps its numbers bit for bit."""
        first = tally["occurrences"] > 0
        batch, tally = batch.filter(pa.array(first)), tally[first]
        a_is_chosen, again = _a_is_chosen(batch), tally["occurrences"] > 1
        for_a = np.round(tally["favour"] / tally["votes"], 12)  # so that (1 - .8) · 5 and .8 · 5 votes make a tie
        for_chosen = np.where(again, np.where(a_is_chosen, for_a, 1 - for_a), batch["preference"].to_numpy())
        swap = for_chosen < 0.5
        columns = {name: batch[name] for name in PREFERENCES.names} | {
            "chosen": pc.if_else(pa.array(swap), batch["rejected"], batch["chosen"]),
            "rejected": pc.if_else(pa.array(swap), batch["chosen"], batch["rejected"]),
            "preference": pa.array(np.where(swap, 1 - for_chosen, for_chosen)),
            "num_votes": pa.array(tally["votes"].astype(np.int32)),
            "domain": pa.repeat(pa.scalar(self._settings.domain), batch.num_rows),
            "split": pa.array([self._splitter.split_of(cluster) for cluster in batch["cluster_id"].to_pylist()], pa.string()),
        }
        return pa.table(columns, schema=PREFERENCES)

    def _copy_rejected(self) -> PartStream:
        rejected = PartStream(self._writer, REJECTED_ROWS, "rejected")
        for batch in _read_batches(self._sources, REJECTED_ROWS, REJECTED_ROWS.names, "rejected"):
            rejected.add_table(batch)
        rejected.close()
        return rejected

    def _batches(self, columns: list[str]) -> Iterator[pa.Table]:
        return _read_batches(self._sources, PREFERENCES, columns, "part")

    def _info(self) -> dict[str, Any]:
        reasons: Counter[str] = Counter()
        for source in self._sources:
            reasons.update(source.info["rejected_by_reason"])
        sources = [{k: s.info[k] for k in ("source", "format")} | dict(s.counts) for s in self._sources]
        return {"rejected_by_reason": dict(reasons), "sources": sources} | dict(self._facts)


def _pair_row(pair: LabelledPair, source: str) -> dict[str, Any]:
    """A row of `preferences` whose domain and split are left to the merge, so that they can change without reading again."""
    return {
        "pair_id": pair_id(pair.prompt, pair.chosen, pair.rejected),
        "prompt": pair.prompt,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "preference": pair.preference,
        "num_votes": pair.num_votes,
        "source": source,
        "domain": "",
        "split": "",
        "cluster_id": pair.cluster if pair.cluster is not None else content_id("prompt", pair.prompt),
    }


def _a_is_chosen(batch: pa.Table) -> np.ndarray:
    """Whether the chosen text sorts first; Arrow compares UTF-8 bytes, which order texts as Python does."""
    return pc.less(batch["chosen"], batch["rejected"]).to_numpy()


def _read_batches(sources: list[Artifact], schema: pa.Schema, columns: list[str], prefix: str) -> Iterator[pa.Table]:
    wanted = pa.schema([schema.field(name) for name in columns])
    for source in sources:
        for path in source.parts(prefix):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                    yield pa.Table.from_batches([batch]).select(columns).cast(wanted)


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _clear(writer: ArtifactWriter) -> None:
    """Remove parts of an interrupted attempt: this work restarts from its top."""
    for file in writer.path.glob("*.parquet"):
        file.unlink()
