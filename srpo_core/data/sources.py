"""Where rows come from: local files, folders and globs, or a hub data set streamed at a fixed commit.

`find_sources` turns one path argument into sources; each knows its identity (content hash or commit) without being read,
so that a stage can tell whether it has read it before.
"""

import glob
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srpo_core.data.row_readers import FORMATS, Place, SourceRow, format_suffix, read_rows
from srpo_core.errors import HubIsDown, InputError, is_network_fault

HUB_PREFIX = "hub:"
_HUB = re.compile(
    r"(?P<dataset>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^:/@]+))?(?::(?P<config>[^:/@]+))?(?:/(?P<split>[\w.-]+))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class FileSource:
    """One local file; `name` is its path below the folder the user named, or its file name."""

    path: Path
    name: str

    def identity(self) -> dict[str, Any]:
        """What makes it the same source wherever it lies: the SHA-256 of its bytes, and its name."""
        try:
            with self.path.open("rb") as handle:
                return {"sha256": hashlib.file_digest(handle, "sha256").hexdigest(), "name": self.name}
        except OSError as error:
            reason = error.strerror
            raise InputError(f"expected a readable file at {self.path}, found: {reason}; check its permissions") from error

    @property
    def location(self) -> str:
        """Where it lies, the same however the path to it was written."""
        return str(self.path.resolve())

    def rows(self, place: Place | None = None) -> Iterator[SourceRow]:
        """Stream its rows; `place` says how far."""
        return read_rows(self.path, place)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class HubSource:
    """One split of a hub data set at one commit, streamed through `datasets`."""

    dataset: str
    commit: str
    config: str | None
    split: str

    @property
    def name(self) -> str:
        """The data set's id."""
        return self.dataset

    @property
    def location(self) -> str:
        """Its full name."""
        return str(self)

    def identity(self) -> dict[str, Any]:
        """Data set, commit, configuration and split."""
        return {"dataset": self.dataset, "commit": self.commit, "config": self.config, "split": self.split}

    def rows(self, place: Place | None = None) -> Iterator[SourceRow]:
        """Stream its rows; `place` says how far. Raises InputError when the hub refuses or cannot be reached."""
        number = 0
        try:
            import datasets

            stream = datasets.load_dataset(self.dataset, self.config, split=self.split, revision=self.commit, streaming=True)
            if place is not None:
                place.watch(lambda: number, _known_rows(stream, self.split), "rows")
            for number, row in enumerate(stream, start=1):
                yield SourceRow(number, dict(row), "")
        except Exception as error:  # `datasets` lets the errors of a dozen libraries through
            raise _hub_refusal(str(self), error) from error

    def __str__(self) -> str:
        config = f":{self.config}" if self.config else ""
        return f"{HUB_PREFIX}{self.dataset}@{self.commit}{config}/{self.split}"


def _known_rows(stream: Any, split: str) -> int:
    """How many rows a split has, where its data set says so; 0 = nobody knows."""
    splits = getattr(getattr(stream, "info", None), "splits", None) or {}
    return getattr(splits.get(split), "num_examples", None) or 0


Source = FileSource | HubSource


def find_sources(path: str) -> list[Source]:
    """The sources one path argument names, in sorted order; never an empty list. Raises InputError."""
    if path.startswith(HUB_PREFIX):
        return [resolve_hub_name(path)]
    if re.match(r"\w+://", path):
        raise InputError(f"expected a local path or {HUB_PREFIX}<owner>/<data set>, found {path}; fetch the file first")
    if Path(path).is_dir():
        return _sources_in_folder(Path(path))
    if Path(path).exists():
        return [FileSource(Path(path), Path(path).name)]
    matches = [Path(match) for match in sorted(glob.glob(path, recursive=True)) if Path(match).is_file()]
    if not matches:
        what = "a file that matches" if glob.has_magic(path) else "a file or folder at"
        raise InputError(f"expected {what} {path}, found none; check the path (the current folder is {Path.cwd()})")
    return [FileSource(match, match.name) for match in matches]


def resolve_hub_name(name: str) -> HubSource:
    """Read `hub:<owner>/<data set>[@revision][:config][/split]` (split train when not named) and fix its commit.

    A revision of 40 hex digits is a commit already, and no question is sent. Raises InputError.
    """
    match = _HUB.fullmatch(name.removeprefix(HUB_PREFIX))
    if match is None:
        raise InputError(f"expected {HUB_PREFIX}<owner>/<data set>[@revision][:config][/split], found {name}")
    revision = match["revision"]
    commit = revision if revision and _COMMIT.fullmatch(revision) else _ask_hub_for_commit(name, match["dataset"], revision)
    return HubSource(match["dataset"], commit, match["config"], match["split"] or "train")


def _ask_hub_for_commit(name: str, dataset: str, revision: str | None) -> str:
    try:
        from huggingface_hub import HfApi

        commit = HfApi().dataset_info(dataset, revision=revision, timeout=30).sha
    except Exception as error:  # the client lets its transport library's errors through
        raise _hub_refusal(name, error) from error
    if commit is None:
        raise InputError(f"expected the hub to name a commit for {name}, found none; name one as @<40 hex digits>")
    return commit


def _hub_refusal(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    kind = HubIsDown if is_network_fault(error) else InputError
    return kind(
        f"expected to read {name} from the hub, found: {reason}; check the name and the connection, or give a local file instead"
    )


def _sources_in_folder(folder: Path) -> list[Source]:
    """Every data file below a folder; hidden files and files of other kinds (README, LICENSE) are not data."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and format_suffix(f) and not _hidden(f, folder)]
    if not files:
        known = ", ".join(FORMATS)
        raise InputError(f"expected files ending in {known} below {folder}, found none; name a folder that holds some")
    return [FileSource(file, file.relative_to(folder).as_posix()) for file in files]


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
