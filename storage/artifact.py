"""An artifact is a folder `<home>/<stage>/<fingerprint>/` whose `manifest.json`, written last, says it is complete.

Only what the manifest lists exists. The fingerprint names what was asked for (stage version, settings that change numbers,
content digests of the parents); the digest names what came out. Children fingerprint the digest, because training under the
same settings on other hardware gives another policy.
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage import parquet
from storage.errors import BrokenArtifact, UnusableInput
from storage.lease import lease
from storage.schemas import SCHEMA_VERSION
from storage.usage import mark_used

MANIFEST = "manifest.json"
KEYS = {"stage", "fingerprint", "digest", "settings", "parents", "files", "counts", "info", "created_at"}
STAGES = (
    "newsroom",
    "sources",
    "preferences",
    "demonstrations",
    "prompts",
    "contamination",
    "reference",
    "policies",
    "completions",
    "games",
    "diagnostics",
    "likelihoods",
    "rewards",
    "knockouts",
    "equal_compute",
    "audits",
    "sentinels",
    "sentinel_looks",
)


@dataclass(frozen=True)
class Artifact:
    """A complete artifact: where it lies and what its manifest says."""

    path: Path
    manifest: dict[str, Any] = field(repr=False, compare=False)

    @property
    def stage(self) -> str:
        """The stage that wrote it."""
        return self.manifest["stage"]

    @property
    def fingerprint(self) -> str:
        """What was asked for, as a hash."""
        return self.manifest["fingerprint"]

    @property
    def digest(self) -> str:
        """What came out, as a hash over the listed files."""
        return self.manifest["digest"]

    @property
    def counts(self) -> dict[str, int]:
        """Rows kept and everything dropped, by name."""
        return self.manifest["counts"]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that entered the fingerprint."""
        return self.manifest["settings"]

    @property
    def info(self) -> dict[str, Any]:
        """Facts worth keeping that do not change a number (names, timings)."""
        return self.manifest["info"]

    def parts(self, prefix: str = "part") -> list[Path]:
        """Listed Parquet parts whose name starts with `prefix`, in order."""
        names = [f["name"] for f in self.manifest["files"]]
        return [self.path / n for n in sorted(names) if n.startswith(f"{prefix}-") and n.endswith(".parquet")]

    def read(self, schema: pa.Schema, *, prefix: str = "part", columns: list[str] | None = None) -> pa.Table:
        """Read the parts named `prefix-*` into one table."""
        return parquet.read_table(self.parts(prefix), schema, columns)

    def rows(self, *, prefix: str = "part") -> Iterator[dict[str, Any]]:
        """Iterate over the rows of the parts named `prefix-*`."""
        return parquet.iterate_rows(self.parts(prefix))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hash_of(value: Any, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def compute_fingerprint(stage: str, version: int, settings: Mapping[str, Any], parents: Mapping[str, Artifact]) -> str:
    """Hash of what determines a stage's numbers: its VERSION, its settings and its parents' content digests."""
    digests = {name: parent.digest for name, parent in parents.items()}
    return hash_of({"stage": stage, "version": version, "settings": dict(settings), "parents": digests})


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of an artifact's folder, or None while it is not complete. Raises BrokenArtifact for one that is damaged."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not manifest.keys() >= KEYS:
            raise ValueError("one without all its keys")
        return manifest
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        raise BrokenArtifact(f"expected a JSON manifest at {file}, found {error}; delete {path} and run again") from error


def open_artifact(path: Path) -> Artifact:
    """Open a complete artifact; raise UnusableInput when the folder has no manifest."""
    if path.parent.name in STAGES and path.is_dir():
        mark_used(path.parent.parent, path.parent.name, path.name)
    manifest = read_manifest(path)
    if manifest is None:
        raise UnusableInput(f"expected a complete artifact (a folder with {MANIFEST}) at {path}, found none; run its stage first")
    return Artifact(path, manifest)


def find_artifact(home: Path, stage: str, fingerprint: str) -> Artifact | None:
    """The complete artifact of that fingerprint, or None. Every listed file must be there in its listed size.

    What was found is not deleted by others as long as this process lives.
    """
    path = home / stage / fingerprint
    if path.is_dir():
        mark_used(home, stage, fingerprint)
    manifest = read_manifest(path)
    if manifest is None:
        return None
    for entry in manifest["files"]:
        file = path / entry["name"]
        if not file.exists() or file.stat().st_size != entry["bytes"]:
            found = f"{file.stat().st_size} bytes" if file.exists() else "no file"
            raise BrokenArtifact(
                f"expected {entry['bytes']} bytes at {file} as its manifest says, found {found}; delete {path} and run again"
            )
    return Artifact(path, manifest)


def was_made_since(artifact: Artifact, moment: datetime) -> bool:
    """Whether an artifact was completed at `moment` or later; a moment in whole seconds may lie before it by parts of one."""
    return datetime.fromisoformat(artifact.manifest["created_at"]) >= moment


def list_artifacts(home: Path, stage: str) -> list[Artifact]:
    """All complete artifacts of a stage, oldest first."""
    manifests = [(path, read_manifest(path)) for path in sorted((home / stage).glob("*"))]
    found = [Artifact(path, manifest) for path, manifest in manifests if manifest is not None]
    return sorted(found, key=lambda a: (a.manifest["created_at"], a.fingerprint))


def list_incomplete(home: Path, stage: str) -> list[Path]:
    """Folders of a stage that were started and have no manifest yet."""
    return [p for p in sorted((home / stage).glob("*")) if p.is_dir() and not (p / MANIFEST).exists()]


class ArtifactWriter:
    """What a stage holds while it fills its folder; `complete` writes the manifest and ends it."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Use `writing` instead."""
        self.path = path
        self._header = header
        self.artifact: Artifact | None = None

    def part_path(self, index: int, prefix: str = "part", attempt: int = 0) -> Path:
        """Where part `index` goes: `<prefix>-<index>-<attempt>.parquet`."""
        return self.path / f"{prefix}-{index:05d}-{attempt}.parquet"

    def finished_parts(self, prefix: str = "part") -> list[Path]:
        """Parts that an earlier, interrupted attempt finished."""
        return sorted(self.path.glob(f"{prefix}-*.parquet"))

    def complete(
        self, files: list[Path], *, counts: Mapping[str, int] | None = None, info: Mapping[str, Any] | None = None
    ) -> Artifact:
        """List `files` (inside the folder, in content order) with size, rows and hash in the manifest, written last."""
        entries = [_file_entry(self.path, file) for file in files]
        manifest = self._header | {
            "files": entries,
            "digest": hash_of([[e["name"].rsplit("-", 1)[0], e["sha256"]] for e in entries]),
            "counts": dict(counts or {}),
            "info": dict(info or {}),
            "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        parquet.write_json(self.path / MANIFEST, manifest)
        self.artifact = Artifact(self.path, manifest)
        return self.artifact


@contextmanager
def writing(
    home: Path, stage: str, fingerprint: str, *, version: int, settings: Mapping[str, Any], parents: Mapping[str, Artifact]
) -> Iterator[ArtifactWriter]:
    """Hold the lease on an artifact's folder and give its writer.

    When another process completed the artifact while this one waited for the lease, `writer.artifact` is already set and
    there is nothing to do.
    """
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}")
    path = home / stage / fingerprint
    path.mkdir(parents=True, exist_ok=True)
    header = {
        "stage": stage,
        "fingerprint": fingerprint,
        "version": version,
        "schema_version": SCHEMA_VERSION,
        "settings": dict(settings),
        "parents": {name: {"stage": p.stage, "fingerprint": p.fingerprint, "digest": p.digest} for name, p in parents.items()},
        "environment": environment(),
        "git_commit": git_commit(),
        "prefect_run": os.environ.get("PREFECT__FLOW_RUN_ID"),  # set by the worker that started this process
    }
    mark_used(home, stage, fingerprint)
    with lease(path):
        writer = ArtifactWriter(path, header)
        writer.artifact = find_artifact(home, stage, fingerprint)
        yield writer


def _file_entry(folder: Path, file: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": str(file.relative_to(folder)),
        "bytes": file.stat().st_size,
        "sha256": parquet.sha256_of_file(file),
    }
    if file.suffix == ".parquet":
        entry["rows"] = parquet.pq.read_metadata(file).num_rows
    return entry


@cache
def environment() -> dict[str, str]:
    """Versions of the packages that can change a number, and the platform."""
    packages = ("torch", "transformers", "peft", "accelerate", "datasets", "pyarrow", "duckdb", "prefect", "numpy", "openai")
    return {"python": platform.python_version(), "platform": platform.platform()} | {p: metadata.version(p) for p in packages}


@cache
def git_commit() -> str:
    """The checkout's commit, with '+' appended when files differ from it; empty outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        run = ["git", "-C", str(root)]
        commit = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*run, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if dirty else "")
