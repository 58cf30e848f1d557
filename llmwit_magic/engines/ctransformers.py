"""Token ids to logits: the only file that imports ctransformers.

The library is used as a machine for logits and for nothing else. Its sampling,
stop handling, UTF-8 handling and defaults are wrong in ways a user would see,
and most misuse kills the process; so this module lives in the child process,
and checks every argument before native code sees it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineFailed, InvalidInput, PromptTooLong
from .builds import choose_build
from .threads import Threads, usable_cores
from .windows import path_to_open

BLOCK = 32
"""Prompt tokens evaluated in one call, always up to a multiple of this position.

One call cannot be interrupted; slices of this size cost no more than one large
call and let a cancellation through within a quarter of a second on a small model.

The number is also that of the lanes in ggml's float16 dot product. A token's
attention is summed in lanes over the whole multiples of 32 positions evaluated
so far, and one by one over the rest, and the quantised activations turn the
difference in the last bit into one of the first digit. So a token comes out in
one of two ways: in a completed block, or in one that is not complete yet.
Evaluating to block ends, and reusing only tokens that came out in the way that
a fresh evaluation would give, makes the logits the same to the bit.
"""


def _library() -> tuple[Any, Any]:
    """ctransformers' `LLM` and `Config`, without the rest of its package.

    Importing the package also imports its way to the Hugging Face hub and that
    one's client, which takes five times as long as all that is used here.
    """
    if "ctransformers" not in sys.modules:
        spec = importlib.util.find_spec("ctransformers")
        if spec is None:
            raise EngineFailed("ctransformers is not installed: pip install ctransformers")
        sys.modules["ctransformers"] = importlib.util.module_from_spec(spec)
    llm = importlib.import_module("ctransformers.llm")
    return llm.LLM, llm.Config


# The library's tokenizer of old formats takes such a run by std::regex, which calls itself for
# each byte: some 25,000 of them end the process.
_RUNS = re.compile(rb"[A-Za-z]+|[0-9]+|\s+|[^A-Za-z0-9\s]+")
_LONGEST_RUN = 10_000


class LogitsModel:
    """A loaded model: evaluates token ids and remembers which ones it has seen."""

    def __init__(
        self,
        path: str,
        *,
        model_type: str | None,
        context_length: int,
        gpu_layers: int,
        mmap: bool = True,
    ) -> None:
        LLM, Config = _library()
        # Without a name ctransformers would choose by py-cpuinfo, which takes over a second.
        self.library = choose_build(gpu=gpu_layers > 0)
        config = Config(context_length=context_length, gpu_layers=gpu_layers, mmap=mmap)
        self._llm = LLM(path_to_open(path), model_type, config=config, lib=self.library)
        # Bound once: asked for by its name, ctransformers looks each up and binds it anew.
        self._evaluate_batch = self._llm.ctransformers_llm_batch_eval
        self._logits_size = self._llm.ctransformers_llm_logits_size
        self._logits_data = self._llm.ctransformers_llm_logits_data
        self.vocabulary_size: int = self._llm.vocab_size
        self.context_length: int = self._llm.context_length
        # Old falcon files compute nonsense after a step back, other than to the beginning.
        self._rewinds = model_type != "falcon"
        self._context: list[int] = []
        self._complete = 0  # the first tokens that were evaluated in completed blocks
        self._logits: NDArray[np.float32]
        self._logits_place: tuple[int, int] | None = None  # address and number

    @property
    def prompt_length(self) -> int:
        """Tokens of the context that a later prompt may share: those of completed blocks."""
        return self._complete

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens need not be evaluated again.

        They are those that the context begins with too and that came out there
        as they would afresh (see `BLOCK`). At least one token is always
        evaluated, since only the newest one's logits are kept.
        """
        limit = min(len(tokens) - 1, len(self._context))
        common = next((i for i in range(limit) if tokens[i] != self._context[i]), max(limit, 0))
        complete = len(tokens) // BLOCK * BLOCK
        if self._complete != complete:
            common = min(common, self._complete, complete)
        return common if self._rewinds or common == len(self._context) else 0

    def evaluate_prompt(
        self,
        tokens: Sequence[int],
        threads: Threads,
        progress: Callable[[int], bool],
    ) -> bool:
        """Make `tokens` the context, block by block.

        `threads()` is asked before each block, and `progress(done)` is called after it with the number of tokens
        of the context that are evaluated; it returns whether to go on. Returns
        whether all of it was evaluated.
        """
        if len(tokens) > self.context_length:
            raise PromptTooLong(
                f"{len(tokens)} tokens do not fit into a context of {self.context_length}"
            )
        start = self.shared_prefix(tokens)
        del self._context[start:]
        self._complete = min(self._complete, start)
        while start < len(tokens):
            end = (start // BLOCK + 1) * BLOCK
            self._evaluate(tokens[start:end], threads())
            start = len(self._context)
            if start == end:
                self._complete = end
            if not progress(start) and start < len(tokens):
                return False
        return True

    def evaluate_next(self, token: int, threads: int) -> None:
        """Append one token to the context."""
        self._evaluate([token], threads)

    def _evaluate(self, tokens: Sequence[int], threads: int) -> None:
        past = len(self._context)
        if past + len(tokens) > self.context_length:
            raise EngineFailed(f"the context of {self.context_length} tokens is full")
        if not all(0 <= token < self.vocabulary_size for token in tokens):
            raise EngineFailed("a token id is outside the vocabulary of the model")
        if not 1 <= threads <= usable_cores():
            raise InvalidInput(
                f"threads: {threads} is not valid: it must be from 1 to {usable_cores()}, "
                "the cores of this machine (more never ends)"
            )
        ids = (ctypes.c_int * len(tokens))(*tokens)
        if not self._evaluate_batch(ids, len(tokens), past, len(tokens), threads):
            self._context.clear()
            self._complete = 0
            raise EngineFailed("ctransformers could not evaluate the tokens")
        self._context.extend(tokens)

    @property
    def logits(self) -> NDArray[np.float32]:
        """Of the newest token, shape (vocabulary,): a view that the next evaluation overwrites.

        Some old formats keep several positions; the last is the newest.
        """
        size, data = self._logits_size(), self._logits_data()
        if size < self.vocabulary_size or not data:
            raise EngineFailed("the model gave no logits")
        # The view is made anew only where they have moved: making it takes longer than one
        # would think, after an evaluation has emptied the processor's caches.
        place = ctypes.addressof(data.contents), size
        if place != self._logits_place:
            self._logits = np.ctypeslib.as_array(data, (size,))[-self.vocabulary_size :]
            self._logits_place = place
        return self._logits

    @property
    def embedding(self) -> list[float]:
        """The hidden state of the newest token after the last norm, length of the embedding."""
        size = self._llm.ctransformers_llm_embeddings_size()
        if not size:
            raise InvalidInput("this model gives no embeddings: ctransformers has them for GGUF")
        data = self._llm.ctransformers_llm_embeddings_data()
        vector = np.ctypeslib.as_array(data, (size,))
        if not np.isfinite(vector).all():
            raise EngineFailed(
                "the model computed NaN or infinite numbers: its file is damaged; fetch it again"
            )
        if not vector.any():
            raise EngineFailed(
                "the model computed an embedding of zeros only: its weights are zeros or its "
                "header is wrong, as in an unfinished download; fetch the file again"
            )
        values: list[float] = vector.tolist()
        return values

    def encode_natively(self, text: str) -> list[int]:
        """Ids by the library's own tokenizer, for formats whose vocabulary only it can read.

        A character can make as many tokens as it has bytes, which the
        library's own Python wrapper does not allow for.
        """
        if "\0" in text:
            raise InvalidInput(
                f"the prompt has a NUL character at position {text.index(chr(0))}, which "
                "this model's tokenizer cannot take"
            )
        data = text.encode()
        for run in _RUNS.finditer(data):
            if run.end() - run.start() > _LONGEST_RUN:
                raise InvalidInput(
                    f"the prompt has more than {_LONGEST_RUN:,} letters, digits, spaces or other "
                    f"signs in a row, from position {len(data[: run.start()].decode())} on, which "
                    "this model's tokenizer cannot take: break them up"
                )
        output = (ctypes.c_int * (4 * len(data) + 16))()
        count = self._llm.ctransformers_llm_tokenize(data, False, output)
        return list(output[:count])

    def token_bytes_natively(self, token: int) -> bytes:
        """What a token of such a vocabulary stands for."""
        text: bytes = self._llm.ctransformers_llm_detokenize(token)
        return text

    @property
    def native_end_id(self) -> int:
        """The end-of-text token of such a vocabulary."""
        return int(self._llm.eos_token_id)
