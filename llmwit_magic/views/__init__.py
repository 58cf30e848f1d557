"""What a person sees of a run: a view for each frontend."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from ..errors import one_line
from ..protocol import Progress, Request
from ..runlog.log import RunLog
from ..runlog.run import Results, Run
from .frontend import Reach, reach_of

INTERVAL = 0.055
"""Seconds between two drawings: at most 20 a second, the early last one included."""

KINDS = ("auto", "widget", "html", "text")

Forms = Callable[[Request], Mapping[str, str]]
"""The forms in which a request can be copied, by name."""


class View(Protocol):
    """Draws runs: `draw` again and again while one goes on, with its last state at the end."""

    def draw(self, run: Run) -> None: ...
    def finish(self, results: Results) -> None:
        """Nothing more comes: these are the results, of a sweep perhaps only some."""
        ...


class Guarded:
    """A view whose failure, as on a closed pipe, ends the drawing and not the run."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._failed = False

    def draw(self, run: Run) -> None:
        if not self._failed:
            self._try(lambda: self._view.draw(run))

    def finish(self, results: Results) -> None:
        """Also after a failed drawing: what stands last may be another display."""
        self._try(lambda: self._view.finish(results))

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            said = one_line(f"{type(error).__name__}: {error}")
            if not self._failed:
                with suppress(Exception):  # where it would be said is perhaps what is broken
                    print(f"the run cannot be shown, and goes on: {said}", file=sys.stderr)
            self._failed = True


@contextmanager
def show_progress(shell: Any) -> Iterator[Callable[[Progress], None]]:
    """Shows the progress of a stage where no run is drawn, and takes it away at the end."""
    from .text import TerminalView, progress_text

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
        yield lambda progress: draw(progress_text(progress)) if updated else None
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
) -> View:
    """The view of that kind, live where its updates arrive and else one display at the end.

    `auto` is a widget, HTML where the widget's messages may not arrive, and text where the front
    end is a terminal. Whoever asks for `widget` vouches for a front end that we do not know.
    """
    return Guarded(_open_view(kind, reach_of(shell), log, forms, total, varying))


def _open_view(
    kind: str, reach: Reach, log: RunLog, forms: Forms, total: int, varying: tuple[str, ...]
) -> View:
    if kind == "text" or (kind == "auto" and reach is Reach.PRINT):
        from .text import TerminalView

        return TerminalView(total, varying)
    updated = reach in (Reach.LIVE, Reach.UPDATES)
    if not updated and (kind != "widget" or reach is Reach.CAPTURED):
        from .display import FinalView

        return FinalView(total, log, forms)
    if kind == "html" or (kind == "auto" and reach is Reach.UPDATES):
        from .display import DisplayView

        return DisplayView(total, log, forms)
    from .live import NotebookView

    return NotebookView(total, varying, log, forms)
