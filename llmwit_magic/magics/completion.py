"""Completion: what Tab offers on the lines of our magics.

It offers options, their words, names of models and paths, and nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from IPython.core import completer

from ..contract.wit import STATUSES
from ..errors import InvalidInput
from ..requests.line import complete, split_line
from ..requests.presets import presets
from ..requests.shapes import is_shape
from ..runlog.columns import NAMES
from .infer_preset import FLAGS

_CELL = re.compile(r"\s*%%infer[ \t](.*)", re.DOTALL)
_LINE = re.compile(
    r"\s*(?:[\w.,\[\] ]+=\s*)?"
    r"%(infer_log|infer_replay|infer_models|infer_unload|infer_llama_server|infer_preset|"
    r"infer_component)[ \t](.*)"
)
_MODEL_ENDINGS = (".gguf", ".ggml", ".bin")
_SEPARATORS = (os.sep, os.altsep or os.sep)
_LOG_VALUES = {
    "--status": STATUSES,
    "--rating": ("up", "down"),
    "--schema": ("otel",),
    "--plot": ("metric", "length", "finish", "rating", "speed"),
    "--columns": ("all", *NAMES[1:]),
    "--by": NAMES[1:],
}
_SHAPE_FILES: Mapping[str, tuple[str, ...]] = {
    "--choices": (), "--json-schema": (".json",), "--grammar": (".gbnf", ".lark"),
}  # fmt: skip
"""The options that name a shape of answers in the notebook, and the endings of its files."""
_REPLAY_FLAGS = ("--with", "--accept", "--metric", "--anyway", "--quiet")


class _Nothing(list[Any]):
    """No completions. IPython takes the list for a full one: else it would offer Python's names."""

    def __len__(self) -> int:
        return 1


class Completer:
    """Finds the completions on the lines of our magics."""

    def __init__(
        self, models: Callable[[], Sequence[str]], servers: Callable[[], Sequence[str]],
        flags: Mapping[str, Mapping[str, bool]], variables: Callable[[], Mapping[str, Any]],
    ) -> None:  # fmt: skip
        self._local_models, self._servers, self._flags = models, servers, flags
        self._variables = variables

    def _models(self) -> list[str]:
        """What `-m` takes: the local models, and the servers of our own."""
        return [*self._local_models(), *self._servers()]

    def __call__(self, context: Any) -> dict[str, Any]:
        """The completions, and the part of the line that they complete, as IPython's matchers
        return them."""
        lines = context.full_text.split("\n")
        before = lines[context.cursor_line][: context.cursor_position]
        above = "".join(lines[: context.cursor_line])
        line = _LINE.fullmatch(before)
        cell = None if above.strip() else _CELL.fullmatch(before)
        if not line and not cell:
            return {"completions": []}
        name, rest = ("infer", cell[1]) if cell else (line[1], line[2]) if line else ("", "")
        try:
            words = split_line(rest)
        except InvalidInput:  # a quote is not closed
            return {"completions": _Nothing(), "suppress": True}
        if not rest or rest[-1] in " \t":
            words.append("")
        found = [
            completer.SimpleCompletion(text, type="magic") for text in self._found(name, words)
        ]
        return {
            "completions": found or _Nothing(), "matched_fragment": words[-1], "suppress": True,
        }  # fmt: skip

    def _found(self, name: str, words: Sequence[str]) -> list[str]:
        typed, last = words[-1], words[-2] if len(words) > 1 else ""
        if name == "infer_replay" and "--with" not in words[:-1] and last != "--accept":
            return _beginning(_REPLAY_FLAGS, typed)
        if name == "infer_unload":
            return _beginning(self._local_models(), typed)
        if name == "infer_llama_server":
            return self._of_server(typed, last)
        if name == "infer_component" and last not in ("-m", "--model"):
            return self._of_component(typed, last)
        if name == "infer_models":
            return []
        if last == "--preset" or (name == "infer_preset" and len(words) == 1):
            return _beginning(list(dict.fromkeys(one.name for one in presets())), typed)
        if last in ("-m", "--model"):
            return _beginning(self._models(), typed) + list(_paths(typed, _MODEL_ENDINGS))
        if name == "infer_log":
            if last == "--export":
                return list(_paths(typed, (".csv", ".jsonl", ".parquet")))
            values = _LOG_VALUES.get(last)
            if values or self._flags[name].get(last) or (typed and not typed.startswith("-")):
                return _beginning(values or (), typed)
            return _beginning(list(self._flags[name]), typed)
        if last in _SHAPE_FILES:
            named = [
                name for name, value in self._variables().items()
                if not name.startswith("_") and is_shape(value, last[2:].replace("-", "_"))
            ]  # fmt: skip
            paths = _paths(typed, _SHAPE_FILES[last]) if _SHAPE_FILES[last] else ()
            return [*_beginning(sorted(named), typed), *paths]
        more = FLAGS if name == "infer_preset" and (not typed or typed.startswith("-")) else ()
        return [*complete(words, self._models), *_beginning(more, typed)]

    def _of_server(self, typed: str, last: str) -> list[str]:
        """On the line of `%infer_llama_server`."""
        if last == "--stop":
            return _beginning(self._servers(), typed)
        if last == "--gpu-layers":
            return _beginning(["auto"], typed)
        if self._flags["infer_llama_server"].get(last):
            return []
        if typed.startswith("-"):
            return _beginning(list(self._flags["infer_llama_server"]), typed)
        return _beginning(self._local_models(), typed) + list(_paths(typed, (".gguf",)))

    def _of_component(self, typed: str, last: str) -> list[str]:
        """On the line of `%infer_component`."""
        if self._flags["infer_component"].get(last):
            return []
        if typed.startswith("-"):
            return _beginning(list(self._flags["infer_component"]), typed)
        return list(_paths(typed, (".wasm",)))


