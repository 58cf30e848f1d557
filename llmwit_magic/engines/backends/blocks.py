"""What both libraries need, since both are made of ggml: prompts evaluated in blocks, and kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from ...errors import EngineFailed, InvalidInput, PromptTooLong
from ..threads import Threads, usable_cores
from .base import Evaluator

BLOCK = 32
"""How many prompt tokens are evaluated in one call. Blocks end at multiples of this position.

ctransformers cannot interrupt a call. Calls of this size take no longer than one large call
for all tokens. They let a cancellation through within a quarter of a second on a
small model.

The number is also that of the lanes in ggml's float16 dot product. A token's
attention is summed in lanes over the whole multiples of 32 positions evaluated so
far, and one by one over the rest. These two ways differ in the last bit. The
quantised activations turn that into a difference in the first digit. So a token's
results come out in one of two ways: in a completed block, or in one that is not
complete yet. The logits are the same to the bit under two conditions: evaluation
goes to the ends of blocks, and a token is reused only where a fresh evaluation
would give the same results.
"""
WORTH_KEEPING = 2 * BLOCK
"""A prompt of no more tokens is evaluated again rather than kept."""


class BlockEvaluator(ABC):
    """One context, block by block. It remembers the token ids that it has evaluated."""

    def __init__(self, context_length: int, block: int = BLOCK) -> None:
        self.context_length = context_length
        self._block = block
        self._tokens: list[int] = []
        self._complete = 0  # how many of the first tokens were evaluated in completed blocks

    @property
    def reusable_length(self) -> int:
        """How many tokens of the context a later prompt may share: those of completed blocks."""
        return self._complete

    @abstractmethod
    def shared_prefix(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens need not be evaluated again."""

    @abstractmethod
    def _evaluate(self, tokens: Sequence[int], threads: int) -> bool:
        """Append tokens to the context; whether that was not given up."""

    def _go_back(self, length: int) -> int:
        """Forget all but the first tokens; how many are left."""
        del self._tokens[length:]
        self._complete = min(self._complete, length)
        return length

    def evaluate_prompt(
        self, tokens: Sequence[int], threads: Threads, progress: Callable[[int], bool]
    ) -> bool:
        """Make `tokens` the context, block by block. Returns whether all of it was evaluated.

        `threads()` is called before each block and gives the number of threads.
        `progress(done)` is called after each block with the number of tokens of the
        context that are evaluated. It returns whether to go on. Raises `PromptTooLong`
        for more tokens than the context holds.
        """
        if len(tokens) > self.context_length:
            raise PromptTooLong(
                f"{len(tokens)} tokens do not fit into a context of {self.context_length}"
            )
        start = self._go_back(self.shared_prefix(tokens))
        while start < len(tokens):
            end = (start // self._block + 1) * self._block
            if not self._evaluate(tokens[start:end], threads()):
                return False
            start = len(self._tokens)
            if start == end:
                self._complete = end
            if not progress(start) and start < len(tokens):
                return False
        return True

    def evaluate_next(self, token: int, threads: int) -> None:
        """Append one token to the context. Raises `EngineFailed` where the context is full."""
        self._check_room(1)
        self._evaluate([token], threads)

    def go_back(self, length: int) -> bool:
        """Forget all but the first `length` tokens; False where all of them had to be forgotten."""
        if length == len(self._tokens):
            return True
        return self._go_back(length if self.rewinds else 0) == length

    @property
    @abstractmethod
    def rewinds(self) -> bool:
        """Whether the model can go back in its context, and not only to the beginning."""

    def _check_room(self, count: int) -> None:
        if len(self._tokens) + count > self.context_length:
            raise EngineFailed(f"the context of {self.context_length} tokens is full")


def common_prefix(one: Sequence[int], other: Sequence[int], limit: int) -> int:
    """With how many of the same tokens two sequences begin, at most `limit`."""
    return next((i for i in range(limit) if one[i] != other[i]), max(limit, 0))


def check_call(tokens: Sequence[int], vocabulary_size: int, threads: int, why: str = "") -> None:
    """Refuse what native code must not see. `why` is what more threads than cores would do."""
    if not all(0 <= token < vocabulary_size for token in tokens):
        raise EngineFailed("a token id is outside the vocabulary of the model")
    cores = usable_cores()
    if not 1 <= threads <= cores:
        raise InvalidInput(
            f"threads: {threads} is not valid: it must be from 1 to {cores}, "
            f"the cores of this machine{why}"
        )


E = TypeVar("E", bound=Evaluator)


def best_of(
    evaluators: list[E], tokens: Sequence[int], open_another: Callable[[], E | None] = lambda: None
) -> E:
    """The evaluator for this prompt. The list is in the order of last use, and is kept so.

    It is the one with the longest prefix in common with the prompt, unless it would
    discard more tokens than that saves, and more than `WORTH_KEEPING`. Then it is one
    that discards no more than `WORTH_KEEPING`, or else another one that is opened, or
    else the least recently used one.
    """

    def lost(evaluator: E) -> int:
        return max(0, evaluator.reusable_length - evaluator.shared_prefix(tokens))

    best = max(evaluators, key=lambda evaluator: evaluator.shared_prefix(tokens))
    if lost(best) > max(best.shared_prefix(tokens), WORTH_KEEPING):
        spare = next((item for item in evaluators if lost(item) <= WORTH_KEEPING), None)
        if spare is None and (spare := open_another()) is not None:
            evaluators.append(spare)
        best = spare or evaluators[0]
    evaluators.remove(best)
    evaluators.append(best)
    return best
