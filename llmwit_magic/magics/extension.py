"""What `%load_ext llmwit_magic` brings into a shell: magics, completion, the forms of results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..base.printable import on_one_line
from ..engines.pipe import ChildProcess
from ..replays import Replay
from ..runlog.logged import LoggedRun
from ..runlog.run import Results
from ..views import text
from ..views.frontend import Reach, has_page, reach_of
from ..wit import InferencingResult
from . import completion
from .infer import InferMagics
from .log import LogMagics

IDLE_SECONDS = 0.1


def load(shell: Any, standby: ChildProcess | None = None) -> None:
    """Register magics, completion and the forms in which results show.

    `standby` is a child process for the first run.
    """
    magics = InferMagics(shell)
    if standby is not None:
        magics.session.engines.stand_by(standby)
    shell.register_magics(magics)
    shell.register_magics(LogMagics(shell, magics))
    _register_formatters(shell, magics)
    completion.register(
        shell,
        lambda: [row[0] for row in magics.session.local_models()],
        {
            flag: action.nargs != 0
            for flag, action in LogMagics.infer_log.parser._option_string_actions.items()
            if flag.startswith("--")
        },
    )
    if getattr(shell, "kernel", None) is not None and has_page(shell):
        _when_idle(magics.open_page)


def _when_idle(work: Callable[[], None]) -> None:
    """Have the kernel do it soon, but not as a part of the cell that loads the extension."""
    with suppress(ImportError, RuntimeError):  # a kernel of another make
        from tornado.ioloop import IOLoop

        # Loaded by the kernel's configuration, the loop is there, and does not run yet.
        IOLoop.current().call_later(IDLE_SECONDS, work)


def unload(shell: Any) -> None:
    """Take the magics away and give the models' memory back; the log stays."""
    for kind in shell.magics_manager.magics.values():
        ours = [name for name, function in kind.items()
                if isinstance(getattr(function, "__self__", None), InferMagics | LogMagics)]  # fmt: skip
        for name in ours:
            magics = kind.pop(name).__self__
            if isinstance(magics, InferMagics):
                magics.session.engines.unload()
    completion.unregister(shell)
    shell.configurables[:] = [item for item in shell.configurables if type(item) is not InferMagics]


def _register_formatters(shell: Any, magics: InferMagics) -> None:
    """How results show at the end of a cell; HTML is made only where it is asked for."""

    def answer(result: InferencingResult) -> str:
        from ..views.html import Extras, html_of

        if isinstance(result, LoggedRun):  # as it did when it ran, with its buttons
            if reach_of(shell) is Reach.LIVE:
                from ..views.live import page_for

                page_for(result.log)
            return html_of(result, Extras(result.log.path, None, magics.forms(result.request)))
        return html_of(result)

    def replayed(replay: Replay) -> str:
        from ..views.comparison import replay_html

        return replay_html(replay.verdict, replay.identical, [replay.original, replay.result])

    def comparison(results: Results) -> str:
        from ..views.comparison import comparison_html

        return comparison_html(results)

    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type(InferencingResult, answer)
    formatters["text/html"].for_type(Results, comparison)
    formatters["text/html"].for_type(Replay, replayed)

    def for_type(kind: type, say: Callable[[Any], str]) -> None:
        def write(value: Any, printer: Any, cycle: bool) -> None:
            terminal = getattr(shell, "kernel", None) is None
            encoding = getattr(sys.stdout, "encoding", None) if terminal else None
            printer.text(text.encodable(say(value), encoding))

        formatters["text/plain"].for_type(kind, write)

    for_type(InferencingResult, text.plain)
    for_type(Results, text.plain_table)
    for_type(Replay, lambda value: f"── {on_one_line(value.verdict)}")
