"""The engine: what turns requests into events, and what it can do."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import ConstraintNotSupported, InvalidInput
from .events import Emit, Prepared
from .request import ModelSpec, Request
from .wit import InferencingParams, ModelInfo


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do.

    A request that asks for more is refused before its run: no setting is dropped silently.
    """

    exact_seeds: bool = True
    """Whether the same seed gives the same text on one machine with one model file."""
    log_probabilities: bool = True
    """Whether it can say the log-probabilities of the tokens."""
    prefix_reuse: bool = True
    """Whether the beginning of a prompt costs nothing where an earlier run has evaluated it."""
    runs_at_once: int = 1
    """How many runs on one model go on side by side; further ones wait."""
    embeddings: bool = True
    scores: bool = False
    """Whether it scores texts and choices that are given."""
    params: Collection[str] = frozenset(InferencingParams.model_fields)
    """The fields of `InferencingParams` that it honours."""
    constraints: Collection[str] = frozenset()
    """The kinds of constraint that it honours."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts to make vectors of.

    Errors name a text by its number, since a caller may leave out some of its texts. `truncate`
    cuts the end of a text that is longer than the context.
    """

    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    truncate: bool = False

    def __len__(self) -> int:
        return len(self.texts)


class Engine(Protocol):
    """Something that turns requests into events.

    Each call blocks until its work is done. Another thread ends it early by setting `cancel`.
    A failure raises `InferenceError`. A call that was cancelled before it had a result raises
    `Cancelled`.
    """

    capabilities: Capabilities

    def serves(self, spec: ModelSpec) -> bool:
        """Whether this engine runs models of that name. It asks neither disk nor network."""
        ...

    def find(self, spec: ModelSpec, emit: Emit, cancel: threading.Event) -> ModelInfo:
        """The model that the name leads to. It is fetched and checked where that is possible, but
        not loaded."""
        ...

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        """Hand the run's events to `emit`; the last one is an `End`.

        A request whose `is_scored` is true is scored, by an engine that has `scores`. Nothing is
        generated then, and the finish detail is `SCORED`. For a `continuation`, the chunks have its
        text and its tokens with their log-probabilities, each after all tokens before it. With
        `prompt_logprobs`, chunks before these have the prompt's tokens but the first. For choices
        with `probabilities`, one chunk has the most probable choice as its text, and the `End` has
        the `ChoiceProbabilities`.
        """
        ...

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        """The request as `run` would begin it; nothing is evaluated.

        A prompt that does not fit into the context need not be refused.
        """
        ...

    def embed(self, request: Request, texts: Texts, emit: Emit, cancel: threading.Event) -> None:
        """Hand one vector for each text to `emit`, by the model and settings of the request.

        The last event is an `End`. After a cancellation there are fewer vectors. Raises
        `PromptTooLong` for a text that is longer than the context and is not cut.
        """
        ...

    def count(
        self, spec: ModelSpec, texts: Sequence[str], emit: Emit, cancel: threading.Event
    ) -> list[int]:
        """How many tokens each text has by itself, without tokens that begin or end a text.

        No control token is recognised. Raises `InvalidInput` where the engine cannot know it.
        """
        ...

    def close(self) -> None:
        """Give all memory and connections back. A run after that raises an error."""
        ...


def check_honoured(request: Request, capabilities: Capabilities) -> None:
    """Raise `InvalidInput` for a setting of the request that the engine cannot honour.

    A param with the contract's default value is no reason to refuse a request.
    """
    standard = InferencingParams(temperature=request.params.temperature)
    wanted = [
        name for name in InferencingParams.model_fields
        if name not in capabilities.params
        and getattr(request.params, name) != getattr(standard, name)
    ]  # fmt: skip
    if request.is_scored and not capabilities.scores:
        raise InvalidInput(
            f"the engine of {request.model} gives no scores: leave out "
            + ("probabilities" if request.probabilities else "continuation")
        )
    if request.top_logprobs is not None and not capabilities.log_probabilities:
        wanted.append("top_logprobs")
    held = request.constraint if not request.probabilities else None
    if held and held.kind not in capabilities.constraints:
        raise ConstraintNotSupported(
            f"constraint {held.kind}: the engine of {request.model} cannot honour it: leave it out"
        )
    if wanted:
        raise InvalidInput(
            f"{wanted[0]}: the engine of {request.model} cannot honour it: leave it out"
        )
