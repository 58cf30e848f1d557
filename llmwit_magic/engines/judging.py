"""Content filters that are functions: the user's code, called in the user's process."""

from __future__ import annotations

from collections.abc import Callable

from ..base.background import in_background
from ..errors import InvalidInput
from ..protocol import Cancelled
from ..wit import U32_MAX

Function = Callable[[str], int | None]


def judgement(function: Function, text: str, give_up: Callable[[], bool]) -> int | None:
    """Where the filter cuts the text, or None.

    It may never return: `give_up()` is asked 20 times a second whether to wait
    no longer, which raises `Cancelled`. Raises `InvalidInput` for a filter that
    fails or returns something else.
    """

    def check() -> None:
        if give_up():
            raise Cancelled

    return in_background(lambda: _judge(function, text), check, 0.05, "llmwit-filter")


def _judge(function: Function, text: str) -> int | None:
    """What a content filter says of a text: where to cut it, or None."""
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
