"""Stages `prompts` and `contamination`: evaluation sets with their gold texts, and where training pairs overlap with them."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from srpo_core.data.contamination import OverlapIndex
from srpo_core.data.format_functions import FormatFunction, is_format_function, load_format_function
from srpo_core.data.labelled_pairs import Row, UnusableRow
from srpo_core.data.prompt_formats import (
    GoldPrompt,
    checked,
    choose_prompt_converter,
    convert_by_function,
    read_answers,
    with_opponent,
)
from srpo_core.data.row_readers import SourceRow
from srpo_core.data.sources import Source, find_sources
from srpo_core.errors import InputError
from srpo_core.records import content_id, prompt_id
from srpo_core.settings.data import PromptSourceSettings
from storage.artifact import Artifact, ArtifactWriter, compute_fingerprint, find_artifact, writing
from storage.part_stream import PartStream
from storage.schemas import CONTAMINATION, PROMPTS, REJECTED_ROWS

PROMPTS_VERSION = 1
CONTAMINATION_VERSION = 1
LOG_EVERY_PAIRS = 50_000
log = logging.getLogger("srpo.prompts")


def ingest_prompts(settings: PromptSourceSettings, home: Path) -> Artifact:
    """Read one evaluation set. Counts: rows_read = prompts + rejected_rows. Raises InputError."""
    function = load_format_function(settings.format) if is_format_function(settings.format) else None
    sources = find_sources(settings.path)
    opponents = find_sources(settings.opponent_path) if settings.opponent_path else []
    stage_settings = settings.model_dump(include={"name", "domain", "max_prompts"}) | {
        "format": settings.format if function is None else function.identity,
        "sources": [source.identity() for source in sources],
        "opponents": [source.identity() for source in opponents],
    }
    fingerprint = compute_fingerprint("prompts", PROMPTS_VERSION, stage_settings, {})
    with writing(home, "prompts", fingerprint, version=PROMPTS_VERSION, settings=stage_settings, parents={}) as writer:
        return writer.artifact or _PromptReading(settings, function, sources, opponents, writer).run()


class _PromptReading:
    """One evaluation set on its way into its artifact."""

    def __init__(
        self,
        settings: PromptSourceSettings,
        function: FormatFunction | None,
        sources: list[Source],
        opponents: list[Source],
        writer: ArtifactWriter,
    ) -> None:
        self._settings, self._function, self._sources = settings, function, sources
        self._writer = writer
        self._answers = _opponent_answers(opponents) if opponents else None
        self._prompts = PartStream(writer, PROMPTS)
        self._rejected = PartStream(writer, REJECTED_ROWS, "rejected")
        self._ids: set[str] = set()
        self._facts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._first_reason = "the file is empty"

    def run(self) -> Artifact:
        """Read until the end or `max_prompts` and complete the artifact."""
        for source in self._sources:
            if not self._full():
                self._read(source)
        if not self._prompts.num_rows:
            raise InputError(
                f"expected evaluation prompts in {self._settings.path}, found none; the first reason is {self._first_reason}; "
                "correct the file or its format"
            )
        files = self._prompts.close() + self._rejected.close()
        counts = {"prompts": self._prompts.num_rows, "rejected_rows": self._rejected.num_rows}
        counts["rows_read"] = sum(counts.values())
        log.info("%s: %d prompts, %d rejected rows", self._settings.name, counts["prompts"], counts["rejected_rows"])
        info = {"sources": [str(s) for s in self._sources], "rejected_by_reason": dict(self._reasons)} | dict(self._facts)
        return self._writer.complete(files, counts=counts, info=info)

    def _read(self, source: Source) -> None:
        convert: Callable[[Row], Iterable[GoldPrompt]] | None = None
        for row in source.rows():
            if self._full():
                return
            if row.row is None:
                self._reject(source, row, UnusableRow(row.problem))
                continue
            convert = convert or self._converter(row.row, source)
            try:
                for item in convert(row.row):
                    self._take(item)
            except UnusableRow as reason:
                self._reject(source, row, reason)

    def _converter(self, row: Row, source: Source) -> Callable[[Row], Iterable[GoldPrompt]]:
        if self._function is not None:
            function = self._function
            return lambda row: convert_by_function(function, row)
        name, convert = choose_prompt_converter(self._settings.format, row, str(source))
        log.info("%s: format %s", source.name, name)
        return lambda row: [convert(row)]

    def _take(self, item: GoldPrompt) -> None:
        item = checked(item if self._answers is None else with_opponent(item, self._answers))
        name = prompt_id(self._settings.name, item.prompt)
        if name in self._ids:
            raise UnusableRow("prompt repeated")
        if self._full():
            return
        self._ids.add(name)
        self._facts["prompts_without_gold"] += not item.gold
        self._prompts.add_row(
            {
                "prompt_id": name,
                "prompt": item.prompt,
                "gold": item.gold,
                "eval_set": self._settings.name,
                "domain": self._settings.domain,
                "cluster_id": item.cluster if item.cluster is not None else content_id("prompt", item.prompt),
            }
        )

    def _reject(self, source: Source, row: SourceRow, reason: UnusableRow) -> None:
        if not self._reasons:
            self._first_reason = f"{reason} (row {row.line} of {source.name})"
        self._reasons[reason.kind] += 1
        self._rejected.add_row({"file": source.name, "line": row.line, "reason": str(reason), "row": row.text()})

    def _full(self) -> bool:
        return self._prompts.num_rows == self._settings.max_prompts


def _opponent_answers(opponents: list[Source]) -> dict[str, str]:
    answers = read_answers(row.row for source in opponents for row in source.rows() if row.row is not None)
    if not answers:
        names = ", ".join(str(source) for source in opponents)
        raise InputError(f"expected answers with uid, question_id or id in {names}, found none; give the opponent's answer file")
    return answers


def has_gold(prompts: Artifact) -> bool:
    """Whether any prompt of an evaluation set has a gold text to judge against."""
    return prompts.info.get("prompts_without_gold") != prompts.counts["prompts"]


def find_contamination(preferences: Artifact, prompts: list[Artifact], home: Path) -> Artifact:
    """Every overlap of a pair with an evaluation prompt (kinds: `srpo_core.data.contamination`); training leaves them out.

    Counts: pairs_read, contaminated_pairs, overlaps. Memory holds the evaluation sets, never the pairs.
    """
    parents = {"preferences": preferences} | {f"prompts-{index:05d}": artifact for index, artifact in enumerate(prompts)}
    fingerprint = compute_fingerprint("contamination", CONTAMINATION_VERSION, {}, parents)
    found = find_artifact(home, "contamination", fingerprint)
    if found is not None:
        return found
    with writing(home, "contamination", fingerprint, version=CONTAMINATION_VERSION, settings={}, parents=parents) as writer:
        return writer.artifact or _write_overlaps(preferences, prompts, writer)


def _write_overlaps(preferences: Artifact, prompts: list[Artifact], writer: ArtifactWriter) -> Artifact:
    index = OverlapIndex(row for artifact in prompts for row in artifact.rows())
    stream = PartStream(writer, CONTAMINATION)
    counts: Counter[str] = Counter(pairs_read=0, contaminated_pairs=0)
    kinds: Counter[str] = Counter()
    for pair in preferences.rows():
        overlaps = index.overlaps(pair["prompt"], (pair["chosen"], pair["rejected"]))
        for name, kind in overlaps:
            stream.add_row({"pair_id": pair["pair_id"], "prompt_id": name, "kind": kind})
            kinds[kind] += 1
        counts["pairs_read"] += 1
        counts["contaminated_pairs"] += bool(overlaps)
        if counts["pairs_read"] % LOG_EVERY_PAIRS == 0:
            log.info("%d pairs checked, %d overlap", counts["pairs_read"], counts["contaminated_pairs"])
    files = stream.close()
    log.info("%d of %d pairs overlap with evaluation prompts", counts["contaminated_pairs"], counts["pairs_read"])
    info = {"overlaps_by_kind": dict(kinds), "common_passages": index.num_common_passages}
    return writer.complete(files, counts=counts | {"overlaps": stream.num_rows}, info=info)
