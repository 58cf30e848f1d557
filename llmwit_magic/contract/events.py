"""What an engine says while it works.

A run's events come in this order: any number of `Progress` (fetch, adapt, wait,
load, constraint), one `Prepared`, any number of `Progress` of the prompt, any number of
`Chunk`, one `End`. A run that fails raises an error and has no `End`. A run that makes
vectors of texts has `Vectors` in the place of `Chunk`.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .scores import ChoiceProbabilities
from .spans import Spans
from .wit import (
    DeviceInfo,
    FinishDetail,
    FinishReason,
    InferencingParams,
    InferencingUsage,
    ModelInfo,
    TokenInfo,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage has come.

    `done` and `total` count bytes in the stages `fetch` and `adapt`, tokens in `prompt` and
    `score`, and texts in `embed`. `total` is None where it is not known.
    """

    stage: Literal[
        "fetch", "adapt", "wait", "load", "constraint", "prompt", "score", "embed", "server"
    ]
    done: int = 0
    total: int | None = None
    note: str = ""

    def __str__(self) -> str:
        """The stage in words, and how far it is."""
        # A child makes such events and shows none. This import takes it a tenth of its own time.
        from ..base.printable import on_one_line

        what = _STAGES[self.stage]
        if self.note:
            what += f" {on_one_line(self.note)}"
        if not self.total:
            return f"{what}: {self.done / 1e6:,.0f} MB" if self.done else f"{what} …"
        if self.stage in ("prompt", "score"):
            return f"{what}: {self.done:,} of {self.total:,} tokens"
        if self.stage == "embed":
            return f"{what}: {self.done:,} of {self.total:,} texts"
        share = 100 * self.done / self.total
        return f"{what}: {self.done / 1e6:,.0f} of {self.total / 1e6:,.0f} MB ({share:.0f}%)"


_STAGES = {
    "fetch": "fetching",
    "adapt": "rewriting for ctransformers",
    "wait": "waiting for another run on this model",
    "load": "loading",
    "constraint": "preparing the constraint",
    "prompt": "reading the prompt",
    "score": "scoring",
    "embed": "computing vectors",
    "server": "asking the server",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """The request as the engine will run it, before anything is evaluated."""

    prompt: str
    prompt_token_count: int | None
    """A count, here and below, is None where the engine cannot know it before the end."""
    cached_token_count: int | None
    context_length: int | None
    params: InferencingParams
    model: ModelInfo
    device: DeviceInfo
    data_spans: Spans = ()
    """The spans of the request's data that keep a control token from being recognised."""
    notices: tuple[str, ...] = ()
    """What a person should know of how the prompt was made. Each is one line."""
    not_honoured: tuple[str, ...] = ()
    """The fields of the request, or of its params, that the engine cannot honour."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text that is safe to show, and the tokens generated with it. The texts may be empty."""

    text: str
    """Text of the answer."""
    generated_token_count: int | None
    """All tokens that were generated so far; None where the engine does not count them."""
    tokens: tuple[TokenInfo, ...] = ()
    reasoning: str = ""
    """Text of the reasoning. It comes before `text` where a chunk has both."""
    reasoning_token_count: int | None = 0
    """The tokens so far that are not of the answer, counted as in `InferencingUsage`."""
    prompt_tokens: tuple[TokenInfo, ...] = ()
    """Tokens of the prompt with their log-probabilities, where a score asked for them."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of the next texts, in the order of the texts."""

    data: bytes
    """The numbers of one vector after another, as float32 with the lowest byte first."""
    length: int
    """How many numbers a vector has."""
    token_count: int
    """The tokens of these texts."""


def as_bytes(numbers: array[float]) -> bytes:
    """The numbers of an array of float32 as `Vectors` has them."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


@dataclass(frozen=True, slots=True)
class End:
    """Why the run ended and what it used.

    `finish_detail` is None where the run was cancelled, and where it generated no text. `seconds` holds how long parts of the
    engine's work took, by the names of `Timings`: `prompt` and `decode`.
    """

    finish_detail: FinishDetail | None
    usage: InferencingUsage
    stop_sequence: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    finish_reason: FinishReason | None = None
    """Given where the detail is unknown; else the detail tells it."""
    notices: tuple[str, ...] = ()
    """What a person should know and the engine could not know before. Each is one line."""
    not_honoured: tuple[str, ...] = ()
    """The fields that turned out not to be honoured, beside those of `Prepared`."""
    choices: ChoiceProbabilities | None = None
    """The probabilities of the request's choices, where it asked for them."""
    exact_score: bool = True
    """What `Score.exact` says of a text that was scored."""


Event = Progress | Prepared | Chunk | Vectors | End


class Cancelled(Exception):
    """The run was cancelled. Whoever notices that first raises it; no person sees it."""


Emit = Callable[[Event], None]
Report = Callable[[Progress], None]
"""Takes the progress of a stage. Raises `Cancelled` where the run was cancelled."""
