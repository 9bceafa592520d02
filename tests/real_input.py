"""The main job on real input: `python -m tests.real_input` with SRPO_TEST_DATA set (see `make real-input`).

Arguments that people compared (UKPConvArg1) → tokenizer and supervised reference on the training topics → SRPO → two revisions
of summaries of news articles (FRANK's XSum) → an OpenAI-protocol judge over HTTP → win rates by SQL. The texts are poor: the
model is tiny. What is shown is that nothing on the way is pretended.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.judge_server import JudgeServer

MIN_PAIRS = 2000
MIN_SCORED = 0.95


def settings(data: Path, judge_url: str) -> dict[str, Any]:
    """The run's configuration, as a user would write it."""
    return {
        "name": "real-input",
        "preferences": {
            "paths": [str(data / "ukpconvarg1" / "strict_pairs.jsonl")],
            "format": "columns",
            "columns": {"prompt": "topic", "text_a": "a1", "text_b": "a2", "label": "label", "cluster": "topic"},
            "domain": "debate",
            "max_rows": 3000,
            "validation_share": 0.1,
        },
        "evaluation": [
            {"name": "xsum", "path": str(data / "frank" / "xsum.jsonl"), "format": "frank", "domain": "news", "max_prompts": 48}
        ],
        "model": {"small": {"hidden_size": 96, "num_layers": 2, "vocab_size": 4096}, "max_length": 512},
        "template": {"kind": "chat"},
        "supervised": {"learning_rate": 2e-3, "num_steps": 50, "examples_per_step": 48},
        "training": {"beta": 0.1, "learning_rate": 3e-4, "pairs_per_step": 64, "num_steps": 33, "loss_scale": "unit_gradient"},
        "methods": ["srpo"],
        "generation": {"num_revisions": 2, "max_new_tokens": 48},
        "judge": {"kind": "api", "model": "overlap", "base_url": judge_url, "preset": "article-concise", "max_concurrency": 16},
        "resources": {"num_processes": 2, "threads_per_process": 1, "tokens_per_microbatch": 8192, "generation_batch_size": 24},
    }


def srpo(*arguments: str) -> str:
    """What `srpo` prints; its errors go to the terminal."""
    run = subprocess.run([sys.executable, "-m", "flows.cli", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout


def check(claim: str, holds: bool) -> None:
    """Print the claim, and end the run when it does not hold."""
    print(f"{'ok  ' if holds else 'FAIL'} {claim}", flush=True)
    if not holds:
        raise SystemExit(1)


def main() -> None:
    """Run the job and check what it promises."""
    folder = os.environ.get("SRPO_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        print("skipped: SRPO_TEST_DATA does not name a folder with ukpconvarg1 and frank")
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, JudgeServer() as server:
        home, config = Path(scratch) / "home", Path(scratch) / "config.yaml"
        config.write_text(json.dumps(settings(Path(folder), server.url)), encoding="utf-8")
        srpo("run", "--config", str(config), "--home", str(home))
        asked = len(server.requests)

        def sql(query: str) -> list[dict[str, Any]]:
            return json.loads(srpo("sql", query, "--home", str(home), "--format", "json"))

        trained = sql("SELECT counts->>'pairs' AS pairs FROM artifacts WHERE stage = 'policies' AND counts->>'pairs' IS NOT NULL")
        check(f"SRPO had {trained[0]['pairs']} strict pairs, at least {MIN_PAIRS}", int(trained[0]["pairs"]) >= MIN_PAIRS)
        games = sql("SELECT count(*) AS games, count(score) AS scored FROM games")[0]
        share = games["scored"] / games["games"]
        check(f"{games['scored']} of {games['games']} games scored, at least {MIN_SCORED:.0%}", share >= MIN_SCORED)
        rates = sql("SELECT method, revision_index, n_scored, win_rate, ci_low, ci_high FROM win_rates ORDER BY ALL")
        check(f"{len(rates)} win rates: two policies, three revisions", len(rates) == 6)
        for row in rates:
            print("    ", row)
        srpo("run", "--config", str(config), "--home", str(home))
        check("a second run asks the judge nothing", len(server.requests) == asked)
    print(f"real input: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
