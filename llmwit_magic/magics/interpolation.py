"""`{{name}}` in a cell: the value of a variable, without running code."""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidInput

# Single braces are never touched, so JSON and code survive; nor is `{{}}`.
_PLACE = re.compile(r"\{\{([^{}\n]+)\}\}")


def interpolate(text: str, namespace: Mapping[str, Any]) -> str:
    """The text with each `{{…}}` replaced by the value it names.

    A name, with attributes (`{{row.title}}`, none that begins with `_`) and
    subscripts by literals (`{{data['key'][0]}}`). Raises `InvalidInput`.
    """
    return _PLACE.sub(lambda match: _text_of(match[1].strip(), namespace), text)


def names_in(text: str) -> list[str]:
    """The variables that a text names, each once. Raises `InvalidInput` as `interpolate` does."""
    names: dict[str, None] = {}
    for match in _PLACE.finditer(text):
        expression = match[1].strip()
        node = _parsed(expression)
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        if not isinstance(node, ast.Name):
            raise _not_allowed("{{" + expression + "}}")
        names[node.id] = None
    return list(names)


def _parsed(expression: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            # Of what is refused or taken as it stands (`'\d'`), Python need not warn too.
            warnings.simplefilter("ignore")
            return ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _not_allowed("{{" + expression + "}}") from None


def _text_of(expression: str, namespace: Mapping[str, Any]) -> str:
    shown = "{{" + expression + "}}"
    tree = _parsed(expression)
    try:
        return str(_value(tree, shown, namespace))
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(f"{shown}: {type(error).__name__}: {error}") from None


def _value(node: ast.expr, shown: str, namespace: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        if node.id not in namespace:
            public = [name for name in namespace if not name.startswith("_")]
            near = difflib.get_close_matches(node.id, public, 3)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            raise InvalidInput(f"{shown}: there is no variable '{node.id}'{hint}")
        return namespace[node.id]
    if isinstance(node, ast.Attribute) and not node.attr.startswith("_"):
        return getattr(_value(node.value, shown, namespace), node.attr)
    if isinstance(node, ast.Subscript):
        try:
            index = ast.literal_eval(node.slice)
        except ValueError:
            raise _not_allowed(shown) from None
        return _value(node.value, shown, namespace)[index]
    raise _not_allowed(shown)


def _not_allowed(shown: str) -> InvalidInput:
    return InvalidInput(
        f"{shown}: only a variable, with attributes and subscripts by literals, can stand there"
    )
