"""What a user names in a command or a flow, made into what the stages take: the home, artifacts by id or path, settings."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srpo_core.errors import InputError

if TYPE_CHECKING:
    from storage.artifact import Artifact

HOME_VARIABLE = "SRPO_HOME"
DEFAULT_HOME = "srpo_home"
NO_SECTIONS = ("name", "methods", "evaluation", "only_sets")  # settings of a run that are a text or a list


def open_home(text: str) -> Path:
    """The home as an absolute path (workers run in another folder). Raises InputError for a remote one or a file."""
    text = text or DEFAULT_HOME
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise InputError(
            f"expected a local folder as --home, found {text}: a remote home is not possible yet; name a folder of this machine"
        )
    home = expand_user(text).absolute()
    existing = next(place for place in (home, *home.parents) if place.exists())
    if not existing.is_dir():
        raise InputError(f"expected a folder as --home, found the file {existing}; name another")
    return home


def expand_user(path: str | Path) -> Path:
    """The path with a folder in the place of ~ or ~name. Raises InputError for a name that no user here has."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"expected a user's folder at the start of {path}, found no such user; write the path out") from error


def split_ids(values: Sequence[str]) -> list[str]:
    """Ids given by repeating an option or with commas between them."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def require_ids(values: Sequence[str], option: str) -> list[str]:
    """The ids given with `option`. Raises InputError when nothing is left of them."""
    found = split_ids(values)
    if not found:
        from srpo_core.form_schema import AT_LEAST_ONE

        raise InputError(f"{AT_LEAST_ONE} with {option}, found {' '.join(values)!r}; name one")
    return found


def find_input(home: Path, stage: str, text: str) -> "Artifact":
    """The complete artifact of `stage` named by its folder, its fingerprint or a beginning of it that no other has."""
    from storage.artifact import MANIFEST, find_artifact, open_artifact

    if (Path(text) / MANIFEST).is_file():
        found = open_artifact(Path(text).absolute())
        if found.stage != stage:
            raise InputError(
                f"expected an artifact of stage {stage}, found {found.stage} at {text}; `srpo ls {stage}` lists them"
            )
        return found
    name = text.removeprefix(f"{stage}/").rstrip("/")
    known = [path.name for path in sorted((home / stage).glob("*")) if (path / MANIFEST).is_file()]
    matches = [one for one in known if one.startswith(name)] if name else []
    if len(matches) != 1:
        found_text = f"{len(matches)} ({', '.join(matches[:4])})" if matches else "none"
        raise InputError(
            f"expected one complete artifact of stage {stage} with the id or path {text!r} in {home}, found {found_text}; "
            f"`srpo ls {stage}` lists them"
        )
    artifact = find_artifact(home, stage, matches[0])
    if artifact is None:
        raise InputError(f"expected the artifact {stage}/{matches[0]} in {home}, found it gone; run its stage again")
    return artifact


def find_prompts(home: Path, completions: "Artifact") -> "Artifact":
    """The evaluation set that completions were written for."""
    return find_input(home, "prompts", completions.manifest["parents"]["prompts"]["fingerprint"])


def adopt_model(home: Path, name: str) -> "Artifact":
    """A model folder or a hub model as a policy. Raises InputError also when its tokenizer has no chat template."""
    from srpo_core.settings.base import parse_settings
    from srpo_core.settings.model import ModelSettings, TemplateSettings
    from tasks.models import adopt_reference

    model = parse_settings(ModelSettings, {"name_or_path": name}, "model")
    template = parse_settings(TemplateSettings, {}, "template")
    return adopt_reference(register_model(home, name), model=model, template=template, decoding=None, home=home)


def register_model(home: Path, name: str) -> "Artifact":
    """A model folder or a hub model as a policy. Raises InputError when it has no weights or tokenizer, or cannot be had."""
    from srpo_core.settings.base import parse_settings
    from srpo_core.settings.model import ModelSettings
    from tasks.models import prepare_base_model

    return prepare_base_model(parse_settings(ModelSettings, {"name_or_path": name}, "model"), home, None)


def require_champion(home: Path) -> "Artifact":
    """The policy that is champion now. Raises InputError when there is none, and UnusableInput when its artifact is gone."""
    from storage.registry import find_champion

    found = find_champion(home)
    if found is None:
        raise InputError(f"expected a champion in the registry of {home}, found none; `srpo promote POLICY` makes one")
    return found


def find_policy(home: Path, text: str, outside: Callable[[Path, str], "Artifact"] = adopt_model) -> "Artifact":
    """A policy by id or path, or the word champion; or a model folder or hub model, prompted by its own chat template.

    `outside` takes such a model in. Another template needs `srpo run --config` or `srpo train --method sft`, whose policies carry
    theirs with them.
    """
    from storage.artifact import MANIFEST, open_artifact
    from storage.names import CHAMPION

    folder = Path(text)
    if text == CHAMPION:
        return require_champion(home)
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        if folder.name == "model" and (folder.parent / MANIFEST).is_file():
            return open_artifact(folder.parent.absolute())
        return outside(home, str(folder.absolute()))
    if (home / "policies").is_dir() or folder.exists() or "/" not in text:
        try:
            return find_input(home, "policies", text)
        except InputError:
            if "/" not in text or folder.exists() or text.startswith(("policies/", "/", ".", "~")):
                raise
    return outside(home, text)


def by_name(values: Any, where: str) -> dict[str, Any]:
    """A section of settings, empty for none. Raises InputError for what has no names."""
    if values is not None and not isinstance(values, dict):
        raise InputError(f"expected settings by name in {where}, found {values!r}; indent its settings below it")
    return values or {}


class StageSettings:
    """The sections of settings of one stage command: a file's, with `--set` put over them."""

    def __init__(
        self, own: str, others: Sequence[str], config: Path | None, assignments: Sequence[str], method: str | None = None
    ) -> None:
        """`own`: the section of settings without a dot. Raises InputError for a section the command does not use."""
        from flows.presets import override, read_settings_file
        from srpo_core.settings.pipeline import PipelineSettings

        values = read_settings_file(expand_user(config)) if config else {}
        unknown = sorted(set(values) - set(PipelineSettings.model_fields), key=str)
        if unknown:
            raise InputError(
                f"unknown setting {unknown[0]} in {config}; the settings there are "
                f"{', '.join(sorted(PipelineSettings.model_fields))}"
            )
        values = {name: one if name in NO_SECTIONS else by_name(one, name) for name, one in values.items()}
        if method is not None:
            special = by_name(values.get("per_method", {}).get(method), f"per_method.{method}")
            values = values | {own: values.get(own, {}) | special}
        prefixed = []
        for assignment in assignments:
            head, dot, _ = assignment.partition("=")[0].partition(".")
            is_section = bool(dot) and head in PipelineSettings.model_fields
            if is_section and head not in (own, *others):
                raise InputError(
                    f"expected settings of {', '.join((own, *others))} in --set {assignment}, found {head}; leave it out here"
                )
            prefixed.append(assignment if is_section else f"{own}.{assignment}")
        self.values = override(values, prefixed)

    def section(self, section_name: str, form: Any, **given: Any) -> Any:
        """One section, checked, with options that were `given` (not None) put over it. Raises InputError naming the setting."""
        from srpo_core.settings.base import parse_settings

        values = self.values.get(section_name, {})
        return parse_settings(form, values | {key: value for key, value in given.items() if value is not None}, section_name)

    def resources(self) -> Any:
        """How the work is spread."""
        from srpo_core.settings.resources import Resources

        return self.section("resources", Resources)

    def model(self, origin: "Artifact | None" = None, name: str | None = None) -> Any:
        """The model settings; arithmetic is that of `origin`, the policy it starts from, unless said otherwise."""
        from srpo_core.settings.model import ModelSettings

        section = self.values.get("model", {})
        given: dict[str, Any] = {"name_or_path": name}
        if origin is not None:
            self.values = self.values | {
                "model": {key: value for key, value in section.items() if key in ("dtype", "max_length")}
            }
            given = {"name_or_path": str(origin.path), "dtype": None if "dtype" in section else origin.settings.get("dtype")}
        return self.section("model", ModelSettings, **given)
