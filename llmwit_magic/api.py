"""The Python functions. Each makes a request, and runs it as a cell does."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .contract.record import shown
from .contract.request import ALL_ACCEPTED, DEFAULT_MODEL, ModelSpec
from .contract.scores import EndOfText, Normalization
from .contract.wit import EmbeddingsResult, InferencingParams, InferencingResult
from .errors import InvalidInput
from .requests.arguments import Messages, Params, request_from, request_of_call
from .requests.presets import preset_of
from .requests.shapes import with_constraint
from .runlog.log import RunLog
from .running.run import Run
from .running.session import current_session
from .running.streams import AsyncTextStream, TextStream, result_in_loop, result_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import pandas

    from .analysis.metrics import Metric
    from .engines.server.own_server import OwnServer
    from .running.replay import Replay
    from .running.row_settings import ColumnOf
    from .views.tuning import TuningPanel


def infer(
    model: str | os.PathLike[str] | Messages | None = None,
    /,
    prompt: str | Messages | Params | None = None,
    params: Params | None = None,
    **options: Any,
) -> InferencingResult:
    """Continue a prompt, and return the result when the run has ended.

    `infer("The sky is")` asks the default model, and `infer("tiny.gguf", "The sky is")` another one;
    so does `infer("The sky is", model="tiny.gguf")`. A text alone that is the name of a model which
    is there is refused.

    - The model is a name as in `%%infer -m`; None is the default model.
    - `prompt` is a text, or the messages of a chat: `[{'role': 'user', 'content': …}, …]`, with the
      roles system, user and assistant, and a message of the user at the end.
    - `params` are `InferencingParams`, or a mapping of some of its fields.
    - `options` are fields of the params too, such as `temperature=0`, and count before `params`.
    - `options` are also the other fields of `Request`: chat, system, chat_template,
      template_options, model_type, engine, exact, context_length, accept, gpu_layers, device,
      threads, top_logprobs, content_filters, tags, control_tokens, data_spans.
    - `preset` names options that `%infer_preset` has kept. All others count before them.
    - One of four further options says what the answer must be, and `.value` of the result is the
      answer as a value: `returns` is a pydantic model, a dataclass, a TypedDict, another type such
      as `list[int]`, or a JSON schema; `choices` is a list of texts or an Enum; `regex` is an
      expression that the whole answer matches; `grammar` is the text of a grammar.

    The prompt counts as typed: the name of a control token in it is that token, except in
    `data_spans`.

    The repeat penalty of 1.1 makes labels and JSON less accurate: give `repeat_penalty=1` there. It
    is off at temperature 0.

    Raises `InvalidInput`, `ModelNotSupported` or `EngineFailed`; all of them are
    `InferenceError`. An interrupt raises `Interrupted`, which is a `KeyboardInterrupt`.
    """
    return result_of(start(model, prompt, params, **options))


def stream(
    model: str | os.PathLike[str] | Messages | None = None,
    /,
    prompt: str | Messages | Params | None = None,
    params: Params | None = None,
    **options: Any,
) -> TextStream:
    """Continue a prompt, and iterate over the chunks of the answer. Reasoning is not among them.

    `.result` of the stream is the result. This takes the arguments of `infer`, and the iteration
    raises what `infer` does. Leaving the loop early cancels the run, unless a variable still has
    the stream.
    """
    return TextStream(start(model, prompt, params, **options))


async def ainfer(
    model: str | os.PathLike[str] | Messages | None = None,
    /,
    prompt: str | Messages | Params | None = None,
    params: Params | None = None,
    **options: Any,
) -> InferencingResult:
    """Continue a prompt, as `infer` does, while other tasks of the event loop go on.

    Cancelling the task cancels the run, and the task ends when the run has ended.
    """
    return await result_in_loop(start(model, prompt, params, **options))


def astream(
    model: str | os.PathLike[str] | Messages | None = None,
    /,
    prompt: str | Messages | Params | None = None,
    params: Params | None = None,
    **options: Any,
) -> AsyncTextStream:
    """The chunks of the answer for `async for`; otherwise this is as `stream`.

    `await` of the stream's `result()` gives the result. Cancelling the task that iterates cancels
    the run.
    """
    return AsyncTextStream(start(model, prompt, params, **options))


def generate_embeddings(
    model: str | os.PathLike[str] | None,
    texts: Sequence[str] | str,
    *,
    truncate: bool = False,
    **options: Any,
) -> EmbeddingsResult:
    """One vector for each text, by the pooling that the model file asks for.

    A plain string is one text. A vector has the model's embedding length, and is not normalised.
    ctransformers has the pooling `last` only, which is the last hidden state after the text's last
    token; llama.cpp also has `mean` and `cls`. A file that names no pooling, or `none`, is read as
    `last`. The end-of-text token follows each text where the model file asks for it
    (`add_eos_token`). Control tokens in a text are recognised.

    `options` are the fields of `Request` that count here: engine, model_type, context_length,
    anyway, accept, gpu_layers, device, threads, tags. `truncate=True` cuts the end of a text that does not fit
    into the context, and keeps the end-of-text token.

    Raises `PromptTooLong`, with the number of the text, for a text that does not fit and is not
    cut. Raises `ModelNotSupported` for a pooling that the engine lacks, and `InvalidInput` for
    any other option. Otherwise raises what `infer` does.
    """
    from .running.embedding_calls import embedding_request

    request, checked = embedding_request(texts, model, options)
    return current_session().embed(request, checked, truncate=truncate)


def score(
    prompt: str,
    continuation: str,
    model: str | os.PathLike[str] | None = None,
    *,
    prompt_logprobs: bool = False,
    top_logprobs: int | None = None,
    **options: Any,
) -> InferencingResult:
    """The log-probability of a text as a continuation of a prompt. Nothing is generated.

    `.score` of the result has `logprob`, which is the sum over the tokens in nats, `token_count`
    and `perplexity`; `.logprob` and `.perplexity` are the same. `.tokens` has each token with its
    log-probability, its rank and `top_logprobs` alternatives, each after all tokens before it. With
    `prompt_logprobs`, `.prompt_tokens` has those of the prompt but the first one, which follows
    nothing.

    The continuation is data: no control token is recognised in it, unless `control_tokens="all"`.
    It is tokenized by itself, so a space at its beginning counts. With an empty prompt it stands at
    the beginning of a text. With `chat=True` it is the answer of the assistant. `options` are those
    of `infer` that say which model reads what: chat, system, chat_template, template_options,
    model_type, engine, exact, context_length, accept, gpu_layers, device, threads, tags,
    control_tokens, data_spans.

    Raises `PromptTooLong` where prompt and continuation do not fit into the context, `InvalidInput`
    for an option that has no effect, and what `infer` raises.
    """
    if not isinstance(continuation, str):
        raise InvalidInput(f"continuation: {shown(continuation)} is not valid: it must be a text")
    options |= {"prompt_logprobs": prompt_logprobs, "top_logprobs": top_logprobs}
    return result_of(start(model, prompt, None, continuation=continuation, **_scored(options)))


def choose(
    prompt: str,
    choices: Iterable[Any],
    model: str | os.PathLike[str] | None = None,
    *,
    normalize: Normalization = "sum",
    end_of_text: EndOfText = "auto",
    top_logprobs: int | None = None,
    **options: Any,
) -> InferencingResult:
    """The probability of each choice as the continuation of a prompt. Nothing is generated.

    `.probabilities` of the result is a mapping from each choice to its probability; they sum to 1.
    `.text` is the most probable choice, and `.value` is it as `infer(…, choices=…)` gives it. The
    choices are a list of texts or an Enum; equal ones count once. `.choices` has more: `logprobs`,
    and in `scores` the tokens of each choice with their log-probabilities.

    The probability of a choice is that of all its tokens, over the sum for all choices. `normalize`
    changes what is compared: `token` is the log-probability per token, and `empty-prompt` is the
    log-probability less the one after an empty prompt. Where one choice is the beginning of another,
    the end of text belongs to each choice; `end_of_text="always"` and `"never"` decide it otherwise.

    The choices are data, and tokenized by themselves, so a space at the beginning counts. With
    `chat=True` they are answers of the assistant. `options` are those of `score`.

    Raises `InvalidInput` for choices that are empty or the same tokens, for an option that has no
    effect, and what `score` raises.
    """
    options |= {"normalize": normalize, "end_of_text": end_of_text, "top_logprobs": top_logprobs}
    return result_of(
        start(model, prompt, None, choices=choices, probabilities=True, **_scored(options))
    )


def _scored(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a score. Raises `InvalidInput` for one that says how an answer is generated."""
    for name in options:
        if name in InferencingParams.model_fields or name in ("params", "content_filters"):
            raise InvalidInput(f"{name} has no effect on a score: leave it out")
    return options


