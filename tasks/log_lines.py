"""How lines of the log name counts and places: in words with thousands apart, and from the home on."""

from collections.abc import Mapping
from pathlib import Path

from storage.artifact import STAGES


def in_words(counts: Mapping[str, int]) -> str:
    """Such as `2,000 pairs, 0 rejected rows, 12 merged duplicates`."""
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())


def below_home(path: Path | str) -> str:
    """A place in an artifact's folder as `stage/fingerprint/...`, which is short; any other place as it is."""
    parts = Path(path).parts
    stage = next((place for place in range(len(parts) - 1, 0, -1) if parts[place] in STAGES), None)
    return str(path) if stage is None else "/".join(parts[stage:])
