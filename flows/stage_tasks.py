"""What all Prefect flows share: a stage function as a task, a failure as one sentence, and what a parameter names.

Prefect is only a way to start, watch and retry the stages: its result cache is off, nothing is pickled, and a run that is
started again skips by manifest what is complete. Parameters are settings, paths and ids, never rows.
"""

import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging.handlers import APILogHandler
from prefect.states import Failed, State
from prefect.tasks import exponential_backoff

from flows.inputs import HOME_VARIABLE, find_input, open_home
from flows.stage_lines import with_line
from srpo_core.config import Dtype, ModelSettings, PromptSourceSettings
from srpo_core.errors import InputError, WorkFailed
from storage.artifact import Artifact
from storage.errors import StorageError

RETRIES = 3
FIRST_DELAY_SECONDS = 10  # doubled from try to try, and up to half as long again by chance
EXPECTED = (InputError, WorkFailed, StorageError)  # their message is one sentence for a person
TRANSIENT = (ConnectionError, TimeoutError, httpx.TransportError)
logger = logging.getLogger("srpo")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def as_prefect_task(stage: Callable[..., Any]) -> Callable[..., Any]:
    """`stage` as a Prefect task that is called the same way and returns the same.

    A failed connection is tried again, bad input never. What the stage logs reaches the run's log. An expected error comes out
    with the stage's name before its sentence.
    """

    @wraps(stage)
    def run_stage(*args: Any, **options: Any) -> Any:
        with _log_reaches_prefect():
            return with_line(stage)(*args, **options)

    @wraps(stage)
    def call(*args: Any, **options: Any) -> Any:
        title = _title(stage, args, options)
        stage_task = task(
            name=stage.__name__.replace("_", " "),
            task_run_name=lambda: title,
            description=inspect.getdoc(stage),
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=RETRIES,
            retry_delay_seconds=exponential_backoff(FIRST_DELAY_SECONDS),
            retry_jitter_factor=0.5,
            retry_condition_fn=_failed_by_a_transient_fault,
        )(run_stage)
        try:
            return stage_task(*args, **options)
        except EXPECTED as error:
            raise type(error)(f"{title}: {error}") from error

    return call


def fails_in_one_sentence(body: Callable[Parameters, Result]) -> Callable[Parameters, Result | State[Any]]:
    """The body of a flow whose expected errors end it in a failed state with their sentence as its message."""

    @wraps(body)
    def run(*args: Parameters.args, **options: Parameters.kwargs) -> Result | State[Any]:
        try:
            return body(*args, **options)
        except EXPECTED as error:
            return Failed(message=str(error), data=error)

    return run


def is_transient(error: BaseException | None) -> bool:
    """Whether a fault may be gone when tried again: a failed connection, or work that failed because of one."""
    while error is not None and not isinstance(error, InputError | StorageError):
        if isinstance(error, TRANSIENT):
            return True
        error = error.__cause__
    return False


def home_folder(home: str) -> Path:
    """The home that a flow's parameter names: empty means $SRPO_HOME, else srpo_home in the checkout. Raises InputError."""
    return open_home(home or os.environ.get(HOME_VARIABLE, ""))


def model_like(policy: Artifact, dtype: Dtype | None) -> ModelSettings:
    """Model settings for further work with a policy: its own arithmetic unless `dtype` says otherwise."""
    values = {"name_or_path": str(policy.path), "dtype": dtype or policy.settings.get("dtype", "float32")}
    return ModelSettings.model_validate(values)


def setting_of(parameters: Mapping[str, Any], *path: str) -> Any:
    """A setting among a flow run's parameters, which are models or, from the server, plain dictionaries; None = not there."""
    value: Any = parameters
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value


def short_name(path: str) -> str:
    """A source as run names show it: a hub set whole, of a path the last part."""
    return path.removeprefix("hub:") if path.startswith("hub:") else Path(path).name


def _failed_by_a_transient_fault(stage_task: Any, task_run: Any, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)


def _title(stage: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> str:
    """The stage's name and what it works on: an evaluation set, methods, or the policy whose completions are judged."""
    arguments = inspect.signature(stage).bind(*args, **options).arguments
    settings, completions = arguments.get("settings"), arguments.get("completions")
    subject = ""
    if isinstance(settings, PromptSourceSettings):
        subject = settings.name
    elif isinstance(settings, list):
        subject = ", ".join(one.method for one in settings)
    elif isinstance(completions, Artifact):
        subject = _judged(completions, arguments["home"])
    name = stage.__name__.replace("_", " ")
    return f"{name}: {subject}" if subject else name


def _judged(completions: Artifact, home: Path) -> str:
    policy, prompts = (
        find_input(home, stage, completions.manifest["parents"][name]["fingerprint"])
        for name, stage in (("policy", "policies"), ("prompts", "prompts"))
    )
    return f"{policy.info['name']} on {prompts.settings['name']}"


@contextmanager
def _log_reaches_prefect() -> Iterator[None]:
    """Lines of the logger `srpo` go to the run's log on the server too."""
    if any(isinstance(handler, APILogHandler) for handler in logger.handlers):  # by PREFECT_LOGGING_EXTRA_LOGGERS
        yield
        return
    handler, level = APILogHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
