"""The vectors that ctransformers can give: the last hidden state of a text's last token.

llama.cpp calls this pooling `last`. A file with the pooling 0 (`none`) leaves the choice to the
caller, and so gets `last` too. So does a file without a pooling: llama.cpp takes a missing value
for 0. Files with another pooling are refused: `mean` needs the states of all tokens, `cls` the
state of the first token (in models that look ahead), and `rank` a head that ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ....errors import InvalidInput, ModelNotSupported
from ....models.gguf import Header
from ...threads import Threads
from .evaluator import CTransformersEvaluator

_POOLINGS = {1: "mean", 2: "cls", 4: "rank"}
_SAME_AS_LAST = (None, 0, 3)


class LastToken:
    """Vectors by the context that also generates."""

    def __init__(self, evaluator: CTransformersEvaluator, header: Header | None) -> None:
        """Raises `InvalidInput` for a file from before GGUF, `ModelNotSupported` for a pooling."""
        if header is None:
            raise InvalidInput(
                "an old GGML file gives no embeddings: ctransformers has them for GGUF"
            )
        pooling = header.hyperparameter("pooling_type")
        if pooling not in _SAME_AS_LAST:
            name = _POOLINGS.get(pooling, "unknown") if isinstance(pooling, int) else "unknown"
            raise ModelNotSupported(
                f"{header.path.name}: its embeddings are pooled in the way '{name}' "
                f"('{header.architecture}.pooling_type' is {pooling}), and ctransformers gives the "
                "last token's state only: take a model whose pooling is 'last'"
            )
        self._evaluator = evaluator
        self.context_length = evaluator.context_length

    def vector(
        self, tokens: Sequence[int], threads: Threads, goes_on: Callable[[], bool]
    ) -> list[float] | None:
        """The state of the last token, after the model's last norm; None where it was given up."""
        if not self._evaluator.evaluate_prompt(tokens, threads, lambda done: goes_on()):
            return None
        return self._evaluator.embedding
