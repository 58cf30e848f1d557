"""Chooses and opens the view that the front end can show. A failing view never ends a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..contract.events import Progress
from ..errors import one_line
from ..runlog.log import RunLog
from ..running.results import Results
from ..running.run import Run
from .frontend import Reach, reach_of
from .view import Forms, View


class Guarded:
    """A view whose failure, as on a closed pipe, ends the drawing but not the run."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._failed = False

    def draw(self, run: Run) -> None:
        if not self._failed:
            self._try(lambda: self._view.draw(run))

    def finish(self, results: Results) -> None:
        """Draw the results, also after a failed drawing: they may go to another display."""
        self._try(lambda: self._view.finish(results))

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            said = one_line(f"{type(error).__name__}: {error}")
            if not self._failed:
                with suppress(Exception):  # standard error may be closed too
                    print(f"the run cannot be shown, and goes on: {said}", file=sys.stderr)
            self._failed = True


@contextmanager
def show_progress(shell: Any) -> Iterator[Callable[[Progress], None]]:
    """Shows the progress of a stage outside a run, and removes it at the end."""
    from .terminal import TerminalView

    reach = reach_of(shell)
    if reach is Reach.PRINT:
        line = TerminalView()
        yield line.draw_progress
        line.draw_progress(None)
        return
    handles: list[Any] = []

    def draw(text: str) -> None:
        from IPython.display import display

        bundle = {"text/plain": text}
        if handles:
            handles[0].update(bundle, raw=True)
        else:
            handles.append(display(bundle, raw=True, display_id=True))

    try:
        updated = reach in (Reach.LIVE, Reach.UPDATES)
        yield lambda progress: draw(str(progress)) if updated else None
    finally:
        if handles:
            draw("")


def open_view(
    kind: str,
    shell: Any,
    log: RunLog,
    forms: Forms,
    *,
    total: int = 1,
    varying: tuple[str, ...] = (),
    rendering: str = "auto",
) -> View:
    """The view of that kind. It is live where updates arrive; elsewhere it is shown at the end.

    `auto` means a widget. It means HTML where a widget's messages may not arrive, and text where
    the front end is a terminal. `widget` is live in an unknown front end too, as the user asked
    for it. `rendering` is one of `RENDERINGS`.
    """
    return Guarded(_open_view(kind, reach_of(shell), log, forms, total, varying, rendering))


def _open_view(
    kind: str, reach: Reach, log: RunLog, forms: Forms, total: int, varying: tuple[str, ...],
    rendering: str,
) -> View:  # fmt: skip
    if kind == "text" or (kind == "auto" and reach is Reach.PRINT):
        from .terminal import TerminalView

        return TerminalView(total, varying)
    updated = reach in (Reach.LIVE, Reach.UPDATES)
    if not updated and (kind != "widget" or reach is Reach.CAPTURED):
        from .display import FinalView

        return FinalView(total, log, forms, rendering)
    if kind == "html" or (kind == "auto" and reach is Reach.UPDATES):
        from .display import DisplayView

        return DisplayView(total, log, forms, rendering)
    from .live import NotebookView

    return NotebookView(total, varying, log, forms, rendering)
