"""`srpo judge`: completions against gold or another policy; its plan, failed calls once more, stored replies read again."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.judge_options import BaseUrlOption, JudgeModelOption, JudgeOption, PresetOption, judge_settings
from flows.commands.options import ConfigOption, HomeOption, JsonOption, SetOption
from flows.commands.output import print_fields, print_json
from flows.inputs import DEFAULT_HOME, StageSettings, find_input, find_prompts, open_home, require_ids
from flows.stage_lines import with_line
from srpo_core.errors import InputError

if TYPE_CHECKING:
    from tasks.judging import Match


def judge(
    completions: Annotated[list[str], typer.Option("--completions", metavar="ID", help="Completions to judge. May be repeated.")],
    kind: JudgeOption = None,
    model: JudgeModelOption = None,
    base_url: BaseUrlOption = None,
    preset: PresetOption = None,
    repeats: Annotated[int | None, typer.Option("--repeats", metavar="R", help="api: really ask each question so often.")] = None,
    opponents: Annotated[
        str | None, typer.Option("--opponents", metavar="ID", help="Another policy's completions instead of gold.")
    ] = None,
    opponent_revision: Annotated[
        int | None, typer.Option("--opponent-revision", metavar="N", help="Which revision of the opponents.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print requests, tokens and cost; send nothing.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="api: ask again for games whose call failed.")] = False,
    reparse: Annotated[bool, typer.Option("--reparse", help="api: read the stored replies again; send nothing.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = [],  # noqa: B006
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Judge completions against gold or against another policy, in both orders (settings: judge)."""
    from flows.evaluation_sets import judge_sets, look_where_asked
    from srpo_core.judging.request_limits import Spent
    from tasks import judging

    if reparse and (plan or retry_failed):
        raise InputError("expected --reparse alone, found --plan or --retry-failed beside it; run them one by one")
    settings, place = StageSettings("judge", ("resources",), config, assignments), open_home(home)
    judged_by = judge_settings(settings, kind, model=model, base_url=base_url, preset=preset, repeats=repeats)
    against = (find_input(place, "completions", opponents) if opponents else None, opponent_revision)
    chosen = [find_input(place, "completions", one) for one in require_ids(completions, "--completions")]
    sets = [find_prompts(place, one) for one in chosen]
    matches = [judging.Match(one, [own], judged_by, *against) for one, own in zip(chosen, sets, strict=True)]
    if plan:
        _print_plan(matches, place, retry_failed, as_json)
        return
    spent = Spent()
    if reparse:
        games = [with_line(judging.reread_replies)(match, place) for match in matches]
    elif retry_failed:
        games = [with_line(judging.retry_failed_calls)(match, place, spent=spent) for match in matches]
    else:
        options = {"opponents": against[0], "opponent_revision_index": against[1]}
        spread = {"resources": settings.resources(), "spent": spent}
        games = judge_sets(chosen, {one.digest: one for one in sets}, judged_by, place, with_line, **options, **spread)
        look_where_asked(chosen, sets, judged_by, place, with_line, **spread)
    _print_games(games, as_json)


def _print_plan(matches: list["Match"], home: Any, retry_failed: bool, as_json: bool) -> None:
    from tasks.judging_plan import plan_judging

    plans = [one._asdict() for one in plan_judging(matches, home, retry_failed=retry_failed)]
    totals = {name: _sum([one[name] for one in plans]) for name in plans[0] if name != "judge"}
    if as_json:
        rows = [{"completions": match.completions.fingerprint, **one} for match, one in zip(matches, plans, strict=True)]
        print_json({"judge": plans[0]["judge"], **totals, "completions": rows})
    else:
        shown = {name: "unknown" if value is None else value for name, value in totals.items()}
        print_fields({"judge": plans[0]["judge"], **shown})


def _sum(values: list[Any]) -> Any:
    """None, unknown, when one of them is."""
    return None if None in values else sum(values)


def _print_games(artifacts: list[Any], as_json: bool) -> None:
    rows = [{"stage": one.stage, "fingerprint": one.fingerprint, "path": one.path, **one.counts} for one in artifacts]
    if as_json:
        print_json({"artifacts": rows})
        return
    for row in rows:
        print_fields(row)


def add_commands(app: typer.Typer) -> None:
    """Put the command of this file into `app`."""
    app.command("judge")(judge)
