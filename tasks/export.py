"""A policy as a folder that plain transformers, and any server that loads such folders, can use; the card is in `model_card.py`.

Full weights are copied byte by byte; an adapter is merged into its base, or kept beside it. The folder is filled under a
temporary name and renamed when it is whole.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.errors import InputError
from srpo_core.settings.base import parse_settings
from srpo_core.settings.model import ADAPTER_FILE, GenerationSettings, ModelSettings, TemplateSettings
from storage.artifact import Artifact, open_artifact
from tasks.hub_upload import check_base
from tasks.model_card import CardFacts, write_card
from tasks.models import SMALL_FILES, WEIGHTS, adopt_reference, model_folder

TEMPLATES_FILE = "templates.json"
BASE = "base"
PROBED_TEXTS = 50
# Written anew, whatever the policy's folder holds under these names.
_OWN_FILES = ("generation_config.json", "chat_template.jinja", "chat_template.json", TEMPLATES_FILE)
logger = logging.getLogger("srpo")


class Base(NamedTuple):
    """What an adapter stands on."""

    folder: Path
    name: str | None  # of an unchanged hub model
    commit: str | None


def export_policy(policy: Artifact, target: Path, *, merge: bool = True, overwrite: bool = False) -> Path:
    """Write `policy` to the new folder `target` and return it; records come from the home that the policy lies in.

    `merge`: whether an adapter is folded into its base. Raises InputError when `target` holds something else, when there is no
    adapter to keep apart, or when the folder of the policy is not whole.
    """
    _check_target(target, overwrite)
    policy = _with_template(policy)
    source = model_folder(policy)
    has_adapter = (source / ADAPTER_FILE).is_file()
    if not merge and not has_adapter:
        raise InputError(
            f"expected a policy with an adapter beside --no-merge, found full weights in {source}; leave --no-merge out"
        )
    temporary = target.with_name(f".{target.name}.{os.getpid()}.exporting")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        kept_base = _write_weights(policy, source, temporary, target, merge)
        _write_rest(policy, source, temporary, target, kept_base)
        _put_in_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def check_portable(policy: Artifact) -> None:
    """Raise InputError where the policy's adapter, kept apart, would stand on a folder of this machine, which nobody else has."""
    if (model_folder(policy) / ADAPTER_FILE).is_file():
        base = _base_of(policy)
        check_base(base.name or str(base.folder.absolute()))


def _check_target(target: Path, overwrite: bool) -> None:
    """Only a new or empty folder, or with `overwrite` an earlier export, may be written to."""
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"expected a new folder to export to, found the file {target}; name another")
    found = sorted(path.name for path in target.iterdir())
    if found and not overwrite:
        raise InputError(
            f"expected a new or empty folder at {target}, found {', '.join(found[:4])}; name another or use --overwrite"
        )
    if found and TEMPLATES_FILE not in found:
        raise InputError(
            f"expected an earlier export (with {TEMPLATES_FILE}) to overwrite at {target}, found {', '.join(found[:4])}; "
            "name another folder"
        )


