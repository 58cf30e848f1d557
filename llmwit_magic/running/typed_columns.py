"""Values of answers as typed columns of a DataFrame.

The types come from the constraint alone. So rows of the log and fresh ones give the same columns,
and so do a pydantic model and its JSON schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from ..contract.constraint import Constraint
from ..errors import InvalidInput, one_line
from ..requests.shapes import TypedConstraint
from .resuming import KEPT

VALUE = "value"
"""The column of an answer that has no fields."""
PROBABILITY = "p_"
"""What the columns of the choices' probabilities begin with."""
_READ = ("text", "value", "value_error")
_INT64 = range(-(2**63), 2**63)
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class ColumnType:
    """The type of a column, and what makes its values of those that JSON has."""

    dtype: Any
    convert: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True, slots=True)
class ValueColumns:
    """The columns of the values by their names, without the prefix.

    They are those of the fields of an object, or the one column `value`.
    """

    types: Mapping[str, ColumnType]
    are_fields: bool = False


NO_COLUMNS = ValueColumns({})


def value_columns(constraint: Constraint | None) -> ValueColumns:
    """The columns of a constraint's values: one for each property of an object, or else `value`.

    Raises `InvalidInput` for a property whose column would have the name of one that a batch has
    anyway.
    """
    if constraint is None:
        return NO_COLUMNS
    if constraint.kind == "choices":
        return ValueColumns({VALUE: _categories(constraint.choices)})
    if constraint.kind != "json_schema":
        return ValueColumns({VALUE: ColumnType("string")})
    schema = json.loads(constraint.source)
    whole = _resolved(schema, schema)
    properties = whole.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        return ValueColumns({VALUE: _type_of(whole, schema)})
    for name in properties:
        if not name or (name in KEPT and name != VALUE):
            raise InvalidInput(
                f"returns: the column of the field {name!r} is one that a batch has anyway: give "
                "the field another name, or an alias"
            )
    types = {name: _type_of(part, schema) for name, part in properties.items()}
    return ValueColumns(types, are_fields=True)


def plain_values(
    constraint: Constraint, found: Mapping[str, Sequence[Any]]
) -> tuple[list[Any], list[str | None]]:
    """The values of the rows as JSON has them, and why rows have none.

    `found` has the columns `text`, `value` and `value_error` of the log. A type of the notebook may
    refuse what its schema allows. It is asked here for each row, because another process that has
    run the row, or the log, does not know the type.
    """
    values: list[Any] = []
    errors: list[str | None] = []
    for text, value, error in zip(*map(found.__getitem__, _READ), strict=True):
        try:
            plain = None if value is None else json.loads(value)
        except (ValueError, TypeError):
            plain, error = None, "the log has no JSON there"
        if plain is not None and isinstance(constraint, TypedConstraint):
            try:
                constraint.typed(text)
            except Exception as problem:  # a validator of a person's own type may raise anything
                plain, error = None, one_line(f"not valid: {problem}")
        values.append(plain)
        errors.append(error)
    return values, errors


def typed_columns(
    columns: ValueColumns, values: Sequence[Any], errors: Sequence[str | None]
) -> tuple[dict[str, pandas.Series[Any]], list[str | None]]:
    """A Series for each column, and the errors of the rows with those that arise here.

    `values` are what JSON says, and None where there is none.
    """
    said = list(errors)
    found: dict[str, pandas.Series[Any]] = {}
    for name, kind in columns.types.items():
        column: list[Any] = []
        for place, value in enumerate(values):
            one = value
            if columns.are_fields:
                one = value.get(name) if isinstance(value, Mapping) else None
            try:
                column.append(None if one is None else kind.convert(one))
            except (ValueError, TypeError, OverflowError) as error:
                column.append(None)
                said[place] = said[place] or one_line(f"{name}: {error}")
        found[name] = _series(column, kind.dtype)
    return found, said


def choice_probabilities(
    constraint: Constraint, found: Sequence[str | None]
) -> dict[str, pandas.Series[Any]]:
    """A column for each choice with its probability in each row, float64.

    `found` are the values of the log's column `choice_scores`. A row without any has NaN.
    """
    rows: list[dict[str, float]] = []
    for text in found:
        try:
            scores = [] if text is None else json.loads(text)
            rows.append({score["choice"]: score["probability"] for score in scores})
        except (ValueError, TypeError, KeyError):
            rows.append({})  # damaged
    return {
        PROBABILITY + choice: pandas.Series(
            [row.get(choice, float("nan")) for row in rows], dtype="float64"
        )
        for choice in constraint.choices
    }


