"""The interface of a view, which draws runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ..contract.request import Request
from ..contract.wit import InferencingResult
from ..running.results import Results
from ..running.run import Run

KINDS = ("auto", "widget", "html", "text")

RENDERINGS = ("auto", "markdown", "text")
"""How a finished answer is shown on a page."""

Forms = Callable[[Request], Mapping[str, str]]
"""Gives the forms in which a request can be copied, by name."""


def is_markdown(rendering: str, result: InferencingResult) -> bool:
    """Whether an answer is shown as Markdown. While it is written, it is text.

    `auto` means Markdown for the answer of a chat. It means text where log-probabilities are
    recorded, as a person who asks for them wants to see the tokens, and where the answer has a
    shape, as JSON and labels are no Markdown.
    """
    if result.status == "running" or not result.text:
        return False
    if rendering == "auto":
        shaped = result.value is not None or result.value_error is not None
        return result.chat and result.tokens is None and not shaped
    return rendering == "markdown"


class View(Protocol):
    """Draws one run, or the runs of a sweep one after another."""

    def draw(self, run: Run) -> None:
        """Draw the present state of a run. Called repeatedly, at last with the final state."""
        ...

    def finish(self, results: Results) -> None:
        """Draw the results. Called once, after all runs; a sweep may have ended early."""
        ...
