"""The starting model of a run as a `policies` artifact: a folder, a hub model resolved to a commit, or a small new one.

Weights of a folder or of the hub are not copied: the artifact records where they lie and the hashes of their files.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from srpo_core.errors import HubIsDown, InputError, first_line, is_network_fault
from srpo_core.settings.model import GenerationSettings, ModelSettings, TemplateSettings
from storage import parquet
from storage.artifact import Artifact, compute_fingerprint, find_artifact, writing

VERSION = 1
TEXTS_FOR_TOKENIZER = 20_000
WEIGHT_OF_TEMPLATE = 1000  # the template's words stand in every revision prompt, so they count as so many texts
WEIGHTS = re.compile(r".*\.safetensors$")
SMALL_FILES = re.compile(r".*\.(json|jinja|txt|model)$")
logger = logging.getLogger("srpo")


def model_folder(policy: Artifact) -> Path:
    """Where a policy's weights, tokenizer and template lie."""
    external = policy.info.get("model_folder")
    return Path(external) if external else policy.path / "model"


class ModelFiles(NamedTuple):
    """Weights that lie outside the home, and what names them."""

    folder: Path
    origin: dict[str, Any]  # name_or_path and commit of a hub model; of a folder one hash over its files


def locate_model(name: str, revision: str | None) -> ModelFiles:
    """The files of a model: those of a folder, or of a hub model, downloaded where they are not here yet.

    A hub model is named by its commit, a folder by what it holds, wherever it lies. Raises InputError for a folder without
    weights or tokenizer, and for a hub model that cannot be had.
    """
    folder = Path(name)
    commit = None if folder.is_dir() else _resolve_commit(name, revision)
    if commit is not None:
        folder = _download(name, commit)
    _check_files(folder, name)
    origin = {"name_or_path": name, "commit": commit} if commit else {"files": _hash_files(folder)}
    return ModelFiles(folder.resolve(), origin)


def prepare_base_model(
    settings: ModelSettings, home: Path, data: Artifact | None, template: TemplateSettings | None = None
) -> Artifact:
    """The starting model. `data` (demonstrations or preferences) gives the texts a small model's tokenizer is learned from, and
    `template` the words of its own that will stand in every prompt.

    Raises InputError for a folder without weights or tokenizer, and for a hub model that cannot be had.
    """
    if settings.small is not None:
        return _make_small(settings, home, data, template)
    name = str(settings.name_or_path)
    folder, origin = locate_model(name, settings.revision)
    asked = {"method": "hub", "settings": origin}
    fingerprint = compute_fingerprint("policies", VERSION, asked, {})
    with writing(home, "policies", fingerprint, version=VERSION, settings=asked, parents={}) as writer:
        if writer.artifact is not None and writer.artifact.info["model_folder"] == str(folder):
            return writer.artifact
        listing = writer.path / "weights.json"
        parquet.write_json(listing, asked)
        return writer.complete([listing], info={"name": name, "model_folder": str(folder)})


def adopt_reference(
    base: Artifact, *, model: ModelSettings, template: TemplateSettings, decoding: GenerationSettings | None, home: Path
) -> Artifact:
    """The starting model as the reference, without supervised training: its files, linked, beside the template's settings.

    Raises InputError when its tokenizer and the template do not go together.
    """
    asked = base.settings | {"template": template.model_dump(), "max_length": model.max_length, "dtype": model.dtype}
    fingerprint = compute_fingerprint("policies", VERSION, asked, {"base": base})
    found = find_artifact(home, "policies", fingerprint)
    if found is not None:
        return found
    with writing(home, "policies", fingerprint, version=VERSION, settings=asked, parents={"base": base}) as writer:
        if writer.artifact is not None:
            return writer.artifact
        from srpo_core.models import load_tokenizer
        from srpo_core.tokenization import PromptTokenizer

        folder = writer.path / "model"
        _link_files(model_folder(base), folder, home)
        PromptTokenizer(load_tokenizer(folder), template, model.max_length).save_template(folder, decoding)
        return writer.complete(list_files(folder), info={"name": base.info["name"]})


