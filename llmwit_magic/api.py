"""The Python functions: the same way as a cell, without the cell."""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import InvalidInput, warn_unlogged
from .models.fetch import DEFAULT_NAME
from .protocol import Chunk, Request
from .runlog.log import RunLog
from .runlog.run import Run
from .session import current_session
from .views import INTERVAL
from .wit import EmbeddingsResult, InferencingParams, InferencingResult, params_from

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import pandas

    from .replays import Replay
    from .views.tuning import TuningPanel


_EMBEDDING_OPTIONS = {"model_type", "context_length", "anyway", "accept", "gpu_layers", "threads"}


def infer(
    model: str | os.PathLike[str] | None,
    prompt: str,
    params: InferencingParams | Mapping[str, Any] | None = None,
    **options: Any,
) -> InferencingResult:
    """Continue a prompt.

    `model` is a name as in `%%infer -m` (None: the default model), `params`
    are `InferencingParams` or a mapping of some of its fields, and `options`
    are the other fields of `Request`: chat, system, chat_template,
    context_length, gpu_layers, threads, top_logprobs, content_filters, tags,
    control_tokens, data_spans. The prompt counts as typed: what looks like a
    control token in it is one, outside of `data_spans`.

    Raises `InvalidInput`, `ModelNotSupported` or `EngineFailed`, all of them
    `InferenceError`; an interrupt raises `Interrupted`, a `KeyboardInterrupt`.
    """
    return _result(start(model, prompt, params, **options))


def _result(run: Run) -> InferencingResult:
    """What a run has come to, awaited; raises what it failed with."""
    try:
        run.follow(INTERVAL, lambda run: None)
    finally:
        run.stop()  # an interrupt may come before `follow` can take it
    warn_unlogged(run.log_problem)
    return run.result


def stream(
    model: str | os.PathLike[str] | None,
    prompt: str,
    params: InferencingParams | Mapping[str, Any] | None = None,
    **options: Any,
) -> TextStream:
    """Continue a prompt and iterate over its chunks; `.result` holds the result at the end.

    Takes and raises what `infer` does. Leaving the loop early cancels the run.
    """
    return TextStream(start(model, prompt, params, **options))


def generate_embeddings(
    model: str | os.PathLike[str] | None,
    texts: Sequence[str] | str,
    *,
    truncate: bool = False,
    **options: Any,
) -> EmbeddingsResult:
    """One vector for each text: the model's last hidden state after its last token.

    A plain string is one text. Each vector has the model's embedding length.
    It is llama.cpp's pooling `last`, with the end-of-text token after each
    text where the model file asks for it (`add_eos_token`), and it is not
    normalised. Special tokens in a text are recognised. Where a file names no
    pooling, or `none`, the vector is the same; a file that names another one
    is `ModelNotSupported`.

    A text that does not fit into the context is `PromptTooLong`, with its
    number; `truncate=True` cuts its end instead, and keeps the end-of-text
    token. `options` are those fields of `Request` that count here:
    model_type, context_length, anyway, accept, gpu_layers, threads; any other is
    `InvalidInput`. Otherwise raises what `infer` does.
    """
    known = InferencingParams.model_fields.keys() | Request.model_fields.keys()
    for name in options:
        if name in known - _EMBEDDING_OPTIONS:
            raise InvalidInput(f"{name} has no effect on embeddings: leave it out")
    wanted = (texts,) if isinstance(texts, str) else tuple(texts)
    request = _request(model, "", None, options)
    checked = [_text(text, number) for number, text in enumerate(wanted, 1)]
    return current_session().embed(request, checked, truncate=truncate)


def tune(
    prompt: str,
    model: str | os.PathLike[str] | None = None,
    params: InferencingParams | Mapping[str, Any] | None = None,
    **options: Any,
) -> TuningPanel:
    """Sliders over a prompt; shows at the end of a cell. Takes the options of `infer`."""
    from .magics.cell_args import SLIDERS
    from .magics.snippets import forms
    from .views.tuning import TuningPanel

    return TuningPanel(
        current_session(), _request(model, prompt, params, options),
        lambda request: forms(request, {}),
        SLIDERS,
    )  # fmt: skip


