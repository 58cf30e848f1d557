"""A run that makes vectors of texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..contract.engine import Texts
from ..contract.events import Event, Prepared, Progress, Report, Vectors
from ..contract.request import ModelSpec, Request
from ..contract.wit import (
    EmbeddingsResult,
    EmbeddingsUsage,
    InferencingResult,
    ModelInfo,
    RunStatus,
)
from ..errors import EngineFailed, Interrupted, warn_unlogged
from ..runlog.rows import Row
from .run import Run

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from ..runlog.log import RunLog


@dataclass(frozen=True, slots=True)
class KeptVectors:
    """The vectors of a call that was broken off, by their texts, and what they were made with."""

    spec: ModelSpec
    truncate: bool
    model: ModelInfo
    vectors: Mapping[str, NDArray[numpy.float32]]


class EmbeddingRun(Run):
    """A run whose result are vectors. Its row in the log is one for all of its texts."""

    def __init__(self, request: Request, texts: Texts, log: RunLog | None = None) -> None:
        super().__init__(request, log)
        self.kind = "embedding"
        self.texts = texts
        self.vector_count = 0
        """How many vectors there are so far."""

    def emit(self, event: Event) -> None:
        """Take the next event of the engine."""
        if isinstance(event, Vectors) and event.length:
            self.vector_count += len(event.data) // (4 * event.length)
        super().emit(event)
        if isinstance(event, Prepared | Vectors):
            self.progress = Progress("embed", self.vector_count, len(self.texts))

    def _ended_well(self) -> bool:
        return self.end is not None and self.vector_count == len(self.texts)

    def row(self, status: RunStatus | None = None) -> Row:
        """The run's row for the log, which has neither vectors nor any text but the first one."""
        return super().row(status) | {"text": None, "text_count": len(self.texts)}

    @property
    def result(self) -> InferencingResult:
        """What the log tells of the run: the model, the tokens, the times."""
        return super().result.model_copy(update={"text_count": len(self.texts)})

    def interrupted(self) -> Interrupted:
        """The exception that tells a person how far the run came."""
        return Interrupted(f"stopped after {self.vector_count:,} of {len(self.texts):,} texts")

    @property
    def vectors(self) -> NDArray[numpy.float32]:
        """The vectors so far: float32 of shape (texts, embedding length); (0, 0) where there is none.

        Raises `EngineFailed` where they have different lengths.
        """
        import numpy

        with self._changed:
            parts = [event for event in self.events if isinstance(event, Vectors)]
        lengths = {part.length for part in parts} or {0}
        if len(lengths) > 1:
            raise EngineFailed(
                f"{self.request.model} made vectors of different lengths: {sorted(lengths)}"
            )
        data = numpy.frombuffer(b"".join(part.data for part in parts), "<f4")
        (length,) = lengths
        return data.reshape(self.vector_count, length).astype(numpy.float32, copy=False)

    @property
    def token_count(self) -> int:
        """The tokens of the texts that have a vector."""
        return sum(event.token_count for event in self.events if isinstance(event, Vectors))

    def finished(self, show: Report | None = None) -> EmbeddingsResult:
        """Wait for the end, and return the vectors and the tokens of their texts.

        `show` gets the progress. Raises the error of a failed run, and `Interrupted`.
        """

        def draw(run: Run) -> None:
            if show and run.progress and not run.done:
                show(run.progress)

        with self:
            self.follow(draw, 0.1)
        warn_unlogged(self.log_problem)
        return EmbeddingsResult(
            embeddings=tuple(map(tuple, self.vectors.tolist())),
            usage=EmbeddingsUsage(prompt_token_count=self.token_count),
        )
