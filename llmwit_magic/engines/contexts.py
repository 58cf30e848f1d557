"""Prompts whose evaluation is kept, so that going back to one of them costs a token.

ctransformers can neither save the state of a context nor have two of them in
one `LLM`. But a file that is opened again shares the weights, which are mapped,
and costs little more than the memory that its own context comes to fill. So
each prompt worth keeping gets an `LLM` of its own, up to a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .ctransformers import BLOCK, LogitsModel

WORTH_KEEPING = 2 * BLOCK
"""Prompt tokens: fewer are evaluated again in the time that opening a file takes."""


class Contexts:
    """Copies of one loaded model, each with what it has evaluated; one runs at a time.

    `open_another()` gives a further copy, or None where memory is short, and
    is not asked beyond `most` copies.
    """

    def __init__(
        self, first: LogitsModel, open_another: Callable[[], LogitsModel | None], most: int
    ) -> None:
        self._models = [first]  # the one used last stands last
        self._open_another = open_another
        self._most = most

    def __len__(self) -> int:
        return len(self._models)

    def best_for(self, tokens: Sequence[int]) -> LogitsModel:
        """The copy that should evaluate this prompt.

        It is the copy with the longest prefix in common with the prompt, unless
        it would discard more tokens than that saves. Then it is an empty copy,
        or else the least recently used one.
        """
        best = max(self._models, key=lambda model: model.shared_prefix(tokens))
        shared = best.shared_prefix(tokens)
        if self._lost(best, tokens) > max(shared, WORTH_KEEPING):
            best = self._spare(tokens)
        self._models.remove(best)
        self._models.append(best)
        return best

    def _spare(self, tokens: Sequence[int]) -> LogitsModel:
        for model in self._models:
            if self._lost(model, tokens) <= WORTH_KEEPING:
                return model
        if len(self._models) < self._most and (opened := self._open_another()) is not None:
            self._models.append(opened)
            return opened
        return self._models[0]

    def _lost(self, model: LogitsModel, tokens: Sequence[int]) -> int:
        """How many evaluated tokens of a prompt would have to go."""
        return max(0, model.prompt_length - model.shared_prefix(tokens))
