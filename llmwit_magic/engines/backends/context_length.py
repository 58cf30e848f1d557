"""How many tokens of context a model gets."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import InvalidInput, OutOfMemory
from ..memory import available_memory

MAX_DEFAULT_CONTEXT = 8192
MEMORY_SHARE = 0.8
"""The part of the free memory that a context chosen by us may take."""
KEPT_SHARE = 0.25
"""The part of the free memory that keeping one more prompt may take."""


def choose_length(
    trained: int, asked: int | None, beyond: bool, needed: Callable[[int], int],
    share: float = MEMORY_SHARE,
) -> int:  # fmt: skip
    """Tokens of context: what was asked for, or the trained length as far as memory allows.

    `needed` tells the bytes of a context of so many tokens. One that is chosen here takes `share` of
    the free memory at most. More than the trained length is refused, unless `beyond`. Raises
    `InvalidInput` and `OutOfMemory`.
    """
    if asked is not None:
        if asked > trained and not beyond:
            raise InvalidInput(
                f"{too_long(asked, trained)} (--accept context takes it; the text gets worse beyond)"
            )
        length = asked
    else:
        length = min(trained, MAX_DEFAULT_CONTEXT)
    free = available_memory()
    fitting = length
    while fitting > 64 and needed(fitting) > free * share:
        fitting //= 2
    if asked is not None and needed(asked) > free:
        raise OutOfMemory(
            f"a context of {asked} tokens needs {needed(asked) / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free: --context-length {fitting} would fit"
        )
    return length if asked is not None else fitting


def too_long(asked: int, trained: int) -> str:
    """What is said of a context that is longer than the model's."""
    return f"context_length: {asked} is not valid: the model was trained with {trained}"
