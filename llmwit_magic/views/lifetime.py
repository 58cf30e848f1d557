"""How long a tuning panel and its widgets live: while it is displayed or has a name."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from IPython import get_ipython

from .frontend import current_request

_held: dict[str, tuple[str, list[Any]]] = {}
"""By the cell's id: the id of the message that ran the cell, and the panels that it displayed."""


def hold(panel: Any) -> None:
    """Keep a panel that is displayed, and fold those that an earlier run of its cell showed."""
    request = current_request(get_ipython())
    if not request:
        return  # no kernel: no page shows the panel
    cell = (request.get("metadata") or {}).get("cellId", "")
    message = (request.get("header") or {}).get("msg_id", "")
    known, panels = _held.get(cell, (message, []))
    others = [other for other in panels if other is not panel]
    if cell and known != message:
        for other in others:
            other.fold()
        others = []
    _held[cell] = (message, [*others, panel])


def weakly(method: Callable[..., None]) -> Callable[..., None]:
    """A function that calls the method while its object exists. It does not keep the object.

    A widget that held a panel's method would keep the panel.
    """
    alive = weakref.WeakMethod(method)

    def call(*arguments: Any) -> None:
        if (found := alive()) is not None:
            found(*arguments)

    return call


def end(cancel: Callable[[], None], box: Any) -> None:
    """Cancel what runs, and close a box with all its widgets, layouts and styles."""
    cancel()
    for widget in _all_of(box):
        widget.close()


def reopen(box: Any) -> None:
    """Open the closed widgets of a box again: each gets a new connection to the page."""
    for widget in _all_of(box):
        if widget.comm is None:
            # Closing has hidden the method that displays the widget. It has the first name in
            # ipywidgets 8 and the second in 7.
            for name in ("_repr_mimebundle_", "_ipython_display_"):
                vars(widget).pop(name, None)
            widget.open()


def _all_of(widget: Any) -> list[Any]:
    """A widget with its children, layouts and styles; the parts come before the whole."""
    parts = [part for child in getattr(widget, "children", ()) for part in _all_of(child)]
    own = (widget.layout, getattr(widget, "style", None), widget)
    return parts + [part for part in own if part is not None]
