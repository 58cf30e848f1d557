"""A request and a result as a row of the log, and a row as a request and a result."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from .._version import __version__
from ..contract.constraint import Constraint
from ..contract.request import ContentFilter, Request
from ..contract.scores import ChoiceProbabilities, ChoiceScore, Score, score_of
from ..contract.wit import (
    DeviceInfo,
    InferencingParams,
    InferencingResult,
    InferencingUsage,
    ModelInfo,
    Timings,
    TokenInfo,
)
from .columns import COLUMNS, NAMES, Column

Row = dict[str, Any]

JSON_NAMES = tuple(column.name for column in COLUMNS if column.kind == "json")
# Pydantic writes bytes and infinities in the way of the outermost schema's configuration.
_TOKENS = TypeAdapter(tuple[TokenInfo, ...], config=TokenInfo.model_config)
_CHOICES = TypeAdapter(tuple[ChoiceScore, ...], config=ChoiceScore.model_config)

_BY_FIELD = {column.name: column for column in COLUMNS} | {
    column.field: column for column in COLUMNS if column.field
}
_OF_PARAMS = {name: _BY_FIELD[name] for name in InferencingParams.model_fields}
_OF_REQUEST = {name: _BY_FIELD[name] for name in Request.model_fields if name != "params"}
"""The column of each field. The import of this module fails where a field has no column."""


# Into the log ---------------------------------------------------------------------

# What the log keeps of a field, where that is not the field's value.
_KEPT: Mapping[str, Callable[[Request], Any]] = {
    "chat": lambda request: request.is_chat,
    "constraint": lambda request: request.constraint and request.constraint.source,
    "content_filters": lambda request: [filter_name(item) for item in request.content_filters],
    "prompt_logprobs": lambda request: request.prompt_logprobs or None,
    "probabilities": lambda request: request.probabilities or None,
    "normalize": lambda request: request.normalize if request.probabilities else None,
    "end_of_text": lambda request: request.end_of_text if request.probabilities else None,
    "data_spans": lambda request: request.data_spans or None,
    "history": lambda request: [message.model_dump() for message in request.history] or None,
    "dropped_turns": lambda request: request.dropped_turns or None,
    "template_options": lambda request: request.template_options or None,
}


def request_row(request: Request) -> Row:
    """The columns that are known before a run starts, as the database keeps them."""
    row: Row = {}
    for name, column in _OF_REQUEST.items():
        kept = _KEPT[name](request) if name in _KEPT else getattr(request, name)
        row[column.name] = _written(column, kept)
    for name, column in _OF_PARAMS.items():
        row[column.name] = _written(column, getattr(request.params, name))
    return row | {
        "anyway": request.takes_long_context,
        "constraint_kind": request.constraint and request.constraint.kind,
        "constraint_hash": request.constraint and request.constraint.hash,
        "context_length": request.context_length,
        "version": __version__,
    }


def _written(column: Column, value: Any) -> Any:
    """The value as the database keeps it in that column."""
    if value is None or column.kind not in ("json", "text"):
        return value
    if column.kind == "json":
        return _dump(dict(value) if isinstance(value, Mapping) else value)
    return (",".join(value) or None) if isinstance(value, tuple) else str(value)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def filter_name(item: ContentFilter) -> str:
    """A content filter as the log keeps it: a pattern as it is, a function by its name."""
    return item if isinstance(item, str) else f"<function {getattr(item, '__name__', item)}>"


def started_row(request: Request, started_at: datetime) -> Row:
    """The row of a run that starts."""
    return request_row(request) | {
        "started_at": started_at.isoformat(timespec="microseconds"),
        "status": "running",
    }


def result_row(
    request: Request, result: InferencingResult, prepared: bool, error: Exception | None
) -> Row:
    """The columns of a run that has ended. `prepared`: whether its engine said `Prepared`."""
    model, device, timings, usage = result.model, result.device, result.timings, result.usage
    scored = result.score or result.choices
    return {
        "text": result.text,
        "reasoning": result.reasoning or None,
        "finish_reason": result.finish_reason,
        "finish_detail": result.finish_detail,
        "stop_sequence": result.stop_sequence,
        "prompt_token_count": usage.prompt_token_count if prepared else None,
        "generated_token_count": usage.generated_token_count if prepared else None,
        "cached_token_count": usage.cached_token_count if prepared else None,
        "reasoning_token_count": usage.reasoning_token_count if prepared else None,
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
        "device_reason": device.reason if prepared else None,
        "engine": model.engine if model else None,
        "tokenizer": model.tokenizer if model else None,
        "library": device.library if prepared else None,
        "exact": device.exact if prepared else None,
        "gpu_layers": device.gpu_layers if prepared else None,
        "device_memory_bytes": device.memory_bytes,
        "threads": device.threads if prepared else None,
        "context_length": result.context_length or request.context_length,
        "rendered_prompt": result.prompt if result.prompt != request.prompt else None,
        "notices": _dump(result.notices) if result.notices else None,
        "not_honoured": _dump(result.not_honoured) if result.not_honoured else None,
        "value_error": result.value_error,
        "tokens": _token_texts(result.tokens),
        "score_logprob": _finite(result.logprob),
        "score_token_count": result.score.token_count if result.score else None,
        "score_perplexity": _finite(result.perplexity),
        "score_exact": scored.exact if scored else None,
        "choice_scores": _choices_json(result.choices) if result.choices else None,
        "prompt_tokens": _token_texts(result.prompt_tokens),
        "error_type": type(error).__name__ if error else None,
        "error_message": str(error) if error else None,
    }


def _finite(value: float | None) -> float | None:
    """The number, where a column can hold it. The tokens tell the other ones."""
    return value if value is None or math.isfinite(value) else None


def _token_texts(tokens: tuple[TokenInfo, ...] | None) -> str | None:
    """The tokens as the log has them. Without a constraint they say nothing of one."""
    if tokens is None:
        return None
    masked = any(token.masked_logprob is not None for token in tokens)
    return _TOKENS.dump_json(tokens, exclude=None if masked else _NO_MASK).decode()


def _choices_json(choices: ChoiceProbabilities) -> str:
    left_out = {"__all__": {"tokens": _NO_MASK}}
    return _CHOICES.dump_json(choices.scores, exclude=left_out).decode()


_NO_MASK = {"__all__": {"masked_logprob"}}
"""What the JSON of tokens leaves out where no constraint had a say in them."""


# Out of the log -------------------------------------------------------------------


def as_read(row: Row) -> Row:
    """A row that was made here, as the log would read it: with all columns, and JSON parsed."""
    row = dict.fromkeys(NAMES) | row
    return row | {name: json.loads(row[name]) for name in JSON_NAMES if row[name] is not None}


def parse_json(text: str) -> Any:
    """The value of a JSON text. The first version wrote bare infinities; they are read as texts."""
    return json.loads(text, parse_constant=str)


def request_of(row: Mapping[str, Any]) -> Request:
    """The request of a row, as the log reads rows, with the seed that was used.

    Content filters that are functions are left out, since a row has only their names.
    """
    fields = {
        name: value for name, column in _OF_REQUEST.items()
        if (value := row[column.name]) is not None
    }  # fmt: skip
    for name in ("gpu_layers", "threads"):
        fields[name] = _number_or_auto(fields.get(name))
    if "constraint" in fields:
        fields["constraint"] = Constraint(kind=row["constraint_kind"], source=fields["constraint"])
    functions = function_filters(row)
    fields |= {
        "accept": tuple(fields["accept"].split(",")) if "accept" in fields else (),
        "anyway": bool(row["anyway"]),
        "content_filters": tuple(
            item for item in fields.get("content_filters", ()) if item not in functions
        ),
    }
    fields.setdefault("control_tokens", "all")  # as in version 0.1, which had no such column
    return Request(**fields, params=_params_of(row))


def function_filters(row: Mapping[str, Any]) -> list[str]:
    """The content filters of a row that are functions, by their names as the row has them."""
    return [
        item
        for item in row["content_filters"] or ()
        if item.startswith("<function ") and item.endswith(">")
    ]


def _params_of(row: Mapping[str, Any]) -> InferencingParams:
    values = {name: row[column.name] for name, column in _OF_PARAMS.items()}
    return InferencingParams(**values | {"stop": tuple(values["stop"] or ())})


def _number_or_auto(text: str | None) -> Any:
    return "auto" if text in (None, "auto") else int(text)


def result_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the `InferencingResult` of a row, as the log reads rows."""
    model, device, usage = None, DeviceInfo(), InferencingUsage()
    # An engine that has read a request says where it runs, whatever else it does not know.
    if row["device"] is not None or row["model_sha256"] is not None:
        model = ModelInfo(
            name=row["model"],
            path=row["model_path"],
            sha256=row["model_sha256"],
            architecture=row["architecture"],
            quantisation=row["quantisation"],
            engine=row["engine"],
            tokenizer=row["tokenizer"],
        )
        usage = InferencingUsage(
            prompt_token_count=row["prompt_token_count"],
            generated_token_count=row["generated_token_count"],
            cached_token_count=row["cached_token_count"],
            reasoning_token_count=row["reasoning_token_count"],
        )
    if row["device"] is not None:
        device = DeviceInfo(
            name=row["device"],
            library=row["library"] or "",
            threads=row["threads"],
            requested_gpu_layers=_number_or_auto(row["gpu_layers_requested"]),
            gpu_layers=row["gpu_layers"],
            memory_bytes=row["device_memory_bytes"],
            reason=row["device_reason"] or "",
            exact=row["exact"] is None or bool(row["exact"]),
        )
    return {
        "text": row["text"] or "",
        "reasoning": row["reasoning"] or "",
        "finish_reason": row["finish_reason"],
        "usage": usage,
        "finish_detail": row["finish_detail"],
        "stop_sequence": row["stop_sequence"],
        "params": _params_of(row),
        "model": model,
        "device": device,
        "context_length": row["context_length"] if model else None,
        "timings": Timings(
            load=row["load_seconds"],
            prompt=row["prompt_seconds"],
            first_token=row["first_token_seconds"],
            decode=row["decode_seconds"],
            total=row["total_seconds"],
            tokens_per_second=row["tokens_per_second"],
        ),
        "tokens": _tokens_of(row["tokens"]),
        "score": _score_of(row),
        "choices": _choices_of(row),
        "prompt_tokens": _tokens_of(row["prompt_tokens"]),
        "prompt": row["prompt"] if row["rendered_prompt"] is None else row["rendered_prompt"],
        "chat": bool(row["chat"]),
        "notices": tuple(row["notices"] or ()),
        "not_honoured": tuple(row["not_honoured"] or ()),
        "value": row["value"],
        "value_error": row["value_error"],
        "kind": row["kind"] or "text",
        "text_count": row["text_count"],
        "status": row["status"],
        "run_id": row["run_id"],
        "preset": row["preset"],
        "conversation_id": row["conversation_id"],
        "turn": row["turn"],
        "dropped_turns": row["dropped_turns"] or 0,
        "prompt_name": row["prompt_name"],
        "metric_values": row["metrics"] or {},
    }


def _tokens_of(tokens: Any) -> tuple[TokenInfo, ...] | None:
    return None if tokens is None else _TOKENS.validate_json(_dump(tokens))


def _score_of(row: Mapping[str, Any]) -> Score | None:
    tokens = _tokens_of(row["tokens"])
    if row["score_token_count"] is None or tokens is None:
        return None
    return score_of(tokens, bool(row["score_exact"]))


def _choices_of(row: Mapping[str, Any]) -> ChoiceProbabilities | None:
    if row["choice_scores"] is None:
        return None
    scores = _CHOICES.validate_json(_dump(row["choice_scores"]))
    return ChoiceProbabilities(
        scores=scores,
        normalize=row["normalize"],
        end_of_text=any(each.end_logprob is not None for each in scores),
        exact=bool(row["score_exact"]),
    )
