"""`make study`: what SRPO's self-revisions gain in the newsroom, against DPO and IPO given the same trials, over several seeds.

Protocol; 1 to 3 were fixed before any result was seen, 4 was added after the first finals:

1. one world, one supervised reference, so many pairs that every training is one pass over fresh ones;
2. trials: each method gets the same grid of beta and learning rate, one seed, as many steps as the finals, and is judged by its
   win rate after the last revision on prompts of the training distribution that are used for nothing else;
3. finals: each method at its own best setting, several other seeds, at equal optimizer steps; dpo and ipo, which read two
   sequences a pair where the others read six, also at equal tokens;
4. SRPO alone with more steps, against its own exact fit: whether what is missing is training;
5. tables with intervals over prompts and seeds, written to docs/study.md and docs/study.json.

Resumable: everything is an artifact, a second start does only what is missing. Run `python -m benchmarks.study --help`.
"""

import argparse
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.study_tables import write_tables
from flows.pipeline import run_recorded, run_stages
from flows.presets import load_preset, override
from srpo_core.scoring.resampling import crossed_bootstrap
from srpo_core.settings.base import parse_settings
from srpo_core.settings.pipeline import PipelineSettings
from storage.results_db import run_query

METHODS = ("srpo", "dpo", "ipo", "dpo_both", "ipo_both")
DRAFT_ONLY = ("dpo", "ipo")
VALIDATION = "validation"  # of the training distribution; chooses settings and is used for nothing else
SETS = ("id", "long", "mix")
SEEDS = (1, 2, 3, 4, 5)
MORE_SEEDS = 4  # of them, for SRPO with more steps
BEGAN = time.monotonic() / 60
logger = logging.getLogger("srpo")


class Scale(NamedTuple):
    """How much of everything: `full` takes most of a day on two cores, `short` 1.5 hours; `tiny` only proves that it runs."""

    demonstrations: int
    pairs: int
    prompts: int
    steps: int
    more_steps: int
    betas: tuple[float, ...]
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    diagnostics: Mapping[str, int]


SCALES = {
    "full": Scale(
        demonstrations=320_000,
        pairs=240_000,
        prompts=400,
        steps=3000,
        more_steps=7200,
        betas=(0.1, 0.3),
        learning_rates=(1e-4, 3e-4),
        seeds=SEEDS,
        diagnostics={"num_prompts": 100, "num_drafts": 16, "num_proposals": 24, "num_chains": 4},
    ),
    "short": Scale(
        demonstrations=200_000,
        pairs=82_000,
        prompts=300,
        steps=1000,
        more_steps=2400,
        betas=(0.1, 0.3),
        learning_rates=(1e-4, 3e-4),
        seeds=SEEDS,
        diagnostics={"num_prompts": 48, "num_drafts": 16, "num_proposals": 16, "num_chains": 4},
    ),
    "tiny": Scale(
        demonstrations=600,
        pairs=200,
        prompts=12,
        steps=5,
        more_steps=8,
        betas=(0.1,),
        learning_rates=(1e-4, 3e-4),
        seeds=(1, 2),
        diagnostics={"num_prompts": 4, "num_drafts": 2, "num_proposals": 2, "num_chains": 1},
    ),
}


class Run(NamedTuple):
    """One training of the study."""

    method: str
    beta: float
    learning_rate: float
    steps: int
    seed: int

    def training(self) -> dict[str, Any]:
        """Its settings."""
        return {"beta": self.beta, "learning_rate": self.learning_rate, "num_steps": self.steps, "seed": self.seed}


def settings_for(scale: Scale, runs: Sequence[Run], sets: Sequence[str]) -> PipelineSettings:
    """The demo's world at this scale; one method each (`methods` cannot repeat)."""
    world = {"num_demonstrations": scale.demonstrations, "num_pairs": scale.pairs, "num_prompts": scale.prompts}
    values = override(
        load_preset("demo"),
        [
            "name=study",
            f"only_sets={json.dumps(list(sets))}",
            f"newsroom={json.dumps(world)}",
            # Trials are judged by their win rate alone.
            f"diagnostics={json.dumps(None if VALIDATION in sets else dict(scale.diagnostics))}",
            "resources.num_processes=1",
            "resources.threads_per_process=1",
            "training.alpha=0.9",
        ],
    )
    values["methods"] = [run.method for run in runs]
    values["per_method"] = {run.method: run.training() for run in runs}
    return parse_settings(PipelineSettings, values, "benchmarks/study.py")


def train_all(scale: Scale, runs: Sequence[Run], sets: Sequence[str], home: Path, workers: int) -> None:
    """Every run to the end, `workers` at a time, each a single-thread process: two such beat one of two threads."""
    done = itertools.count(1)
    began = time.monotonic()

    def one(run: Run) -> None:
        run_stages(settings_for(scale, [run], sets), home, lambda function: function)
        logger.info("study: %d of %d runs done, %.0f s: %s", next(done), len(runs), time.monotonic() - began, run)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, runs))


