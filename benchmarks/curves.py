"""The demo's SRPO training twice, on token tries and on plain sequences: the two curves must lie on each other.

`python -m benchmarks.curves --home DIR` trains what that home lacks (after `make demo` the two policies; minutes) and writes
layouts.svg and layouts.json into `--out`.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.pipeline import locate_sources
from flows.presets import load_preset, override
from srpo_core.charts import Line, line_chart, standalone
from srpo_core.settings.base import parse_settings
from srpo_core.settings.pipeline import PipelineSettings
from srpo_core.settings.training import PreferenceSettings, SupervisedSettings
from storage.artifact import Artifact
from storage.schemas import TRAINING_LOG
from tasks.demonstrations import ingest_demonstrations
from tasks.models import prepare_base_model
from tasks.preferences import ingest_preferences
from tasks.reference import compute_reference
from tasks.training import train_policies, train_reference

LAYOUTS = ("trie", "plain")
METRICS = ("loss", "grad_norm", "d_gen")


def train(settings: PipelineSettings, home: Path) -> dict[str, Artifact]:
    """SRPO's policy by layout, from the same reference on the same pairs in the same order."""
    sources = locate_sources(settings, home, lambda stage: stage)
    preferences = ingest_preferences(sources.preferences, home)
    demonstrations = ingest_demonstrations(sources.demonstrations, home, preferences)
    shared: dict[str, Any] = {"model": settings.model, "resources": settings.resources, "home": home}
    base = prepare_base_model(settings.model, home, demonstrations, settings.template)
    supervised = settings.supervised or SupervisedSettings.model_validate({})
    prompting: dict[str, Any] = {"template": settings.template, "decoding": settings.generation}
    reference = train_reference(base, demonstrations, supervised, **prompting, **shared)
    policies = {}
    for layout in LAYOUTS:
        training = PreferenceSettings.model_validate(settings.training.model_dump() | {"layout": layout, "method": "srpo"})
        rows = compute_reference(reference, preferences, training, **shared)
        (policies[layout],) = train_policies(reference, preferences, rows, None, [training], **shared)
    return policies


def read_curves(policies: dict[str, Artifact]) -> dict[str, dict[str, list[float]]]:
    """metric -> layout -> its value by step."""
    curves: dict[str, dict[str, list[float]]] = {name: {} for name in METRICS}
    for layout, policy in policies.items():
        rows = sorted(policy.read(TRAINING_LOG).to_pylist(), key=lambda row: row["step"])
        for name in METRICS:
            curves[name][layout] = [row["value"] for row in rows if row["name"] == name]
    return curves


def largest_differences(curves: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """The largest difference of each metric at any step, over its largest size."""
    result = {}
    for name, by_layout in curves.items():
        first, second = (by_layout[layout] for layout in LAYOUTS)
        size = max(map(abs, first), default=0.0)
        result[name] = max(abs(a - b) for a, b in zip(first, second, strict=True)) / size if size else 0.0
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--set", dest="assignments", action="append", default=[], help="a setting of the demo, as for srpo run")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    values = override(load_preset("demo"), options.assignments)
    curves = read_curves(train(parse_settings(PipelineSettings, values, "benchmarks/curves.py"), options.home.absolute()))
    differences = largest_differences(curves)
    print(json.dumps(differences, indent=1))
    steps = list(range(1, len(curves["loss"]["trie"]) + 1))
    lines = [
        Line("plain", "dpo", steps, curves["loss"]["plain"], weight="line"),
        Line("trie", "srpo", steps, curves["loss"]["trie"], weight="dotted"),  # on top, and the other seen between its dots
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    drawn = standalone(line_chart(lines, title="SRPO's loss by step in both layouts", x_label="step"))
    (options.out / "layouts.svg").write_text(drawn + "\n", encoding="utf-8")
    (options.out / "layouts.json").write_text(json.dumps(differences, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
