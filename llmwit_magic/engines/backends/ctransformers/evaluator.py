"""Token ids to logits. This is the only file that imports ctransformers.

The library computes logits and embeddings, and reads the vocabulary of old formats.
Nothing else of it is used. Its sampling, stop handling, UTF-8 handling and defaults
are wrong in ways that a user would see. Most misuse of it kills the process. So this
module runs in the child, and checks every argument before native code sees it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import EngineFailed, InvalidInput
from ..blocks import BLOCK, BlockEvaluator, check_call, common_prefix
from ..vectors import checked
from .builds import choose_build
from .windows_paths import path_to_open


def _library() -> tuple[Any, Any]:
    """ctransformers' `LLM` and `Config`, without the rest of its package.

    Importing the whole package also imports its code for the Hugging Face hub and the
    hub's client. That takes five times as long as importing what is used here.
    """
    if "ctransformers" not in sys.modules:
        spec = importlib.util.find_spec("ctransformers")
        if spec is None:
            raise EngineFailed("ctransformers is not installed: pip install ctransformers")
        sys.modules["ctransformers"] = importlib.util.module_from_spec(spec)
    llm = importlib.import_module("ctransformers.llm")
    return llm.LLM, llm.Config


# The library's tokenizer of old formats matches such a run with std::regex. That calls itself for
# each byte, and a run of some 25,000 bytes ends the process.
_RUNS = re.compile(rb"[A-Za-z]+|[0-9]+|\s+|[^A-Za-z0-9\s]+")
_LONGEST_RUN = 10_000


class CTransformersEvaluator(BlockEvaluator):
    """A loaded model. It evaluates token ids, and remembers which ones it has evaluated."""

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
        # Without a name, ctransformers would choose a build by py-cpuinfo, which takes over a
        # second.
        self.library = choose_build(gpu=gpu_layers > 0)
        config = Config(context_length=context_length, gpu_layers=gpu_layers, mmap=mmap)
        self._llm = LLM(path_to_open(path), model_type, config=config, lib=self.library)
        # These functions are kept, since ctransformers looks up and binds a function again each
        # time that it is asked for.
        self._evaluate_batch = self._llm.ctransformers_llm_batch_eval
        self._logits_size = self._llm.ctransformers_llm_logits_size
        self._logits_data = self._llm.ctransformers_llm_logits_data
        self.vocabulary_size: int = self._llm.vocab_size
        super().__init__(self._llm.context_length)
        # Old falcon files compute nonsense after a step back in the context, unless it goes to
        # the beginning.
        self._rewinds = model_type != "falcon"
        self._logits: NDArray[np.float32]
        self._logits_place: tuple[int, int] | None = None  # address and number of logits

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens need not be evaluated again.

        The context begins with the same tokens, and a fresh evaluation would give them
        the same results (see `BLOCK`). At least one token is always evaluated, since
        only the newest token's logits are kept.
        """
        limit = min(len(tokens) - 1, len(self._tokens))
        common = common_prefix(tokens, self._tokens, limit)
        complete = len(tokens) // BLOCK * BLOCK
        if self._complete != complete:
            common = min(common, self._complete, complete)
        return common if self._rewinds or common == len(self._tokens) else 0

    @property
    def rewinds(self) -> bool:
        return self._rewinds

    def _evaluate(self, tokens: Sequence[int], threads: int) -> bool:
        self._check_room(len(tokens))
        check_call(tokens, self.vocabulary_size, threads, " (more never ends)")
        ids = (ctypes.c_int * len(tokens))(*tokens)
        if not self._evaluate_batch(ids, len(tokens), len(self._tokens), len(tokens), threads):
            self._go_back(0)
            raise EngineFailed("ctransformers could not evaluate the tokens")
        self._tokens.extend(tokens)
        return True

    @property
    def logits(self) -> NDArray[np.float32]:
        """The logits of the newest token, shape (vocabulary,).

        They are a view that the next evaluation overwrites. Some old formats keep the logits
        of several positions, of which the last is the newest.
        """
        size, data = self._logits_size(), self._logits_data()
        if size < self.vocabulary_size or not data:
            raise EngineFailed("the model gave no logits")
        # A new view is made only where the logits have moved. Making one takes long, since an
        # evaluation has emptied the processor's caches.
        place = ctypes.addressof(data.contents), size
        if place != self._logits_place:
            self._logits = np.ctypeslib.as_array(data, (size,))[-self.vocabulary_size :]
            self._logits_place = place
        return self._logits

    @property
    def embedding(self) -> list[float]:
        """The hidden state of the newest token after the last norm.

        Its length is that of the model's embedding. Raises `InvalidInput` for a model that
        gives none, and `EngineFailed` for numbers that are not finite or all zero.
        """
        size = self._llm.ctransformers_llm_embeddings_size()
        if not size:
            raise InvalidInput("this model gives no embeddings: ctransformers has them for GGUF")
        data = self._llm.ctransformers_llm_embeddings_data()
        return checked(data, size)

    def encode_natively(self, text: str) -> list[int]:
        """Token ids by the library's own tokenizer.

        Only the library can read the vocabularies of old formats. A character can make as
        many tokens as it has bytes. The library's own Python wrapper does not allow for that.
        Raises `InvalidInput` for a text that this tokenizer cannot take.
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
        """The bytes of text that a token of such a vocabulary stands for."""
        text: bytes = self._llm.ctransformers_llm_detokenize(token)
        return text

    @property
    def native_end_id(self) -> int:
        """The end-of-text token of such a vocabulary."""
        return int(self._llm.eos_token_id)