def judged_values(
    constraint: Constraint | None, answers: pandas.DataFrame, prefix: str
) -> pandas.Series[Any]:
    """What a metric judges in the answers of a batch, None where there is no value.

    That is the text; with a constraint the column `value`, as members where the choices are those
    of an Enum; and where the values are objects with fields, the objects, as instances of the
    notebook's type where the constraint has one.
    """
    columns = value_columns(constraint)
    found: pandas.Series[Any]
    if constraint is None or not columns.are_fields:
        found = answers[prefix + (VALUE if columns.types else "text")]
        if isinstance(constraint, TypedConstraint) and constraint.kind == "choices":
            members = [None if pandas.isna(one) else constraint.typed(str(one)) for one in found]
            return pandas.Series(members, found.index, dtype=object)
        return found
    read = constraint.typed if isinstance(constraint, TypedConstraint) else json.loads
    texts = answers[f"{prefix}text"]
    # A row that was refused before its run has no text.
    valid = answers[f"{prefix}value_error"].isna() & texts.notna()
    values = [read(text) if use else None for text, use in zip(texts, valid, strict=True)]
    return pandas.Series(values, answers.index, dtype=object)


def _series(values: list[Any], dtype: Any) -> pandas.Series[Any]:
    if dtype == "float64":
        values = [float("nan") if value is None else value for value in values]
    made: pandas.Series[Any] = pandas.Series(values, dtype=object)
    return made if dtype == "object" else made.astype(dtype)


# Types ------------------------------------------------------------------------------


def _type_of(schema: Any, root: Any) -> ColumnType:
    """The type of the column for values of a JSON schema. Null is a missing value in each."""
    schema = _resolved(schema, root)
    kinds = list(_alternatives(schema, root))
    options = [
        option for one in kinds for option in _options(one) if option is not None
    ]  # fmt: skip
    if options and all(_options(one) for one in kinds):
        if all(isinstance(option, str | bool | int | float) for option in options):
            return _categories(options)
        return ColumnType("object")
    types = {name for one in kinds for name in _names(one)} - {"null"}
    if types == {"string"}:
        formats = {one.get("format") for one in kinds if "string" in _names(one)}
        if formats <= {"date", "date-time"}:
            return ColumnType("datetime64[us]", _time)
        return ColumnType("string")
    if types == {"integer"}:
        return ColumnType("Int64", _whole)
    if types and types <= {"integer", "number"}:
        return ColumnType("float64", float)
    if types == {"boolean"}:
        return ColumnType("boolean")
    return ColumnType("object")


def _resolved(schema: Any, root: Any) -> Mapping[str, Any]:
    """The schema that a `$ref` within the document leads to; the schema itself where it has none.

    A part that is no mapping, as `true`, says nothing.
    """
    for _ in range(32):
        if not isinstance(schema, Mapping):
            return _NOTHING
        whole = schema.get("allOf")
        if isinstance(whole, list) and len(whole) == 1:
            schema = whole[0]
            continue
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        schema = _at(root, reference)
    return _NOTHING


def _at(root: Any, reference: str) -> Any:
    found = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _alternatives(schema: Mapping[str, Any], root: Any) -> Iterator[Mapping[str, Any]]:
    """What `anyOf` or `oneOf` offer beside null; the schema itself where it has neither."""
    several = schema.get("anyOf") or schema.get("oneOf")
    if not isinstance(several, list):
        yield schema
        return
    for one in several:
        part = _resolved(one, root)
        if part.get("type") != "null":
            yield part


def _options(schema: Mapping[str, Any]) -> list[Any]:
    if "const" in schema:
        return [schema["const"]]
    options = schema.get("enum")
    return list(options) if isinstance(options, list) else []


def _names(schema: Mapping[str, Any]) -> list[str]:
    """The types that a schema names; `any` where it names none."""
    name = schema.get("type", "any")
    return name if isinstance(name, list) else [name]


def _categories(options: Sequence[Any]) -> ColumnType:
    return ColumnType(pandas.CategoricalDtype(list(dict.fromkeys(options))))


def _whole(value: Any) -> int:
    number = int(value)
    if number not in _INT64:
        raise ValueError(f"{str(number)[:24]} does not fit into 64 bits")
    return number


def _time(value: Any) -> pandas.Timestamp:
    """The time, without a zone; one with a zone is converted to UTC, as the log's times are."""
    try:
        time = pandas.Timestamp(value)
    except ValueError:
        raise ValueError(f"{str(value)[:40]!r} is no date that pandas has") from None
    return time.tz_convert(None) if time.tzinfo else time
