"""Token ids to logits by llama.cpp: one context, in which several prompts can be kept.

The library computes a token in one of two ways: alone, or in a batch. The results differ in the
last bits. So a prompt is evaluated in blocks that end at multiples of `BLOCK`, what is left of it
in one batch, and generated tokens one by one; and only whole blocks are shared with a later
prompt. Then the logits are the same to the bit, whatever was evaluated before.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import EngineFailed, InvalidInput, PromptTooLong
from ...threads import Threads, usable_cores
from . import llama_h

BLOCK = 32
"""Tokens of a prompt that are evaluated in one call, always up to a multiple of this position."""
WORTH_KEEPING = 2 * BLOCK
"""Tokens of a prompt: fewer are evaluated again rather than kept."""
_ABORTED = 2
"""What `llama_decode` returns when it was told to give up."""


class LlamaContext:
    """A native context with `n_seq_max` sequences, each an evaluator; one is evaluated at a time."""

    def __init__(
        self, library: Any, model: int, context: int, sequences: int, rewinds: bool
    ) -> None:
        self.library, self.context = library, context
        self.vocabulary_size: int = library.llama_vocab_n_tokens(
            library.llama_model_get_vocab(model)
        )
        self.length: int = library.llama_n_ctx_seq(context)
        self.memory = library.llama_get_memory(context)
        self.rewinds = rewinds
        self._threads = 0
        # The library asks before each step whether to give up. Its answer is the length of a text,
        # which C's own `strlen` counts: no call comes back into Python, which would take longer.
        self._abort = ctypes.create_string_buffer(2)
        c = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
        self._strlen = ctypes.cast(c.strlen, ctypes.c_void_p)
        library.llama_set_abort_callback(context, self._strlen, self._abort)
        self._logits: NDArray[np.float32]
        self._logits_address = 0
        self.evaluators = [LlamaEvaluator(self, number) for number in range(sequences)]
        """The one that was used last stands last."""

    def interrupt(self, asked: bool) -> None:
        """Give up the evaluation that goes on, and each further one until it is taken back."""
        self._abort.raw = b"\1\0" if asked else b"\0\0"

    def best_for(self, tokens: Sequence[int]) -> LlamaEvaluator:
        """The sequence that should evaluate this prompt.

        It is the one with the longest prefix in common with the prompt, unless it would discard
        more tokens than that saves. Then it is an empty one, or else the least recently used one.
        """
        best = max(self.evaluators, key=lambda item: item.shared_prefix(tokens))
        shared = best.shared_prefix(tokens)
        if best.reusable_length - shared > max(shared, WORTH_KEEPING):
            spare = (item for item in self.evaluators if item.reusable_length <= WORTH_KEEPING)
            best = next(spare, self.evaluators[0])
        self.evaluators.remove(best)
        self.evaluators.append(best)
        return best

    def evaluate(
        self, sequence: int, tokens: Sequence[int], past: int, threads: int,
        all_outputs: bool = False,
    ) -> bool:  # fmt: skip
        """Append tokens to a sequence that has `past` of them; False where it was interrupted.

        There is an output for the last one, or with `all_outputs` for each.
        """
        if not all(0 <= token < self.vocabulary_size for token in tokens):
            raise EngineFailed("a token id is outside the vocabulary of the model")
        if not 1 <= threads <= usable_cores():
            raise InvalidInput(
                f"threads: {threads} is not valid: it must be from 1 to {usable_cores()}, "
                "the cores of this machine"
            )
        if threads != self._threads:
            self.library.llama_set_n_threads(self.context, threads, threads)
            self._threads = threads
        code = self.library.llama_decode(self.context, batch(sequence, tokens, past, all_outputs))
        if code not in (0, _ABORTED):
            raise EngineFailed(f"llama.cpp could not evaluate the tokens (code {code})")
        return bool(code == 0)

    @property
    def logits(self) -> NDArray[np.float32]:
        """Of the newest token, shape (vocabulary,): a view that the next evaluation overwrites."""
        data = self.library.llama_get_logits_ith(self.context, -1)
        if not data:
            raise EngineFailed("the model gave no logits")
        address = ctypes.addressof(data.contents)
        if address != self._logits_address:
            self._logits = np.ctypeslib.as_array(data, (self.vocabulary_size,))
            self._logits_address = address
        return self._logits


def batch(
    sequence: int, tokens: Sequence[int], past: int, all_outputs: bool = False
) -> llama_h.Batch:
    """Tokens of one sequence, from position `past` on, with an output for the last one or for all."""
    count = len(tokens)
    numbers = ctypes.c_int32 * count
    ids = ctypes.pointer(ctypes.c_int32(sequence))
    outputs = (ctypes.c_int8 * count)(*[int(all_outputs)] * (count - 1), 1)
    return llama_h.Batch(
        count, numbers(*tokens), None, numbers(*range(past, past + count)),
        numbers(*[1] * count), (ctypes.POINTER(ctypes.c_int32) * count)(*[ids] * count), outputs,
    )  # fmt: skip


class LlamaEvaluator:
    """One sequence of a context: evaluates token ids, and remembers which ones it has seen."""

    def __init__(self, context: LlamaContext, sequence: int) -> None:
        self._context, self._sequence = context, sequence
        self.context_length = context.length
        self._tokens: list[int] = []
        self._complete = 0  # the first tokens, which were evaluated in completed blocks

    @property
    def reusable_length(self) -> int:
        """Tokens that a later prompt may share: those of completed blocks."""
        return self._complete

    @property
    def logits(self) -> NDArray[np.float32]:
        """Of the newest token, shape (vocabulary,): a view that the next evaluation overwrites."""
        return self._context.logits

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens need not be evaluated again: whole blocks only.

        At least one token is always evaluated, since only the newest one's logits are kept.
        """
        limit = min(len(tokens) - 1, self._complete)
        common = next((i for i in range(limit) if tokens[i] != self._tokens[i]), max(limit, 0))
        common = common // BLOCK * BLOCK
        # A model that cannot go back has to have evaluated nothing else.
        return common if self._context.rewinds or common == len(self._tokens) else 0

    def evaluate_prompt(
        self, tokens: Sequence[int], threads: Threads, progress: Callable[[int], bool]
    ) -> bool:
        """Make `tokens` the context, block by block; whether all of it was evaluated.

        `threads()` is asked before each block, and `progress(done)` is told after it how many
        tokens are evaluated, and says whether to go on.
        """
        if len(tokens) > self.context_length:
            raise PromptTooLong(
                f"{len(tokens)} tokens do not fit into a context of {self.context_length}"
            )
        start = self._go_back(self.shared_prefix(tokens))
        while start < len(tokens):
            end = (start // BLOCK + 1) * BLOCK
            if not self._evaluate(tokens[start:end], threads()):
                return False
            start = len(self._tokens)
            if start == end:
                self._complete = end
            if not progress(start) and start < len(tokens):
                return False
        return True

    def evaluate_next(self, token: int, threads: int) -> None:
        """Append one token to the context, unless the evaluation is interrupted."""
        if len(self._tokens) >= self.context_length:
            raise EngineFailed(f"the context of {self.context_length} tokens is full")
        self._evaluate([token], threads)

    def _evaluate(self, tokens: Sequence[int], threads: int) -> bool:
        try:
            done = self._context.evaluate(self._sequence, tokens, len(self._tokens), threads)
        except EngineFailed:
            self._go_back(0)
            raise
        if done:
            self._tokens.extend(tokens)
        else:
            # A model that cannot go back may have stopped in the middle of changing its state.
            self._go_back(self._complete if self._context.rewinds else 0)
        return done

    def _go_back(self, length: int) -> int:
        """Forget all but the first tokens; how many are left, which are none where that fails.

        Some models refuse to go back, and some say that they did and have lost more.
        """
        library, memory, number = self._context.library, self._context.memory, self._sequence
        whole = library.llama_memory_seq_rm(memory, number, length, -1)
        first = library.llama_memory_seq_pos_min(memory, number)
        last = library.llama_memory_seq_pos_max(memory, number)
        # A model that cannot go back has one state, which stands at the last position.
        start = 0 if self._context.rewinds else length - 1
        if length and not (whole and first == start and last == length - 1):
            library.llama_memory_seq_rm(memory, number, -1, -1)
            length = 0
        del self._tokens[length:]
        self._complete = min(self._complete, length)
        return length
