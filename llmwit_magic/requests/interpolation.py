"""Interpolation: `{{name}}` becomes the value of a variable, and no code runs."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import re
import sys
import unicodedata
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..contract.spans import Spans, joined
from ..errors import InvalidInput, warn

# A place is `{{…}}` on one line. Single braces and `{{}}` are left alone, so JSON and code survive.
# The first alternative lets a quoted text have braces in it. The second one is for a place in which
# a quote is not closed: it ends at the first brace. The quantifiers are possessive, so that nothing
# backtracks.
_PLACE = re.compile(r"""\{\{(?:((?:'[^'\n]*+'|"[^"\n]*+"|[^{}\n'"])++)\}\}|([^{}\n]++)\}\})""")

_OF_IPYTHON = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})
"""What IPython puts among a person's variables."""


class Filled(NamedTuple):
    """A text with its values put in, and the spans where these stand."""

    text: str
    data: Spans


def fill(text: str, namespace: Mapping[str, Any]) -> Filled:
    """The text with each `{{…}}` replaced by the value that it names.

    In the braces stands a name. Attributes (`{{row.title}}`) and subscripts by literals
    (`{{data['key'][0]}}`) may follow it; no attribute may begin with `_`. Or a quoted text stands
    there, which is its own value (`{{"{{"}}`). Raises `InvalidInput` for anything else, for an
    unknown name, and for a value that cannot be had.
    """
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    done = length = 0
    for match in _PLACE.finditer(text):
        value = _text_of((match[1] or match[2]).strip(), namespace)
        parts += (text[done : match.start()], value)
        length += match.start() - done + len(value)
        spans.append((length - len(value), length))
        done = match.end()
    return Filled("".join([*parts, text[done:]]), joined(spans))


def interpolate(text: str, namespace: Mapping[str, Any]) -> str:
    """The text alone of what `fill` returns."""
    return fill(text, namespace).text


def value_of(text: str, namespace: Mapping[str, Any]) -> tuple[Any] | None:
    """The value itself that a text names, where the text is one `{{…}}` and nothing else.

    It is the only item of a tuple; None is for any other text. Raises `InvalidInput` as `fill` does.
    """
    match = _PLACE.fullmatch(text.strip())
    if match is None:
        return None
    place = _place((match[1] or match[2]).strip())
    try:
        return (place.value(place.tree, namespace),)
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(f"{place.shown}: {type(error).__name__}: {error}") from None


def literal(text: str) -> str:
    """The `{{'…'}}` that stands for this very text, on one line."""
    quoted = repr('"' + text)[2:-1]  # `repr` takes single quotes for a text with a double one
    return "{{'" + re.sub(r"\\(.)", lambda m: r"\x27" if m[1] == "'" else m[0], quoted) + "'}}"


def names_in(text: str) -> list[str]:
    """The variables that a text names, as they are written there, each once.

    Raises `InvalidInput` for a place that begins with no variable and is no quoted text.
    """
    names: dict[str, None] = {}
    for match in _PLACE.finditer(text):
        place = _place((match[1] or match[2]).strip())
        node = place.tree
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        if isinstance(node, ast.Name):
            names[place.written(node)] = None
        elif not _is_text(node):
            raise place.not_allowed()
    return list(names)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _text_of(expression: str, namespace: Mapping[str, Any]) -> str:
    place = _place(expression)
    try:
        value = place.value(place.tree, namespace)
        _warn_of_structure(place.shown, value)
        return str(value)
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(f"{place.shown}: {type(error).__name__}: {error}") from None


def _structures() -> tuple[type, ...]:
    """The types of lists, mappings, arrays and tables, of the libraries that are loaded."""
    found: list[type] = [list, tuple, dict, set]
    for library, names in (("numpy", ["ndarray"]), ("pandas", ["DataFrame", "Series", "Index"])):
        if (loaded := sys.modules.get(library)) is not None:
            found += (getattr(loaded, name) for name in names)
    return tuple(found)


def _warn_of_structure(shown: str, value: Any) -> None:
    """Warn that a value is written as Python does it, which is seldom what a prompt should say."""
    # Arrays and DataFrames have a shape, which is () for a single number.
    if issubclass(type(value), _structures()):  # `isinstance` would ask the value itself
        warn(
            f"{shown} is a {type(value).__name__}, and stands in the prompt as Python prints it: "
            "put a text there, or run each item with --prompts or infer_frame"
        )


@functools.lru_cache(256)
def _place(expression: str) -> _Place:
    """The place, parsed once for all rows of a batch.

    `warnings.catch_warnings` makes Python forget which warnings it has shown, for all threads.
    """
    return _Place(expression)


class _Place:
    """What stands between double braces. Raises `InvalidInput` where it is no expression."""

    def __init__(self, expression: str) -> None:
        self.shown = "{{" + expression + "}}"
        if "\r" in expression:  # the parser takes it for a line end, and its positions shift
            raise self.not_allowed()
        self._bytes = expression.encode(errors="surrogatepass")
        try:
            with warnings.catch_warnings():
                # Python warns of texts such as `'\d'`, which are refused or taken as they stand.
                warnings.simplefilter("ignore")
                self.tree = ast.parse(expression, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self.not_allowed() from None

    def not_allowed(self) -> InvalidInput:
        return InvalidInput(
            f"{self.shown}: only a variable, with attributes and subscripts by literals, or a "
            "quoted text can stand there"
        )

    def written(self, node: ast.Name | ast.Attribute) -> str:
        """A name as it is written. The parser's own is normalised: º to o, µ to μ."""
        start = node.value.end_col_offset if isinstance(node, ast.Attribute) else node.col_offset
        text = self._bytes[start : node.end_col_offset].decode(errors="surrogatepass")
        return text.rpartition(".")[2].strip()

    def value(self, node: ast.expr, namespace: Mapping[str, Any]) -> Any:
        if isinstance(node, ast.Name):
            return self._variable(node, namespace)
        if isinstance(node, ast.Attribute) and not node.attr.startswith("_"):
            return _attribute(self.value(node.value, namespace), self.written(node), node.attr)
        if isinstance(node, ast.Subscript):
            try:
                index = ast.literal_eval(node.slice)
            except ValueError:
                raise self.not_allowed() from None
            return self.value(node.value, namespace)[index]
        if _is_text(node) and node is self.tree:
            return ast.literal_eval(node)
        raise self.not_allowed()

    def _variable(self, node: ast.Name, namespace: Mapping[str, Any]) -> Any:
        """The value of a variable. Columns have its name as written, a namespace of Python has the
        normalised one."""
        name = self.written(node) if isinstance(namespace, Columns) else node.id
        if name in namespace:
            return namespace[name]
        raise InvalidInput(
            f"{self.shown}: there is no variable '{name}'{near_names(name, namespace)}"
        )


def near_names(name: str, namespace: Mapping[str, Any]) -> str:
    """The end of an error's message: which variables have a name like this one, if any."""
    own = [key for key in namespace if isinstance(key, str) and not key.startswith("_")]
    near = difflib.get_close_matches(name, [key for key in own if key not in _OF_IPYTHON], 3)
    return f": did you mean {' or '.join(near)}?" if near else ""


class Columns(dict[Any, Any]):
    """The values of a row by the names of its columns. Names are compared as they are written."""


def _attribute(value: Any, written: str, normalised: str) -> Any:
    """An attribute by its name as written, such as the labels of a Series, or else by the
    normalised name."""
    try:
        return getattr(value, written)
    except AttributeError:
        if written == normalised:
            raise
        # It must be a real attribute: `getattr` of a Series would give the value of another label.
        inspect.getattr_static(value, normalised)
        return getattr(value, normalised)


def python_name(name: str) -> str:
    """The name under which Python keeps a variable with that name: its NFKC form."""
    return unicodedata.normalize("NFKC", name)
