"""What a person sees of a run: a view for each frontend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..protocol import Progress, Request
from ..runlog.log import RunLog
from ..runlog.run import Results, Run

INTERVAL = 0.055
"""Seconds between two drawings: at most 20 a second, the early last one included."""

KINDS = ("auto", "widget", "html", "text")


class View(Protocol):
    """Draws runs: `draw` again and again while one goes on, with its last state at the end."""

    def draw(self, run: Run) -> None: ...
    def finish(self, results: Results) -> None:
        """Nothing more comes: these are the results, of a sweep perhaps only some."""
        ...


def show_progress(shell: Any) -> Callable[[Progress], None]:
    """Shows the progress of a stage where no run is drawn."""
    from .text import TerminalView, progress_text

    if getattr(shell, "kernel", None) is None:
        return TerminalView().draw_progress
    from IPython.display import display

    handle = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda progress: handle.update({"text/plain": progress_text(progress)}, raw=True)


def open_view(
    kind: str,
    shell: Any,
    log: RunLog,
    forms: Callable[[Request], Mapping[str, str]],
    *,
    total: int = 1,
    varying: tuple[str, ...] = (),
) -> View:
    """The view of that kind; `auto` is a widget in a kernel and text in a terminal."""
    if kind == "auto":
        kind = "text" if getattr(shell, "kernel", None) is None else "widget"
    if kind == "text":
        from .text import TerminalView

        return TerminalView(total, varying)
    if kind == "html":
        from .display import DisplayView

        return DisplayView(total, log)
    from .live import NotebookView

    return NotebookView(total, varying, log, forms)
