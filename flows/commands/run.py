"""`srpo run`: the end-to-end flow in this process, and the win-rate table at its end.

Without a Prefect server (PREFECT_API_URL, or one in the active profile) the stages are plain calls and Prefect is not imported.
"""

import json
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import HomeOption, JsonOption
from flows.commands.output import print_json
from flows.inputs import DEFAULT_HOME, HOME_VARIABLE, expand_user, open_home
from flows.server.environment import prefect_server
from srpo_core.errors import WorkFailed


def run(
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="demo, tldr or chat.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE.yaml", help="Settings of your own; see flows/presets.")
    ] = None,
    assignments: Annotated[
        list[str], typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="A setting. May be repeated.")
    ] = [],  # noqa: B006
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Run everything, from preference pairs to win rates; what is complete is skipped."""
    from flows.presets import resolve_settings

    settings = resolve_settings(preset, expand_user(config) if config else None, assignments)
    place, began = open_home(home), time.monotonic()
    run_id = _run_pipeline(settings, place)
    summary = _summarise(settings, place, run_id) | {"seconds": round(time.monotonic() - began, 1)}
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary, place, preset, config)


def _run_pipeline(settings: Any, home: Path) -> str:
    if prefect_server() is not None:
        return _run_watched(settings, home)
    from flows.pipeline import run_recorded
    from flows.stage_lines import with_line

    return run_recorded(settings, home, with_line)


def _run_watched(settings: Any, home: Path) -> str:
    """The same as a flow run of the server. Raises WorkFailed when a person cancelled it there."""
    from flows.run import run_pipeline

    ended: Any = run_pipeline(settings, str(home), return_state=True)
    if ended.is_cancelled():
        raise WorkFailed(ended.message or "the run was cancelled")
    return str(ended.result())


def _summarise(settings: Any, home: Path, run_id: str) -> dict[str, Any]:
    from flows.commands.win_rate_table import read_win_rates
    from storage.results_tables import sampling_of
    from tasks.judge_identity import judge_name
    from tasks.left_out import count_losses, read_used

    record = json.loads((home / "runs" / f"{run_id}.json").read_text(encoding="utf-8"))
    policies = [one["fingerprint"] for one in record["stages"] if one["stage"] == "policies"]
    decoding = {"temperature": settings.generation.temperature, "sampling": sampling_of(settings.generation.model_dump())}
    rows = read_win_rates(home, policies, judge_name(settings.judge), **decoding)
    return {
        "run_id": run_id,
        "home": home,
        "results": home / "results.duckdb",
        "report": home / "report.html",
        "policies": policies,
        "losses": count_losses(read_used(home, record["stages"])),
        "win_rates": rows,
    }


def _print_summary(summary: dict[str, Any], home: Path, preset: str | None, config: Path | None) -> None:
    from flows.commands.win_rate_table import print_win_rates
    from tasks.left_out import LOSSES

    print("\nWin rate against the gold texts in percent, with its 95 % interval\n")
    print_win_rates(summary["win_rates"], summary["policies"])
    print()
    for name, count in summary["losses"].items():
        print(f"{count} {LOSSES[name]}")
    print(
        f"results  {summary['results']}\nreport   {summary['report']}\nrun      {summary['run_id']}, {summary['seconds']:.0f} s"
    )
    print("\nTry next:")
    for command in _next_commands(summary, home, preset, config):
        print(f"  {command}")


def _next_commands(summary: dict[str, Any], home: Path, preset: str | None, config: Path | None) -> list[str]:
    program = _program()
    is_default = home == open_home(os.environ.get(HOME_VARIABLE, DEFAULT_HOME))
    where = "" if is_default else f" --home {shlex.quote(str(home))}"
    sql = "SELECT method, eval_set, revision_index, win_rate, ci_low, ci_high FROM win_rates"
    origin = f"--preset {preset}" if preset else f"--config {shlex.quote(str(config))}"
    policy = next((row["policy_id"] for row in summary["win_rates"] if row["method"] == "srpo"), summary["policies"][-1])
    prompt = _example_prompt(home, policy)
    return [
        f'{program} sql "{sql}"{where}',
        f"{program} revise --policy {policy} --prompt {shlex.quote(prompt)} --revisions 3{where}",
        f"{program} run {origin} --set training.beta=0.3{where}",
    ]


def _example_prompt(home: Path, policy: str) -> str:
    """A short evaluation prompt the policy has answered."""
    from storage.results_db import run_query

    sql = f"""SELECT p.prompt[-1].content AS text FROM completions c JOIN prompts p USING (prompt_id)
        WHERE c.policy_id = '{policy}' AND len(p.prompt) = 1 AND instr(text, chr(10)) = 0 ORDER BY length(text), text LIMIT 1"""
    rows = run_query(home, sql).to_pylist()
    return rows[0]["text"] if rows and len(rows[0]["text"]) <= 300 else "@prompt.txt"


def _program() -> str:
    """How this program was called: by name where the shell finds it, else by its path."""
    called = Path(sys.argv[0])
    if called.name != "srpo" or shutil.which("srpo") == str(called.absolute()):
        return "srpo"
    try:
        return str(called.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(called)


def add_commands(app: typer.Typer) -> None:
    """Put the command of this file into `app`."""
    app.command("run")(run)