def tune(
    prompt: str,
    model: str | os.PathLike[str] | None = None,
    params: InferencingParams | Mapping[str, Any] | None = None,
    **options: Any,
) -> TuningPanel:
    """The tuning panel: sliders that run a prompt again with other params.

    A notebook shows it as the last value of a cell. `options` are those of `infer`.
    """
    from .requests.options import SLIDERS
    from .requests.snippets import forms
    from .views.tuning import TuningPanel

    request = request_from(model, prompt, params, options)
    if request.history:
        raise InvalidInput("the tuning panel has one prompt: give it the last message and system=")
    if request.is_scored:
        raise InvalidInput("tune is for answers that are generated: a score has no settings to try")
    return TuningPanel(
        current_session(), request,
        lambda request: forms(request, {}),
        SLIDERS,
    )  # fmt: skip


def infer_frame(
    frame: pandas.DataFrame,
    template: str | Messages,
    model: str | os.PathLike[str] | Sequence[str] | pandas.Series[Any] | ColumnOf | None = None,
    params: InferencingParams | Mapping[str, Any] | None = None,
    *,
    few_shot: pandas.DataFrame | None = None,
    answer: Any = "label",
    metric: Metric | Sequence[Metric] | None = None,
    batch: str | None = None,
    resume: bool = True,
    executor: Executor | None = None,
    workers: int | None = None,
    concurrency: int | None = None,
    deduplicate: bool | None = None,
    progress: bool = True,
    prefix: str = "infer_",
    **options: Any,
) -> pandas.DataFrame:
    """Run a template over the rows of a DataFrame. Returns a copy of it with new columns.

    `{{column}}` in the template stands for a row's value, as `{{name}}` does in a cell.
    `{{row['a column']}}` is for a column whose name is no identifier. The template may also be a
    list of messages, as for `infer`. Both may also stand in `system`, in `tags` and in the params'
    `stop`. Values are data: no control token is recognised in them. Without a seed in `params`,
    each row draws its own. `options` are those of `infer`.

    For labels and records give `temperature=0`, where there is no repeat penalty, or
    `repeat_penalty=1`. The default penalty of 1.1 takes from the accuracy, because the tokens of
    the labels, of quotes and of braces stand in the prompt already. On 200 labels the accuracy
    was 0.42 with it, and 0.565 without.

    A setting of `params` or `options` may be a Series of the DataFrame, or `column("name")`: each row
    then has its own value. That goes for the params, `system`, `chat`, `chat_template`,
    `template_options`, `control_tokens`, `normalize` and `end_of_text`. A plain text stays a value.
    A column as `model` runs the rows of one model after those of another.

    The new columns are `infer_text`, `infer_finish_reason`, `infer_finish_detail`,
    `infer_prompt_token_count`, `infer_generated_token_count`, `infer_status`, `infer_error_type`,
    `infer_error_message` and `infer_run_id`, and `infer_reasoning` where a row has reasoning.
    `prefix` stands in the place of `infer_`. A row that fails has its error there, and the other
    rows go on.

    `few_shot` are worked examples: the template is written for each of their rows, followed by the
    row's `answer` and a blank line, and they stand in front of each prompt. The answer follows the
    template at once, so the template's end says whether a space or a line end stands between them.
    An answer that is no text is written as JSON. Values and answers are data here, too. In a chat,
    the examples are messages of the user and the assistant before that of the row.

    `metric` is a function of a value and its row, or a list of such. Its results are the column
    `infer_NAME`, where NAME is the function's; a column `infer_NAME_error` says where it raised. A
    metric of scikit-learn gets the right answer, from the column `answer`, and the value. The value
    is the text; with a constraint it is the value, such as the instance of a pydantic model. Results
    that are numbers are kept in the log, too, with the run of the row.

    `returns`, `choices`, `regex` and `grammar` say what each answer must be, as for `infer`. The
    values come in typed columns: `infer_NAME` for each field of an object, or else `infer_value`.
    `infer_value_error` says why a row has no value. Whole numbers are Int64, other numbers float64,
    dates `datetime64[us]` (those with a zone in UTC, without the zone), texts string, Enums,
    Literals and choices categories, true and false boolean; lists and objects stay what they are.

    `probabilities=True` with `choices` generates nothing: it takes the probability of each choice,
    as `choose` does, in the columns `infer_p_CHOICE`. The most probable one is `infer_value`.
    `normalize` and `end_of_text` are those of `choose`; `params` have no effect, and are refused.

    `batch` is the runs' `group_id` in the log. By default it is made from template, examples,
    model, params and options. With `resume`, rows that the log has under this name with the same
    prompt, model file and params are taken from there. So the same call goes on after an interrupt
    or a crash. `resume=False` runs all rows again.

    On a server, `concurrency` runs go on at once: by default twice the server's slots, or 16 where
    it does not say how many it has. The answers come in any order, and are aligned in the end. A
    local model does one run at a time. Several models on servers, `model=["a::m", "b::m"]`, share
    the rows, and the least busy one gets the next row.

    Equal rows of a batch on servers are asked once, where the temperature is 0 or `params` have a
    seed: they share a run. `deduplicate=False` asks each, and `True` does so with a local model.

    A row whose server cannot be reached, or is busy, is tried again for some time, and then at the
    other servers. Nothing is sent again once an answer has begun. A failed row stays failed in this
    call, and the same call runs it again. Where no run of a whole window reaches a server, the
    batch ends with `ServerUnreachable`.

    `executor` is any `concurrent.futures.Executor`, such as a `ProcessPoolExecutor` or Dask's
    `client.get_executor()`. Each of its workers has its own engine and its share of the cores.
    `workers` is their number, for an executor that does not say it. `progress` shows a bar.

    Raises `InvalidInput` for a template or options that are not valid, what finding the model
    raises, `EngineFailed` where the executor breaks, and `Interrupted`.
    """
    from .analysis.metrics import add_metrics, check_metrics, metrics_of
    from .analysis.run_metrics import log_metrics
    from .running.batch import batch_name, run_batch
    from .running.frame_requests import NO_EXAMPLES, worked_examples
    from .running.resuming import KEPT
    from .running.row_settings import (
        ColumnOf,
        RowSettings,
        in_groups,
        is_column,
        split_settings,
        values_of,
    )
    from .running.typed_columns import judged_values, value_columns

    if is_column(model):
        same = {
            "few_shot": few_shot, "answer": answer, "metric": metric, "batch": batch,
            "resume": resume, "executor": executor, "workers": workers,
            "concurrency": concurrency, "deduplicate": deduplicate, "progress": progress,
            "prefix": prefix,
        }  # fmt: skip
        return in_groups(
            frame, values_of(frame, "model", model), params, options,
            lambda part, name, params, options: infer_frame(
                part, template, name, params, **same, **options
            ),
        )  # fmt: skip
    options, columns = split_settings(frame, options)
    if isinstance(params, Mapping):
        params, more = split_settings(frame, params)
        columns = {name: more[name] for name in more if name not in options} | columns
    settings = RowSettings(columns)
    for name in ("continuation", "prompt_logprobs"):
        if options.get(name):
            raise InvalidInput(f"{name}: infer_frame generates: score each row with score()")
    given = params or (options.keys() | columns.keys()) & InferencingParams.model_fields.keys()
    if given and options.get("probabilities"):
        raise InvalidInput("params: they have no effect on probabilities: leave them out")
    assert not isinstance(model, ColumnOf)
    names = [model] if model is None or isinstance(model, str | os.PathLike) else list(model)
    if not names:
        raise InvalidInput("model: the list is empty: name at least one model")
    requests = [request_from(name, template, params, options) for name in names]
    template = requests[0].prompt
    requests = [one.model_copy(update={"prompt": ""}) for one in requests]
    request, models = requests[0], tuple(dict.fromkeys(one.model for one in requests))
    named = request.model_copy(update={"model": ", ".join(models)})
    examples = NO_EXAMPLES if few_shot is None else worked_examples(few_shot, template, answer)
    name = batch or batch_name(f"{examples.front().text}{template}{settings.name}", named)
    request = request.model_copy(update={"group_id": name})
    metrics = metrics_of(metric)
    if metrics:
        ours = (*KEPT, *value_columns(request.constraint).types)
        check_metrics(frame, metrics, answer, prefix, [prefix + name for name in ours])
    answers = run_batch(
        current_session(), frame, template, request, models=models, examples=examples,
        settings=settings, resume=resume, executor=executor, workers=workers, concurrency=concurrency,
        deduplicate=deduplicate, progress=progress, prefix=prefix,
    )  # fmt: skip
    if not metrics:
        return answers
    values = judged_values(request.constraint, answers, prefix)
    judged = add_metrics(answers, values, metrics, answer, prefix)
    log_metrics(current_session().log, judged, metrics, prefix)
    return judged


