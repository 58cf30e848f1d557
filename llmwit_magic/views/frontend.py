"""Whether a display that is updated reaches the person: the front end of what runs now.

A front end that shows the first state of a display and not the later ones
would show "running …" for ever. So a run is drawn live only where updates are
known to arrive; everywhere else there is one display, at its end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any


class Reach(Enum):
    """What of a run reaches the person while it goes on."""

    LIVE = "widgets, displays and their updates"
    UPDATES = "displays and their updates; our module is not on the page"
    PRINT = "text as it is printed"
    UNKNOWN = "displays; nobody knows of their updates"
    CAPTURED = "displays, and none of their updates"


_answered: set[str] = set()
"""The clients from whose pages our module has spoken."""


def reach_of(shell: Any) -> Reach:
    """What reaches the person from the code that runs now.

    In this order: a terminal's own shell prints. What is captured (`%%capture`,
    an `ipywidgets.Output`), and what no cell runs (a widget's callback, a
    timer), is not updated. Colab updates its displays, and Databricks may not.
    A request that names its cell comes from a notebook, and one whose client's
    page has spoken to us from a page with widgets: these update their
    displays. One that may be asked for input is a console's (`jupyter
    console`, `jupyter run`, Spyder): it prints. Of any other, a program's
    (nbclient, papermill), nothing is known.
    """
    if getattr(shell, "kernel", None) is None:
        return Reach.PRINT
    request = current_request(shell)
    header = request.get("header") or {}
    if (
        _publisher_captures(shell)
        or header.get("msg_type") != "execute_request"
        or _output_captures(header.get("msg_id"))
    ):
        return Reach.CAPTURED
    if in_colab(shell):
        return Reach.UPDATES
    if in_databricks():
        return Reach.UNKNOWN
    if (request.get("metadata") or {}).get("cellId") or header.get("session") in _answered:
        return Reach.LIVE
    return Reach.PRINT if takes_input(request) else Reach.UNKNOWN


def in_colab(shell: Any) -> bool:
    """Whether Google Colab shows the cells: by the kernel, or by the request where that is another.

    Each of its outputs is a frame of its own, without the scripts of the others.
    """
    metadata = current_request(shell).get("metadata") or {}
    return type(shell).__module__.startswith("google.colab.") or "colab" in metadata


def in_databricks() -> bool:
    """Whether a notebook of Databricks shows the cells."""
    return "DATABRICKS_RUNTIME_VERSION" in os.environ


def current_request(shell: Any) -> Mapping[str, Any]:
    """The message that the kernel works on; empty where there is none."""
    if getattr(shell, "kernel", None) is None or not hasattr(shell, "get_parent"):
        return {}
    return shell.get_parent() or {}


def draws_in_html(shell: Any) -> bool:
    """Whether our module can draw in an HTML output: where outputs and widgets share a document.

    JupyterLab and Notebook 7 do. Of the notebooks, they alone say with a cell
    which cells were deleted before it.
    """
    return "deletedCells" in (current_request(shell).get("metadata") or {})


def has_page(shell: Any) -> bool:
    """Whether somebody may be looking at a page that our module can stay on.

    Not where a program runs the cell (nbclient, papermill), and not where each output is a page of
    its own, or where there are no widgets. Before any request, as where the kernel's configuration
    loads the extension, somebody may.
    """
    if in_colab(shell) or in_databricks():
        return False
    request = current_request(shell)
    return not request or reach_of(shell) is Reach.LIVE or takes_input(request)


def takes_input(request: Mapping[str, Any]) -> bool:
    """Whether somebody could answer a question of this request."""
    return bool((request.get("content") or {}).get("allow_stdin"))


def page_answered(shell: Any) -> None:
    """Our module has spoken, in the message that is being handled: its client has widgets."""
    if client := (current_request(shell).get("header") or {}).get("session"):
        _answered.add(client)


def _publisher_captures(shell: Any) -> bool:
    from IPython.core.displaypub import CapturingDisplayPublisher

    return isinstance(shell.display_pub, CapturingDisplayPublisher)


def _output_captures(message_id: str | None) -> bool:
    """Whether an `Output` widget takes what this message displays, updates left out."""
    widgets = sys.modules.get("ipywidgets")
    if widgets is None:
        return False
    from ipywidgets.widgets import widget as home

    known = home._instances if hasattr(home, "_instances") else widgets.Widget.widgets  # before 8
    return any(
        isinstance(widget, widgets.Output) and widget.msg_id == message_id
        for widget in list(known.values())
    )
