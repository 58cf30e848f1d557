"""From a Python object to a constraint: lists, Enums, types, schemas and expressions.

Pydantic makes the JSON schema of a type: https://docs.pydantic.dev/latest/concepts/json_schema/
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Set
from enum import Enum, EnumType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, PrivateAttr, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from ..contract.constraint import Constraint
from ..contract.record import shown
from ..errors import InvalidInput
from .expressions import NotValid
from .json_schemas import check_schema

KEYWORDS = ("returns", "choices", "regex", "grammar")
"""The arguments of the Python functions that state what the answer must be."""
_FLAGS = {re.IGNORECASE: "i", re.DOTALL: "s"}
"""The flags of a compiled expression that have a form in its text."""


class TypedConstraint(Constraint):
    """A constraint that was stated as a Python type. An answer becomes a value of that type.

    The type stays in this process. It is no part of the log, of the child or of a pickle: there
    it is the plain constraint, to which it is equal.
    """

    _type: Any = PrivateAttr(default=None)
    _adapter: TypeAdapter[Any] | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, plain: Constraint, kind: Any, adapter: TypeAdapter[Any] | None) -> TypedConstraint:
        """The constraint with its type: an Enum of choices, or one with the adapter that reads it."""
        made = cls(kind=plain.kind, source=plain.source)
        made._type, made._adapter = kind, adapter
        return made

    @property
    def type(self) -> Any:
        """The Python type that a value has."""
        return self._type

    def typed(self, answer: str) -> Any:
        """The value of an answer that the plain constraint allows. Raises `NotValid`."""
        if self._adapter is None:
            return next(member for member in self._type if _text_of(member) == answer)
        try:
            return self._adapter.validate_json(answer)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            place = "".join(
                f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
            )
            raise NotValid(f"${place}: {first['msg']}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constraint) and (self.kind, self.source) == (
            other.kind, other.source,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.kind, self.source))

    def __reduce__(self) -> Any:
        return _plain, (self.kind, self.source)

    def __deepcopy__(self, memo: Any = None) -> TypedConstraint:
        return self


def _plain(kind: Any, source: str) -> Constraint:
    return Constraint(kind=kind, source=source)


def with_constraint(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with `constraint` in the place of `returns`, `choices`, `regex` or `grammar`.

    One that is None counts as not given. Raises `InvalidInput` for two of them, and for a value
    that states no constraint.
    """
    given = {name: options[name] for name in KEYWORDS if options.get(name) is not None}
    others = {name: value for name, value in options.items() if name not in KEYWORDS}
    if others.get("constraint") is not None:
        given["constraint"] = others["constraint"]
    only_one(list(given))
    for name in given.keys() - {"constraint"}:
        others["constraint"] = _STATED[name](given[name])
    return others


def only_one(names: list[str]) -> None:
    """Raise `InvalidInput` where an answer would have to be two things."""
    if len(names) > 1:
        raise InvalidInput(f"{names[0]} and {names[1]}: an answer has one shape: give one of them")


def of_choices(choices: Any) -> Constraint:
    """The constraint to one of some texts: a list of them, or an Enum.

    A whole number stands for its text. Raises `InvalidInput`.
    """
    if isinstance(choices, EnumType):
        members: list[Any] = list(choices)
        texts = [_text_of(member) for member in members]
        if len(set(texts)) < len(texts):
            raise InvalidInput(f"choices: two members of {choices.__name__} have the same text")
        return TypedConstraint.of(_choices(texts), choices, None)
    if isinstance(choices, str | bytes | Mapping) or not isinstance(choices, Iterable):
        raise InvalidInput(
            f"choices: {shown(choices)} is no list of texts: write it in brackets, or name an Enum"
        )
    texts = [_text_of(item) for item in choices]
    return _choices(sorted(texts) if isinstance(choices, Set) else texts)


def _choices(texts: Iterable[str]) -> Constraint:
    texts = list(texts)
    if not texts:
        raise InvalidInput("choices: there is none: give at least one text")
    source = json.dumps(list(dict.fromkeys(texts)), ensure_ascii=False)
    return Constraint(kind="choices", source=source)


def _text_of(choice: Any) -> str:
    """The text of a choice. Raises `InvalidInput` for what is neither text nor a whole number."""
    value = choice.value if isinstance(choice, Enum) else choice
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "__index__") and not isinstance(value, bool):  # numpy's numbers too
        return str(value.__index__())
    raise InvalidInput(f"choices: {shown(choice)} is neither a text nor a whole number")


def of_regex(expression: Any) -> Constraint:
    """The constraint to what an expression matches as a whole, as text or compiled.

    Raises `InvalidInput`, also for a flag that no engine knows.
    """
    if isinstance(expression, re.Pattern) and isinstance(expression.pattern, str):
        given = (
            expression.flags & ~re.compile(expression.pattern).flags
        )  # not by `(?i)` in the text
        letters = "".join(letter for flag, letter in _FLAGS.items() if given & flag)
        for flag in _FLAGS:
            given &= ~flag
        if given:
            name = re.RegexFlag(given).name
            raise InvalidInput(f"regex: the flag {name} has no form that an engine takes")
        inline = f"(?{letters})" if letters else ""
        return Constraint(kind="regex", source=inline + expression.pattern)
    if not isinstance(expression, str):
        raise InvalidInput(
            f"regex: {shown(expression)} is no expression: it must be text, or what re.compile makes"
        )
    return Constraint(kind="regex", source=expression)


