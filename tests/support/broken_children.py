"""Engine processes that do what a test wants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llmwit_magic.engines.local import pipe


@contextmanager
def child_with(code: str, last: bool = False) -> Iterator[None]:
    """Children that do this before anything else, or at last before they serve."""
    served = "main(int(sys.argv[2]))"
    assert pipe._CODE.count(served) == 1
    changed = pipe._CODE.replace(served, f"{code}\n{served}") if last else f"{code}\n{pipe._CODE}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe, "_CODE", changed)
        yield
