"""The end-to-end flow before and after its stages: what it refuses at once, and what it says it used."""

from pathlib import Path
from typing import Any

import pytest

from flows import training_stages
from flows.pipeline import run_recorded, run_stages
from flows.presets import list_presets, load_preset, override
from srpo_core.errors import InputError
from srpo_core.settings.base import parse_settings
from srpo_core.settings.pipeline import PipelineSettings
from storage.results_db import run_query
from storage.runs import read_runs

GOLDLESS = [{"uid": str(i), "prompt": f"Why {i}?", "cluster": "c"} for i in range(3)]


def settings(name: str, *assignments: str) -> PipelineSettings:
    result: PipelineSettings = parse_settings(PipelineSettings, override(load_preset(name), list(assignments)), name)
    return result


def unchanged(stage: Any) -> Any:
    return stage


@pytest.mark.parametrize(
    ("assignment", "found"),
    [
        ("judge.preset=nope", "'nope' is not one of"),
        ("judge.api_key_variable=NO_SUCH_KEY", "NO_SUCH_KEY"),
        ("resources.accelerate_config=nope.yaml", "nope.yaml"),
    ],
)
def test_what_only_the_last_stages_need_is_checked_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assignment: str, found: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    with pytest.raises(InputError, match=found):
        run_stages(settings("tldr", assignment), tmp_path / "home", unchanged)
    assert not (tmp_path / "home").exists()


def test_a_set_without_gold_is_refused_before_training(tmp_path: Path) -> None:
    import json

    pairs = [{"prompt": f"Why {i}?", "chosen": "So.", "rejected": "No."} for i in range(40)]
    for name, rows in (("pairs.jsonl", pairs), ("arena.jsonl", GOLDLESS)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = settings(
        "chat",
        f"preferences.paths=[{tmp_path / 'pairs.jsonl'}]",
        f"evaluation=[{{name: arena, path: {tmp_path / 'arena.jsonl'}, format: arena_hard}}]",
        "judge.base_url=http://127.0.0.1:9/v1",
    )
    with pytest.raises(InputError, match="expected gold texts in evaluation set arena, found none"):
        run_stages(chosen, tmp_path / "home", unchanged)


def test_every_preset_names_gold_or_an_opponent() -> None:
    for name in list_presets():
        for one in settings(name).evaluation:
            assert one.format != "arena_hard" or one.opponent_path, name


def test_a_failed_run_tells_what_it_had_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(training_stages, "prepare_base_model", broken)
    tiny = [f"newsroom.num_{what}={number}" for what, number in (("demonstrations", 100), ("pairs", 20), ("prompts", 10))]
    with pytest.raises(RuntimeError):
        run_recorded(settings("demo", *tiny), tmp_path, unchanged)
    (record,) = read_runs(tmp_path)
    assert record["state"] == "failed"
    used = [one["stage"] for one in record["stages"]]
    assert used == ["newsroom", "preferences", *["prompts"] * 3, "demonstrations"]


def test_the_published_run_is_completed(tiny_home: Path) -> None:
    assert set(run_query(tiny_home, "SELECT state FROM runs")["state"].to_pylist()) == {"completed"}
