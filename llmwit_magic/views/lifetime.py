"""How long a panel and its widgets stay: as long as somebody can see or name it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from IPython import get_ipython

from .frontend import current_request

_held: dict[str, tuple[str, list[Any]]] = {}
"""The panels that each cell shows, and the message by which it ran."""


def hold(panel: Any) -> None:
    """Keep a panel that is displayed; what its cell showed before is gone, and is folded."""
    request = current_request(get_ipython())
    if not request:
        return  # no page
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
    """The method, while its object is there: a widget must not keep the panel."""
    alive = weakref.WeakMethod(method)

    def call(*arguments: Any) -> None:
        if (found := alive()) is not None:
            found(*arguments)

    return call


def end(cancel: Callable[[], None], box: Any) -> None:
    """Cancel what runs, and close the widgets, with their layouts and styles."""
    cancel()
    for widget in _all_of(box):
        widget.close()


def reopen(box: Any) -> None:
    """Give closed widgets their other ends again."""
    for widget in _all_of(box):
        if widget.comm is None:
            for name in ("_repr_mimebundle_", "_ipython_display_"):  # of ipywidgets 8, and of 7
                vars(widget).pop(name, None)  # closing has taken it away
            widget.open()


def _all_of(widget: Any) -> list[Any]:
    """A widget with all that belongs to it, the parts before the whole."""
    parts = [part for child in getattr(widget, "children", ()) for part in _all_of(child)]
    own = (widget.layout, getattr(widget, "style", None), widget)
    return parts + [part for part in own if part is not None]
