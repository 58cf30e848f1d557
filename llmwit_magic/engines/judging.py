"""Content filters that are functions. They are the user's code, and are called in the kernel."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..base.background import in_background
from ..contract.events import Cancelled
from ..contract.record import U32_MAX
from ..errors import InvalidInput

Function = Callable[[str], int | None]


class Patience:
    """Says whether to wait no longer for a filter: `seconds` after its run was cancelled.

    `cancelled()` is asked each time. The time begins when it is first true.
    """

    def __init__(self, cancelled: Callable[[], bool], seconds: float) -> None:
        self._cancelled, self._seconds = cancelled, seconds
        self._until: float | None = None

    def __call__(self) -> bool:
        """Whether the time is over."""
        if self._until is None and self._cancelled():
            self._until = time.monotonic() + self._seconds
        return self._until is not None and time.monotonic() > self._until


def judgement(function: Function, text: str, give_up: Callable[[], bool]) -> int | None:
    """Where the filter cuts the text, or None.

    The filter may never return. So `give_up()` is called 20 times a second, and says
    whether to wait no longer. Raises `Cancelled` then, and `InvalidInput` for a
    filter that raises, or returns neither a position nor None.
    """

    def check() -> None:
        if give_up():
            raise Cancelled

    return in_background(lambda: _judge(function, text), check, 0.05, "llmwit-filter")


def _judge(function: Function, text: str) -> int | None:
    """Call the filter and check what it returns: where to cut the text, or None."""
    name = getattr(function, "__name__", repr(function))
    try:
        cut = function(text)
    except BaseException as error:
        raise InvalidInput(
            f"the content filter {name} raised {type(error).__name__}: {error}"
        ) from error
    if cut is None:
        return None
    if isinstance(cut, bool) or not hasattr(cut, "__index__") or not 0 <= int(cut) <= U32_MAX:
        raise InvalidInput(
            f"the content filter {name} returned {cut!r}: it must return where to cut the text, "
            "or None"
        )
    return int(cut)
