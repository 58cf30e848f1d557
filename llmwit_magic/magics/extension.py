"""The extension: the magics, the completion and the display of results in a shell."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..base.printable import on_one_line
from ..contract.wit import InferencingResult
from ..engines.local.pipe import ChildProcess
from ..runlog.logged_run import LoggedRun
from ..running.conversations import Conversation
from ..running.replay import Replay
from ..running.results import Results
from ..views import text
from ..views.frontend import Reach, has_page, reach_of
from . import completion
from .infer import InferMagics
from .infer_component import ComponentMagics
from .infer_log import LogMagics
from .infer_preset import PresetMagics
from .infer_server import ServerMagics, own_server_names

OURS = (InferMagics, LogMagics, ServerMagics, PresetMagics, ComponentMagics)
IDLE_SECONDS = 0.1
"""How long after the loading the page for saved buttons is opened."""


def load(shell: Any, standby: ChildProcess | None = None) -> None:
    """Register the magics, the completion and the display of results.

    `standby` is a child process that the first run will use.
    """
    magics = InferMagics(shell)
    if standby is not None:
        magics.session.local.pool.stand_by(standby)
    shell.register_magics(magics)
    shell.register_magics(LogMagics(shell, magics))
    shell.register_magics(ServerMagics(shell, magics))
    shell.register_magics(PresetMagics(shell))
    shell.register_magics(ComponentMagics(shell, magics))
    _register_formatters(shell, magics)
    completion.register(
        shell,
        lambda: [row[0] for row in magics.session.local_models()],
        lambda: own_server_names(magics.session),
        {
            name: _flags(magic)
            for name, magic in {
                "infer_log": LogMagics.infer_log,
                "infer_llama_server": ServerMagics.infer_llama_server,
                "infer_component": ComponentMagics.infer_component,
            }.items()
        },
    )
    if getattr(shell, "kernel", None) is not None and has_page(shell):
        _when_idle(magics.open_page)


def _flags(magic: Any) -> dict[str, bool]:
    """The options of a line magic, and whether each takes a value."""
    return {
        flag: action.nargs != 0
        for flag, action in magic.parser._option_string_actions.items()
        if flag.startswith("--")
    }


def _when_idle(work: Callable[[], None]) -> None:
    """Have the kernel do the work soon, but not as a part of the cell that loads the extension."""
    with suppress(ImportError, RuntimeError):  # a kernel that does not use tornado
        from tornado.ioloop import IOLoop

        # Where the kernel's configuration loads the extension, the loop does not run yet.
        IOLoop.current().call_later(IDLE_SECONDS, work)


def unload(shell: Any) -> None:
    """Take the magics away, and give the memory of the models back. The log stays.

    The llama-servers that were started here end.
    """
    for kind in shell.magics_manager.magics.values():
        ours = [name for name, function in kind.items()
                if isinstance(getattr(function, "__self__", None), OURS)]  # fmt: skip
        for name in ours:
            magics = kind.pop(name).__self__
            if isinstance(magics, InferMagics):
                magics.session.local.pool.unload()
                magics.session.stop_llama_servers()
    completion.unregister(shell)
    shell.configurables[:] = [item for item in shell.configurables if type(item) is not InferMagics]


def _register_formatters(shell: Any, magics: InferMagics) -> None:
    """Register how results show at the end of a cell.

    HTML is made only where IPython asks for it.
    """

    def answer(result: InferencingResult) -> str:
        from ..views.display import answer_html
        from ..views.html import Extras

        if isinstance(result, LoggedRun):  # it shows as it did when it ran, with its buttons
            if reach_of(shell) is Reach.LIVE:
                from ..views.live import page_for

                page_for(result.log)
            extras = Extras(result.log.path, None, magics.forms(result.request))
        else:
            extras = Extras()
        return answer_html(result, extras, magics.render)

    def replayed(replay: Replay) -> str:
        from ..views.comparison import replay_html

        return replay_html(replay.verdict, replay.identical, [replay.original, replay.result])

    def comparison(results: Results) -> str:
        from ..views.comparison import comparison_html

        return comparison_html(results)

    def transcript(conversation: Conversation) -> None:
        from ..views.transcript import show_transcript

        show_transcript(conversation, reach_of(shell))

    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type(InferencingResult, answer)
    formatters["text/html"].for_type(Results, comparison)
    formatters["text/html"].for_type(Replay, replayed)
    shell.display_formatter.ipython_display_formatter.for_type(Conversation, transcript)

    def for_type(kind: type, say: Callable[[Any], str]) -> None:
        def write(value: Any, printer: Any, cycle: bool) -> None:
            terminal = getattr(shell, "kernel", None) is None
            encoding = getattr(sys.stdout, "encoding", None) if terminal else None
            printer.text(text.encodable(say(value), encoding))

        formatters["text/plain"].for_type(kind, write)

    for_type(InferencingResult, text.plain)
    for_type(Results, text.plain_table)
    for_type(Replay, lambda value: f"── {on_one_line(value.verdict)}")
