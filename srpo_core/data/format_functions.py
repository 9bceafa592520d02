"""A format the user writes: `file.py:function`, called with every source row (docs/ingestion.md).

The function takes a row and returns dictionaries. Where it reads further files (texts that are joined by id), the file lists
them in `INPUT_FILES`, relative to itself, so that a change in them is noticed.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from srpo_core.data.labelled_pairs import Row, UnusableRow
from srpo_core.errors import InputError


@dataclass(frozen=True)
class FormatFunction:
    """A loaded function and what identifies it: the hashes of its file and of the files that one names."""

    name: str
    function: Callable[[Row], Iterable[dict[str, Any]]]
    identity: dict[str, Any]

    def call(self, row: Row) -> list[dict[str, Any]]:
        """The dictionaries for one row; whatever goes wrong in the function makes the row unusable."""
        try:
            produced = self.function(row)
            produced = [produced] if isinstance(produced, dict) else list(produced)
        except UnusableRow:
            raise
        except Exception as error:  # user code
            raise UnusableRow(f"the format function failed: {type(error).__name__} {error}") from error
        if not all(isinstance(item, dict) for item in produced):
            raise UnusableRow("the format function returned something else than dictionaries")
        return produced


def is_format_function(name: str) -> bool:
    """Whether a format's name means a function in a file."""
    return ".py:" in name


def load_format_function(name: str) -> FormatFunction:
    """Load `file.py:function`. Raises InputError when the file, the function or a file of INPUT_FILES is missing."""
    file_name, _, function_name = name.rpartition(":")
    path = Path(file_name)
    if not path.is_file():
        raise InputError(f"expected a Python file for the format {name}, found none at {path}; check the path")
    module = _load_module(path, name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"expected a function {function_name} in {path}, found none; define {function_name}(row)")
    inputs = {str(item): _hash_of(path.parent / item, name) for item in getattr(module, "INPUT_FILES", ())}
    return FormatFunction(name, function, {"function": function_name, "sha256": _hash_of(path, name), "inputs": inputs})


def _load_module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"srpo_format_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"expected a Python file for the format {name}, found {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # user code
        raise InputError(f"expected {path} to load as Python, found {type(error).__name__}: {error}; repair it") from error
    return module


def _hash_of(path: Path, name: str) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror
        raise InputError(f"expected the input file {path} of the format {name}, found: {reason}; check INPUT_FILES") from error
