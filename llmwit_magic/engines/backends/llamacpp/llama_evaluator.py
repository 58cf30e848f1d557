"""Token ids to logits by llama.cpp: one context, in which several prompts can be kept.

The library computes a token in one of two ways: alone, or in a batch. The results differ in the
last bits. So a prompt is evaluated in blocks that end at multiples of `BLOCK`, what is left of it
in one batch, and generated tokens one by one; and only whole blocks are shared with a later
prompt. Then the logits are the same to the bit, whatever was evaluated before. With larger blocks,
which are faster, they are not; so everything that was evaluated is shared then.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import EngineFailed
from ..blocks import BLOCK, BlockEvaluator, best_of, check_call, common_prefix
from . import llama_h

_ABORTED = 2
"""What `llama_decode` returns when it was told to give up."""


class LlamaContext:
    """A native context with `n_seq_max` sequences, each an evaluator; one is evaluated at a time."""

    def __init__(
        self,
        library: Any,
        model: int,
        context: int,
        sequences: int,
        rewinds: bool,
        block: int = BLOCK,
    ) -> None:
        self.library, self.model, self.context = library, model, context
        self.vocabulary_size: int = library.llama_vocab_n_tokens(
            library.llama_model_get_vocab(model)
        )
        self.length: int = library.llama_n_ctx_seq(context)
        self.memory = library.llama_get_memory(context)
        self.rewinds, self.block = rewinds, block
        self._threads = 0
        # The library asks before each step whether to give up. Its answer is the length of a text,
        # which C's own `strlen` counts: no call comes back into Python, which would take longer.
        self._abort = ctypes.create_string_buffer(2)
        c = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
        self._strlen = ctypes.cast(c.strlen, library.ggml_abort_callback)
        library.llama_set_abort_callback(context, self._strlen, self._abort)
        self._one = batch(0, [0], 0, struct=library.llama_batch)
        """Is filled for each generated token. To make one takes longer."""
        # Kept, since to look up a function takes longer than to call it.
        self._decode, self._get_logits = library.llama_decode, library.llama_get_logits_ith
        self._logits: NDArray[np.float32]
        self._logits_address = 0
        self.evaluators = [LlamaEvaluator(self, number) for number in range(sequences)]

    def interrupt(self, asked: bool) -> None:
        """Give up the evaluation that goes on, and each further one until it is taken back."""
        self._abort.raw = b"\1\0" if asked else b"\0\0"

    def evaluate(
        self, sequence: int, tokens: Sequence[int], past: int, threads: int,
        all_outputs: bool = False,
    ) -> bool:  # fmt: skip
        """Append tokens to a sequence that has `past` of them; False where it was interrupted.

        There is an output for the last one, or with `all_outputs` for each.
        """
        check_call(tokens, self.vocabulary_size, threads)
        if threads != self._threads:
            self.library.llama_set_n_threads(self.context, threads, threads)
            self._threads = threads
        if len(tokens) == 1:
            asked = self._one
            asked.token[0], asked.pos[0], asked.seq_id[0][0] = tokens[0], past, sequence
        else:
            asked = batch(sequence, tokens, past, all_outputs, self.library.llama_batch)
        code = self._decode(self.context, asked)
        if code not in (0, _ABORTED):
            raise EngineFailed(f"llama.cpp could not evaluate the tokens (code {code})")
        return bool(code == 0)

    @property
    def logits(self) -> NDArray[np.float32]:
        """Of the newest token, shape (vocabulary,): a view that the next evaluation overwrites."""
        data = self._get_logits(self.context, -1)
        if not data:
            raise EngineFailed("the model gave no logits")
        address = ctypes.addressof(data.contents)
        if address != self._logits_address:
            self._logits = np.ctypeslib.as_array(data, (self.vocabulary_size,))
            self._logits_address = address
        return self._logits


def batch(
    sequence: int, tokens: Sequence[int], past: int, all_outputs: bool = False,
    struct: Any = llama_h.Batch,
) -> Any:  # fmt: skip
    """Tokens of one sequence, from position `past` on, with an output for the last one or for all.

    `struct` is the class of the result, as the library's declarations have it.
    """
    count = len(tokens)
    numbers = ctypes.c_int32 * count
    ids = ctypes.pointer(ctypes.c_int32(sequence))
    outputs = (ctypes.c_int8 * count)(*[int(all_outputs)] * (count - 1), 1)
    return struct(
        count, numbers(*tokens), None, numbers(*range(past, past + count)),
        numbers(*[1] * count), (ctypes.POINTER(ctypes.c_int32) * count)(*[ids] * count), outputs,
    )  # fmt: skip


class KeptPrompts:
    """The sequences of a model, each with the prompt that it has evaluated. One runs at a time.

    `open_more()` is called once, when a prompt is to be kept beside that of the first context. It
    opens the sequences of all further prompts as one more context, or returns None. The library
    fills the memory of a context when it is made, which a first answer need not wait for.
    """

    def __init__(
        self, first: LlamaContext, open_more: Callable[[], LlamaContext | None] = lambda: None
    ) -> None:
        self.evaluators = [*first.evaluators]
        """The one that was used last stands last."""
        self._open_more: Callable[[], LlamaContext | None] | None = open_more

    def best_for(self, tokens: Sequence[int]) -> LlamaEvaluator:
        """The sequence that should evaluate this prompt: see `best_of`."""
        return best_of(self.evaluators, tokens, self._another)

    def _another(self) -> LlamaEvaluator | None:
        open_more, self._open_more = self._open_more, None
        if open_more is None or (more := open_more()) is None:
            return None
        self.evaluators[:0] = more.evaluators[1:]
        return more.evaluators[0]


class LlamaEvaluator(BlockEvaluator):
    """One sequence of a context."""

    def __init__(self, context: LlamaContext, sequence: int) -> None:
        super().__init__(context.length, context.block)
        self._context, self._sequence = context, sequence
        self._exact = context.block == BLOCK

    @property
    def logits(self) -> NDArray[np.float32]:
        """Of the newest token, shape (vocabulary,): a view that the next evaluation overwrites."""
        return self._context.logits

    @property
    def rewinds(self) -> bool:
        return self._context.rewinds

    @property
    def reusable_length(self) -> int:
        """How many tokens of the context a later prompt may share: exact are whole blocks only."""
        return self._complete if self._exact else len(self._tokens)

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens need not be evaluated again: exact are whole blocks only.

        At least one token is always evaluated, since only the newest one's logits are kept.
        """
        common = common_prefix(tokens, self._tokens, min(len(tokens) - 1, self.reusable_length))
        if self._exact:
            common = common // BLOCK * BLOCK
        # A model that cannot go back has to have evaluated nothing else.
        return common if self._context.rewinds or common == len(self._tokens) else 0

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
            self._go_back(self.reusable_length if self._context.rewinds else 0)
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
        return super()._go_back(length)