def trial_runs(scale: Scale) -> list[Run]:
    """The same grid for every method, expensive methods first so that the last ones fill the gaps."""
    grid = itertools.product(scale.betas, scale.learning_rates)
    cells = [Run(method, beta, rate, scale.steps, 0) for beta, rate in grid for method in METHODS]
    return sorted(cells, key=lambda run: run.method in DRAFT_ONLY)


def choose(scale: Scale, home: Path) -> dict[str, Run]:
    """Each method's best trial by win rate after the last revision on the validation prompts."""
    rows = curves(home, VALIDATION)
    best: dict[str, Run] = {}
    for method in METHODS:
        trials = [row for row in rows if row["method"] == method and row["seed"] == 0 and row["steps"] == scale.steps]
        top = max(trials, key=lambda row: row["rates"][-1])
        best[method] = Run(method, top["beta"], top["learning_rate"], scale.steps, 0)
    return best


def token_ratio(home: Path) -> float:
    """Tokens of a six-sequence step over those of a two-sequence step, as trained."""
    query = (
        "SELECT p.method, sum(t.value) AS tokens FROM training_log t JOIN policies p USING (policy_id) "
        "WHERE t.name = 'tokens' AND p.seed = 0 GROUP BY ALL"
    )
    tokens = {row["method"]: row["tokens"] for row in run_query(home, query).to_pylist()}
    return tokens["srpo"] / tokens["dpo"]


def curves(home: Path, eval_set: str) -> list[dict[str, Any]]:
    """One row a policy: settings and win rates by revision."""
    query = f"""
        SELECT w.method, w.policy_id, w.seed, w.beta, p.learning_rate, CAST(p.settings->>'$.settings.num_steps' AS INT) AS steps,
               list(w.win_rate ORDER BY revision_index) AS rates
        FROM win_rates w JOIN policies p USING (policy_id) WHERE w.eval_set = '{eval_set}' GROUP BY ALL"""
    return run_query(home, query).to_pylist()


def prompt_scores(home: Path, policies: Sequence[str], eval_set: str) -> tuple[np.ndarray, list[str]]:
    """Scores (policies, prompts, revisions) and the prompts, from the published games."""
    names = ", ".join(f"'{p}'" for p in policies)
    query = f"""
        SELECT policy_id, prompt_id, revision_index, avg(score) AS score FROM verdicts
        WHERE eval_set = '{eval_set}' AND policy_id IN ({names}) GROUP BY ALL ORDER BY policy_id, prompt_id, revision_index"""
    rows = run_query(home, query).to_pylist()
    prompts = sorted({row["prompt_id"] for row in rows})
    revisions = 1 + max(row["revision_index"] for row in rows)
    place = {prompt: i for i, prompt in enumerate(prompts)}
    order = {policy: i for i, policy in enumerate(policies)}
    scores = np.full((len(policies), len(prompts), revisions), np.nan)
    for row in rows:
        scores[order[row["policy_id"]], place[row["prompt_id"]], row["revision_index"]] = row["score"]
    return scores, prompts


