"""`srpo audit`: how far a judge can be believed. Agreement with people, attacks on it, and whether it has changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.judge_options import BaseUrlOption, JudgeModelOption, JudgeOption, PresetOption, judge_settings
from flows.commands.options import ConfigOption, HomeOption, JsonOption, SetOption
from flows.commands.output import print_fields, print_json, print_table
from flows.inputs import DEFAULT_HOME, StageSettings, find_input, open_home
from flows.stage_lines import with_line
from srpo_core.errors import InputError

if TYPE_CHECKING:
    from storage.artifact import Artifact

Row = Mapping[str, Any]
RATE_COLUMNS = (  # --json has more
    *("attack", "field", "n_games", "n_unscored", "attack_rate", "ci_low", "ci_high", "rate_both_orders"),
    *("over_control", "over_control_low", "over_control_high"),
)
LOOK_COLUMNS = (
    *("look_index", "looked_at", "models_answered", "n_unscored", "mean_score", "shift", "shift_low", "shift_high"),
    *("shift_p_value", "flip_rate", "calibration_flip_rate", "flip_p_value", "alarm"),
)


def audit(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="CSV, JSONL, JSON or Parquet: prompt_id, order, score, human; optional judge, eval_set, method, seed, "
            "revision_index, repeat_index, candidate_length, opponent_length, cluster_id.",
        ),
    ] = None,
    preferences: Annotated[
        str | None,
        typer.Option("--preferences", metavar="ID", help="Ask the judge about pairs whose label is known (srpo ingest)."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", metavar="ID", help="With --injections: attack against the gold texts of these prompts."),
    ] = None,
    injections: Annotated[
        bool, typer.Option("--injections", help="Let the worse text attack the judge in every way known.")
    ] = False,
    sentinel: Annotated[
        bool, typer.Option("--sentinel", help="Ask frozen games again and say whether the judge changed; --preferences freezes.")
    ] = False,
    frozen: Annotated[str | None, typer.Option("--frozen", metavar="ID", help="With --sentinel: which frozen set.")] = None,
    max_pairs: Annotated[
        int | None, typer.Option("--max-pairs", metavar="N", help="Pairs drawn by lot; 200, for attacks 20, to freeze 50.")
    ] = None,
    repeats: Annotated[int | None, typer.Option("--repeats", metavar="R", help="Ask each question so often; 1.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the drawing by lot; 0.")] = None,
    kind: JudgeOption = None,
    model: JudgeModelOption = None,
    base_url: BaseUrlOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    assignments: SetOption = [],  # noqa: B006
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Measure a judge: agreement with people, resistance to attacks, drift (settings: judge)."""
    playing = {"--max-pairs": max_pairs, "--repeats": repeats, "--judge": kind, "--model": model, "--preset": preset}
    choosing = {"--preferences": preferences, "--prompts": prompts, "--frozen": frozen}
    if file is not None:
        asking = {"--seed": seed, "--base-url": base_url, "--config": config, "--set": assignments or None}
        _refuse_with_file({**choosing, "--injections": injections or None, "--sentinel": sentinel or None, **playing, **asking})
        _print_file(file, as_json)
        return
    from flows.audit_stages import measure_judge

    asked = _settings(
        _mode(preferences, prompts, frozen, injections, sentinel),
        {"preferences": preferences, "prompts": prompts, "frozen": frozen, "repeats": repeats, "seed": seed},
        max_pairs,
    )
    place, settings = open_home(home), StageSettings("judge", ("resources",), config, assignments)
    judge = judge_settings(settings, kind, model=model, base_url=base_url, preset=preset)
    if asked.kind == "agreement" and repeats is None:
        asked = asked.model_copy(update={"repeats": getattr(judge, "repeats", 1)})
    made = measure_judge(asked, judge, place, settings.resources(), with_line)
    if asked.kind == "sentinel":
        _print_looks(made, judge, place, as_json)
    elif asked.kind == "injections":
        _print_injections(made[0], as_json)
    else:
        _print_agreement(made[0], as_json)


def _mode(preferences: str | None, prompts: str | None, frozen: str | None, injections: bool, sentinel: bool) -> str:
    """agreement, injections or sentinel. Raises InputError for options that do not go together."""
    if injections and sentinel:
        raise InputError("expected one of --injections and --sentinel, found both; run them one after the other")
    if (prompts and not injections) or (frozen and not sentinel):
        found, mate = ("--prompts", "--injections") if prompts and not injections else ("--frozen", "--sentinel")
        raise InputError(f"expected {mate} beside {found}, found {found} alone; add {mate} or leave {found} out")
    if not (preferences or injections or sentinel):
        raise InputError(
            "expected a FILE of labelled verdicts, --preferences ID, --injections or --sentinel, found none; name one"
        )
    return "injections" if injections else "sentinel" if sentinel else "agreement"