def _link_files(source: Path, target: Path, home: Path) -> None:
    """Symbolic links to a model's files: relative within the home, so that it can be moved."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in source.resolve().iterdir():
        if WEIGHTS.match(path.name) or SMALL_FILES.match(path.name):
            inside = path.is_relative_to(home.resolve())
            (target / path.name).symlink_to(os.path.relpath(path, target.resolve()) if inside else path.resolve())


def _make_small(settings: ModelSettings, home: Path, data: Artifact | None, template: TemplateSettings | None) -> Artifact:
    if data is None or settings.small is None:
        raise InputError("expected texts to learn a small model's tokenizer from, found none; give demonstrations or preferences")
    own_words = [] if template is None else [template.revision_request, template.system_prompt or ""]
    small = settings.small.model_dump() | {"max_length": settings.max_length, "own_words": own_words}
    asked = {"method": "small", "settings": small}
    fingerprint = compute_fingerprint("policies", VERSION, asked, {"data": data})
    found = find_artifact(home, "policies", fingerprint)
    if found is not None:
        return found
    with writing(home, "policies", fingerprint, version=VERSION, settings=asked, parents={"data": data}) as writer:
        if writer.artifact is not None:
            return writer.artifact
        from srpo_core.models import create_small_model, save_model, train_tokenizer

        tokenizer = train_tokenizer(chain(own_words * WEIGHT_OF_TEMPLATE, _texts(data)), settings.small.vocab_size)
        model = create_small_model(settings.small, tokenizer, settings.max_length)
        save_model(model, tokenizer, writer.path / "model")
        logger.info("small model: %d parameters, %d tokens", sum(p.numel() for p in model.parameters()), len(tokenizer))
        counts = {"parameters": sum(p.numel() for p in model.parameters()), "tokens": len(tokenizer)}
        return writer.complete(list_files(writer.path / "model"), counts=counts, info={"name": "small"})


def _texts(data: Artifact) -> Iterator[str]:
    for number, row in enumerate(data.rows()):
        if number >= TEXTS_FOR_TOKENIZER:
            return
        yield from (message["content"] for message in row["prompt"])
        yield from (row[name] for name in ("chosen", "rejected", "draft", "completion") if row.get(name))


def list_files(folder: Path) -> list[Path]:
    """All files below a folder, in order of name."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _check_files(folder: Path, name: str) -> None:
    files = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if not any(WEIGHTS.match(file) for file in files):
        raise InputError(f"expected safetensors weights in {folder}, found {', '.join(sorted(files)) or 'nothing'}; check {name}")
    if "tokenizer.json" not in files and "tokenizer_config.json" not in files:
        raise InputError(f"expected a tokenizer beside the weights in {folder}, found none; save the tokenizer there")


def _hash_files(folder: Path) -> str:
    """One hash over the contents of a model folder's weights, configuration and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and (WEIGHTS.match(path.name) or SMALL_FILES.match(path.name)):
            digest.update(f"{path.relative_to(folder)}:{parquet.sha256_of_file(path)};".encode())
    return digest.hexdigest()


def _resolve_commit(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"expected a model folder at {name}, found none; check the path")
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    try:
        return str(HfApi().model_info(name, revision=revision).sha)
    except Exception as error:  # of the hub's library or of the HTTP library below it, which changes with its version
        kind = HubIsDown if is_network_fault(error) else InputError
        raise kind(
            f"expected a model folder or a hub model named {name}, found neither ({first_line(error)}); check name and network"
        ) from error


def _download(name: str, commit: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=patterns))
    except Exception as error:
        kind = HubIsDown if is_network_fault(error) else InputError
        raise kind(
            f"expected the files of hub model {name} at {commit}, found {type(error).__name__}; check the network"
        ) from error
