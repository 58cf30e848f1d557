"""What Python shows of warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmwit_magic.errors import shown_once


@contextmanager
def shown_warnings(text_of: Callable[..., str | None]) -> Iterator[list[str]]:
    """The texts of the warnings that are shown within the block, by Python's own filter: the same
    words of a line once.

    `text_of` gets a warning, its category, its file and its line. None leaves the warning out.
    """
    shown_once.clear()
    found: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda *warning: found.extend(
            text for text in [text_of(*warning[:4])] if text is not None
        )
        yield found
