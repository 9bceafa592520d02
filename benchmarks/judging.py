"""Judging over a loopback server that answers after 50 ms, 64 requests in flight: requests a second and memory.

Throughput: `decide_games`, with journal and reply ledger, over a bare loop that sends the same requests with the same client and
keeps nothing; both in turns within one run. The server is a process of its own that speaks just enough HTTP, so that it is not
what is measured. Memory: the highest resident size of a process that judges a tenth of the games, and of one that judges all.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.in_turns import WORDS, in_turns, timed

LATENCY_SECONDS = 0.05
CONCURRENCY = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; `--role` is for the processes it starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument(
        "--quick", action="store_true", help="fewer requests, and 2,000 and 20,000 games instead of ten times more"
    )
    parser.add_argument("--requests", type=int, help="of one repeat; default 4,000, quick 1,000")
    parser.add_argument("--games", type=int, help="of the larger memory run; default 100,000, quick 20,000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--role", choices=["run", "server", "memory"], default="run", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role == "server":
        asyncio.run(serve())
        return 0
    if options.role == "memory":
        print(json.dumps(judge_in_this_process(options.home, options.url, options.games)))
        return 0
    requests = options.requests or (1000 if options.quick else 4000)
    games = options.games or (20_000 if options.quick else 100_000)
    with _server() as url:
        result = {"throughput": throughput(url, requests, options.repeats), "memory": memory(url, games)}
    print(json.dumps(result) if options.json else _lines(result))
    return 0


def throughput(url: str, requests: int, repeats: int) -> dict[str, Any]:
    """Seconds of `decide_games` and of the bare loop for the same requests, alternating; the first round also warms up."""
    games = list(itertools.islice(_games(), requests))

    def judged() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return timed(lambda: _judge(games, url, Path(folder)))

    seconds = in_turns({"ours": judged, "bare": lambda: timed(lambda: asyncio.run(_bare_loop(games, url)))}, repeats)
    ours, bare = (statistics.median(seconds[name]) for name in ("ours", "bare"))
    return {
        "requests": requests,
        "seconds": seconds,
        "requests_per_second": requests / ours,
        "requests_per_second_bare": requests / bare,
        "requests_per_second_without_any_work": CONCURRENCY / LATENCY_SECONDS,
        "over_bare_loop": statistics.median(b / o for o, b in zip(seconds["ours"], seconds["bare"], strict=True)),  # by round
    }


def memory(url: str, games: int) -> dict[str, Any]:
    """Peak resident memory of judging a tenth of `games`, and all of them, from completions to the artifact."""
    found = {}
    for count in (games // 10, games):
        with tempfile.TemporaryDirectory() as folder:
            write_completions(Path(folder), count)
            command = [sys.executable, "-m", "benchmarks.judging", "--role", "memory", "--home", folder, "--url", url]
            made = subprocess.run([*command, "--games", str(count)], check=True, capture_output=True, text=True, cwd=_root())
            found[count] = json.loads(made.stdout)
    small, large = found[games // 10], found[games]
    return {
        "games": [games // 10, games],
        "peak_mib": [small["peak_mib"], large["peak_mib"]],
        "games_per_second": [small["games_per_second"], large["games_per_second"]],
        "growth_mib": large["peak_mib"] - small["peak_mib"],
        "over_a_tenth_of_the_games": large["peak_mib"] / small["peak_mib"],
    }


def judge_in_this_process(home: Path, url: str, games: int) -> dict[str, float]:
    """The whole stage over the completions of `home`, and this process's highest resident size."""
    from storage.artifact import list_artifacts
    from tasks.judging import judge_completions

    [completions], [prompts] = list_artifacts(home, "completions"), list_artifacts(home, "prompts")
    began = time.perf_counter()
    artifact = judge_completions(completions, [prompts], _settings(url), home)
    if artifact.counts["scored"] != games:
        raise RuntimeError(f"expected {games} scored games, found {artifact.counts}")
    return {"games_per_second": games / (time.perf_counter() - began), "peak_mib": _peak_mib()}


