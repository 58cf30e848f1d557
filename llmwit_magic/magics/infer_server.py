"""`%infer_llama_server`: a server of one's own, without a terminal."""

from __future__ import annotations

import re
from argparse import Namespace
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments

from ..base.printable import on_one_line
from ..contract.request import ALL_ACCEPTED, ModelSpec
from ..engines.server.own_server import OwnServer
from ..engines.server.own_servers import OwnServerSpec
from ..errors import InvalidInput
from ..requests.line import in_words_of_the_line, split_line
from ..running.session import Session
from ..views.opening import show_progress
from ..views.terminal import say
from .cell import usage_error
from .infer import InferMagics
from .line_arguments import line_arguments


@magics_class
class ServerMagics(Magics):
    """The line magic of llama-servers. Its settings are those of `InferMagics`."""

    def __init__(self, shell: Any, infer: InferMagics) -> None:
        self.infer = infer
        super().__init__(shell)

    @line_magic
    @magic_arguments()
    @argument("model", metavar="MODEL", nargs="?", help="the model, as -m names a local one")
    @argument("--slots", metavar="N", help="how many answers are written side by side (8)")
    @argument(
        "--context-length",
        metavar="N",
        help="tokens of prompt and answer together, for each slot; by default what the model was "
        "trained with, or what memory allows, at most 8192",
    )
    @argument("--gpu-layers", metavar="N|auto", help="layers to run on the GPU (auto)")
    @argument("--port", metavar="N", help="where it listens; by default the system gives a port")
    @argument("--name", metavar="NAME", help="its name after local::; by default the model's")
    @argument(
        "--accept",
        metavar="WHAT",
        choices=ALL_ACCEPTED,
        help="context: a longer one than the model was trained with",
    )
    @argument(
        "--stop", metavar="NAME", nargs="?", const="", help="end the server of that name, or all"
    )
    def infer_llama_server(self, line: str) -> None:
        """Start a llama-server for a local model, or list those that run.

        Then -m local:: names the newest one, and -m local::NAME each of them.
        """
        if "--help" in line.split():
            say(self.infer_llama_server.__doc__)
            return
        try:
            words = split_line(line)
            self._carry_out(line_arguments(self.infer_llama_server, words), bool(words))
        except InvalidInput as error:
            said = in_words_of_the_line(str(error))
            raise usage_error(re.sub(r"^(slots|port|name): ", r"--\1: ", said)) from None

    def _carry_out(self, arguments: Namespace, asked: bool) -> None:
        session = self.infer.session
        if arguments.stop is not None:
            names = session.stop_llama_servers(arguments.stop)
            say(on_one_line(f"stopped: {', '.join(names) or 'nothing ran'}"))
        elif asked:
            spec, own = _wanted(arguments, self.infer.model)
            with show_progress(self.shell) as show:
                server = session.start_llama_server(spec, own, show)
            say(described(server))
            say(on_one_line(f"-m {server.model} runs on it, and -m local:: on the newest one"))
        else:
            for server in session.llama_servers:
                say(described(server))
            if not session.llama_servers:
                say("no llama-server runs here: %infer_llama_server MODEL starts one")


def _wanted(arguments: Namespace, default: str) -> tuple[ModelSpec, OwnServerSpec]:
    """What the line asks for. Raises `InvalidInput`."""
    spec: dict[str, Any] = {"model": arguments.model or default}
    own: dict[str, Any] = {"name": arguments.name}
    for values, names in ((spec, ("context_length", "gpu_layers")), (own, ("slots", "port"))):
        for name in names:
            if (text := getattr(arguments, name)) is not None:
                values[name] = int(text) if text.isdecimal() else text
    if arguments.accept:
        spec["accept"] = arguments.accept
    return ModelSpec(**spec), OwnServerSpec(**own)


def described(server: OwnServer) -> str:
    """One line on a server: what it serves, where, and how much at once."""
    if server.has_ended():
        return on_one_line(f"{server.model}  has ended: %infer_llama_server starts it again")
    slots = f"{server.slots:,} slot{'s' * (server.slots != 1)}"
    return on_one_line(
        f"{server.model}  {slots} of {server.context_length:,} tokens each, at {server.url}  "
        f"{server.info.path}"
    )


def own_server_names(session: Session) -> list[str]:
    """The names of the servers that run, for `-m`."""
    return [server.model for server in session.llama_servers if not server.has_ended()]
