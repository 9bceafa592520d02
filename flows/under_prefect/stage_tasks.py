"""What all Prefect flows share: a stage function as a task, a failure as one sentence, events, and what a parameter names.

Prefect is only a way to start, watch and retry the stages: its result cache is off, nothing is pickled, and a run that is
started again skips by manifest what is complete. Parameters are settings, paths and ids, never rows.
"""

import inspect
import logging
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Crashed, Failed, State
from prefect.tasks import exponential_backoff

from flows.endings import AGAIN, EXPECTED, unforeseen
from flows.inputs import HOME_VARIABLE, open_home
from flows.stage_lines import with_line
from flows.under_prefect.asset_events import emit_assets
from flows.under_prefect.cancellation import CANCELLED, ends_when_cancelled, is_cancelled
from flows.under_prefect.events import know_stage, tell_of_pairs
from flows.under_prefect.server_log import log_reaches_prefect
from srpo_core.errors import InputError, Transient, WorkFailed
from srpo_core.settings.data import PromptSourceSettings
from srpo_core.settings.model import Dtype, ModelSettings
from storage.errors import StorageError

if TYPE_CHECKING:
    from storage.artifact import Artifact

RETRIES = 3
FIRST_DELAY_SECONDS = 10  # doubled from try to try, and up to half as long again by chance
TRANSIENT = (ConnectionError, TimeoutError, httpx.TransportError)
logger = logging.getLogger("srpo")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def as_prefect_task(stage: Callable[..., Any]) -> Callable[..., Any]:
    """`stage` as a Prefect task that is called the same way and returns the same.

    A failed connection is tried again, bad input never. What the stage logs reaches the run's log. An error comes out with the
    stage's name before its sentence; one that nobody foresaw as WorkFailed, its traceback in the log. New pairs are announced.
    """

    @wraps(stage)
    def run_stage(*args: Any, **options: Any) -> Any:
        began = datetime.now(UTC)
        with log_reaches_prefect():
            result = _with_traceback(with_line(stage))(*args, **options)
            emit_assets(result, began)
            return result

    @wraps(stage)
    def call(*args: Any, **options: Any) -> Any:
        from storage.artifact import Artifact

        title, name = _title(stage, args, options), stage.__name__.replace("_", " ")
        know_stage(name)
        stage_task = task(
            name=name,
            task_run_name=lambda: title,
            description=inspect.getdoc(stage),
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=RETRIES,
            retry_delay_seconds=exponential_backoff(FIRST_DELAY_SECONDS),
            retry_jitter_factor=0.5,
            retry_condition_fn=_failed_by_a_transient_fault,
        )(run_stage)
        began = datetime.now(UTC)
        try:
            result = stage_task(*args, **options)
        except EXPECTED as error:
            raise type(error)(f"{title}: {error}") from error
        except Exception as error:
            raise WorkFailed(f"{title}: {unforeseen(error)}") from error
        if isinstance(result, Artifact) and result.stage == "preferences":
            tell_of_pairs(result, began)
        return result

    return call


def fails_in_one_sentence(body: Callable[Parameters, Result]) -> Callable[Parameters, Result | State[Any]]:
    """The body of a flow that ends failed, its message the stage and the reason, or cancelled when a person says so.

    The body is watched for a cancel also where no worker is left to tell it. An error that nobody foresaw has its traceback in
    the run's log.
    """

    @wraps(body)
    def run(*args: Parameters.args, **options: Parameters.kwargs) -> Result | State[Any]:
        try:
            return watched(*args, **options)
        except EXPECTED as error:
            return Failed(message=str(error), data=error)
        except TerminationSignal:
            if is_cancelled():
                return Cancelled(message=CANCELLED)
            return Crashed(message=f"ended by a signal; {AGAIN}, or press Retry")
        except Exception as error:  # noqa: BLE001  (the one place where every error of a flow becomes a sentence)
            return Failed(message=unforeseen(error), data=error)

    def watched(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        with ends_when_cancelled(), log_reaches_prefect():
            return _with_traceback(body)(*args, **options)

    return run


def _with_traceback(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """`function`, which logs the traceback of an error that nobody foresaw; a run's message has one line of it."""

    @wraps(function)
    def run(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        try:
            return function(*args, **options)
        except EXPECTED:
            raise
        except Exception:
            logger.exception("an error that nobody foresaw")
            raise

    return run


def is_transient(error: BaseException | None) -> bool:
    """Whether a fault may be gone when tried again: a failed connection, a server that is down, or work that failed by one."""
    if isinstance(error, Transient):
        return True
    while error is not None and not isinstance(error, InputError | StorageError):
        if isinstance(error, TRANSIENT):
            return True
        error = error.__cause__
    return False


def home_folder(home: str) -> Path:
    """The home that a flow's parameter names: empty means $SRPO_HOME, else srpo_home in the checkout. Raises InputError."""
    return open_home(home or os.environ.get(HOME_VARIABLE, ""))


def model_like(policy: "Artifact", dtype: Dtype | None) -> ModelSettings:
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
    """A source as run names show it: of a hub set its name without owner, configuration and split, of a path the last part."""
    if path.startswith("hub:"):
        owner_and_name = re.split("[@:]", path.removeprefix("hub:"))[0].split("/")
        return owner_and_name[min(1, len(owner_and_name) - 1)]
    return Path(path).name


def _failed_by_a_transient_fault(stage_task: Any, task_run: Any, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)


def _title(stage: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> str:
    """The stage's name and what it works on: an evaluation set, methods, or the policy whose completions are judged."""
    from storage.artifact import Artifact
    from storage.names import name_artifact

    arguments = inspect.signature(stage).bind(*args, **options).arguments
    settings, completions = arguments.get("settings"), arguments.get("completions")
    subject = ""
    if isinstance(settings, PromptSourceSettings):
        subject = settings.name
    elif isinstance(settings, list):
        subject = ", ".join(one.method for one in settings)
    elif isinstance(completions, Artifact):
        subject = name_artifact(completions)
    name = stage.__name__.replace("_", " ")
    return f"{name}: {subject}" if subject else name