def of_grammar(grammar: Any) -> Constraint:
    """The constraint to what a grammar makes. Raises `InvalidInput`."""
    if not isinstance(grammar, str):
        raise InvalidInput(f"grammar: {shown(grammar)} is no text of a grammar")
    return Constraint(kind="grammar", source=grammar)


def of_schema(schema: Any) -> Constraint:
    """The constraint to a JSON schema: a mapping, or its JSON text. Raises `InvalidInput`."""
    if isinstance(schema, str):
        source = schema
    else:
        try:
            source = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"the JSON schema is not JSON: {error}") from None
    made = Constraint(kind="json_schema", source=source)  # which refuses what is too large or deep
    schema = json.loads(source)
    check_schema(schema)
    if isinstance(schema, dict):  # the text of a file on one line, as a cell can have it
        source = json.dumps(schema, ensure_ascii=False)
        made = made if source == made.source else Constraint(kind="json_schema", source=source)
    return made


def of_type(kind: Any) -> Constraint:
    """The constraint to the JSON of a Python type. The value becomes one of that type.

    A `Literal` of texts and an Enum of texts are choices: a label is written without quotes.
    Raises `InvalidInput` for what pydantic knows no JSON schema of.
    """
    labels = get_args(kind)
    if get_origin(kind) is Literal and all(type(label) is str for label in labels):
        return _choices(labels)
    members: list[Any] = list(kind) if isinstance(kind, EnumType) else []
    if members and all(isinstance(member.value, str) for member in members):
        return of_choices(kind)
    if isinstance(kind, str):  # pydantic would take it for the name of a type
        raise InvalidInput(
            f"returns: {shown(kind)} is text: give the type itself, or say regex= or grammar="
        )
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        schema = adapter.json_schema(schema_generator=_Schema)
        source = json.dumps(closed(schema), ensure_ascii=False, allow_nan=False)
    except (
        PydanticUserError, TypeError, ValueError, NameError, RecursionError, AttributeError,
    ) as error:  # fmt: skip
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise InvalidInput(
            f"returns: {shown(kind)} has no JSON schema ({reason}): give a JSON schema, a pydantic "
            "model, a dataclass, a TypedDict or a type such as list[int]"
        ) from None
    check_schema(True)  # which says what is to be installed
    return TypedConstraint.of(Constraint(kind="json_schema", source=source), kind, adapter)


class _Schema(GenerateJsonSchema):
    """Pydantic's schemas without titles of fields, which say the names again; decimals are numbers.

    Its own also allow a decimal as text, by an expression that looks ahead, which no engine can
    follow.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        bounds: Any = {
            name: float(schema[name]) for name in ("ge", "gt", "le", "lt", "multiple_of")
            if schema.get(name) is not None
        }  # fmt: skip
        number: Any = {"type": "float", **bounds}
        return super().float_schema(number)


def closed(schema: Any) -> Any:
    """The schema of a type with no keys allowed but those of its fields.

    Pydantic ignores further keys. A model that may write them does so until its tokens are used up.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(item) for key, item in schema.items()}
    if made.get("type") == "object" and isinstance(made.get("properties"), dict):
        made.setdefault("additionalProperties", False)
    return made


def of_returns(returns: Any) -> Constraint:
    """The constraint that an object stands for, as `returns=` takes it. Raises `InvalidInput`."""
    if isinstance(returns, Constraint):
        return returns
    if isinstance(returns, re.Pattern):
        return of_regex(returns)
    if isinstance(returns, Mapping | bool):
        return of_schema(returns if isinstance(returns, bool) else dict(returns))
    if isinstance(returns, list | tuple | set | frozenset):
        return of_choices(returns)
    return of_type(returns)


_STATED = {
    "returns": of_returns, "choices": of_choices, "regex": of_regex, "grammar": of_grammar,
}  # fmt: skip


def is_shape(value: Any, option: str) -> bool:
    """Whether a variable's value can be meant by the option of that name; for completion."""
    if option == "choices":
        return isinstance(value, EnumType) or (
            isinstance(value, list | tuple | set | frozenset)
            and 0 < len(value) <= 1000
            and all(isinstance(item, str | int) for item in value)
        )
    if option == "grammar":
        return isinstance(value, str)
    if isinstance(value, type):
        return (
            (issubclass(value, BaseModel) and value is not BaseModel)
            or dataclasses.is_dataclass(value)
            or hasattr(value, "__required_keys__")  # a TypedDict
            or isinstance(value, EnumType)
        )
    return isinstance(value, dict) and ("type" in value or "properties" in value)