def interval(differences: np.ndarray, prompts: Sequence[str]) -> dict[str, float]:
    """Mean of (seeds, prompts) with a 95 % interval crossed over both."""
    result = crossed_bootstrap(differences, list(prompts))
    return {"mean": float(result.estimate), "low": float(result.ci_low), "high": float(result.ci_high)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("SRPO_HOME", "srpo_home")) / "study")
    parser.add_argument("--scale", choices=sorted(SCALES), default="short")
    parser.add_argument(
        "--workers", type=int, default=max(1, os.cpu_count() or 1), help="trainings side by side, one thread each"
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of study.md and study.json")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    home = options.home
    try:
        tables = run_study(SCALES[options.scale], home, options.workers)
    finally:
        minutes = _add_minutes(home)
    tables |= {"scale": options.scale, "cores": os.cpu_count(), "minutes": minutes}
    write_tables(tables, options.out)
    return 0


def run_study(scale: Scale, home: Path, workers: int) -> dict[str, Any]:
    """Trials, choice, finals; what they found."""
    trials = trial_runs(scale)
    train_all(scale, trials[:1], [VALIDATION], home, 1)  # makes the reference that the others share
    train_all(scale, trials[1:], [VALIDATION], home, workers)
    run_recorded(settings_for(scale, trials[:1], [VALIDATION]), home, lambda function: function)
    best = choose(scale, home)
    finals = [run._replace(seed=seed) for seed in scale.seeds for run in best.values()]
    ratio = token_ratio(home)
    longer = [run._replace(steps=round(run.steps * ratio)) for run in finals if run.method in DRAFT_ONLY]
    more = [best["srpo"]._replace(steps=scale.more_steps, seed=seed) for seed in scale.seeds[:MORE_SEEDS]]
    train_all(scale, sorted([*finals, *longer, *more], key=lambda run: -run.steps), SETS, home, workers)
    run_recorded(settings_for(scale, finals[:1], SETS), home, lambda function: function)
    found = summarise(home, finals, longer, more)
    return found | {"token_ratio": ratio, "seeds": len(scale.seeds), "best": [run._asdict() for run in best.values()]}


def _add_minutes(home: Path) -> float:
    """Minutes of work so far, over all starts, by the file that keeps them in the home."""
    file = home / "study_minutes.txt"
    total = time.monotonic() / 60 - BEGAN + (float(file.read_text(encoding="utf-8")) if file.exists() else 0.0)
    home.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{total:.2f}\n", encoding="utf-8")
    return total


def summarise(home: Path, finals: Sequence[Run], longer: Sequence[Run], more: Sequence[Run]) -> dict[str, Any]:
    """Trials, curves, gains, distances to SRPO, ceilings, and what was learned of single edits; intervals by evaluation set."""
    groups = {"equal steps": _by_method(finals), "equal tokens": _by_method(longer), "more steps": _by_method(more)}
    result: dict[str, Any] = {"curves": [], "distances": [], "fit": []}
    for eval_set in SETS:
        known = {tuple(row[name] for name in _IDENTITY): row["policy_id"] for row in curves(home, eval_set)}
        scores = {}
        for budget, methods in groups.items():
            for method, runs in methods.items():
                ids = [known[(r.method, r.seed, r.steps, r.beta, r.learning_rate)] for r in runs]
                scores[budget, method], prompts = prompt_scores(home, ids, eval_set)
                result["curves"].append(_curve_row(eval_set, budget, runs[0], scores[budget, method], prompts))
        own = scores["equal steps", "srpo"]
        for (budget, method), other in scores.items():
            if method != "srpo":
                distance = interval(own[:, :, -1] - other[:, :, -1], prompts)
                result["distances"].append({"eval_set": eval_set, "budget": budget, "method": method, **distance})
    result["reference"] = [{"eval_set": s, "rates": r["rates"]} for s in SETS for r in curves(home, s) if r["method"] == "sft"]
    fields = ("method", "beta", "learning_rate", "rates")
    trials = [
        {name: row[name] for name in fields} for row in curves(home, VALIDATION) if row["method"] != "sft" and row["seed"] == 0
    ]
    result["trials"] = sorted(trials, key=lambda row: (METHODS.index(row["method"]), row["beta"], row["learning_rate"]))
    for budget, methods in groups.items():
        if "srpo" in methods:
            quoted = _policies_of(home, methods["srpo"])
            fit = {name: run_query(home, query % quoted).to_pylist() for name, query in _FIT.items()}
            result["fit"].append({"budget": budget} | fit)
    result["ceilings"] = run_query(home, _CEILINGS).to_pylist()
    return result


_CEILINGS = """
    SELECT eval_set, beta, list(ceiling ORDER BY revision_index) AS ceilings, any_value(reference_win_rate) AS reference_win_rate
    FROM (SELECT DISTINCT ON (eval_set, beta, revision_index) * FROM ceilings) GROUP BY eval_set, beta ORDER BY ALL"""
# How well SRPO's policies fitted: %s = their ids.
_FIT = {
    "one_edit": """
        SELECT edit, avg(target) AS target, avg(learned) AS learned, avg(sign_right) AS sign_right, CAST(sum(n) AS BIGINT) AS n
        FROM one_edit WHERE policy_id IN (%s) GROUP BY edit ORDER BY target DESC""",
    "consistency_gap": """
        SELECT avg(t.value) AS nats FROM training_log t JOIN policies p USING (policy_id)
        WHERE t.name = 'consistency_gap' AND policy_id IN (%s)
            AND t.step > 0.9 * CAST(p.settings->>'$.settings.num_steps' AS INT)""",
}


def _policies_of(home: Path, runs: Sequence[Run]) -> str:
    """The policies' ids, quoted for SQL."""
    wanted = {(run.method, run.seed, run.steps, run.beta, run.learning_rate) for run in runs}
    rows = [row for row in curves(home, SETS[0]) if tuple(row[name] for name in _IDENTITY) in wanted]
    return ", ".join(f"'{row['policy_id']}'" for row in rows)


_IDENTITY = ("method", "seed", "steps", "beta", "learning_rate")


def _by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    ordered = sorted(runs, key=lambda run: (METHODS.index(run.method), run.seed))
    return {method: list(group) for method, group in itertools.groupby(ordered, key=lambda run: run.method)}


def _curve_row(eval_set: str, budget: str, run: Run, scores: np.ndarray, prompts: Sequence[str]) -> dict[str, Any]:
    return {
        "eval_set": eval_set,
        "budget": budget,
        "method": run.method,
        "beta": run.beta,
        "learning_rate": run.learning_rate,
        "steps": run.steps,
        "seeds": len(scores),
        "rates": [interval(scores[:, :, k], prompts) for k in range(scores.shape[2])],
        "gain": interval(scores[:, :, -1] - scores[:, :, 0], prompts),
    }


if __name__ == "__main__":
    sys.exit(main())
