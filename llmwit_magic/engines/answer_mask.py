"""Which tokens may follow in a run with a constraint: in the answer, and in the marks before it.

A constraint is about the answer. What a model writes before that is free: its reasoning, and the
marks around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConstraintFailed
from .reasoning import Part

if TYPE_CHECKING:
    from .constraints import ConstraintVocabulary, Ids, Mask
    from .reasoning import Splitter


class AnswerMask:
    """The tokens that may follow.

    `splitter` is the run's own, and gets each token before `take` does. Without one, all is answer.
    `complete` says whether nothing can follow the answer. `allowed`, `complete` and `take` raise
    `ConstraintFailed` where no token can follow and the answer is not complete.
    """

    def __init__(
        self, mask: Mask, vocabulary: ConstraintVocabulary, splitter: Splitter | None
    ) -> None:
        self._mask, self._vocabulary, self._splitter = mask, vocabulary, splitter
        self._part = splitter.part if splitter else Part.ANSWER
        self._fits = True
        """Whether the text that is in no part so far may be the beginning of the answer."""

    @property
    def allowed(self) -> Ids | None:
        """The ids in ascending order; None where every token may follow."""
        if self._part is Part.ANSWER:
            return self._mask.allowed
        if self._part is Part.REASONING:
            return None
        assert self._splitter is not None
        if self._splitter.answers_next:
            return self._mask.allowed
        marks = self._vocabulary.openings(self._splitter)
        return np.union1d(marks, self._mask.allowed) if self._fits else marks

    @property
    def complete(self) -> bool:
        return self._part is not Part.REASONING and self._fits and self._mask.complete

    def take(self, token: int) -> None:
        """Go on behind a token that was allowed and does not end the text."""
        before, splitter = self._part, self._splitter
        if splitter is None:
            self._mask.take(token)
            return
        self._part = splitter.part
        if before is Part.ANSWER:
            self._mask.take(token)
        elif before is None:
            # Until a mark is complete, the same text may be the beginning of the answer.
            self._fits = self._fits and bool(np.isin(token, self._mask.allowed))
            if self._fits:
                self._mask.take(token)
            if self._part is not None and splitter.opened:
                self._mask.restart()
                self._fits = True
        elif self._part is Part.ANSWER and not splitter.opened:
            raise ConstraintFailed(
                "the answer began in the middle of the token that ended the reasoning, so its first "
                "letters were not constrained: run again with another seed"
            )