def _beginning(names: Sequence[str], typed: str) -> list[str]:
    return [name for name in names if name.startswith(typed)]


def _paths(typed: str, endings: tuple[str, ...]) -> Iterator[str]:
    """The folders, and the files with those endings, that the typed path is the beginning of."""
    if not typed:
        return
    end = max(map(typed.rfind, _SEPARATORS)) + 1
    folder, part = typed[:end], typed[end:]
    try:
        place = Path(folder or ".").expanduser()
        entries = sorted(place.iterdir())
    except (OSError, RuntimeError, ValueError):
        return
    for entry in entries:
        hidden = entry.name.startswith(".") and not part.startswith(".")
        if not entry.name.startswith(part) or hidden or re.search(r"[\s'\"]", entry.name):
            continue
        if entry.is_dir():
            yield f"{folder}{entry.name}/"
        elif entry.suffix.lower() in endings:
            yield f"{folder}{entry.name}"


def register(
    shell: Any, models: Callable[[], Sequence[str]], servers: Callable[[], Sequence[str]],
    flags: Mapping[str, Mapping[str, bool]],
) -> None:  # fmt: skip
    """Let Tab complete the lines of our magics.

    `models` lists the names of local models, and `servers` those of servers of our own. `flags` are
    the options of some line magics, and whether each takes a value. IPython before 8.6, such as
    Colab's, has no matchers of this kind: there Tab offers nothing of ours.
    """
    unregister(shell)
    if not hasattr(completer, "context_matcher"):
        return

    def variables() -> dict[str, Any]:
        """The notebook's own, without those of IPython such as `In`."""
        names = [name for name in list(shell.user_ns) if name not in shell.user_ns_hidden]
        return {name: shell.user_ns[name] for name in names}

    find = Completer(models, servers, flags, variables)

    @completer.context_matcher()
    def infer_options(context: Any) -> dict[str, Any]:
        return find(context)

    shell.Completer.custom_matchers.append(infer_options)


def unregister(shell: Any) -> None:
    matchers = shell.Completer.custom_matchers
    matchers[:] = [item for item in matchers if item.__name__ != "infer_options"]