def _put_in_place(temporary: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.{os.getpid()}.replaced")
    if target.exists():
        os.rename(target, old)
    os.rename(temporary, target)
    shutil.rmtree(old, ignore_errors=True)


def _with_template(policy: Artifact) -> Artifact:
    """The policy; a model as it was found becomes one that is prompted by its own chat template."""
    from srpo_core.tokenization import TEMPLATE_FILE

    outside = policy.info.get("model_folder")
    if not outside or (Path(outside) / TEMPLATE_FILE).is_file():
        return policy
    model = parse_settings(ModelSettings, {"name_or_path": outside}, "model")
    template = parse_settings(TemplateSettings, {}, "template")
    return adopt_reference(policy, model=model, template=template, decoding=None, home=policy.path.parent.parent)


def _write_weights(policy: Artifact, source: Path, folder: Path, target: Path, merge: bool) -> Base | None:
    """Weights and configuration; returns the base of an adapter that was kept apart."""
    if not (source / ADAPTER_FILE).is_file():
        _copy_files(source, folder)
        return None
    if merge:
        _save_merged(source, folder, policy.settings.get("dtype", "float32"))
        return None
    base = _base_of(policy)
    _copy_files(source, folder)
    if base.name is None:
        _save_merged(base.folder, folder / BASE, policy.settings.get("dtype", "float32"))
    config = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
    # The path is where the base will lie: peft takes a relative one from the working folder, not from the adapter's.
    config |= {"base_model_name_or_path": base.name or str(target.absolute() / BASE), "revision": base.commit}
    (folder / ADAPTER_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return base


def _copy_files(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        if (WEIGHTS.match(path.name) or SMALL_FILES.match(path.name)) and path.name not in _OWN_FILES and path.is_file():
            shutil.copyfile(path, folder / path.name)


def _save_merged(source: Path, folder: Path, dtype: Any) -> None:
    from transformers.utils.logging import disable_progress_bar

    from srpo_core.models import load_model, load_tokenizer, merge_adapter

    disable_progress_bar()
    merge_adapter(load_model(source, dtype)).save_pretrained(str(folder))
    load_tokenizer(source).save_pretrained(str(folder))


def _base_of(policy: Artifact) -> Base:
    """What training of the policy's adapter began with, by its hub name where that is a hub model as it was found."""
    parents = policy.manifest["parents"]
    parent = parents.get("start") or parents.get("reference") or parents.get("base")
    if parent is None:
        raise InputError(
            f"expected the model that the adapter of {policy.path} stands on among its parents, found none; leave --no-merge out"
        )
    origin = open_artifact(policy.path.parent / parent["fingerprint"])
    found = (origin.settings.get("settings") or {}) if origin.settings.get("method") == "hub" else {}
    return Base(model_folder(origin), found.get("name_or_path"), found.get("commit"))


def _write_rest(policy: Artifact, source: Path, folder: Path, target: Path, kept_base: Base | None) -> None:
    """Tokenizer with its chat template, the strings by themselves, default decoding, and the card."""
    from srpo_core.models import load_tokenizer
    from srpo_core.plain_templates import chat_template, check_rendering, same_ids, written_templates
    from srpo_core.tokenization import TEMPLATE_FILE, load_template

    tok, decoding = load_template(source, load_tokenizer(source))
    decoding = decoding or parse_settings(GenerationSettings, {}, "generation")
    tokenizer = load_tokenizer(source)
    tokenizer.chat_template = chat_template(tok)
    tokenizer.save_pretrained(str(folder))
    shutil.copyfile(source / TEMPLATE_FILE, folder / TEMPLATE_FILE)
    tokenizer = load_tokenizer(folder)
    check_rendering(tok, tokenizer)
    strings = written_templates(tok) | {"num_revisions": decoding.num_revisions}
    (folder / TEMPLATES_FILE).write_text(json.dumps(strings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for place in (folder, folder / BASE):  # servers that load an adapter take the decoding of its base
        if place.is_dir():
            _write_decoding(place, decoding, tok)
    probed = same_ids(tok, tokenizer, islice(_judged_texts(policy), PROBED_TEXTS))
    if probed[0] < probed[1]:
        logger.warning(
            "%d of %d prompts have other token ids through the chat template than in training; the card says more",
            probed[1] - probed[0],
            probed[1],
        )
    kept = None if kept_base is None else (kept_base.name or BASE, kept_base.commit)
    write_card(folder, policy, CardFacts(target.name, tok.settings.kind, decoding, probed if probed[1] else None, kept))


def _write_decoding(folder: Path, decoding: GenerationSettings, tok: Any) -> None:
    """Default decoding in the form of transformers; nothing is left to its own defaults, of which top_k is one."""
    from transformers import GenerationConfig

    pad = tok.tokenizer.pad_token_id
    sampling: dict[str, Any] = {"do_sample": decoding.temperature > 0}
    if decoding.temperature > 0:
        sampling |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    ends = {"eos_token_id": list(tok.stop_ids), "pad_token_id": tok.stop_id if pad is None else pad}
    GenerationConfig(max_new_tokens=decoding.max_new_tokens, **ends, **sampling).save_pretrained(str(folder))


def _judged_texts(policy: Artifact) -> Iterator[tuple[Any, str | None]]:
    """Prompts this policy answered, and its own drafts of them, as (prompt, draft or None)."""
    from storage.artifact import list_artifacts

    for completions in list_artifacts(policy.path.parent.parent, "completions"):
        parents = completions.manifest["parents"]
        if parents["policy"]["fingerprint"] != policy.fingerprint:
            continue
        prompts = open_artifact(policy.path.parent.parent / "prompts" / parents["prompts"]["fingerprint"])
        asked = {row["prompt_id"]: row["prompt"] for row in prompts.rows()}
        for row in completions.rows():
            if row["revision_index"] == 0:
                yield asked[row["prompt_id"]], None
                if row["text"]:
                    yield asked[row["prompt_id"]], row["text"]
