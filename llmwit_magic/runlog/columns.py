"""The columns of the run log, each once; and what a run puts into them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .run import Run

Kind = Literal["integer", "real", "text", "boolean", "time", "json"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the log and of its DataFrame."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""


COLUMNS = (
    Column("run_id", "integer", "number of the run"),
    Column("started_at", "time", "when the run started", "UTC"),
    Column("status", "text", "running, ok, interrupted, error, or lost (its kernel is gone)"),
    Column("model", "text", "name of the model, as asked for"),
    Column("prompt", "text", "the prompt as given, variables filled in"),
    Column("text", "text", "the generated text, without the stop sequence"),
    Column("finish_reason", "text", "stop, length or content_filter"),
    Column("finish_detail", "text", "eos, stop_sequence, max_tokens, context_full, content_filter"),
    Column("stop_sequence", "text", "the stop sequence that was reached"),
    Column("prompt_token_count", "integer", "tokens of the prompt", "tokens"),
    Column(
        "generated_token_count", "integer", "tokens generated, end of text not counted", "tokens"
    ),
    Column("cached_token_count", "integer", "prompt tokens known from an earlier run", "tokens"),
    Column("max_tokens", "integer", "limit of generated tokens; missing: none", "tokens"),
    Column("temperature", "real", "0 is greedy"),
    Column("top_k", "integer", "0: off", "tokens"),
    Column("top_p", "real", "1: off"),
    Column("repeat_penalty", "real", "1: off"),
    Column("repeat_penalty_last_n_token_count", "integer", "0: off", "tokens"),
    Column("stop", "json", "list of stop sequences"),
    Column("seed", "integer", "the seed as used, drawn or given"),
    Column("chat", "boolean", "whether the chat template was used"),
    Column("system", "text", "the system message"),
    Column("first_token_seconds", "real", "from the start to the first token", "s"),
    Column(
        "tokens_per_second",
        "real",
        "generated tokens after the first one, over decode_seconds",
        "tokens/s",
    ),
    Column("total_seconds", "real", "from the start to the end", "s"),
    Column("load_seconds", "real", "fetch, check, adapt and load the model", "s"),
    Column("prompt_seconds", "real", "evaluate the prompt", "s"),
    Column("decode_seconds", "real", "from the evaluated prompt to the last token", "s"),
    Column("model_sha256", "text", "hash of the model file"),
    Column("model_path", "text", "the model file"),
    Column("model_type", "text", "format of an old GGML file"),
    Column("architecture", "text", "architecture of the model"),
    Column("quantisation", "text", "tensor type of most of the weights"),
    Column("device", "text", "where the model ran"),
    Column("gpu_layers_requested", "text", "a number, or auto"),
    Column("gpu_layers", "integer", "layers that ran on the GPU", "layers"),
    Column("device_memory_bytes", "integer", "device memory that the model took", "bytes"),
    Column("threads", "integer", "processor threads", "threads"),
    Column("context_length", "integer", "room for prompt and answer", "tokens"),
    Column("rendered_prompt", "text", "the prompt as the model got it, where a template was used"),
    Column("top_logprobs", "integer", "alternatives recorded for each token", "tokens"),
    Column(
        "tokens",
        "json",
        "id, bytes (base64), log-probability, rank, alternatives of each token that is wholly in "
        "the text: not of a stop sequence, nor of what a filter cut",
    ),
    Column("content_filters", "json", "list of patterns; functions by name"),
    Column("error_type", "text", "class of the error"),
    Column("error_message", "text", "its message"),
    Column("tags", "json", "what --tag gave"),
    Column("rating", "integer", "thumbs: 1 up, -1 down"),
    Column("note", "text", "what a person wrote about the run"),
    Column("group_id", "text", "the same for all runs of a sweep"),
    Column("replay_of", "integer", "run_id of the run that this one repeats"),
    Column("session_id", "text", "the kernel's session"),
)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def request_row(run: Run) -> dict[str, Any]:
    """What is known of a run when it starts, as the database keeps it."""
    request = run.request
    params = request.params
    filters = [
        item if isinstance(item, str) else f"<function {getattr(item, '__name__', item)}>"
        for item in request.content_filters
    ]
    return {
        "started_at": run.started_at.isoformat(timespec="microseconds"),
        "model": request.model,
        "model_type": request.model_type,
        "prompt": request.prompt,
        "chat": request.chat or request.system is not None,
        "system": request.system,
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "repeat_penalty": params.repeat_penalty,
        "repeat_penalty_last_n_token_count": params.repeat_penalty_last_n_token_count,
        "stop": _dump(params.stop),
        "seed": params.seed,
        "context_length": request.context_length,
        "gpu_layers_requested": str(request.gpu_layers),
        "top_logprobs": request.top_logprobs,
        "content_filters": _dump(filters),
        "tags": _dump(dict(request.tags)),
        "group_id": request.group_id,
        "replay_of": request.replay_of,
    }


def result_row(run: Run) -> dict[str, Any]:
    """What a run has come to, as the database keeps it."""
    result = run.result
    model, device, timings, usage = result.model, result.device, result.timings, result.usage
    prepared = run.prepared is not None
    tokens = None
    if result.tokens is not None:
        tokens = _dump([token.model_dump(mode="json") for token in result.tokens])
    return {
        "text": result.text,
        "finish_reason": result.finish_reason,
        "finish_detail": result.finish_detail,
        "stop_sequence": result.stop_sequence,
        "prompt_token_count": usage.prompt_token_count if prepared else None,
        "generated_token_count": usage.generated_token_count if prepared else None,
        "cached_token_count": usage.cached_token_count if prepared else None,
        "first_token_seconds": timings.first_token,
        "tokens_per_second": timings.tokens_per_second,
        "total_seconds": timings.total,
        "load_seconds": timings.load,
        "prompt_seconds": timings.prompt,
        "decode_seconds": timings.decode,
        "model_sha256": model.sha256 if model else None,
        "model_path": model.path if model else None,
        "architecture": model.architecture if model else None,
        "quantisation": model.quantisation if model else None,
        "device": device.name if prepared else None,
        "gpu_layers": device.gpu_layers if prepared else None,
        "device_memory_bytes": device.memory_bytes,
        "threads": device.threads if prepared else None,
        "context_length": result.context_length or run.request.context_length,
        "rendered_prompt": result.prompt if result.prompt != run.request.prompt else None,
        "tokens": tokens,
        "error_type": type(run.error).__name__ if run.error else None,
        "error_message": str(run.error) if run.error else None,
    }


def row_of(run: Run) -> dict[str, Any]:
    """The row of a run as the log would read it, whether or not it is in there."""
    row: dict[str, Any] = dict.fromkeys(column.name for column in COLUMNS)
    row |= request_row(run) | result_row(run) | {"run_id": run.run_id, "status": run.status}
    return row | {name: json.loads(row[name]) for name in _JSON if row[name] is not None}


_JSON = {column.name for column in COLUMNS if column.kind == "json"}


def read_row(row: Mapping[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """A row as a person reads it; `gone` are the sessions that are no more."""
    values = dict(row)
    for name in _JSON:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    if values["status"] == "running" and values["session_id"] in gone:
        values["status"] = "lost"
    return values
