"""Records: frozen values that are checked when they are made, and the types of their fields.

A bad value raises `InvalidInput`. Its message is one line, with the field, the value and the range.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ..errors import InvalidInput, did_you_mean

U32_MAX = 2**32 - 1
F32_MAX = 3.4028234663852886e38
SEED_MAX = 2**63 - 1


def _integer(value: Any) -> Any:
    """A whole number of any library, such as numpy, as an int; any other value unchanged.

    Nothing is rounded.
    """
    value = _scalar(value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def real(value: Any) -> Any:
    """A real number of any library as a float; any other value unchanged.

    Booleans and texts are no numbers. A float16 or float32 of numpy becomes the number that it
    prints: 0.1, and not 0.10000000149011612.
    """
    dtype, short = getattr(value, "dtype", None), ("float16", "float32")
    if str(dtype) in short and getattr(value, "ndim", None) == 0:
        printed = float(str(value))
        value = printed if abs(printed) <= F32_MAX else float(value)
    value = _scalar(value)
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def _scalar(value: Any) -> Any:
    """A single value of numpy as Python's own, so that numpy's booleans are no numbers either."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def strings(value: Any) -> Any:
    """A tuple of strings from a list or from a plain string; any other value unchanged."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def lists(value: Any) -> Any:
    """Nested lists, as JSON has them, as nested tuples."""
    return tuple(map(lists, value)) if isinstance(value, list | tuple) else value


def _encodable(text: str, info: ValidationInfo) -> str:
    """The text. Raises `InvalidInput` for a lone surrogate: it has no UTF-8 form, so neither model
    nor log can take it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{info.field_name}: a lone surrogate, {text[error.start]!a}, stands at position "
            f"{error.start}: remove it"
        ) from None
    return text


@dataclass(frozen=True, slots=True)
class Setting:
    """How a person sets a field. The option of a cell's line is made of it.

    It stands in the field's annotation.

    - `valid` is the range in words, for errors, help, docs and the JSON schema.
    - `metavar` stands for a value in the help.
    - `flags` are the option's names. Without them, its name is `--` and the field's name.
    - `sweeps`: the option takes several values, such as `0.2,0.8` or `1:5`.
    - `escapes`: in the option's text, a backslash means what it means in Python.
    - `per_cell`: the option belongs to one cell, so no default can be configured for it.
    - `slider` is the least value, the greatest value and the step of the tuning panel's slider. The
      field's own range may be wider.
    """

    valid: str = ""
    metavar: str = ""
    flags: tuple[str, ...] = ()
    sweeps: bool = False
    escapes: bool = False
    per_cell: bool = False
    slider: tuple[float, float, float] | None = None

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The field's JSON schema with the range in words as `valid`."""
        return handler(schema) | ({"valid": self.valid} if self.valid else {})


def setting_of(field: FieldInfo) -> Setting | None:
    """The field's `Setting`; None where no person sets the field."""
    return next((item for item in field.metadata if isinstance(item, Setting)), None)


# The validators stand last, because the JSON schema has only the ranges that come before them.
U32 = Annotated[int, Field(strict=True, ge=0, le=U32_MAX), BeforeValidator(_integer)]
Text = Annotated[str, AfterValidator(_encodable)]
Seed = Annotated[int, Field(strict=True, ge=0, le=SEED_MAX), BeforeValidator(_integer)]
F32 = Annotated[float, Field(strict=True, le=F32_MAX, allow_inf_nan=False)]
REAL = BeforeValidator(real)


class Record(BaseModel):
    """A frozen value whose validation errors are one line of `InvalidInput`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        defer_build=True,  # a kernel and a child each need only some of the records
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="strings",  # JSON has no word for a log-probability of minus infinity
    )

    @model_validator(mode="wrap")
    @classmethod
    def _one_line(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise InvalidInput(cls._explain(error)) from None

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        first = error.errors(include_url=False)[0]
        value = shown(first["input"])
        if not first["loc"]:
            return f"{cls.__name__}: {value} is not valid: it must be a mapping of its fields"
        name = str(first["loc"][0])
        field = cls.model_fields.get(name)
        if field is None:
            known = f"it has {', '.join(cls.model_fields)}"
            hint = did_you_mean(name, cls.model_fields, known)
            return f"{cls.__name__} has no field '{name}': {hint}"
        if first["type"] == "missing":
            return f"{cls.__name__} needs '{name}'"
        setting = setting_of(field)
        message = first["msg"][:1].lower() + first["msg"][1:]
        wanted = f"it must be {setting.valid}" if setting and setting.valid else message
        return f"{name}: {value} is not valid: {wanted}"


def shown(value: Any) -> str:
    """The value's `repr` for a message, on one line and with at most 60 characters."""
    try:
        text = " ".join(line.strip() for line in repr(value).splitlines())
    except Exception:  # a caller may pass an object whose `repr` fails
        text = f"this {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…"