def replay(
    run_id: int,
    params: Mapping[str, Any] | None = None,
    *,
    accept: str | Collection[str] = (),
    anyway: bool = False,
    metric: Metric | Sequence[Metric] | None = None,
    **options: Any,
) -> Replay:
    """Run a run of the log again, with its model file, params and seed.

    `.identical` of the replay says whether the text and its end are the same. `params` and
    `options` are new values: `options` are those of `infer`, and `model`. `accept` names what would
    be refused, and is done all the same; `anyway` accepts all of these:

    - `"file"`: the model's file has changed. Else that raises `ModelNotSupported`.
    - `"filters"`: a content filter was a function, of which the log has only the name. Else that
      raises `InvalidInput`.
    - `"engine"`: another engine than before would run it. Else that raises `ModelNotSupported`.
    - `"context"`: the context is longer than the model was trained with. Else that raises
      `InvalidInput`.

    `metric` is a function of the new result that returns a number, or a list of such. The numbers are
    `.result.metric_values`, and are kept in the log.

    Raises `RunNotFound`, too, and what `infer` raises.
    """
    from .running.replay import Replay, replay_request

    if metric is not None:
        from .analysis.run_metrics import judge, result_metrics

        metrics = result_metrics(metric)
    session = current_session()
    original = session.log[run_id]
    changes = {**preset_of(options), **(params or {}), **with_constraint(options)}
    request, notice = replay_request(
        session, original, changes, accept=ALL_ACCEPTED if anyway else accept
    )
    run = session.run(request)
    result = result_of(run)
    if metric is not None:
        judge(run, metrics)
        result = run.result
    return Replay(original, result, tuple(changes), notice)


