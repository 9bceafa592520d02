"""`srpo ingest` and `srpo ingest-prompts`: files and hub data sets in, preference pairs and evaluation sets out."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import HomeOption, JsonOption
from flows.commands.output import print_fields, print_json
from flows.inputs import DEFAULT_HOME, open_home
from flows.server.environment import prefect_server
from flows.stage_lines import with_line
from srpo_core.errors import InputError

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="Files, folders, globs, or hub:<id>[@revision][:config][/split].")
]
FormatOption = Annotated[str, typer.Option("--format", help="auto, a format's name, columns, or file.py:function.")]
DomainOption = Annotated[
    str, typer.Option("--domain", help="What the texts are about; a set of another domain is out of distribution.")
]
MaxRowsOption = Annotated[int | None, typer.Option("--max-rows", help="At most so many source rows of each path.")]
ClusterByOption = Annotated[
    str, typer.Option("--cluster-by", help="What stays in one split: prompt, or the column of --cluster-column.")
]


def _column(name: str, what: str) -> Any:
    return Annotated[str | None, typer.Option(f"--{name}-column", metavar="NAME", help=f"Column with {what}.")]


def _labels(side: str, what: str) -> Any:
    return Annotated[
        list[str], typer.Option(f"--label-{side}", metavar="VALUE", help=f"A label that means {what}. May be repeated.")
    ]


def ingest(
    paths: Paths,
    format_name: FormatOption = "auto",
    columns_file: Annotated[Path | None, typer.Option("--columns", metavar="FILE.yaml", help="A column mapping.")] = None,
    prompt: Annotated[list[str], typer.Option("--prompt-column", metavar="NAME", help="Column(s) with the prompt.")] = [],  # noqa: B006
    chosen: _column("chosen", "the preferred text") = None,  # type: ignore[valid-type]
    rejected: _column("rejected", "the other text") = None,  # type: ignore[valid-type]
    text_a: _column("text-a", "the first text, where a label says which is preferred") = None,  # type: ignore[valid-type]
    text_b: _column("text-b", "the second text") = None,  # type: ignore[valid-type]
    label: _column("label", "the preferred side") = None,  # type: ignore[valid-type]
    votes: _column("votes", "a list of labels, one a vote") = None,  # type: ignore[valid-type]
    cluster: _column("cluster", "what groups rows that stay in one split") = None,  # type: ignore[valid-type]
    label_a: _labels("a", "the first text") = [],  # type: ignore[valid-type]  # noqa: B006
    label_b: _labels("b", "the second text") = [],  # type: ignore[valid-type]  # noqa: B006
    label_tie: _labels("tie", "neither") = [],  # type: ignore[valid-type]  # noqa: B006
    join_with: Annotated[str | None, typer.Option("--join-with", help="Between the items of a column that holds a list.")] = None,
    domain: DomainOption = "unknown",
    max_rows: MaxRowsOption = None,
    validation_share: Annotated[float, typer.Option("--validation-share", help="Share of the clusters.")] = 0.05,
    test_share: Annotated[float, typer.Option("--test-share", help="Share of the clusters.")] = 0.0,
    cluster_by: ClusterByOption = "prompt",
    seed: Annotated[int, typer.Option("--seed", help="Of the split.")] = 0,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Read preference pairs; new ones are announced to the Prefect server, where one is configured."""
    from srpo_core.settings.base import parse_settings
    from srpo_core.settings.data import PreferenceSourceSettings
    from tasks.preferences import ingest_preferences

    mapped = {"chosen": chosen, "rejected": rejected, "text_a": text_a, "text_b": text_b, "label": label, "votes": votes}
    mapped |= {"prompt": prompt[0] if len(prompt) == 1 else prompt, "cluster": cluster, "join_with": join_with}
    mapped |= {"label_a": label_a, "label_b": label_b, "label_tie": label_tie}
    values = {
        "paths": paths,
        "format": format_name,
        "columns": _mapping(columns_file, {name: value for name, value in mapped.items() if value not in (None, [])}),
        "domain": domain,
        "max_rows": max_rows,
        "validation_share": validation_share,
        "test_share": test_share,
        "cluster_by": cluster_by,
        "seed": seed,
    }
    settings = parse_settings(PreferenceSourceSettings, values, "srpo ingest")
    began = datetime.now(UTC)
    artifact = with_line(ingest_preferences)(settings, open_home(home))
    _announce(artifact, began)
    counts = {name: artifact.counts[name] for name in ("rows_read", "pairs", "rejected_rows", "merged_duplicates")}
    facts = {key: value for key, value in artifact.info.items() if key != "sources"}
    _print({"fingerprint": artifact.fingerprint, **counts, "stage": artifact.stage, "path": artifact.path, **facts}, as_json)


def _announce(pairs: Any, began: datetime) -> None:
    """Tell the Prefect server of pairs that were made since; Prefect is imported only for that."""
    from storage.artifact import was_made_since

    if prefect_server() is None or not was_made_since(pairs, began):
        return
    from flows.under_prefect.events import tell_of_pairs

    tell_of_pairs(pairs, began, command="ingest")


def _mapping(file: Path | None, given: dict[str, Any]) -> Any:
    """The column mapping of a file with the options over it, or None. Raises InputError when it is incomplete."""
    from flows.presets import read_settings_file
    from srpo_core.settings.base import parse_settings
    from srpo_core.settings.data import ColumnMapping

    values = (read_settings_file(file) if file else {}) | given
    if values and "prompt" not in values:
        raise InputError("expected --prompt-column beside the other column options, found none; name the column with the prompt")
    return parse_settings(ColumnMapping, values, "the column mapping") if values else None


def ingest_prompts(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A file, a folder, a glob, or hub:<id>[@revision][:config][/split].")
    ],
    name: Annotated[str, typer.Option("--name", help="The set's name in every table.")],
    format_name: FormatOption = "auto",
    domain: DomainOption = "unknown",
    opponent: Annotated[
        str | None, typer.Option("--opponent", metavar="PATH", help="Answers of a named opponent, joined by id and used as gold.")
    ] = None,
    max_prompts: Annotated[int | None, typer.Option("--max-prompts", help="The first so many prompts.")] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Read one evaluation set with its gold texts."""
    from srpo_core.settings.base import parse_settings
    from srpo_core.settings.data import PromptSourceSettings
    from tasks.prompts import ingest_prompts as stage

    values = {
        "name": name,
        "path": path,
        "format": format_name,
        "domain": domain,
        "opponent_path": opponent,
        "max_prompts": max_prompts,
    }
    artifact = with_line(stage)(parse_settings(PromptSourceSettings, values, "srpo ingest-prompts"), open_home(home))
    counts = {key: artifact.counts[key] for key in ("rows_read", "prompts", "rejected_rows")}
    facts = {key: value for key, value in artifact.info.items() if key != "sources"}
    _print({"fingerprint": artifact.fingerprint, **counts, "stage": artifact.stage, "path": artifact.path, **facts}, as_json)


def _print(fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(fields)
    else:
        print_fields(fields)


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into `app`."""
    app.command("ingest")(ingest)
    app.command("ingest-prompts")(ingest_prompts)
