"""Random JSON schemas of the keywords that constraints take."""

from __future__ import annotations

import random
from typing import Any

NAMES = ("name", "total", "é", "a b", 'quote"', "x1", "list", "when", "back\\slash", "日本")
FORMATS = (
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
)
PATTERNS = ("^[a-z]{2,5}$", "^(yes|no)$", "[0-9]", "^\\w+-\\w+$", "^[A-Z][^\\n]*$", "é")


def random_schema(numbers: random.Random, depth: int = 3) -> Any:
    """A schema that some JSON satisfies, of at most that depth. A few of its lists are empty."""
    kinds = [_text, _integer, _number, _literal, _small]
    if depth > 0:
        kinds += [_object, _object, _object, _array, _tuple, _either, _both, _reference]
    schema: Any = numbers.choice(kinds)(numbers, depth - 1)
    if isinstance(schema, dict) and numbers.random() < 0.2:
        schema |= {"title": "T", "description": "of a field", "x-unknown": {"not": {}}}
    return schema


def _text(numbers: random.Random, depth: int) -> Any:
    schema: dict[str, Any] = {"type": "string"}
    match numbers.randrange(4):
        case 0:
            schema["maxLength"] = numbers.randint(1, 12)
            schema["minLength"] = numbers.randint(0, schema["maxLength"])
        case 1:
            schema["pattern"] = numbers.choice(PATTERNS)
        case 2:
            schema["format"] = numbers.choice(FORMATS)
    return schema


def _integer(numbers: random.Random, depth: int) -> Any:
    schema: dict[str, Any] = {"type": "integer"}
    low = numbers.randint(-1000, 1000)
    match numbers.randrange(4):
        case 0:
            schema |= {"minimum": low, "maximum": low + numbers.randint(0, 500)}
        case 1:
            schema |= {"exclusiveMinimum": low, "exclusiveMaximum": low + 2}
        case 2:
            schema |= {"multipleOf": numbers.randint(2, 30), "minimum": 0}
    return schema


def _number(numbers: random.Random, depth: int) -> Any:
    low = round(numbers.uniform(-5, 5), numbers.randint(0, 3))
    bounds = [
        {},
        {"minimum": low},
        {"exclusiveMaximum": low},
        {"minimum": low, "maximum": low + 0.5},
    ]
    return {"type": "number"} | numbers.choice(bounds)


def _literal(numbers: random.Random, depth: int) -> Any:
    values = ["a", "", 'two\n"lines"', 0, -17, 2.5, True, None, [1, "x"], {"k": None}, "é"]
    if numbers.random() < 0.4:
        return {"const": numbers.choice(values)}
    return {"enum": numbers.sample(values, numbers.randint(1, 5))}


def _small(numbers: random.Random, depth: int) -> Any:
    return numbers.choice(
        [{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}, True, {}]
    )


def _object(numbers: random.Random, depth: int) -> Any:
    names = numbers.sample(NAMES, numbers.randint(0, 5))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: random_schema(numbers, depth) for name in names},
        "required": [name for name in names if numbers.random() < 0.6],
    }
    match numbers.randrange(5):
        case 0:
            schema["additionalProperties"] = random_schema(numbers, 0)
        case 1:
            schema["patternProperties"] = {"^p_[a-z]+$": random_schema(numbers, 0)}
            schema["additionalProperties"] = False
        case 2 if len(schema["required"]) == len(names):
            schema["minProperties"] = len(names) + numbers.randint(0, 1)
            schema["maxProperties"] = len(names) + 2
        case _:
            schema["additionalProperties"] = False
    return schema


def _array(numbers: random.Random, depth: int) -> Any:
    most = numbers.randint(1, 4)
    return {
        "type": "array",
        "items": random_schema(numbers, depth),
        "minItems": numbers.randint(0, most),
        "maxItems": most,
    }


def _tuple(numbers: random.Random, depth: int) -> Any:
    first = [random_schema(numbers, depth) for _ in range(numbers.randint(1, 3))]
    return {"type": "array", "prefixItems": first, "items": False, "minItems": len(first)}


def _either(numbers: random.Random, depth: int) -> Any:
    if numbers.random() < 0.3:  # parts that cannot overlap
        return {"oneOf": [{"type": "boolean"}, _text(numbers, 0), _object(numbers, depth)]}
    return {"anyOf": [random_schema(numbers, depth) for _ in range(numbers.randint(1, 3))]}


def _both(numbers: random.Random, depth: int) -> Any:
    a, b = numbers.sample(NAMES, 2)
    part = {"type": "object", "properties": {a: random_schema(numbers, depth)}, "required": [a]}
    other = {"properties": {b: random_schema(numbers, depth)}, "additionalProperties": True}
    return {"allOf": [part, other]}


def _reference(numbers: random.Random, depth: int) -> Any:
    """A tree. It is a schema within others, so it says where it stands by an anchor of its own."""
    anchor = f"a{numbers.randrange(10**9)}"
    return {
        "$anchor": anchor,
        "type": "object",
        "properties": {
            "value": random_schema(numbers, 0),
            "next": {"anyOf": [{"type": "null"}, {"$ref": f"#{anchor}"}]},
        },
        "required": ["value", "next"],
        "additionalProperties": False,
    }
