"""Ingestion of preference pairs from JSONL: pairs a second, and what one new file among many costs.

Ours (`ingest_preferences`: labels checked, duplicates merged with their votes, splits by cluster, rejected rows kept, hashes)
over the `datasets` library loading the same files, and over a bare pyarrow read that writes Parquet; in turns within one run,
each into a fresh folder. Then again with nothing new, and with one new file beside the many.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.in_turns import WORDS, in_turns, timed
from srpo_core.settings.data import PreferenceSourceSettings
from tasks.preferences import ingest_preferences

FILES = 20
PROMPT_WORDS, COMPLETION_WORDS = 250, 35  # as in TL;DR


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--pairs", type=int, default=50_000, help=f"in {FILES} files together; default 50,000")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    result = measure(max(1, options.pairs // FILES), options.repeats)
    print(json.dumps(result) if options.json else _lines(result))
    return 0


def measure(pairs_per_file: int, repeats: int) -> dict[str, Any]:
    """Seconds of every side and of reading again; the first round only warms up."""
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "sources"
        sources.mkdir()
        for number in range(FILES):
            _write_file(sources, number, pairs_per_file)
        size = sum(file.stat().st_size for file in sources.iterdir())
        seconds = in_turns({name: partial(_in_fresh_folder, side, sources) for name, side in SIDES.items()}, repeats)
        again = _again(sources, pairs_per_file)
    pairs = FILES * pairs_per_file
    over = {
        f"over_{name}": statistics.median(ours / other for ours, other in zip(seconds["ours"], seconds[name], strict=True))
        for name in SIDES
        if name != "ours"
    }
    speed = {f"pairs_per_second_{name}": pairs / statistics.median(values) for name, values in seconds.items()}
    return {"pairs": pairs, "files": FILES, "mib": size / 2**20, "seconds": seconds} | speed | over | again


def _ours(sources: Path, folder: Path) -> None:
    ingest_preferences(PreferenceSourceSettings(paths=[str(sources)], domain="any"), folder)


def _datasets(sources: Path, folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    files = sorted(str(file) for file in sources.iterdir())
    loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(folder), split="train")
    if not len(loaded):
        raise RuntimeError("expected pairs, found none")


def _bare(sources: Path, folder: Path) -> None:
    import pyarrow.json
    import pyarrow.parquet

    for file in sorted(sources.iterdir()):
        pyarrow.parquet.write_table(pyarrow.json.read_json(file), folder / f"{file.stem}.parquet")


SIDES: dict[str, Callable[[Path, Path], None]] = {"ours": _ours, "datasets": _datasets, "bare_pyarrow": _bare}


def _again(sources: Path, pairs_per_file: int) -> dict[str, float]:
    """The same home once more with nothing new, and with one new file: shares of the first time."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        first = timed(lambda: _ours(sources, home))
        nothing_new = timed(lambda: _ours(sources, home))
        _write_file(sources, FILES, pairs_per_file)
        one_new = timed(lambda: _ours(sources, home))
    return {"nothing_new_over_first": nothing_new / first, "one_new_file_over_first": one_new / first}


def _in_fresh_folder(run: Callable[[Path, Path], None], sources: Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return timed(lambda: run(sources, Path(folder)))


def _write_file(folder: Path, number: int, pairs: int) -> None:
    """One file of pairs in the plain form; every hundredth says what an earlier one said, with another vote."""
    with (folder / f"pairs-{number:03d}.jsonl").open("w", encoding="utf-8") as handle:
        for place in range(pairs):
            key = number * pairs + (place - 1 if place % 100 == 99 else place)
            texts = {"chosen": _words(3 * key + 1, COMPLETION_WORDS), "rejected": _words(3 * key + 2, COMPLETION_WORDS)}
            handle.write(json.dumps({"prompt": _words(3 * key, PROMPT_WORDS)} | texts) + "\n")


def _words(key: int, count: int) -> str:
    """Words that differ from key to key and are the same every time."""
    return f"{key} " + " ".join(WORDS[(key * (place + 3) + place * place) % len(WORDS)] for place in range(count - 1))


def _lines(result: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"{result['pairs']} pairs in {result['files']} files, {result['mib']:.0f} MiB: "
            f"{result['pairs_per_second_ours']:.0f} pairs/s",
            f"time over datasets {result['over_datasets']:.2f}, over a bare pyarrow read {result['over_bare_pyarrow']:.2f}",
            f"again: nothing new {result['nothing_new_over_first']:.3f} of the first time, "
            f"one new file {result['one_new_file_over_first']:.3f}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
