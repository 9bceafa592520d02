"""The base of every settings class, and the reading of values into one: a wrong value fails here, before any work starts."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from srpo_core.errors import InputError
from srpo_core.form_schema import Rule, Schema, arrange_model, explain, title_of


class Settings(BaseModel):
    """Base: unknown keys are refused, values are immutable, and the schema is one that a form can be made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, field_title_generator=title_of)
    form_rules: ClassVar[tuple[Rule, ...]] = ()  # rules about several fields that a schema can state

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        """The schema of this class, arranged as a form."""
        reference = handler(core_schema)
        arrange_model(cls, handler.resolve_ref_schema(reference), cls.form_rules)
        return reference


def parse_settings(model: type[BaseModel], values: dict[str, Any], where: str) -> Any:
    """Validate `values`; raise InputError naming the first wrong field, what was found and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, model, values, where)) from error
