"""The options of a cell that say what the answer must be, as a constraint.

`--choices`, `--json-schema` and `--grammar` name a variable of the notebook or a file. A schema or
a grammar may also stand on the line itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contract.constraint import LARGEST_SOURCE, Constraint
from ..contract.record import shown
from ..errors import InvalidInput
from . import shapes
from .interpolation import near_names, python_name
from .line import unescape
from .options import BY_DEST

_TYPES = {each.__name__: each for each in (bool, float, int, str, list, dict)}
"""What `--json-schema` takes where no variable has that name."""
OPTIONS_OF_SHAPES = ("choice", "choices", "regex", "json_schema", "grammar")
_RULE = re.compile(r"::=|(^|\n)[ \t]*[?!]?start\b[^:\n]*:")
"""Finds the mark by which a text is a grammar and no name: a rule of GBNF, or Lark's `start`."""


def take_constraint(given: dict[str, Any], namespace: Mapping[str, Any]) -> dict[str, Constraint]:
    """Take those options out of `given`; `{"constraint": …}` where the line has one of them.

    `namespace` has the variables of the notebook. Raises `InvalidInput`.
    """
    stated = {name: given.pop(name) for name in OPTIONS_OF_SHAPES if name in given}
    shapes.only_one([BY_DEST[name].flag for name in stated])
    for name, value in stated.items():
        try:
            return {"constraint": _constraint(name, value, namespace)}
        except InvalidInput as error:
            # A message of the Python functions begins with the name of an argument.
            said = re.sub(r"^(constraint \w+|choices|regex|grammar|returns): ", "", str(error))
            raise type(error)(f"{BY_DEST[name].flag}: {said}") from None
    return {}


def _constraint(option: str, value: Any, namespace: Mapping[str, Any]) -> Constraint:
    if option == "choice":
        return shapes.of_choices(value)
    if option == "regex":
        return shapes.of_regex(value)
    if option == "choices":
        return shapes.of_choices(_variable(value, namespace))
    if option == "grammar":
        text = value.replace("\\n", "\n")
        if is_grammar(text):
            return shapes.of_grammar(unescape("--grammar", value))
        return shapes.of_grammar(_variable_or_file(value, namespace))
    if value.lstrip().startswith("{") or value in ("true", "false"):
        return shapes.of_schema(value)
    found = _variable_or_file(value, _TYPES | dict(namespace))
    return shapes.of_schema(found) if isinstance(found, str) else shapes.of_returns(found)


def is_grammar(text: str) -> bool:
    """Whether the text is a grammar, and no name of a variable or of a file."""
    return bool(_RULE.search(text))


def _variable(name: str, namespace: Mapping[str, Any]) -> Any:
    own = python_name(name)
    if own in namespace:
        return namespace[own]
    raise InvalidInput(f"there is no variable '{name}'{near_names(name, namespace)}")


def _variable_or_file(name: str, namespace: Mapping[str, Any]) -> Any:
    """The value of the variable, or else the text of the file, of that name."""
    own = python_name(name)
    if own in namespace:
        return namespace[own]
    try:
        path = Path(name).expanduser()
        there = path.is_file()
    except (OSError, RuntimeError, ValueError):
        there = False
    if not there:
        raise InvalidInput(
            f"{shown(name)} is neither a variable of the notebook nor a file"
            f"{near_names(name, namespace)}"
        )
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_SOURCE + 1)
        if len(data) > LARGEST_SOURCE:
            raise InvalidInput(f"the file {name} has over {LARGEST_SOURCE:,} bytes")
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise InvalidInput(f"the file {name} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"the file {name} is not text in UTF-8") from None