def write_completions(home: Path, games: int) -> None:
    """Prompts with one gold and five completions each (ten games a prompt), part by part."""
    from storage.artifact import writing
    from storage.part_stream import PartStream
    from storage.schemas import COMPLETIONS, PROMPTS

    for stage, schema in (("prompts", PROMPTS), ("completions", COMPLETIONS)):
        with writing(home, stage, "benchmark", version=1, settings={}, parents={}) as writer:
            stream = PartStream(writer, schema)
            for number in range(games // 10):
                for row in _prompt_row(number) if stage == "prompts" else _completion_rows(number):
                    stream.add_row(row)
            writer.complete(stream.close())


def _prompt_row(number: int) -> Iterator[dict[str, Any]]:
    prompt = [{"role": "user", "content": _document(number)}]
    names = {"eval_set": "benchmark", "domain": "benchmark", "cluster_id": str(number)}
    yield {"prompt_id": _name(number), "prompt": prompt, "gold": [_summary(number, 9)], **names}


def _completion_rows(number: int) -> Iterator[dict[str, Any]]:
    for revision in range(5):
        yield {
            "completion_id": f"{_name(number)}-{revision}",
            "prompt_id": _name(number),
            "policy_id": "benchmark",
            "sample_index": 0,
            "revision_index": revision,
            "text": _summary(number, revision),
            "num_tokens": 40,
            "finish_reason": "stop",
            "prompt_truncated": False,
            "seed": 0,
            "temperature": 1.0,
        }


def _games() -> Iterator[Any]:
    """Games whose requests are about as long as those about forum posts."""
    from srpo_core.judging.judges import JudgeGame
    from srpo_core.records import user_prompt

    for number in itertools.count():
        texts = ("candidate", _summary(number, 1), "gold:0", _summary(number, 9))
        yield JudgeGame(f"game-{number}", user_prompt(_document(number)), _name(number), *texts, "as_is")


def _name(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}{number:08x}"  # scattered, as hashes are


def _document(number: int) -> str:
    return f"document {number} " + " ".join(WORDS[(number * 7 + k * k) % len(WORDS)] for k in range(250))


def _summary(number: int, kind: int) -> str:
    return f"summary {kind} of {number} " + " ".join(WORDS[(number + kind + k) % len(WORDS)] for k in range(30))


def _settings(url: str) -> Any:
    from srpo_core.settings.judges import ApiJudgeSettings

    return ApiJudgeSettings(model="benchmark", base_url=url, max_concurrency=CONCURRENCY, max_attempts=1)


def _judge(games: list[Any], url: str, home: Path) -> None:
    from tasks.deciding import decide_games

    decided = list(decide_games(games, _settings(url), home, journal_folder=home / "journal"))
    if any(verdict.score is None for _, verdict in decided):
        raise RuntimeError("expected a score for every game of the benchmark")


async def _bare_loop(games: list[Any], url: str) -> None:
    """The same requests, 64 in flight, typed replies, nothing kept."""
    import openai

    from srpo_core.judging.judge_presets import find_preset
    from srpo_core.judging.judge_requests import build_request

    settings = _settings(url)
    preset, waiting = find_preset(settings.preset), iter(games)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def work() -> None:
            for game in waiting:
                reply = await client.chat.completions.create(**build_request(preset, settings, game, "json_schema"))
                if not reply.choices[0].message.content:
                    raise RuntimeError("expected a reply with content")

        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


async def serve() -> None:
    """Answer every request after the latency, over connections that stay open; print the address first."""
    content = json.dumps({"comparison": "One covers more of what the text says than the other.", "preferred": "A"})
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    usage = {"prompt_tokens": 500, "completion_tokens": 30, "total_tokens": 530}
    head = {"id": "x", "object": "chat.completion", "created": 0, "model": "benchmark", "system_fingerprint": "fp"}
    body = json.dumps(head | {"choices": [message], "usage": usage}).encode()
    answer = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    length = re.compile(rb"content-length: (\d+)", re.IGNORECASE)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                found = length.search(await reader.readuntil(b"\r\n\r\n"))
                await reader.readexactly(int(found[1]) if found else 0)
                await asyncio.sleep(LATENCY_SECONDS)
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


class _server:
    """The server's process, and its address."""

    def __enter__(self) -> str:
        command = [sys.executable, "-m", "benchmarks.judging", "--role", "server"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_root())
        return str(self._process.stdout.readline()).strip() if self._process.stdout else ""

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def _root() -> Path:
    return Path(__file__).resolve().parents[1]


def _peak_mib() -> float:
    """The process's highest resident size; macOS counts bytes, Linux kibibytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _lines(result: dict[str, Any]) -> str:
    speed, used = result["throughput"], result["memory"]
    return (
        f"{speed['requests_per_second']:.0f} requests/s with journal and ledger, {speed['requests_per_second_bare']:.0f} in a "
        f"bare loop over the same client: ratio {speed['over_bare_loop']:.2f} ({os.cpu_count()} cores)\n"
        f"peak memory {used['peak_mib'][0]:.0f} MiB at {used['games'][0]} games, "
        f"{used['peak_mib'][1]:.0f} MiB at {used['games'][1]}"
    )


if __name__ == "__main__":
    sys.exit(main())
