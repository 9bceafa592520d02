"""`srpo export`: a policy as a folder that plain transformers and served endpoints load, with a model card; optionally pushed."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import HomeOption, JsonOption
from flows.commands.output import print_json
from flows.inputs import DEFAULT_HOME, expand_user, find_policy, open_home
from srpo_core.errors import InputError


def export(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="A policy by folder or id, or champion.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    merge: Annotated[bool, typer.Option("--merge/--no-merge", help="Fold an adapter into its base, or keep both.")] = True,
    push: Annotated[str | None, typer.Option("--push", metavar="OWNER/NAME", help="Also upload it; needs HF_TOKEN.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; else it is private.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in DIR.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write a policy as safetensors, tokenizer, templates and model card."""
    from tasks.export import check_portable, export_policy
    from tasks.hub_upload import check_upload, upload_folder

    if folder == Path():
        raise InputError("expected the name of a new folder, found none (or this one); name one, such as ./exported")
    if push is not None:
        check_upload(push)
    found = find_policy(open_home(home), policy)
    if push is not None and not merge:
        check_portable(found)
    target = export_policy(found, expand_user(folder).absolute(), merge=merge, overwrite=overwrite)
    commit = upload_folder(target, push, private=not public) if push is not None else None
    if as_json:
        files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
        print_json({"policy_id": found.fingerprint, "folder": target, "files": files, "pushed": commit})
        return
    print(target)
    print(f"model card {target / 'README.md'}, with examples of revising", file=sys.stderr)
    if commit is not None:
        print(f"pushed: {commit}", file=sys.stderr)


def add_commands(app: typer.Typer) -> None:
    """Put the command of this file into `app`."""
    app.command("export")(export)
