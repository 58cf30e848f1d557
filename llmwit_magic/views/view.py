"""The interface of a view, which draws runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ..contract.request import Request
from ..running.results import Results
from ..running.run import Run

KINDS = ("auto", "widget", "html", "text")

Forms = Callable[[Request], Mapping[str, str]]
"""Gives the forms in which a request can be copied, by name."""


class View(Protocol):
    """Draws one run, or the runs of a sweep one after another."""

    def draw(self, run: Run) -> None:
        """Draw the present state of a run. Called repeatedly, at last with the final state."""
        ...

    def finish(self, results: Results) -> None:
        """Draw the results. Called once, after all runs; a sweep may have ended early."""
        ...
