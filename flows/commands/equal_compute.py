"""`srpo equal-compute`: a policy's revisions against the best of n of its drafts, at equal numbers of generated tokens."""

import json
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from flows.commands.judge_options import BaseUrlOption, JudgeModelOption, JudgeOption, PresetOption, judge_settings
from flows.commands.options import ConfigOption, HomeOption, JsonOption, SetOption
from flows.commands.output import print_json, print_table
from flows.inputs import DEFAULT_HOME, StageSettings, by_name, find_input, find_policy, open_home, require_ids
from flows.stage_lines import with_line
from srpo_core.errors import InputError

if TYPE_CHECKING:
    from storage.artifact import Artifact

Row = dict[str, Any]


def equal_compute(
    policy: Annotated[str, typer.Option("--policy", metavar="ID", help="A policy by id or folder, or a model.")],
    prompts: Annotated[list[str], typer.Option("--prompts", metavar="ID", help="Evaluation sets. May be repeated.")],
    samples: Annotated[int | None, typer.Option("--samples", metavar="N", help="Drafts of each prompt; 8 unless set.")] = None,
    select: Annotated[
        list[str], typer.Option("--select", help="What picks a draft: likelihood, judge, reward_model. May be repeated.")
    ] = [],  # noqa: B006
    reward_model: Annotated[
        str | None, typer.Option("--reward-model", metavar="DIR|HUBID", help="What gives the rewards of --select reward_model.")
    ] = None,
    revisions: Annotated[int | None, typer.Option("--revisions", metavar="K", help="Revisions after the first draft.")] = None,
    judge: JudgeOption = None,
    model: JudgeModelOption = None,
    base_url: BaseUrlOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    assignments: SetOption = [],  # noqa: B006
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Compare k revisions with the best of n drafts at equal tokens (settings: equal_compute, generation, judge).

    --judge scores all texts against the gold. The policy is decoded as its folder says unless settings of generation differ.
    """
    from tasks.equal_compute import compare_equal_compute, read_tables

    used = ("generation", "judge", "model", "resources")
    settings, place = StageSettings("equal_compute", used, config, assignments), open_home(home)
    asked = _settings(settings, samples, require_ids(select, "--select") if select else [], reward_model)
    scoring = judge_settings(settings, judge, model=model, base_url=base_url, preset=preset)
    frozen = find_policy(place, policy)
    sets = [find_input(place, "prompts", one) for one in require_ids(prompts, "--prompts")]
    generation = _decoding(settings, frozen, revisions)
    spread = {"model": settings.model(frozen), "resources": settings.resources(), "home": place}
    made = with_line(compare_equal_compute)(frozen, sets, asked, generation, scoring, **spread)
    tables = [(artifact, *read_tables(artifact)) for artifact in made]
    if as_json:
        print_json({"artifacts": [_as_object(*one) for one in tables]})
        return
    for artifact, curve, matches in tables:
        _print(artifact, curve, matches)


def _settings(settings: StageSettings, samples: int | None, select: list[str], reward_model: str | None) -> Any:
    """The section equal_compute; a reward model that is named also picks."""
    from srpo_core.settings.pipeline import DEFAULT_SELECTORS, DraftSelector, EqualComputeSettings

    unknown = [name for name in select if name not in get_args(DraftSelector)]
    if unknown:
        raise InputError(f"expected --select {', '.join(get_args(DraftSelector))}, found {unknown[0]!r}; name one of them")
    given: Row = {"num_samples": samples, "select": select or None}
    section = settings.values.get("equal_compute", {})
    if reward_model is not None:
        chosen = select or section.get("select") or DEFAULT_SELECTORS
        given["select"] = [*chosen, *(["reward_model"] if "reward_model" not in chosen else [])]
        given["reward_model"] = by_name(section.get("reward_model"), "equal_compute.reward_model") | {"model": reward_model}
    elif "reward_model" in select and not section.get("reward_model"):
        raise InputError("expected --reward-model DIR|HUBID for --select reward_model, found none; name a reward model")
    return settings.section("equal_compute", EqualComputeSettings, **given)


def _decoding(settings: StageSettings, policy: "Artifact", revisions: int | None) -> Any:
    """How the policy's own folder says it is decoded, with the section generation and the option over it."""
    from srpo_core.settings.model import GenerationSettings
    from srpo_core.tokenization import TEMPLATE_FILE
    from tasks.models import model_folder

    file = model_folder(policy) / TEMPLATE_FILE
    own = json.loads(file.read_text(encoding="utf-8")).get("decoding") if file.is_file() else None
    settings.values = settings.values | {"generation": (own or {}) | settings.values.get("generation", {})}
    return settings.section("generation", GenerationSettings, num_revisions=revisions)


def _as_object(artifact: "Artifact", curve: list[Row], matches: list[Row]) -> Row:
    named = {"stage": artifact.stage, "fingerprint": artifact.fingerprint, "path": artifact.path, **artifact.counts}
    from tasks.equal_compute import CHART

    return named | {"chart": artifact.path / CHART, "equal_compute": curve, "equal_compute_matches": matches}


def _print(artifact: "Artifact", curve: list[Row], matches: list[Row]) -> None:
    """The matched differences, what to know of the selectors, and where the curve lies."""
    from tasks.equal_compute import CHART

    print(f"{artifact.info['name']}, scored by {curve[0]['judge']}: revisions minus best of n")
    columns = ["selector", "k", "n", "tokens", "prompts", "revisions", "best of n", "difference", "95 % interval"]
    print_table(columns, [_line(row) for row in matches])
    for note in sorted({f"{row['selector']}: {row['note']}" for row in matches if row["note"]}):
        print(note)
    if any(row["n_scored"] == 0 for row in matches):
        print("–: no prompt to compare on; where n is above the number of drafts, draw more of them (--samples)")
    print(f"curve: {artifact.path / CHART}")


def _line(row: Row) -> list[Any]:
    def percent(name: str, sign: str = "") -> str | None:
        return None if row[name] is None else f"{100 * row[name]:{sign}.1f}"

    interval = None if row["ci_low"] is None else f"[{percent('ci_low', '+')}, {percent('ci_high', '+')}]"
    numbers = [row["selector"], row["num_revisions"], row["num_drafts"], row["mean_tokens"], row["n_scored"]]
    rates = [percent("revisions_win_rate"), percent("drafts_win_rate"), percent("difference", "+"), interval]
    return [*numbers, *rates]


def add_commands(app: typer.Typer) -> None:
    """Put the command of this file into `app`."""
    app.command("equal-compute")(equal_compute)
