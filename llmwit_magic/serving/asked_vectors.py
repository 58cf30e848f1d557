"""What a client asks for vectors of texts, for both protocols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ..contract.engine import Texts
from ..contract.events import Vectors
from ..running.embedding_calls import embedding_request
from ..running.embedding_run import EmbeddingRun
from ..running.run import Run
from .asked import Asked, Form
from .refusal import Refusal
from .served_models import ServedModels

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

MOST_TEXTS = 2048
"""Texts that one request may have. It is OpenAI's limit."""


def embedding_asked(body: Mapping[str, Any], models: ServedModels, path: str, form: Form) -> Asked:
    """The request for vectors of `input`, a text or a list of texts.

    Raises `Refusal` and `InvalidInput`.
    """
    public, target = models.target(body.get("model"))
    texts = body.get("input")
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not texts:
        raise Refusal(400, "input: it must be a text or a list of texts")
    if not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "input: it must be texts: token ids are not taken")
    if len(texts) > MOST_TEXTS:
        raise Refusal(400, f"input: it has {len(texts):,} texts, and may have {MOST_TEXTS:,}")
    request, checked = embedding_request(texts, target, {"tags": {"http": path}})
    wanted = Texts(tuple(checked), tuple(range(1, len(checked) + 1)))
    return Asked(public, request, lambda session: session.start_embedding(request, wanted), form)


def sums(run: Run) -> tuple[NDArray[numpy.float32], int]:
    """The vectors of an ended run, and the tokens of its texts."""
    counts = (event.token_count for event in run.events if isinstance(event, Vectors))
    return cast(EmbeddingRun, run).vectors, sum(counts)
