"""One command for each later stage but judging, which is in judge.py: reference, train, generate, publish, report.

Every command names its inputs by id or path and skips what is complete. `--config` takes the same file as `srpo run`.
"""

from typing import Annotated, Any

import typer

from flows.commands.options import ConfigOption, HomeOption, JsonOption, SetOption
from flows.commands.output import print_fields, print_json
from flows.inputs import DEFAULT_HOME, StageSettings, find_input, find_policy, open_home, register_model, require_ids, split_ids
from flows.stage_lines import with_line
from srpo_core.errors import InputError

PolicyOption = Annotated[
    str, typer.Option("--policy", metavar="ID", help="A policy by id or folder, or a model folder or hub model.")
]
PreferencesOption = Annotated[str, typer.Option("--preferences", metavar="ID", help="Preference pairs (srpo ingest).")]
Ids = list[str]
PromptsOption = Annotated[
    Ids, typer.Option("--prompts", metavar="ID", help="Evaluation sets (srpo ingest-prompts). May be repeated.")
]


def reference(
    policy: PolicyOption,
    preferences: PreferencesOption,
    config: ConfigOption = None,
    assignments: SetOption = [],  # noqa: B006
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Compute the six log-probs of every pair under the frozen reference policy (settings: training)."""
    from srpo_core.settings.training import PreferenceSettings
    from tasks.reference import compute_reference

    settings, place = StageSettings("training", ("model", "resources"), config, assignments), open_home(home)
    training = settings.section("training", PreferenceSettings)
    frozen, pairs = find_policy(place, policy), find_input(place, "preferences", preferences)
    options = {"model": settings.model(frozen), "resources": settings.resources(), "home": place}
    _print_artifacts([with_line(compute_reference)(frozen, pairs, training, **options)], as_json, single=True)


def train(
    method: Annotated[str, typer.Option("--method", help="sft, srpo, dpo, ipo, dpo_both or ipo_both.")] = "srpo",
    policy: Annotated[
        str | None, typer.Option("--policy", metavar="ID", help="The reference policy that a preference method starts from.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="DIR|HUBID", help="sft: the model to start from.")] = None,
    demonstrations: Annotated[
        str | None, typer.Option("--demonstrations", metavar="FILE|ID", help="sft: prompt, completion, draft.")
    ] = None,
    preferences: Annotated[
        str | None, typer.Option("--preferences", metavar="ID", help="Preference pairs; sft: made into demonstrations.")
    ] = None,
    reference_rows: Annotated[
        str | None, typer.Option("--reference", metavar="ID", help="Reference rows; computed where none are given.")
    ] = None,
    contamination: Annotated[
        str | None, typer.Option("--contamination", metavar="ID", help="Pairs to leave out of training.")
    ] = None,
    prompts: Annotated[
        Ids, typer.Option("--prompts", metavar="ID", help="Evaluation sets whose overlap is left out of training.")
    ] = [],  # noqa: B006
    config: ConfigOption = None,
    assignments: SetOption = [],  # noqa: B006
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Train the reference (--method sft; settings: supervised) or a policy from it (settings: training)."""
    from srpo_core.settings.training import PREFERENCE_METHODS

    place = open_home(home)
    if method == "sft":
        unused = {"--reference": reference_rows, "--contamination": contamination, "--prompts": prompts}
        _refuse_unused(method, unused)
        if policy and model:
            raise InputError("expected --policy or --model to start from, found both; leave one out")
        used = ("model", "template", "demonstrations", "generation", "resources")
        settings = StageSettings("supervised", used, config, assignments)
        artifact = _train_reference(settings, place, policy or model, demonstrations, preferences)
    elif method in PREFERENCE_METHODS:
        _refuse_unused(method, {"--model": model, "--demonstrations": demonstrations})
        if policy is None or preferences is None:
            raise InputError(
                f"expected --policy and --preferences for --method {method}, found one missing; `srpo ls` lists what there is"
            )
        settings = StageSettings("training", ("model", "resources"), config, assignments, method)
        artifact = _train_policy(settings, place, method, policy, preferences, reference_rows, contamination, split_ids(prompts))
    else:
        raise InputError(f"expected --method sft, {', '.join(PREFERENCE_METHODS)}, found {method!r}; name one of them")
    _print_artifacts([artifact], as_json, single=True)


def _refuse_unused(method: str, options: dict[str, Any]) -> None:
    for option, value in options.items():
        if value:
            raise InputError(f"expected no {option} for --method {method}, which has no use for it, found one; leave it out")


def _train_reference(
    settings: StageSettings, home: Any, start: str | None, demonstrations: str | None, preferences: str | None
) -> Any:
    from srpo_core.settings.data import DemonstrationSettings
    from srpo_core.settings.model import GenerationSettings, TemplateSettings
    from srpo_core.settings.training import SupervisedSettings
    from tasks.demonstrations import ingest_demonstrations
    from tasks.models import prepare_base_model
    from tasks.training import train_reference

    supervised = settings.section("supervised", SupervisedSettings)
    template, generation = settings.section("template", TemplateSettings), settings.section("generation", GenerationSettings)
    resources = settings.resources()
    if start is None and not settings.values.get("model"):
        raise InputError("expected --model DIR|HUBID or --set model.small.hidden_size=128 to start from, found neither; name one")
    pairs = find_input(home, "preferences", preferences) if preferences else None
    chosen = settings.section("demonstrations", DemonstrationSettings, path=demonstrations)
    if demonstrations is not None and not _looks_like_file(demonstrations):
        rows = find_input(home, "demonstrations", demonstrations)
    else:
        rows = with_line(ingest_demonstrations)(chosen, home, pairs)
    if start is not None:
        base = find_policy(home, start, outside=register_model)
        model = settings.model(base)
    else:
        model = settings.model()
        base = (
            with_line(prepare_base_model)(model, home, rows, template)
            if model.small
            else register_model(home, str(model.name_or_path))
        )
    options = {"template": template, "decoding": generation, "model": model, "resources": resources, "home": home}
    return with_line(train_reference)(base, rows, supervised, **options)


def _looks_like_file(text: str) -> bool:
    """A path that exists or has the form of one; else it is an id."""
    from pathlib import Path

    return Path(text).is_file() or ("." in text and not Path(text).is_dir())


def _train_policy(
    settings: StageSettings,
    home: Any,
    method: str,
    policy: str,
    preferences: str,
    reference_rows: str | None,
    contamination: str | None,
    prompts: list[str],
) -> Any:
    from flows.training_stages import train_against
    from srpo_core.settings.training import PreferenceSettings

    training = settings.section("training", PreferenceSettings, method=method)
    start, pairs = find_policy(home, policy), find_input(home, "preferences", preferences)
    options = {"model": settings.model(start), "resources": settings.resources(), "home": home}
    if contamination and prompts:
        raise InputError("expected --contamination or --prompts, found both; --prompts finds the overlap by itself")
    overlap = _find_made_from(home, "contamination", contamination, {"preferences": pairs})
    rows = _find_made_from(home, "reference", reference_rows, {"reference": start, "preferences": pairs})
    sets = [find_input(home, "prompts", one) for one in prompts]
    return train_against(start, pairs, sets, [training], with_line, overlap=overlap, rows=rows, **options)[0]


def _find_made_from(home: Any, stage: str, text: str | None, inputs: dict[str, Any]) -> Any:
    """The artifact that is named, or None. Raises InputError when it was made from others than `inputs`, named beside it."""
    if text is None:
        return None
    artifact = find_input(home, stage, text)
    for role, parent in inputs.items():
        made_from = artifact.manifest["parents"][role]
        if made_from["digest"] != parent.digest:
            raise InputError(
                f"expected {artifact.stage}/{artifact.fingerprint} to be made from {role} {parent.fingerprint}, "
                f"found {made_from['fingerprint']}; name the ones that belong together"
            )
    return artifact


def generate(
    policy: Annotated[Ids, typer.Option("--policy", metavar="ID", help="A policy by id or folder. May be repeated.")],
    prompts: PromptsOption,
    revisions: Annotated[int | None, typer.Option("--revisions", metavar="N", help="Revisions after the first draft.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 takes the likeliest token.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the random choices.")] = None,
    config: ConfigOption = None,
    assignments: SetOption = [],  # noqa: B006
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write drafts and their self-revisions (settings: generation)."""
    from srpo_core.settings.model import GenerationSettings
    from tasks.generation import generate_completions

    settings, place = StageSettings("generation", ("model", "resources"), config, assignments), open_home(home)
    generation = settings.section("generation", GenerationSettings, num_revisions=revisions, temperature=temperature, seed=seed)
    policies = [find_policy(place, one) for one in require_ids(policy, "--policy")]
    sets = [find_input(place, "prompts", one) for one in require_ids(prompts, "--prompts")]
    dtypes = {one.settings.get("dtype", "float32") for one in policies}
    if len(dtypes) > 1:
        raise InputError(f"expected policies of one dtype, found {', '.join(sorted(dtypes))}; generate for each dtype apart")
    options = {"model": settings.model(policies[0]), "resources": settings.resources(), "home": place}
    _print_artifacts(with_line(generate_completions)(policies, sets, generation, **options), as_json)


def publish(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Build results.duckdb from everything in the home."""
    from tasks.publishing import publish_results

    _print_path("results", with_line(publish_results)(open_home(home)), as_json)


def report(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Write report.html, one self-contained page, from results.duckdb."""
    from tasks.reporting import write_report

    _print_path("report", with_line(write_report)(open_home(home)), as_json)


def _print_path(name: str, path: Any, as_json: bool) -> None:
    if as_json:
        print_json({name: path})
    else:
        print(path)


def _print_artifacts(artifacts: list[Any], as_json: bool, single: bool = False) -> None:
    """One object; of a command that makes several, with the list under `artifacts`."""
    rows = [{"stage": a.stage, "fingerprint": a.fingerprint, "path": a.path, **a.counts} for a in artifacts]
    if as_json:
        print_json(rows[0] if single else {"artifacts": rows})
        return
    for row in rows:
        print_fields(row)


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into `app`."""
    for command in (reference, train, generate, publish, report):
        app.command(command.__name__)(command)
