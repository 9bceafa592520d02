"""Artifacts that `srpo gc` never deletes, and why: `<home>/pins.json`, "stage/fingerprint" -> reason."""

import json
from pathlib import Path

from storage import parquet
from storage.errors import BrokenArtifact
from storage.lease import lease

PINS = "pins.json"


def read_pins(home: Path) -> dict[str, str]:
    """Every pinned artifact as "stage/fingerprint" and why it is pinned. Raises BrokenArtifact for a file of anything else."""
    path = home / PINS
    try:
        pins = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(pins, dict) or not all(isinstance(why, str) for why in pins.values()):
            raise ValueError("other JSON")
        return pins
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise BrokenArtifact(
            f"expected artifacts and reasons as JSON in {path}, found {error}; restore it, or delete it to lose all pins"
        ) from error


def pin(home: Path, names: list[str], why: str) -> None:
    """Pin artifacts, given as "stage/fingerprint"; the reason replaces an earlier one."""
    with lease(home / ".pinning"):
        parquet.write_json(home / PINS, read_pins(home) | dict.fromkeys(names, why))


def unpin(home: Path, names: list[str]) -> list[str]:
    """Take pins away; returns those that were pinned."""
    with lease(home / ".pinning"):
        pins = read_pins(home)
        parquet.write_json(home / PINS, {name: why for name, why in pins.items() if name not in names})
        return [name for name in names if name in pins]