def infer_frame(
    frame: pandas.DataFrame,
    template: str,
    model: str | os.PathLike[str] | None = None,
    params: InferencingParams | Mapping[str, Any] | None = None,
    *,
    batch: str | None = None,
    resume: bool = True,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: bool = True,
    prefix: str = "infer_",
    **options: Any,
) -> pandas.DataFrame:
    """Run a template over the rows of a DataFrame; a copy of it with the results as new columns.

    `{{column}}` in the template stands for a row's value, as `{{name}}` does in
    a cell; `{{row['a column']}}` for columns whose names are no identifiers. So
    it does in `system`, `tags` and the params' `stop`. Values are data: no
    control token is recognised in them.
    The new columns are `infer_text`, `infer_finish_reason`,
    `infer_finish_detail`, `infer_prompt_token_count`,
    `infer_generated_token_count`, `infer_status`, `infer_error_type`,
    `infer_error_message` and `infer_run_id` (another `prefix` makes others). A
    row that fails says so there, and the others go on.

    `batch` is the runs' `group_id` in the log, by default made from template,
    model, params and options. Rows that the log already has under it, with the
    same prompt, model file and params, are taken from there: the same call
    goes on after an interrupt or a crash. `resume=False` runs all again.

    `executor` is any `concurrent.futures.Executor`, such as a
    `ProcessPoolExecutor` or Dask's `client.get_executor()`: each worker has
    its own engine and its share of the cores. `workers` says how many there
    are where the executor does not.

    Without a seed in `params`, each row draws its own. Raises `InvalidInput`
    for a template or options that are not valid, what finding the model raises,
    `EngineFailed` where the executor breaks, and `Interrupted`.
    """
    from .batch import batch_name, run_batch

    request = _request(model, "", params, options)
    request = request.model_copy(update={"group_id": batch or batch_name(template, request)})
    return run_batch(
        current_session(), frame, template, request,
        resume=resume, executor=executor, workers=workers, progress=progress, prefix=prefix,
    )  # fmt: skip


def replay(
    run_id: int,
    params: Mapping[str, Any] | None = None,
    *,
    accept: str | Collection[str] = (),
    anyway: bool = False,
    **options: Any,
) -> Replay:
    """Run a run of the log again, with its model file, params and seed; `.identical` says the rest.

    `params` and `options` (as in `infer`, and `model`) are what shall be
    another. Raises `RunNotFound`; `ModelNotSupported` where the model's file has
    changed, unless `accept` has `"file"`; `InvalidInput` where a content filter was
    a function, unless it has `"filters"`; and what `infer` raises, which takes a
    longer context than the model was trained with where `accept` has `"context"`.
    `anyway` accepts all three.
    """
    from .replays import Replay, replay_request

    session = current_session()
    original = session.log[run_id]
    changes = {**(params or {}), **options}
    request, notice = replay_request(session, original, changes, anyway=anyway, accept=accept)
    return Replay(original, _result(session.run(request)), tuple(changes), notice)


def start(
    model: str | os.PathLike[str] | None,
    prompt: str,
    params: InferencingParams | Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Begin a run in the background: a `Run` that can be waited for, drawn and cancelled."""
    return current_session().run(_request(model, prompt, params, options))


def _request(
    model: str | os.PathLike[str] | None,
    prompt: str,
    params: InferencingParams | Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Request:
    misplaced = [name for name in options if name in InferencingParams.model_fields]
    if misplaced:
        raise InvalidInput(f"{misplaced[0]} belongs into params: params={{'{misplaced[0]}': …}}")
    name = os.fspath(model) if model is not None else DEFAULT_NAME
    return Request(model=name, prompt=prompt, params=params_from(params), **options)


def _text(text: Any, number: int) -> str:
    """A text to embed; the request's own check of texts applies."""
    if not isinstance(text, str):
        raise InvalidInput(f"text {number} is {type(text).__name__}, not text")
    try:
        return Request(model=DEFAULT_NAME, prompt=text).prompt
    except InvalidInput as error:
        raise InvalidInput(f"text {number}: {str(error).removeprefix('prompt: ')}") from None


def log() -> RunLog:
    """The run log of this kernel's session."""
    return current_session().log


class TextStream:
    """The chunks of a run as they come: an iterator, and a context manager.

    Closing it, or letting it go, cancels the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._events = iter(run)
        self._finalizer = weakref.finalize(self, run.cancel)

    def __iter__(self) -> TextStream:
        return self

    def __next__(self) -> str:
        """The next chunk; raises what failed the run, or `Interrupted`, at its end."""
        try:
            for event in self._events:
                if isinstance(event, Chunk) and event.text:
                    return event.text
        except KeyboardInterrupt:
            self.run.stop()
            raise self.run.interrupted() from None
        self.run.raise_failure()
        raise StopIteration

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the run, if it goes on, and wait for its end."""
        self.run.stop()

    @property
    def result(self) -> InferencingResult:
        """The result; waits for the end of the run. That of a cancelled one is what there is."""
        try:
            self.run.wait()
        except KeyboardInterrupt:
            self.run.stop()
            raise self.run.interrupted() from None
        if self.run.error is not None:
            raise self.run.error
        return self.run.result