def llama_server(
    model: str | os.PathLike[str] | None = None,
    *,
    slots: int = 8,
    context_length: int | None = None,
    gpu_layers: int | Literal["auto"] = "auto",
    port: int | None = None,
    name: str | None = None,
    accept: str | Collection[str] = (),
) -> OwnServer:
    """Start a llama-server for a local model, and wait until it is ready.

    `slots` answers are written side by side, each with a context of `context_length` tokens. `name`
    is what follows `local::`. The server ends with `close()`, at the end of a `with` block, and with
    this process. `.model` is its name for `model=`; `.url` and `.api_key` are for other clients.

    Raises what `infer` raises for the model's file, `EngineFailed` where there is no llama-server,
    `DeviceUnavailable` for GPU layers without a GPU, and `Interrupted`.
    """
    from .engines.server.own_servers import OwnServerSpec

    spec = ModelSpec(
        model=os.fspath(model) if model is not None else DEFAULT_MODEL,
        context_length=context_length, gpu_layers=gpu_layers, accept=accept,
    )  # fmt: skip
    own = OwnServerSpec(slots=slots, port=port, name=name)
    return current_session().start_llama_server(spec, own)


def start(
    model: str | os.PathLike[str] | Messages | None = None,
    /,
    prompt: str | Messages | Params | None = None,
    params: Params | None = None,
    **options: Any,
) -> Run:
    """Begin a run in the background. The `Run` can be waited for, drawn and cancelled.

    Takes the arguments of `infer`.
    """
    session = current_session()
    return session.run(request_of_call(model, prompt, params, options, session.has_model))


def log() -> RunLog:
    """The run log of this kernel's session."""
    return current_session().log
