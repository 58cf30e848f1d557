"""`%infer_component`: a WebAssembly component that calls the session's models."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from ..base.printable import visible
from ..errors import InvalidInput
from ..requests.interpolation import fill, value_of
from ..requests.line import split_line
from ..running.results import Results
from ..running.run import INTERVAL, Run
from ..views.terminal import say
from .cell import usage_error
from .infer import InferMagics
from .line_arguments import line_arguments

if TYPE_CHECKING:
    from ..components.component import Component


@magics_class
class ComponentMagics(Magics):
    """The line magic of components. Its settings are those of `InferMagics`."""

    def __init__(self, shell: Any, infer: InferMagics) -> None:
        self.infer = infer
        super().__init__(shell)

    @no_var_expand
    @line_magic
    @magic_arguments()
    @argument("file", metavar="FILE", nargs="?", help="the component, a .wasm file")
    @argument(
        "export", metavar="EXPORT", nargs="?", help="the function; without one, all are listed"
    )
    @argument(
        "arguments",
        metavar="ARG",
        nargs="*",
        help="its arguments: JSON, a text, or {{name}} for a variable of the notebook",
    )
    @argument(
        "-m",
        "--model",
        metavar="NAME",
        help="the model that answers, whatever name the component uses; without it, the component "
        "may use the notebook's model by its name",
    )
    @argument("--seed", metavar="S", help="the seed of requests that have none")
    @argument("--seconds", metavar="S", help="how long the call may take (600)")
    @argument("--memory", metavar="MIB", help="MiB that one memory of the component may have (512)")
    @argument(
        "--dir",
        metavar="NAME=FOLDER",
        action="append",
        default=[],
        help="a folder that the component sees; NAME=FOLDER:rw where it may write",
    )
    @argument(
        "--env", metavar="NAME=VALUE", action="append", default=[], help="a variable that it sees"
    )
    @argument("--show", action="store_true", help="show its runs as they go on")
    def infer_component(self, line: str) -> Any:
        """Call a function of a WebAssembly component, whose requests are runs of this notebook.

        The value that it returns is the value of the line: x = %infer_component guest.wasm ask …
        """
        try:
            if "--help" in split_line(line):
                say(self.infer_component.__doc__)
                return None
            arguments = self._parsed(line)
            component = self._component(arguments)
        except InvalidInput as error:
            raise usage_error(str(error)) from None
        if arguments.export is None:
            for name in component.exports:
                takes = (f"{each}: {kind}" for each, kind in component.parameters(name).items())
                say(visible(f"{name}({', '.join(takes)})"))
            return None
        try:
            values = self._values(component, arguments)
        except InvalidInput as error:
            raise usage_error(str(error)) from None
        show = self._show if arguments.show else None
        return component.call_and_show(arguments.export, values, show)

    def _parsed(self, line: str) -> Namespace:
        """What the line says. What follows the export and begins no option is an argument."""
        parsed = line_arguments(self.infer_component, split_line(line), intermixed=True)
        if parsed.file is None:
            raise InvalidInput("%infer_component needs a file: %infer_component FILE EXPORT ARG …")
        return parsed

    def _component(self, arguments: Namespace) -> Component:
        from ..components.component import MEMORY, SECONDS, Component

        folders: dict[str, Any] = {}
        for each in arguments.dir:
            name, folder = _pair("--dir", each)
            folders[name] = (folder[:-3], "rw") if folder.endswith(":rw") else folder
        memory = _number("--memory", arguments.memory)
        return Component(
            fill(arguments.file, self.shell.user_ns).text,
            model=arguments.model or [self.infer.model],
            dirs=folders,
            env=dict(_pair("--env", each) for each in arguments.env),
            memory=MEMORY if memory is None else int(memory * 2**20),
            seconds=_number("--seconds", arguments.seconds) or SECONDS,
            seed=_whole("--seed", arguments.seed),
            output=_print,
            session=self.infer.session,
            content_filters=tuple(self.infer.content_filters),
        )

    def _values(self, component: Component, arguments: Namespace) -> list[Any]:
        """The arguments of the export, by the types that it takes."""
        kinds = list(component.parameters(arguments.export).values())
        return [
            self._value(word, place < len(kinds) and kinds[place] == "string")
            for place, word in enumerate(arguments.arguments)
        ]

    def _value(self, word: str, is_text: bool) -> Any:
        """The value of a word. Raises `InvalidInput`.

        A text stands for itself where the component takes a text, with its `{{…}}` filled in. Else
        it is one `{{…}}` alone, JSON, or a text.
        """
        if is_text:
            return fill(word, self.shell.user_ns).text
        if (found := value_of(word, self.shell.user_ns)) is not None:
            return found[0]
        with suppress(ValueError, RecursionError):
            return json.loads(word)
        return fill(word, self.shell.user_ns).text

    def _show(self, run: Run) -> None:
        """Draw a run until it has ended."""
        view = self.infer.open_view()
        try:
            for _ in run.updates(INTERVAL):  # the component is told how it ends
                view.draw(run)
        finally:
            view.finish(Results([run]))


def _print(text: str) -> None:
    """Print what the component prints. It is text, and has no effect."""
    sys.stdout.write(visible(text))


def _pair(flag: str, text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise InvalidInput(f"{flag} {text}: write {flag} NAME=VALUE")
    return name, value


def _number(flag: str, text: str | None) -> float | None:
    if text is None:
        return None
    with suppress(ValueError):
        number = float(text)
        if 0 < number < float("inf"):
            return number
    raise InvalidInput(f"{flag} {text}: it must be a number > 0")


def _whole(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise InvalidInput(f"{flag} {text[:80]}: it must be a whole number ≥ 0")
    return int(text)
