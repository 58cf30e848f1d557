"""What the session hands to an engine, and what the engine says while it works.

A run's events come in this order: any number of `Progress` (fetch, adapt,
load), one `Prepared`, any number of `Progress` of the prompt, any number of
`Chunk`, one `End`. A run that fails raises instead of ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, BeforeValidator, Field

from .spans import Spans, in_order
from .wit import (
    U32,
    DeviceInfo,
    FinishDetail,
    InferencingParams,
    InferencingUsage,
    ModelInfo,
    Record,
    Text,
    TokenInfo,
    lists,
    strings,
    valid,
)

Accept = Literal["context", "file", "filters"]
"""What may be accepted that would be refused."""

ContentFilter = str | Callable[[str], int | None]
"""A regular expression, or a function from the text so far to where it must be cut."""


class Request(Record):
    """One prompt with its model and params, checked."""

    model: Text = Field(description="path, alias, owner/repo[:file][@revision] or name of a model")
    prompt: Text = Field(description="the text to continue; with chat, what the user says")
    params: InferencingParams = InferencingParams()
    model_type: str | None = Field(
        default=None, description="format of an old GGML file, such as gpt2; GGUF files need none"
    )
    chat: bool = Field(
        default=False, description="put the prompt into the model's own chat template"
    )
    system: Text | None = Field(default=None, description="the system message of the chat")
    chat_template: Text | None = Field(
        default=None,
        description="which of the model's named chat templates; the default one otherwise",
    )
    control_tokens: Literal["none", "typed", "all"] = Field(
        default="typed",
        description="where a text such as <|im_end|> is a control token: nowhere but in the chat "
        "template, also where the prompt was typed, or in values and chat messages too",
        json_schema_extra=valid("none, typed or all"),
    )
    data_spans: Annotated[Spans, AfterValidator(in_order), BeforeValidator(lists)] = Field(
        default=(),
        description="parts of the prompt that were not typed but put in as values, as pairs of "
        "positions in characters: no control token is recognised there",
    )
    context_length: Annotated[U32, Field(ge=1)] | None = Field(
        default=None,
        description="tokens of prompt and answer together; by default what the model was trained "
        "with, or what memory allows, at most 8192",
        json_schema_extra=valid("a whole number ≥ 1"),
    )
    anyway: bool = Field(
        default=False, description="take a context longer than the model was trained with"
    )
    accept: Annotated[tuple[Accept, ...], BeforeValidator(strings)] = Field(
        default=(),
        description="take what would be refused: a context longer than the model was trained "
        "with; in a replay a model file that has changed since, or the loss of content filters "
        "that were functions",
        json_schema_extra=valid("one or more of context, file, filters"),
    )
    gpu_layers: U32 | Literal["auto"] = Field(
        default="auto",
        description="layers to run on the GPU; auto: as many as fit, none without a usable one",
        json_schema_extra=valid("a whole number ≥ 0, or auto"),
    )
    threads: Annotated[U32, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="processor threads; auto takes as many as other programs leave cores for",
        json_schema_extra=valid("a whole number ≥ 1, or auto"),
    )
    top_logprobs: Annotated[U32, Field(le=100)] | None = Field(
        default=None,
        description="record each token's log-probability, with this many alternatives",
        json_schema_extra=valid("a whole number from 0 to 100"),
    )
    content_filters: Annotated[tuple[ContentFilter, ...], BeforeValidator(strings)] = ()
    tags: Mapping[Text, Text] = Field(
        default={}, description="KEY=VALUE kept with the run in the log"
    )
    group_id: str | None = None
    replay_of: int | None = None

    @property
    def takes_long_context(self) -> bool:
        """Whether the context may be longer than the model was trained with."""
        return self.anyway or "context" in self.accept

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is put into the model's chat template."""
        return self.chat or self.system is not None or self.chat_template is not None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage has come: of `fetch` and `adapt` in bytes, of `prompt` in tokens."""

    stage: Literal["fetch", "adapt", "wait", "load", "prompt"]
    done: int = 0
    total: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The request as the engine will run it, before anything is evaluated."""

    prompt: str
    prompt_token_count: int
    cached_token_count: int
    context_length: int
    params: InferencingParams
    model: ModelInfo
    device: DeviceInfo
    data_spans: Spans = ()
    """Those of the request's that keep a control token from being recognised."""
    notices: tuple[str, ...] = ()
    """What a person should know of how the prompt was made, a line each."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text that is safe to show (perhaps none yet), and the tokens generated with it."""

    text: str
    generated_token_count: int
    tokens: tuple[TokenInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """Why the run ended, what it used, and how long the engine's parts took in seconds.

    `finish_detail` is None where the run was cancelled.
    """

    finish_detail: FinishDetail | None
    usage: InferencingUsage
    stop_sequence: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


Event = Progress | Prepared | Chunk | End


class Cancelled(Exception):
    """Raised by whoever notices first that the run was cancelled; never shown."""


Emit = Callable[[Event], None]
Report = Callable[[Progress], None]
"""Takes the progress of a stage; raises where the run was cancelled."""


class Engine(Protocol):
    """Something that turns requests into events, one run at a time.

    Each call blocks until its work is done; setting `cancel` (from another
    thread) ends it early. Failures raise `InferenceError`, a cancellation that
    left nothing to say raises `Cancelled`.
    """

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        """Hand the run's events to `emit`, the last one an `End`."""
        ...

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        """What `run` would begin with, with nothing evaluated."""
        ...

    def embed(
        self, texts: list[str], truncate: bool, threads: int | str, emit: Emit,
        cancel: threading.Event,
    ) -> tuple[list[list[float]], int]:  # fmt: skip
        """One vector for each text, and the number of tokens of all texts.

        `truncate` cuts texts to the context; otherwise a longer one is an error.
        """
        ...

    def close(self) -> None:
        """Give the memory back; a later run is an error."""
        ...
