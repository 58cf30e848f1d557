"""What the front end of the running code shows: widgets, displays and their updates, or print.

A front end that ignores updates of a display would show "running …" for ever.
So a run is drawn live only where updates are known to arrive. Elsewhere it is
displayed once, at its end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any


class Reach(Enum):
    """What a person sees of a run while it goes on."""

    LIVE = "widgets, displays and their updates"
    UPDATES = "displays and their updates; our module is not on the page"
    PRINT = "text as it is printed"
    UNKNOWN = "displays; nobody knows of their updates"
    CAPTURED = "displays, and none of their updates"


_answered: set[str] = set()
"""The sessions of the clients whose pages have run our module and have said so."""


def reach_of(shell: Any) -> Reach:
    """What a person sees of the code that runs now. The first rule that holds decides:

    1. A shell without a kernel is a terminal. It prints.
    2. Captured output (`%%capture`, an `ipywidgets.Output`) is not updated. Nor is the output of
       code outside a cell, such as a widget's callback or a timer.
    3. Colab updates its displays.
    4. Databricks may not update them.
    5. A request that names its cell comes from a notebook. One whose client has run our module
       comes from a page with widgets. Both are live.
    6. A request that allows a question for input comes from a console (`jupyter console`,
       `jupyter run`, Spyder). It prints.
    7. Any other request comes from a program (nbclient, papermill). Nothing is known of it.
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
    """Whether Google Colab shows the cells. The kernel's class says so, or the request.

    The request says it where Colab's page uses a kernel on another machine. Each output of Colab
    is a frame of its own, in which scripts of other outputs do not run.
    """
    metadata = current_request(shell).get("metadata") or {}
    return type(shell).__module__.startswith("google.colab.") or "colab" in metadata


def in_databricks() -> bool:
    """Whether a notebook of Databricks shows the cells."""
    return "DATABRICKS_RUNTIME_VERSION" in os.environ


def current_request(shell: Any) -> Mapping[str, Any]:
    """The message that the kernel handles now; empty where there is none."""
    if getattr(shell, "kernel", None) is None or not hasattr(shell, "get_parent"):
        return {}
    return shell.get_parent() or {}


def draws_in_html(shell: Any) -> bool:
    """Whether our module can draw in an HTML output. Outputs and widgets must share a document.

    They do in JupyterLab and Notebook 7. Only these two name the deleted cells
    in a cell's request, so that name tells them from other notebooks.
    """
    return "deletedCells" in (current_request(shell).get("metadata") or {})


def has_page(shell: Any) -> bool:
    """Whether the front end may have a page on which our module can stay.

    False for a program that runs the cell (nbclient, papermill), for Colab, where each output is a
    page of its own, and for Databricks, where there are no widgets. True before the first request,
    as when the kernel's configuration loads the extension.
    """
    if in_colab(shell) or in_databricks():
        return False
    request = current_request(shell)
    return not request or reach_of(shell) is Reach.LIVE or takes_input(request)


def takes_input(request: Mapping[str, Any]) -> bool:
    """Whether this request's code may ask the user for input."""
    return bool((request.get("content") or {}).get("allow_stdin"))


def page_answered(shell: Any) -> None:
    """Remember the client of the message that is being handled: it runs our module."""
    if client := (current_request(shell).get("header") or {}).get("session"):
        _answered.add(client)


def _publisher_captures(shell: Any) -> bool:
    from IPython.core.displaypub import CapturingDisplayPublisher

    return isinstance(shell.display_pub, CapturingDisplayPublisher)


def _output_captures(message_id: str | None) -> bool:
    """Whether an `Output` widget captures what this message displays. It ignores updates."""
    widgets = sys.modules.get("ipywidgets")
    if widgets is None:
        return False
    from ipywidgets.widgets import widget as home

    known = home._instances if hasattr(home, "_instances") else widgets.Widget.widgets  # before 8
    return any(
        isinstance(widget, widgets.Output) and widget.msg_id == message_id
        for widget in list(known.values())
    )
