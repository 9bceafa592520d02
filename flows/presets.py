"""Presets and configuration files: YAML into checked settings, with `stage.field=value` put over them."""

from pathlib import Path
from typing import Any

import yaml

from srpo_core.errors import InputError, first_line
from srpo_core.settings.base import parse_settings
from srpo_core.settings.pipeline import PipelineSettings

FOLDER = Path(__file__).parent / "presets"


def list_presets() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """A preset's settings as written. Raises InputError for an unknown name."""
    path = FOLDER / f"{name}.yaml"
    if name not in list_presets():
        raise InputError(
            f"expected a preset ({', '.join(list_presets())}), found {name!r}; name one of them or use --config FILE"
        )
    return read_settings_file(path)


def read_settings_file(path: Path) -> dict[str, Any]:
    """A YAML file of settings. Raises InputError when it is missing, unreadable or not a mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = "none" if isinstance(error, FileNotFoundError) else first_line(error)
        raise InputError(
            f"expected a YAML file of settings at {path}, found {reason}; see docs/ingestion.md or flows/presets"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"expected settings by name in {path}, found {type(values).__name__}; see flows/presets for examples")
    return values


def override(values: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """`values` with each `stage.field=value` put over it; a value is read as YAML. Raises InputError for another form."""
    result = dict(values)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise InputError(f"expected --set stage.field=value, found {assignment!r}; for example --set training.beta=0.3")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"expected a YAML value after = in --set {assignment!r}, found {text!r}; quote it") from error
        _put(result, path.split("."), value, assignment)
    return result


def _put(target: dict[str, Any], path: list[str], value: Any, assignment: str) -> None:
    head, *rest = path
    if not rest:
        target[head] = value
        return
    inner = target.get(head)
    if inner is not None and not isinstance(inner, dict):
        raise InputError(f"expected {head} to hold settings by name in --set {assignment!r}, found {inner!r}; name a section")
    target[head] = dict(inner or {})
    _put(target[head], rest, value, assignment)


def resolve_settings(preset: str | None, config: Path | None, assignments: list[str]) -> PipelineSettings:
    """Settings of a run from a preset or a file, checked. Raises InputError naming the wrong setting."""
    if (preset is None) == (config is None):
        raise InputError("expected exactly one of --preset and --config, found both or neither; try --preset demo")
    values = load_preset(preset) if preset is not None else read_settings_file(Path(config or ""))
    return parse_settings(PipelineSettings, override(values, assignments), f"preset {preset}" if preset else str(config))
