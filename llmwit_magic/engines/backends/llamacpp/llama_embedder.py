"""Vectors by llama.cpp, with the pooling that the model file asks for.

They have a context of their own. A vector that is pooled over a text needs the whole text in one
call. The last token's state does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....errors import EngineFailed, ModelNotSupported
from ....models.gguf import Header
from ...threads import Threads
from ..blocks import BLOCK
from ..vectors import checked
from .llama_evaluator import LlamaContext
from .llama_h import POOLINGS

WHOLE_TEXTS = ("mean", "cls")
"""The poolings that need a whole text in one call."""


def pooling_of(header: Header) -> str:
    """The pooling that the file asks for; `none` where it asks for none.

    Raises `ModelNotSupported` for one that gives no vectors of texts.
    """
    number = header.hyperparameter("pooling_type", POOLINGS["none"])
    name = next((name for name, value in POOLINGS.items() if value == number), "unknown")
    if name not in ("none", "mean", "cls", "last"):
        raise ModelNotSupported(
            f"{header.path.name}: its embeddings are pooled in the way '{name}', which gives no "
            "vectors of texts: take a model whose pooling is mean, cls or last"
        )
    return name


class LlamaEmbedder:
    """Makes vectors: mean or cls where the file says so, else the last token's state."""

    def __init__(self, library: Any, context: LlamaContext, width: int, pooled: bool) -> None:
        """`width` is the length of a vector. `pooled` is whether the library pools whole texts."""
        self._library, self._context, self._width = library, context, width
        self.context_length = context.length
        self._pooled = pooled

    def vector(
        self, tokens: Sequence[int], threads: Threads, goes_on: Callable[[], bool]
    ) -> list[float] | None:
        """The vector of one text, of shape (width,); None where it was given up."""
        context = self._context
        self._library.llama_memory_seq_rm(context.memory, 0, -1, -1)
        together = len(tokens) if self._pooled else BLOCK
        for start in range(0, len(tokens), together):
            part = tokens[start : start + together]
            if not goes_on() or not context.evaluate(0, part, start, threads(), self._pooled):
                return None
        if self._pooled:
            data = self._library.llama_get_embeddings_seq(context.context, 0)
        else:
            data = self._library.llama_get_embeddings_ith(context.context, -1)
        if not data:
            raise EngineFailed("the model gave no vector")
        return checked(data, self._width)
