"""Settings as a form: the JSON schema a web form is drawn from and checked with, and the sentence for a value that is wrong.

A form is drawn from the same schema that refuses its values, and the command line takes its sentence from there too, so that both
say the same. JSON Schema as pydantic writes it is arranged in three ways for that:

- What may be none, or is one of several kinds, is an `anyOf`, whose error repeats the whole group instead of naming the field.
  Here the branches of `anyOf` only draw the form: each is a resource of its own (`$id`) in which the definition it refers to
  allows everything. Beside them stands the schema that is really checked, whose errors are those of single fields.
- A rule about several fields is an `if` whose `else` is a `const` with the rule's sentence, which the error then quotes.
- Fields have a position, for databases that do not keep the order of names.
"""

from typing import Annotated, Any, NamedTuple, get_args

from pydantic import BaseModel, Field, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

Schema = dict[str, Any]
ANYTHING: Schema = {}
SOMETHING: Schema = {"not": {"type": "null"}}
NAMES = {"integer": "number", "number": "number", "string": "text", "boolean": "yes or no", "array": "list", "null": "none"}
AT_LEAST_ONE = "expected at least one name"
# What limits a value and says nothing about none: checked beside the branches, so that the error names the limit.
LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "pattern", "minItems")
WORDS = {
    **{"num": "number of", "lora": "LoRA", "bos": "BOS", "url": "URL", "api": "API", "gib": "GiB", "adam": "Adam"},
    **{"logp": "log-prob", "dtype": "arithmetic"},
}


class Rule(NamedTuple):
    """What must hold between several fields: a JSON schema that allowed values fulfil, and the beginning of the sentence."""

    allowed: Schema
    sentence: str


