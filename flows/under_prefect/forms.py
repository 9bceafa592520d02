"""Flows as forms: what `@form` makes of a function is a Prefect flow that says what is wrong with its parameters in one sentence.

The server checks a form against the schema it was deployed with, but neither names that no parameter has nor rules that a schema
cannot state. A run that got past it ends at once, and its state message is the sentence that the command line prints.

The modules of flows are imported to deploy their forms and to check them, so a flow imports its stages, with all they stand on,
in its body, when a run begins.
"""

import inspect
from collections.abc import Callable
from functools import update_wrapper, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

from prefect import Flow
from prefect.exceptions import ParameterTypeError
from prefect.states import State
from prefect.utilities.callables import ParameterSchema, parameter_schema
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from flows.under_prefect.events import tell_of_failure
from flows.under_prefect.secrets import secrets_in_environment
from flows.under_prefect.stage_tasks import fails_in_one_sentence
from srpo_core.errors import InputError
from srpo_core.form_schema import explain

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Refused(NamedTuple):
    """Stands in for parameters that are wrong."""

    sentence: str


class FormFlow(Flow[Parameters, Result]):
    """A flow whose body, not Prefect, says what is wrong with its parameters.

    The schema of the form is made when it is asked for, by a deployment: a run needs none, and pays for it at import.
    """

    def __init__(self, fn: Callable[Parameters, Result], **options: Any) -> None:
        """As a flow; `fn` is shown to Prefect without its parameters first, whose schema Prefect would make at once."""
        self._schema: ParameterSchema | None = None
        super().__init__(_without_parameters(fn), **options)  # type: ignore[arg-type]
        self.fn = fn
        update_wrapper(self, fn)

    @property
    def parameters(self) -> ParameterSchema:  # type: ignore[override]
        """What the form offers."""
        self._schema = self._schema or parameter_schema(self.fn)
        return self._schema

    @parameters.setter
    def parameters(self, schema: ParameterSchema) -> None:
        """What Prefect makes of a function without parameters is not kept."""

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters as their types; where they are wrong, `Refused` in the place of each, which ends the run."""
        try:
            return super().validate_parameters(parameters)
        except (ParameterTypeError, TypeError, ValueError) as error:
            refused = Refused(what_is_wrong(self.fn, self.name, parameters) or str(error).replace("\n", " "))
            return dict.fromkeys(inspect.signature(self.fn).parameters, refused)


def _without_parameters(function: Callable[..., Result]) -> Callable[[], Result]:
    """A function of the same name, module and description."""

    def shown() -> Result:
        return function()

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(shown, name, getattr(function, name))
    return shown


def form(
    name: str, flow_run_name: str | Callable[[], str]
) -> Callable[[Callable[Parameters, Result]], Flow[Parameters, Result | State[Any]]]:
    """Makes a function a flow: expected errors, wrong parameters among them, end it in a failed state with their sentence.

    Keys that its parameters name are read from Secret blocks where the environment does not have them.
    """

    def make(body: Callable[Parameters, Result]) -> Flow[Parameters, Result | State[Any]]:
        @wraps(body)
        def run(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
            given = (*args, *options.values())
            refused = next((one for one in given if isinstance(one, Refused)), None)
            if refused is not None:
                raise InputError(refused.sentence)
            with secrets_in_environment(given):
                return body(*args, **options)

        told: dict[str, Any] = {"on_failure": [tell_of_failure], "on_crashed": [tell_of_failure]}
        return FormFlow(fails_in_one_sentence(run), name=name, flow_run_name=flow_run_name, persist_result=False, **told)

    return make


def check_parameters(flow: Flow[Any, Any], parameters: dict[str, Any]) -> None:
    """Raises InputError with the sentence that a run of the flow with these parameters would end with."""
    for one in flow.validate_parameters(parameters).values():
        if isinstance(one, Refused):
            raise InputError(one.sentence)


def what_is_wrong(body: Callable[..., Any], name: str, parameters: dict[str, Any]) -> str | None:
    """The sentence for parameters that the signature of `body` does not allow; None = it allows them."""
    values = {key: one.model_dump(mode="json") if isinstance(one, BaseModel) else one for key, one in parameters.items()}
    model = parameter_model(body)
    try:
        model.model_validate(values)
    except ValidationError as error:
        return explain(error, model, values, f"the parameters of {name}")
    return None


def parameter_model(body: Callable[..., Any]) -> type[BaseModel]:
    """The parameters of a flow as one class of settings, which refuses unknown names."""
    fields: dict[str, Any] = {
        one.name: (one.annotation, ... if one.default is one.empty else one.default)
        for one in inspect.signature(body, eval_str=True).parameters.values()
    }
    return create_model("Parameters", __config__=ConfigDict(extra="forbid"), **fields)
