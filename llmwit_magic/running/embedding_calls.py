"""Vectors of many texts as one array: equal texts once, with a bar, and a call that can go on."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..contract.engine import Texts
from ..contract.request import DEFAULT_MODEL, ModelSpec, Request, checked_text
from ..contract.wit import InferencingParams, ModelInfo
from ..errors import InferenceError, Interrupted, InvalidInput, warn, warn_unlogged
from ..requests.shapes import KEYWORDS
from .embedding_run import EmbeddingRun, KeptVectors
from .run import Run
from .session import Session

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_OPTIONS = {*ModelSpec.model_fields, "threads", "tags"} - {"model", "exact"}
"""The fields of a request that count for vectors."""
BAR_SECONDS = 0.5
"""A call that takes less has no bar."""


def embedding_request(
    texts: Sequence[str] | str,
    model: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
    numbers: Sequence[int] | None = None,
) -> tuple[Request, list[str]]:
    """The request for vectors of texts, whose prompt is the first text, and the checked texts.

    A message names a text by its number among `numbers`, or by its place, which begins with 1.
    Raises `InvalidInput` for an option that has no effect, and for a text that is none.
    """
    known = InferencingParams.model_fields.keys() | Request.model_fields.keys() | {*KEYWORDS}
    for name in options:
        if name in known - _OPTIONS:
            raise InvalidInput(f"{name} has no effect on embeddings: leave it out")
    name = DEFAULT_MODEL if model is None else os.fspath(model)
    request = Request(model=name, prompt="", **options)
    if not isinstance(texts, Iterable):
        raise InvalidInput(f"texts: {type(texts).__name__} is neither a text nor a list of texts")
    wanted = (texts,) if isinstance(texts, str) else tuple(texts)
    numbers = range(1, len(wanted) + 1) if numbers is None else numbers
    checked = [
        checked_text(text, f"text {number}") for number, text in zip(numbers, wanted, strict=True)
    ]
    return request.model_copy(update={"prompt": checked[0] if checked else ""}), checked


def embed_texts(
    session: Session,
    request: Request,
    texts: Sequence[str],
    *,
    truncate: bool,
    progress: bool,
    numbers: Sequence[int] | None = None,
) -> NDArray[numpy.float32]:
    """The vectors of the texts, as `embed` says. The request has the model and how it is loaded.

    `numbers` are those of `embedding_request`.
    """
    import numpy

    known = dict(_kept(session, request, truncate))
    wanted: dict[str, int] = {}  # each text with its first number
    numbers = range(1, len(texts) + 1) if numbers is None else numbers
    for number, text in zip(numbers, texts, strict=True):
        if text not in known:
            wanted.setdefault(text, number)
    if wanted or not texts:
        run = session.start_embedding(
            request, Texts(tuple(wanted), tuple(wanted.values()), truncate)
        )
        _follow(session, run, texts, known, truncate, progress)
    if not known:
        return numpy.empty((0, 0), numpy.float32)
    return numpy.stack([known[text] for text in texts])


def normalized(
    vectors: NDArray[numpy.float32], numbers: Sequence[int] | None = None
) -> NDArray[numpy.float32]:
    """The vectors divided by their Euclidean lengths. Vectors of zeros stay so, with a warning.

    `numbers` are those of `embedding_request`.
    """
    import numpy

    lengths = numpy.linalg.norm(vectors.astype(numpy.float64), axis=1)
    zeros = numpy.flatnonzero(lengths == 0)
    if zeros.size:
        numbers = range(1, len(vectors) + 1) if numbers is None else numbers
        said = ", ".join(str(numbers[place]) for place in zeros[:5]) + (" …" * (zeros.size > 5))
        warn(
            f"normalize: {zeros.size:,} of {len(vectors):,} vectors are zeros and stay so: "
            f"text {said}"
        )
        lengths[zeros] = 1
    unit: NDArray[numpy.float32] = (vectors / lengths[:, None]).astype(numpy.float32)
    return unit


def _kept(session: Session, request: Request, truncate: bool) -> Mapping[str, Any]:
    """The vectors that a call with the same model and settings had before it was broken off."""
    kept = session.kept_vectors
    if kept is None or (kept.spec, kept.truncate) != (request.spec, truncate):
        return {}
    return kept.vectors if _file_of(session.find(request)) == _file_of(kept.model) else {}


def _file_of(model: ModelInfo) -> tuple[str | None, ...]:
    """What two models have in common that are the same one."""
    return model.engine, model.sha256, None if model.sha256 else model.path


def _follow(
    session: Session, run: EmbeddingRun, texts: Sequence[str], known: dict[str, Any],
    truncate: bool, progress: bool,
) -> None:  # fmt: skip
    """Wait for the end of the run, and put its vectors into `known`.

    Where the run is broken off, its vectors are kept for the next call.
    """
    counts, goes_on = Counter(texts), bool(known)
    wanted = run.texts.texts
    done = sum(counts[text] for text in known)
    bar = tqdm(
        total=len(texts), initial=done, unit="text", disable=not progress, file=sys.stdout,
        delay=BAR_SECONDS,
    )  # fmt: skip
    seen, said, began = 0, "", time.monotonic()

    def draw(_: Run) -> None:
        nonlocal seen, said
        here, stage = run.vector_count, run.progress
        waits_for = "" if stage is None or stage.stage == "embed" else str(stage)
        if waits_for != said and time.monotonic() > began + BAR_SECONDS:
            bar.set_postfix_str(waits_for)
            said = waits_for
        bar.update(sum(counts[text] for text in wanted[seen:here]))
        seen = here

    try:
        with bar, run:
            run.follow(draw, 0.1)
    except (KeyboardInterrupt, InferenceError) as error:
        known |= zip(wanted, run.vectors, strict=False)
        if known and run.prepared is not None:
            session.kept_vectors = KeptVectors(
                run.request.spec, truncate, run.prepared.model, known
            )
        if not isinstance(error, KeyboardInterrupt):
            raise
        done = sum(counts[text] for text in known)
        raise Interrupted(
            f"stopped after {done:,} of {len(texts):,} texts; the same call goes on there"
        ) from None
    known |= zip(wanted, run.vectors, strict=True)
    if goes_on:  # the call that was broken off is complete
        session.kept_vectors = None
    warn_unlogged(run.log_problem)