def title_of(name: str, info: Any) -> str:
    """A field's name as a person writes it: `learning_rate` is Learning rate."""
    words = [WORDS.get(word, word) for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def given(name: str) -> Schema:
    """Allows what has a value other than none under `name`."""
    return present(name, SOMETHING)


def absent(name: str) -> Schema:
    """Allows what has none under `name`, or nothing at all."""
    return {"properties": {name: {"type": "null"}}}


def within(name: str, allowed: Schema) -> Schema:
    """Allows what has a value that `allowed` fulfils under `name`, or nothing at all."""
    return {"properties": {name: allowed}}


def present(name: str, allowed: Schema) -> Schema:
    """Allows what has a value that `allowed` fulfils under `name`."""
    return within(name, allowed) | {"required": [name]}


def either(*allowed: Schema) -> Schema:
    """Allows what fulfils one of `allowed` at least."""
    return {"anyOf": list(allowed)}


def both(*allowed: Schema) -> Schema:
    """Allows what fulfils all of `allowed`."""
    return {"allOf": list(allowed)}


def implies(condition: Schema, allowed: Schema) -> Schema:
    """Allows what fulfils `allowed`, or does not fulfil `condition`."""
    return either({"not": condition}, allowed)


def arrange_model(model: type[BaseModel], schema: Schema, rules: tuple[Rule, ...]) -> None:
    """Give the fields of a model's schema positions and errors of their own, and state its rules."""
    for position, (name, field) in enumerate(schema.get("properties", {}).items()):
        field.setdefault("position", position)
        if "const" in field:  # drawn as a text, which could be changed; a choice of one could not
            field["enum"] = [field.pop("const")]
        arrange_choice(field, model_names(_annotation(model, name)))
    for rule in reversed(rules):
        found = {key: schema.pop(key) for key in ("if", "then", "else") if key in schema}
        schema |= {"if": rule.allowed, "else": {"const": rule.sentence}} | ({"then": found} if found else {})


def _annotation(model: type[BaseModel], name: str) -> Any:
    info: FieldInfo | None = model.model_fields.get(name)
    return None if info is None else info.annotation


def model_names(annotation: Any) -> list[str]:
    """Names of the settings classes in an annotation, as the schema's definitions are called."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation.__name__]
    return [name for inner in get_args(annotation) for name in model_names(inner)]


def arrange_choice(field: Schema, names: list[str]) -> None:
    """Part what draws a choice from what checks it; a field that is no choice, or arranged already, stays as it is."""
    branches: list[Schema] = field.get("anyOf") or field.get("oneOf") or []
    if not branches or "if" in field or "allOf" in field:
        return
    inner = [one for one in branches if one.get("type") != "null"]
    nullable = len(inner) < len(branches)
    kinds = field.pop("discriminator", None)
    if len(inner) == 1 and "allOf" in inner[0]:  # kinds that were arranged before none was added to them
        checked, drawn = {"allOf": inner[0]["allOf"]}, list(inner[0]["anyOf"])
    elif kinds is not None:
        checked, drawn = {"allOf": _by_kind(kinds)}, [_drawn_only(one, names) for one in inner]
    elif len(inner) == 1 and "$ref" in inner[0]:
        checked, drawn = dict(inner[0]), [_drawn_only(inner[0], names)]
    else:
        _limit_beside(field, inner)
        for one in branches:
            one.setdefault("title", NAMES.get(str(one.get("type")), "value"))
        return
    field.pop("oneOf", None)
    field["anyOf"] = drawn + ([{"type": "null", "title": NAMES["null"]}] if nullable else [])
    field |= {"if": {"type": "null"}, "else": checked} if nullable else checked


def _drawn_only(reference: Schema, names: list[str]) -> Schema:
    """A reference that a form follows to the real definition, and a check to one that allows everything."""
    return {"$id": "form/" + "-".join(names), **reference, "definitions": dict.fromkeys(names, ANYTHING)}


def _by_kind(discriminator: Schema) -> list[Schema]:
    """The schema of each kind for values of that kind, and that the kind is one of them."""
    name, references = discriminator["propertyName"], discriminator["mapping"]
    known: Schema = {"type": "object", **present(name, {"enum": list(references)})}
    return [known, *({"if": present(name, {"const": kind}), "then": {"$ref": one}} for kind, one in references.items())]


def _limit_beside(field: Schema, inner: list[Schema]) -> None:
    if len(inner) == 1 and "enum" not in inner[0]:
        field |= {key: inner[0].pop(key) for key in LIMITS if key in inner[0]}


class OneOfKinds:
    """Annotates a union of settings classes told apart by `kind`, so that its errors are those of the kind that is named."""

    def __init__(self, *models: type[BaseModel]) -> None:
        self._names = [model.__name__ for model in models]

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        """The union's schema, arranged."""
        schema = handler(core_schema)
        arrange_choice(schema, self._names)
        return schema


class _ChecksTheMinimum:
    """Annotates a list, so that the error of one that is too short is AT_LEAST_ONE."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        """The list's schema with the minimum as a rule."""
        schema = handler(core_schema)
        return schema | {"if": {"minItems": schema.pop("minItems")}, "else": {"const": AT_LEAST_ONE}}


Names = Annotated[list[str], Field(min_length=1), _ChecksTheMinimum()]  # at least one, as the command line requires


def schema_of(model: type[BaseModel]) -> Schema:
    """The schema of one class of settings, as a form for it is checked."""
    schema = model.model_json_schema(ref_template="#/definitions/{model}")
    return schema | {"definitions": schema.pop("$defs", {})}


def explain(error: ValidationError, model: type[BaseModel], values: Any, where: str) -> str:
    """One sentence on what is wrong with `values`: where, what a form would say, and what is known there.

    What the schema cannot state, such as a sum below one, is said in the words of the model's own check.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    first = error.errors()[0]
    own = str(first["msg"]).removeprefix("Value error, ")
    wrong = [_path(one["loc"], values) for one in error.errors()]
    errors = Draft202012Validator(schema_of(model)).iter_errors(values)
    found = best_match(one for one in errors if not _is_coerced(one, wrong))
    if found is None:
        return _in_own_words(first, own, values, where)
    path = [str(part) for part in found.absolute_path]
    if found.validator == "const" and own.startswith(str(found.validator_value)):  # a rule, and what was found against it
        return f"{_subject(path, where)}: {own}"
    if found.validator == "additionalProperties" and found.validator_value is False:
        known = sorted(found.schema["properties"])
        unknown = next(name for name in sorted(found.instance, key=str) if name not in known)
        place = ".".join([*path, str(unknown)])
        return f"unknown setting {place} in {where}: {found.message}; the settings there are {', '.join(known)}"
    is_rule = found.validator == "const" and str(found.validator_value).startswith("expected ")
    reason = str(found.validator_value) if is_rule else found.message
    return f"{_subject(path, where)}: {reason}"


def _in_own_words(first: Any, own: str, values: Any, where: str) -> str:
    shown = first["type"] != "value_error" and not isinstance(first["input"], dict | BaseModel)
    path = [str(part) for part in _path(first["loc"], values)]
    return f"{_subject(path, where)}: {own}" + (f", found {first['input']!r}" if shown else "")


def _path(loc: tuple[Any, ...], values: Any) -> list[Any]:
    """Where in `values` the error of pydantic at `loc` is, without the names of kinds that pydantic puts between."""
    path: list[Any] = []
    for part in loc:
        try:
            values = values[part]
        except (LookupError, TypeError):
            continue
        path.append(part)
    return path


def _is_coerced(error: Any, wrong: list[list[Any]]) -> bool:
    """Whether the schema refuses a type that the settings take: YAML reads 1e-5 as a text, which they make a number of."""
    place = list(error.absolute_path)
    return error.validator in ("type", "anyOf") and not any(path[: len(place)] == place for path in wrong)


def _subject(path: list[str], where: str) -> str:
    return f"setting {'.'.join(path)} in {where}" if path else where
