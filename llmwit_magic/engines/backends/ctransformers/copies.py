"""Prompts whose evaluation is kept, so that going back to one costs the evaluation of one token.

ctransformers can neither save the state of a context nor have two contexts in one
`LLM`. But a file can be opened again. Then both `LLM`s share the weights, which are
mapped. The second one costs little more memory than its own context fills. So each
prompt worth keeping gets an `LLM` of its own, up to a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..base import Evaluator
from ..blocks import best_of


class Copies:
    """Copies of one loaded model, each with what it has evaluated. One runs at a time.

    `open_another()` opens a further copy, or returns None where memory is short.
    It is not called once there are `most` copies.
    """

    def __init__(
        self, first: Evaluator, open_another: Callable[[], Evaluator | None], most: int
    ) -> None:
        self._copies = [first]  # in the order of their last use, the newest last
        self._open_another = open_another
        self._most = most

    def __len__(self) -> int:
        return len(self._copies)

    def best_for(self, tokens: Sequence[int]) -> Evaluator:
        """The copy that should evaluate this prompt: see `best_of`."""
        return best_of(self._copies, tokens, self._another)

    def _another(self) -> Evaluator | None:
        return self._open_another() if len(self._copies) < self._most else None
