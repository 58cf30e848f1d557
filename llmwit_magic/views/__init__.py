"""What a person sees of a run: a view for each frontend."""

from __future__ import annotations

from typing import Any, Protocol

from ..runlog.run import Results, Run

INTERVAL = 0.05
"""Seconds between two drawings: at most 20 a second."""


class View(Protocol):
    """Draws runs: `draw` again and again while one goes on, with its last state at the end."""

    def draw(self, run: Run) -> None: ...
    def finish(self, results: Results | None) -> None:
        """Nothing more comes; for a sweep, all its results."""
        ...


def open_view(shell: Any, *, total: int = 1, varying: tuple[str, ...] = ()) -> View:
    """The view for this shell: HTML with plain text beside it in a kernel, text in a terminal."""
    from . import text

    if getattr(shell, "kernel", None) is not None:
        return text.DisplayView(total, varying)
    return text.TerminalView(total, varying)