def _settings(mode: str, given: Row, max_pairs: int | None) -> Any:
    """The options as the form's settings, checked by them. Raises InputError also for what a frozen set has no use for."""
    from srpo_core.settings import audit
    from srpo_core.settings.base import parse_settings

    forms: dict[str, Any] = {
        "agreement": audit.AgreementAuditSettings,
        "injections": audit.InjectionAuditSettings,
        "sentinel": audit.SentinelAuditSettings,
    }
    values = {**given, "num_pairs" if mode == "sentinel" else "max_pairs": max_pairs}
    where = "srpo audit" if mode == "agreement" else f"srpo audit --{mode}"
    found = parse_settings(forms[mode], {name: one for name, one in values.items() if one is not None}, where)
    drawing = [option for option, one in (("--max-pairs", max_pairs), ("--seed", given["seed"])) if one is not None]
    if mode == "sentinel" and drawing and found.preferences is None:
        raise InputError(
            f"expected --preferences beside {drawing[0]} to freeze games, found {drawing[0]} alone; a frozen set keeps its games"
        )
    return found


def _refuse_with_file(given: Row) -> None:
    found = [name for name, value in given.items() if value is not None]
    if found:
        raise InputError(f"expected a FILE or {found[0]}, found both; verdicts in a file are measured as they are")


def _print_looks(made: "Sequence[Artifact]", judge: Any, home: Path, as_json: bool) -> None:
    """The looks that were made, in the history of all looks of the judge at the same frozen games."""
    from tasks import sentinel

    games = find_input(home, "sentinels", made[0].manifest["parents"]["sentinel"]["fingerprint"])
    looks = [sentinel.read_look(one) for one in sentinel.list_looks(games, judge, home)]
    values = {
        "sentinel": games.fingerprint,
        "judge": looks[-1]["judge"],
        "pairs": games.counts["pairs"],
        "calibration_looks": games.settings["calibration_looks"],
        "looks_made": len(made),
        "alarm": looks[-1]["alarm"],
    }
    if as_json:
        print_json(values | {"looks": looks})
        return
    print_fields(values)
    print_table(LOOK_COLUMNS, [[row[name] for name in LOOK_COLUMNS] for row in looks])


def _print_file(file: Path, as_json: bool) -> None:
    from srpo_core.scoring.audit_files import audit_file

    values = audit_file(file)
    if as_json:
        print_json(values)
        return
    for one in values["judges"]:
        _print_with_table(one, "measures")
    if values["ignored_columns"]:
        print_fields({"ignored_columns": values["ignored_columns"]})
    for hint in values["hints"]:
        print(f"note: {hint}")


def _print_agreement(artifact: "Artifact", as_json: bool) -> None:
    from storage.schemas import AUDIT_MEASURES

    rows = artifact.read(AUDIT_MEASURES, prefix="measures").to_pylist()
    _print_audit(artifact, {"note": artifact.info["note"]}, "measures", rows, as_json)


def _print_injections(artifact: "Artifact", as_json: bool) -> None:
    from storage.schemas import ATTACK_RATES

    _print_audit(artifact, {}, "rates", artifact.read(ATTACK_RATES, prefix="rates").to_pylist(), as_json)


def _print_audit(artifact: "Artifact", facts: Row, table: str, rows: Sequence[Row], as_json: bool) -> None:
    rows = [{name: value for name, value in row.items() if name != "judge"} for row in rows]
    values = {"audit": artifact.fingerprint, "path": artifact.path, "judge": artifact.info["judge"], **artifact.counts, **facts}
    if as_json:
        print_json(values | {table: rows})
    else:
        _print_with_table(values | {table: rows}, table)


def _print_with_table(values: Mapping[str, Any], table: str) -> None:
    print_fields({name: value for name, value in values.items() if name != table and value is not None})
    rows = values[table]
    if rows:
        shown = RATE_COLUMNS if table == "rates" else tuple(rows[0])
        print_table(shown, [[row[name] for name in shown] for row in rows])


def add_commands(app: typer.Typer) -> None:
    """Put the command of this file into `app`."""
    app.command("audit")(audit)
