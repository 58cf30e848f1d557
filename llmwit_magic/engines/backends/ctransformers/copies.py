"""Prompts whose evaluation is kept, so that going back to one costs the evaluation of one token.

ctransformers can neither save the state of a context nor have two contexts in one
`LLM`. But a file can be opened again. Then both `LLM`s share the weights, which are
mapped. The second one costs little more memory than its own context fills. So each
prompt worth keeping gets an `LLM` of its own, up to a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..base import Evaluator
from .evaluator import BLOCK

WORTH_KEEPING = 2 * BLOCK
"""A prompt of no more tokens is evaluated again in the time that opening a file takes."""


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
        """The copy that should evaluate this prompt.

        It is the copy with the longest prefix in common with the prompt, unless it
        would discard more tokens than that saves, and more than `WORTH_KEEPING`. Then
        it is a copy that discards no more than `WORTH_KEEPING`, or else a new copy,
        or else the least recently used one.
        """
        best = max(self._copies, key=lambda copy: copy.shared_prefix(tokens))
        shared = best.shared_prefix(tokens)
        if self._lost(best, tokens) > max(shared, WORTH_KEEPING):
            best = self._spare(tokens)
        self._copies.remove(best)
        self._copies.append(best)
        return best

    def _spare(self, tokens: Sequence[int]) -> Evaluator:
        """A copy with nothing worth keeping, a new one, or the least recently used one."""
        for copy in self._copies:
            if self._lost(copy, tokens) <= WORTH_KEEPING:
                return copy
        if len(self._copies) < self._most and (opened := self._open_another()) is not None:
            self._copies.append(opened)
            return opened
        return self._copies[0]

    def _lost(self, copy: Evaluator, tokens: Sequence[int]) -> int:
        """How many evaluated tokens a copy would discard for this prompt."""
        return max(0, copy.reusable_length - copy.shared_prefix(tokens))
