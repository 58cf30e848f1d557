"""Values of Python and of the component model, by the types of a component's exports."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from functools import partial
from typing import Any

from wasmtime import component
from wasmtime.component import Record, ResourceType, Variant

from ..contract.record import F32_MAX, real, shown
from ..errors import InvalidInput
from . import wasmtime_repairs  # noqa: F401  (it tells a bool from a number)

_RANGES: dict[type, tuple[int, int]] = {
    component.U8: (0, 2**8 - 1), component.U16: (0, 2**16 - 1), component.U32: (0, 2**32 - 1),
    component.U64: (0, 2**64 - 1), component.S8: (-(2**7), 2**7 - 1),
    component.S16: (-(2**15), 2**15 - 1), component.S32: (-(2**31), 2**31 - 1),
    component.S64: (-(2**63), 2**63 - 1),
}  # fmt: skip


def lowered(value: Any, kind: Any, name: str) -> Any:
    """The value of a component for a value of Python. `name` is the parameter's, for errors.

    - A record is a mapping with its fields; an optional one may be left out. `_` stands for `-`.
    - A variant is a text for a case alone, or a mapping of one case to its value.
    - An option is None or a value; flags are a list of names; a result is a mapping of `ok` or
      `err`.

    Raises `InvalidInput`.
    """
    try:
        return _lowered(value, kind, name)
    except InvalidInput:
        raise
    except Exception as error:  # the value's own methods may raise anything
        raise _not_valid(value, f"of the type {type_name(kind)}", name) from error


def _lowered(value: Any, kind: Any, name: str) -> Any:
    if (bounds := _RANGES.get(type(kind))) is not None:
        return _whole(value, bounds, name)
    if isinstance(kind, component.F32 | component.F64):
        return _number(value, isinstance(kind, component.F32), name)
    if isinstance(kind, component.Bool) and isinstance(value, bool):
        return value
    if isinstance(kind, component.String | component.Char):
        return _text(value, isinstance(kind, component.Char), name)
    if isinstance(kind, component.ListType):
        return _list(value, kind, name)
    if isinstance(kind, component.TupleType):
        return _tuple(value, kind, name)
    if isinstance(kind, component.RecordType):
        return _record(value, kind, name)
    if isinstance(kind, component.OptionType):
        return _option(value, kind, name)
    if isinstance(kind, component.EnumType):
        return _word(value, kind.names, name)
    if isinstance(kind, component.FlagsType):
        words = value if isinstance(value, list | tuple | set | frozenset) else [value]
        return {_word(each, kind.names, name) for each in words}
    if isinstance(kind, component.VariantType | component.ResultType):
        return _variant(value, kind, name)
    wanted = "true or false" if isinstance(kind, component.Bool) else "a value that this host makes"
    raise _not_valid(value, wanted, name)


def lifted(value: Any, kind: Any) -> Any:
    """The value of Python for a value of a component.

    A record is a dict whose names have `_` for `-`. A variant is a text for a case alone, or a dict
    of the one case. An option is None or the value. A result is a dict of `ok` or `err`; see
    `outcome` for the one that a function returns.
    """
    if isinstance(kind, component.ListType):
        return value if isinstance(value, bytes) else [lifted(each, kind.element) for each in value]
    if isinstance(kind, component.TupleType):
        return tuple(lifted(*each) for each in zip(value, kind.elements, strict=True))
    if isinstance(kind, component.RecordType):
        return {
            name.replace("-", "_"): lifted(getattr(value, name), inner)
            for name, inner in kind.fields
        }
    if isinstance(kind, component.OptionType):
        if kind._tagged():  # an option of an option
            return None if value.tag == "none" else lifted(value.payload, kind.payload)
        return None if value is None else lifted(value, kind.payload)
    if isinstance(kind, component.VariantType | component.ResultType):
        case, inner, payload = _case_of(value, kind)
        return case if inner is None else {case: lifted(payload, inner)}
    if isinstance(kind, component.F32):
        return real(_float32(value))
    return sorted(value) if isinstance(kind, component.FlagsType) else value


def outcome(value: Any, kind: Any) -> tuple[Any, Any | None]:
    """What a function has returned: its value, and the error where it returns an error.

    Only the error of a `result` is one. Each is a value of Python.
    """
    if not isinstance(kind, component.ResultType):
        return lifted(value, kind), None
    case, inner, payload = _case_of(value, kind)
    found = None if inner is None else lifted(payload, inner)
    return (found, None) if case == "ok" else (None, "an error" if found is None else found)


def type_name(kind: Any, resources: Mapping[str, ResourceType] | None = None) -> str:
    """A type in the words of WIT: `list<u8>`, or `record { name: string }`.

    A resource is `own<NAME>` or `borrow<NAME>` where it is among the named ones.
    """
    inside = partial(type_name, resources=resources)
    if isinstance(kind, component.ListType):
        return f"list<{inside(kind.element)}>"
    if isinstance(kind, component.OptionType):
        return f"option<{inside(kind.payload)}>"
    if isinstance(kind, component.TupleType):
        return f"tuple<{', '.join(map(inside, kind.elements))}>"
    if isinstance(kind, component.RecordType):
        fields = ", ".join(f"{name}: {inside(inner)}" for name, inner in kind.fields)
        return f"record {{ {fields} }}"
    if isinstance(kind, component.EnumType | component.FlagsType):
        form = "enum" if isinstance(kind, component.EnumType) else "flags"
        return f"{form} {{ {', '.join(kind.names)} }}"
    if isinstance(kind, component.VariantType | component.ResultType):
        cases = (
            name if inner is None else f"{name}({inside(inner)})" for name, inner in kind._cases()
        )
        form = "variant" if isinstance(kind, component.VariantType) else "result"
        return f"{form} {{ {', '.join(cases)} }}"
    word = type(kind).__name__.lower().removesuffix("type")
    if isinstance(kind, component.OwnType | component.BorrowType):
        names = (name for name, resource in (resources or {}).items() if resource == kind.ty)
        return "".join([word, *(f"<{name}>" for name in names)])
    return word


def _case_of(value: Any, kind: Any) -> tuple[str, Any, Any]:
    """The case of a value, the case's type and its payload.

    wasmtime leaves the case out where the types of the cases tell it.
    """
    cases = kind._cases()
    if kind._tagged():
        inner = dict(cases)[value.tag]
        return value.tag, inner, value.payload
    for name, inner in cases:
        classes: set[type] = set()
        if inner is not None:
            inner.add_classes(classes)
        if value is None if inner is None else isinstance(value, tuple(classes)):
            return name, inner, value
    raise TypeError(f"{value!r} is none of the cases")


def _whole(value: Any, bounds: tuple[int, int], name: str) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except Exception:  # as of a class, or of an array
        number = None
    if number is not None and bounds[0] <= number <= bounds[1]:
        return number
    raise _not_valid(value, f"a whole number from {bounds[0]:,} to {bounds[1]:,}", name)


def _number(value: Any, is_short: bool, name: str) -> float:
    is_array = getattr(value, "ndim", 0) != 0
    number = None if is_array else real(value)
    if not isinstance(number, float):
        raise _not_valid(value, "a number", name)
    if is_short and math.isfinite(number) and abs(number) > F32_MAX:
        raise _not_valid(value, f"a number of 32 bits, from {-F32_MAX:g} to {F32_MAX:g}", name)
    return number


def _text(value: Any, is_character: bool, name: str) -> str:
    if isinstance(value, str) and not (is_character and len(value) != 1):
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise _not_valid(value, "a text without lone surrogates", name)
        return str.__str__(value)  # of a class that comes from it, as of numpy
    raise _not_valid(value, "one character" if is_character else "a text", name)


def _list(value: Any, kind: component.ListType, name: str) -> Any:
    if isinstance(kind.element, component.U8):
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if isinstance(value, str):  # a guest of bytes mostly wants JSON or a text
            return _text(value, False, name).encode()
    tolist = getattr(value, "tolist", None)  # arrays and Series
    value = tolist() if callable(tolist) else value
    if not isinstance(value, list | tuple):
        raise _not_valid(value, "a list", name)
    items = [lowered(each, kind.element, f"{name}[{place}]") for place, each in enumerate(value)]
    return bytes(items) if isinstance(kind.element, component.U8) else items


def _tuple(value: Any, kind: component.TupleType, name: str) -> tuple[Any, ...]:
    kinds = kind.elements
    if not isinstance(value, list | tuple) or len(value) != len(kinds):
        raise _not_valid(value, f"a list of {len(kinds)} values", name)
    return tuple(
        lowered(each, inner, f"{name}[{place}]")
        for place, (each, inner) in enumerate(zip(value, kinds, strict=True))
    )


def _record(value: Any, kind: component.RecordType, name: str) -> Record:
    if not isinstance(value, Mapping):
        raise _not_valid(value, "a mapping of its fields", name)
    given = {str(key).replace("_", "-"): each for key, each in value.items()}
    fields = dict(kind.fields)
    for key in given.keys() - fields.keys():
        raise InvalidInput(f"{name} has no field {shown(key)}: it has {', '.join(fields)}")
    made = Record()
    for key, inner in fields.items():
        if key not in given and not isinstance(inner, component.OptionType):
            raise InvalidInput(f"{name} needs '{key}'")
        setattr(made, key, lowered(given.get(key), inner, f"{name}.{key}"))
    return made


def _option(value: Any, kind: component.OptionType, name: str) -> Any:
    if value is None:
        return Variant("none") if kind._tagged() else None
    inner = lowered(value, kind.payload, name)
    return Variant("some", inner) if kind._tagged() else inner


def _word(value: Any, words: list[str], name: str) -> str:
    text = value.replace("_", "-") if isinstance(value, str) else None
    if text in words:
        return text
    raise _not_valid(value, f"one of {', '.join(words)}", name)


def _variant(value: Any, kind: Any, name: str) -> Any:
    cases = dict(kind._cases())
    case, payload = value, None
    if isinstance(value, Mapping) and len(value) == 1:
        ((case, payload),) = value.items()
    case = _word(case, list(cases), name)
    inner = cases[case]
    if inner is None and payload is not None:
        raise InvalidInput(f"{name}: {case} takes no value")
    made = None if inner is None else lowered(payload, inner, f"{name}.{case}")
    return Variant(case, made) if kind._tagged() else made


def _float32(value: float) -> Any:
    import numpy

    return numpy.float32(value) if math.isfinite(value) else value


def _not_valid(value: Any, wanted: str, name: str) -> InvalidInput:
    return InvalidInput(f"{name}: {shown(value)} is not valid: it must be {wanted}")
