"""The demonstrations stage: what supervised training imitates, from a file or from preference pairs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srpo_core.data.conversations import read_completion, read_prompt
from srpo_core.data.labelled_pairs import UnusableRow
from srpo_core.data.row_readers import SourceRow, read_rows
from srpo_core.errors import InputError
from srpo_core.records import content_id
from srpo_core.settings.data import DemonstrationSettings
from storage import parquet
from storage.artifact import Artifact, compute_fingerprint, find_artifact, writing
from storage.part_stream import PartStream
from storage.schemas import DEMONSTRATIONS

VERSION = 1


def ingest_demonstrations(settings: DemonstrationSettings, home: Path, preferences: Artifact | None) -> Artifact:
    """Write the artifact `demonstrations`; its rows keep the order of their source, neighbours sharing a prompt.

    Raises InputError when there is neither a file nor preferences, or when a row is unusable.
    """
    parents: dict[str, Artifact] = {}
    if settings.path is not None:
        file = Path(settings.path)
        if not file.is_file():
            raise InputError(f"expected a file of demonstrations at {file}, found none; check demonstrations.path")
        asked: dict[str, Any] = {"sha256": parquet.sha256_of_file(file)}
    elif preferences is not None:
        asked, parents = {"revisions": settings.revisions}, {"preferences": preferences}
    else:
        raise InputError("expected demonstrations.path or preferences to make demonstrations from, found neither; give one")
    fingerprint = compute_fingerprint("demonstrations", VERSION, asked, parents)
    found = find_artifact(home, "demonstrations", fingerprint)
    if found is not None:
        return found
    with writing(home, "demonstrations", fingerprint, version=VERSION, settings=asked, parents=parents) as writer:
        if writer.artifact is not None:
            return writer.artifact
        rows = _from_file(Path(settings.path)) if settings.path else _from_pairs(parents["preferences"], settings.revisions)
        stream = PartStream(writer, DEMONSTRATIONS)
        for row in rows:
            stream.add_row(row)
        if not stream.num_rows:
            raise InputError(
                "expected at least one demonstration, found none; look at the file or at the counts of the preferences"
            )
        info = {"source": settings.path} if settings.path else {}
        return writer.complete(stream.close(), counts={"demonstrations": stream.num_rows}, info=info)


def _from_file(file: Path) -> Iterator[dict[str, Any]]:
    for source in read_rows(file):
        row = source.row or {}
        try:
            prompt, completion = read_prompt(row.get("prompt")), read_completion(row.get("completion"))
            draft = read_completion(row["draft"]) if row.get("draft") else None
        except UnusableRow as error:
            raise _unusable(source, file, source.problem or str(error)) from error
        if not completion or not prompt[-1]["content"]:
            raise _unusable(source, file, "an empty text")
        yield _row(prompt, draft or None, completion, file.name)


def _unusable(source: SourceRow, file: Path, problem: str) -> InputError:
    return InputError(
        f"expected prompt, completion and perhaps draft in row {source.line} of {file}, found {problem} "
        f"in {source.text()[:80]!r}; complete or remove the row"
    )


def _from_pairs(preferences: Artifact, revisions: str) -> Iterator[dict[str, Any]]:
    for pair in preferences.rows():
        if pair["split"] != "train":
            continue
        prompt, chosen, rejected, source = pair["prompt"], pair["chosen"], pair["rejected"], pair["source"]
        yield _row(prompt, None, chosen, source)
        if revisions != "none":
            yield _row(prompt, rejected, chosen, source)
        if revisions == "both_ways":
            yield _row(prompt, chosen, rejected, source)


def _row(prompt: Any, draft: str | None, completion: str, source: str) -> dict[str, Any]:
    name = content_id("demonstration", prompt, draft, completion)
    return {"demonstration_id": name, "prompt": prompt, "draft": draft, "completion": completion, "source": source}
