"""Publishing a home of realistic size: seconds, what DuckDB alone needs, stored queries, and readers beside the publisher.

Publishing: `publish_results` over a bare `CREATE TABLE … FROM read_parquet` of the same parts into a database file, in turns
within one run; and without the statistics, to tell what those take. Queries: every stored one on the published file. Readers:
threads that open the database and count its games, over and over, while another process publishes again; over the same readers
undisturbed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.in_turns import WORDS, in_turns, timed
from storage import parquet, schemas
from storage.artifact import Artifact, list_artifacts, writing
from storage.results_db import open_results, publish_snapshot
from storage.stored_queries import ask_query, list_queries
from tasks.publishing import publish_results

METHODS = ("sft", "srpo", "dpo", "ipo")
REVISIONS = 6  # drafts included
LENGTH = 40  # words of a text
READERS = 2
UNDISTURBED_SECONDS = 3.0
READ = "SELECT count(*) FROM games"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; `--publish` is for the process it starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--games", type=int, default=100_000, help="about so many; default 100,000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--publish", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.publish:
        publish_results(options.publish)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        games = make_home(home, max(1, options.games // (2 * REVISIONS * len(METHODS))))
        result = {"games": games, "publishing": publishing(home, games, options.repeats)}
        result |= {"queries": queries(home, options.repeats), "readers": readers(home)}
    print(json.dumps(result) if options.json else _lines(result))
    return 0


def make_home(home: Path, prompts: int) -> int:
    """Four policies whose drafts and revisions on `prompts` prompts were judged in both orders; returns the number of games."""
    preferences = _put(home, "preferences", [_pair(number) for number in range(prompts)], schemas.PREFERENCES, {}, domain="a")
    evaluation = _put(home, "prompts", [_prompt(number) for number in range(prompts)], schemas.PROMPTS, {}, name="set")
    count = 0
    for seed, method in enumerate(METHODS):
        described = {"method": method, "settings": {"seed": 0, "beta": 0.1, "alpha": 0.9}}
        log = [{"step": step, "name": "loss", "value": 1 / (1 + step)} for step in range(200)]
        policy = _put(home, "policies", log, schemas.TRAINING_LOG, {"preferences": preferences}, name=method, **described)
        texts = [_text(policy, method, place, revision) for place in range(prompts) for revision in range(REVISIONS)]
        parents = {"policy": policy, "prompts": evaluation}
        completions = _put(home, "completions", texts, schemas.COMPLETIONS, parents, temperature=1.0, top_p=1.0)
        rows = [_game(text, order, seed) for text in texts for order in ("as_is", "swapped")]
        parents = {"completions": completions, "prompts_0": evaluation}
        _put(home, "games", rows, schemas.GAMES, parents, judge={"kind": "rule"}, opponent_revision_index=None)
        count += len(rows)
    return count


def publishing(home: Path, games: int, repeats: int) -> dict[str, Any]:
    """Seconds of each way to fill a database, alternating; the first round only warms up."""
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: publish_results(home),
        "without_statistics": lambda: publish_snapshot(home, lambda comparisons: {}),
        "bare": lambda: _bare_load(home),
    }
    seconds = in_turns({name: partial(timed, side) for name, side in sides.items()}, repeats)
    publish_results(home)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    by_round = [ours / bare for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    return {
        "seconds": seconds,
        "games_per_second": games / median["ours"],
        "over_bare_load": statistics.median(by_round),
        "without_statistics_over_bare_load": median["without_statistics"] / median["bare"],
    }


def _bare_load(home: Path) -> None:
    """The same Parquet parts, table by table, into a database file by DuckDB alone."""
    stages = {"preferences": "part", "prompts": "part", "completions": "part", "games": "part", "policies": "part"}
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(str(Path(folder) / "bare.duckdb")) as connection:
        for stage, prefix in stages.items():
            parts = [str(part) for one in list_artifacts(home, stage) for part in one.parts(prefix)]
            connection.execute(f"CREATE TABLE {stage} AS FROM read_parquet(?)", [parts])
        connection.execute("CHECKPOINT")


def queries(home: Path, repeats: int) -> dict[str, Any]:
    """Median seconds of every stored query, opening the database included."""
    found = {
        name: statistics.median(timed(lambda: ask_query(home, name)) for _ in range(repeats))  # noqa: B023  (called at once)
        for name in list_queries()
    }
    slowest = sorted(found, key=lambda name: -found[name])[:3]
    return {"median": statistics.median(found.values()), "slowest": {name: found[name] for name in slowest}, "all": found}


def readers(home: Path) -> dict[str, Any]:
    """How long reads take while another process publishes, over reads while nobody does; and how many failed."""
    command = [sys.executable, "-m", "benchmarks.results", "--publish", str(home)]
    with subprocess.Popen(command, cwd=Path(__file__).resolve().parent.parent) as publisher:
        began = time.perf_counter()
        beside, failed = _read_while(home, lambda: publisher.poll() is None)
        published_in = time.perf_counter() - began
    if publisher.returncode:
        raise RuntimeError(f"expected the publisher to end with 0, found {publisher.returncode}")
    ends = time.perf_counter() + min(published_in, UNDISTURBED_SECONDS)
    alone, _ = _read_while(home, lambda: time.perf_counter() < ends)
    return {
        "publisher_seconds": published_in,
        "reads": len(beside),
        "failed": failed,
        "longest_seconds": max(beside),
        "longest_over_publishing": max(beside) / published_in,
        "median_over_undisturbed": statistics.median(beside) / statistics.median(alone),
    }


def _read_while(home: Path, goes_on: Callable[[], bool]) -> tuple[list[float], int]:
    """Seconds of every read of all readers, and the number of those that failed."""
    seconds: list[float] = []
    failures: list[Exception] = []

    def read() -> None:
        while goes_on():
            try:
                seconds.append(timed(lambda: _count(home)))
            except Exception as error:  # noqa: BLE001  (whatever it is, it is what is counted)
                failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds or [0.0], len(failures)


def _count(home: Path) -> None:
    with open_results(home) as connection:
        connection.execute(READ).fetchall()


def _put(
    home: Path, stage: str, rows: list[dict[str, Any]], schema: Any, parents: dict[str, Artifact], **settings: Any
) -> Artifact:
    name = f"{stage}-{settings.get('method', '')}{len(list_artifacts(home, stage))}"
    with writing(home, stage, name, version=1, settings=settings, parents=parents) as writer:
        part = writer.part_path(0)
        parquet.write_rows(part, rows, schema)
        return writer.complete([part], info={"name": settings.get("name", "")})


def _words(*key: int) -> str:
    """Words that look alike from text to text and are the same every time."""
    state = sum(number * factor for number, factor in zip(key, (7919, 104729, 1299709), strict=False)) + 1
    return " ".join(WORDS[(state * (place + 3) + place * place) % len(WORDS)] for place in range(LENGTH))


def _pair(number: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": _words(number)}]
    texts = {"prompt": turns, "chosen": _words(number, 1), "rejected": _words(number, 2)}
    facts = {"preference": 1.0, "num_votes": 1, "source": "s", "domain": "a", "split": "train", "cluster_id": str(number)}
    return {"pair_id": f"pair-{number}"} | texts | facts


def _prompt(number: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": _words(number, 3)}]
    facts = {"prompt_id": f"prompt-{number}", "eval_set": "set", "domain": "b", "cluster_id": str(number)}
    return facts | {"prompt": turns, "gold": [_words(number, 4)]}


def _text(policy: Artifact, method: str, prompt: int, revision: int) -> dict[str, Any]:
    name = f"{method}/{prompt}/{revision}"
    facts = {"sample_index": 0, "finish_reason": "stop", "prompt_truncated": False, "seed": 1, "temperature": 1.0}
    ids = {"completion_id": name, "prompt_id": f"prompt-{prompt}", "policy_id": policy.fingerprint}
    parent = f"{method}/{prompt}/{revision - 1}" if revision else None
    texts = {"revision_index": revision, "parent_id": parent, "text": _words(prompt, revision, 5), "num_tokens": LENGTH}
    return ids | texts | facts


def _game(text: dict[str, Any], order: str, seed: int) -> dict[str, Any]:
    prompt, revision = int(text["prompt_id"].rsplit("-", 1)[1]), text["revision_index"]
    score = float((prompt * 37 + seed * 11) % 100 < 30 + 5 * revision)
    facts = {"prompt_tokens": 200, "completion_tokens": 5, "cost": 0.001, "seconds": 0.5, "judge": "rule", "repeat_index": 0}
    name = f"{text['completion_id']}/{order}"
    asked = {"game_id": name, "request_hash": name, "prompt_id": text["prompt_id"], "candidate": text["completion_id"]}
    outcome = {"outcome": "win" if score else "loss", "score": score, "opponent": "gold:0", "order": order}
    return dict.fromkeys(schemas.GAMES.names) | asked | facts | outcome


def _lines(result: dict[str, Any]) -> str:
    return "\n".join(_described(result))


def _described(result: dict[str, Any]) -> Iterator[str]:
    published, asked, read = result["publishing"], result["queries"], result["readers"]
    yield f"{result['games']} games: {published['games_per_second']:.0f} games/s published"
    yield (
        f"time over a bare load of the same Parquet: {published['over_bare_load']:.2f}, "
        f"without statistics {published['without_statistics_over_bare_load']:.2f}"
    )
    slowest = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in asked["slowest"].items())
    yield f"stored queries: median {asked['median']:.3f} s; slowest {slowest}"
    yield (
        f"{read['reads']} reads beside a publisher, {read['failed']} failed, longest {read['longest_seconds']:.3f} s of its "
        f"{read['publisher_seconds']:.1f} s; median {read['median_over_undisturbed']:.2f} times that without a publisher"
    )


if __name__ == "__main__":
    sys.exit(main())
