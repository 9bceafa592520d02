"""Keys of judges and of the hub, from Prefect Secret blocks, for runs whose environment does not have them.

A key is never a parameter, which the server keeps and shows. A judge names an environment variable (`judge.api_key_variable`);
where it is not set, the Secret block of that name in small letters with dashes stands in for it, and for HF_TOKEN the block
hf-token. A block's value is in this process's environment, and so in that of the processes it starts, while the run lasts, and
nowhere else.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect.blocks.system import Secret
from pydantic import BaseModel

from srpo_core.errors import InputError
from srpo_core.judging.judges import secret_block
from srpo_core.settings.judges import ServedJudgeSettings

HUB_VARIABLE = "HF_TOKEN"
_load: Any = Secret.load  # which waits for the server where `_sync` says so; its types do not know


@contextmanager
def secrets_in_environment(parameters: Any) -> Iterator[None]:
    """While it lasts, the variables that a flow's parameters name and HF_TOKEN are set wherever a Secret block has them."""
    loaded = {}
    try:
        for variable in sorted({HUB_VARIABLE, *key_variables(parameters)}):
            value = None if os.environ.get(variable) else find_secret(variable)
            if value is not None:
                os.environ[variable] = loaded[variable] = value
        yield
    finally:
        for variable, value in loaded.items():
            if os.environ.get(variable) == value:
                del os.environ[variable]


def find_secret(variable: str) -> str | None:
    """The value of the Secret block that stands in for `variable`; None = no such block. Raises InputError when it is no text."""
    name = secret_block(variable)
    try:
        value = _load(name, _sync=True).get()
    except ValueError:  # no such block
        return None
    if not isinstance(value, str) or not value:
        raise InputError(
            f"expected a text in the Prefect Secret block {name}, found {type(value).__name__}; save the key as text"
        )
    return value


def key_variables(settings: Any) -> set[str]:
    """The environment variables that judges anywhere in `settings` name for their keys."""
    if isinstance(settings, ServedJudgeSettings):
        return {settings.api_key_variable}
    inner: Iterable[Any] = ()
    if isinstance(settings, BaseModel):
        inner = (getattr(settings, name) for name in type(settings).model_fields)
    elif isinstance(settings, Mapping):
        inner = settings.values()
    elif isinstance(settings, list | tuple):
        inner = settings
    return {variable for one in inner for variable in key_variables(one)}
