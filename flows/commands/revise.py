"""`srpo revise`: a draft and its self-revisions on the terminal, with what each revision changed."""

import difflib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import HomeOption, JsonOption
from flows.commands.output import print_json
from flows.inputs import DEFAULT_HOME, expand_user, find_policy, open_home
from srpo_core.errors import InputError

REMOVED, ADDED = ("[-", "-]"), ("{+", "+}")
COLOURS = {REMOVED: "\033[31m", ADDED: "\033[32m"}


def revise(
    policy: Annotated[str, typer.Option("--policy", metavar="DIR|ID", help="A policy by folder or id.")],
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT|@FILE", help="The prompt, or @ and the file that holds it.")],
    revisions: Annotated[int, typer.Option("--revisions", metavar="N", help="Revisions after the draft.")] = 3,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="0 takes the likeliest token; else as trained for.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", metavar="N", help="Tokens of one text.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Another seed gives another draft.")] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write a draft and revise it."""
    text = read_prompt(prompt)
    folder, dtype = _policy_folder(home, policy)
    given = {
        "num_revisions": revisions,
        "num_samples": 1,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    chain = [one[0] for one in _write(folder, dtype, text, {name: value for name, value in given.items() if value is not None})]
    if as_json:
        names = ("revision_index", "text", "num_tokens", "finish_reason", "prompt_truncated")
        print_json(
            {"policy": folder, "prompt": text, "completions": [{name: getattr(one, name) for name in names} for one in chain]}
        )
        return
    if chain[0].prompt_truncated:
        print("the prompt was cut to fit the policy's context", file=sys.stderr)
    for before, one in zip([None, *chain], chain, strict=False):
        print(
            f"draft: {one.text}"
            if before is None
            else f"revision {one.revision_index}: {changes(before.text, one.text, sys.stdout.isatty())}"
        )


def read_prompt(text: str) -> str:
    """The prompt itself, or the contents of the file after an @. Raises InputError for an empty one or an unreadable file."""
    if text.startswith("@"):
        path = expand_user(text[1:])
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"expected a UTF-8 file with a prompt at {path}, found: {error}; check the path") from error
    if not text.strip():
        raise InputError("expected a prompt, found an empty text; give --prompt TEXT or --prompt @FILE")
    return text.strip()


def changes(before: str, after: str, coloured: bool) -> str:
    """`after` word by word, with what was removed from `before` between [- -] and what was added between {+ +}."""
    if before == after:
        return f"{after}  (unchanged)"
    old, new = before.split(), after.split()
    pieces = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces += new[k:m]
            continue
        pieces += [_marked(old[i:j], REMOVED, coloured)] if j > i else []
        pieces += [_marked(new[k:m], ADDED, coloured)] if m > k else []
    return " ".join(pieces)


def _marked(words: list[str], marks: tuple[str, str], coloured: bool) -> str:
    text = f"{marks[0]}{' '.join(words)}{marks[1]}"
    return f"{COLOURS[marks]}{text}\033[0m" if coloured else text


def _policy_folder(home: str, policy: str) -> tuple[Path, Any]:
    """Where the policy's weights lie, and its arithmetic."""
    from storage.artifact import MANIFEST
    from tasks.models import model_folder

    folder = expand_user(policy)
    if folder.is_dir() and not any((place / MANIFEST).is_file() for place in (folder, folder.absolute().parent)):
        return folder, "float32"
    artifact = find_policy(open_home(home), str(folder) if folder.is_dir() else policy)
    return model_folder(artifact), artifact.settings.get("dtype", "float32")


def _write(folder: Path, dtype: Any, text: str, given: dict[str, Any]) -> Any:
    from srpo_core.settings.base import parse_settings
    from srpo_core.settings.model import GenerationSettings

    parse_settings(GenerationSettings, given, "srpo revise")  # before seconds are spent on loading
    import torch

    from srpo_core.decoding import write_chains
    from srpo_core.models import arithmetic, load_model, load_tokenizer, merge_adapter
    from srpo_core.records import content_id, user_prompt
    from srpo_core.tokenization import load_template

    tok, decoding = load_template(folder, load_tokenizer(folder))
    settings = parse_settings(GenerationSettings, (decoding.model_dump() if decoding else {}) | given, "srpo revise")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = merge_adapter(load_model(folder, dtype)).to(device)
    row = {"prompt_id": content_id("prompt", text), "prompt": user_prompt(text)}
    with arithmetic(dtype, device):
        yield from write_chains(model, tok, [row], "policy", settings)


def add_commands(app: typer.Typer) -> None:
    """Put the command of this file into `app`."""
    app.command("revise")(revise)
