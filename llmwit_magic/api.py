"""The Python functions: the same way as a cell, without the cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .engines.protocol import Request
from .models.fetch import DEFAULT_NAME
from .runlog.log import RunLog
from .runlog.run import Run
from .session import current_session
from .wit import EmbeddingsResult, InferencingParams, InferencingResult, params_from

DRAW_SECONDS = 0.05


def infer(
    model: str | None,
    prompt: str,
    params: InferencingParams | Mapping[str, Any] | None = None,
    **options: Any,
) -> InferencingResult:
    """Continue a prompt.

    `model` is a name as in `%%infer -m` (None: the default model), `params`
    are `InferencingParams` or a mapping of some of its fields, and `options`
    are the other fields of `Request`: chat, system, context_length,
    gpu_layers, threads, top_logprobs, content_filters, tags.

    Raises `InvalidInput`, `ModelNotSupported` or `EngineFailed`, all of them
    `InferenceError`; an interrupt raises `Interrupted`, a `KeyboardInterrupt`.
    """
    run = start(model, prompt, params, **options)
    run.follow(DRAW_SECONDS, lambda run: None)
    return run.result


def stream(
    model: str | None,
    prompt: str,
    params: InferencingParams | Mapping[str, Any] | None = None,
    **options: Any,
) -> TextStream:
    """Continue a prompt and iterate over its chunks; `.result` holds the result at the end.

    Takes and raises what `infer` does. Leaving the loop early cancels the run.
    """
    return TextStream(start(model, prompt, params, **options))


def generate_embeddings(
    model: str | None, texts: Sequence[str], **options: Any
) -> EmbeddingsResult:
    """One vector for each text: the model's last hidden state after its last token.

    Each vector has the model's embedding length. Raises what `infer` does.
    """
    request = Request(model=model or DEFAULT_NAME, prompt="", **options)
    return current_session().embed(request, list(texts))


def start(
    model: str | None,
    prompt: str,
    params: InferencingParams | Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Begin a run in the background: a `Run` that can be waited for, drawn and cancelled."""
    request = Request(
        model=model or DEFAULT_NAME, prompt=prompt, params=params_from(params), **options
    )
    return current_session().run(request)


def log() -> RunLog:
    """The run log of this kernel's session."""
    return current_session().log


class TextStream:
    """The chunks of a run as they come."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __iter__(self) -> Iterator[str]:
        finished = False
        try:
            for event in self.run:
                if text := getattr(event, "text", ""):
                    yield text
            finished = True
        finally:
            if not finished:
                self.run.cancel()
                self.run.wait()
        self.run.raise_failure()

    @property
    def result(self) -> InferencingResult:
        """The result; waits for the end of the run."""
        self.run.follow(DRAW_SECONDS, lambda run: None)
        return self.run.result
