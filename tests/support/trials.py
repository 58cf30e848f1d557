"""Hypothesis inside a test, so that the long form can try more than the short one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

LONGER = 20
"""How many times more the long form tries."""


def trials(
    long: bool, count: int, **strategies: SearchStrategy[Any]
) -> Callable[[Callable[..., None]], None]:
    """Run the decorated check at once over that many examples, the same ones each time."""

    def run(check: Callable[..., None]) -> None:
        settings(
            max_examples=count * LONGER if long else count,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(check))()

    return run
