"""A run as a row of the log, and a row as a run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from .._version import __version__
from ..protocol import ContentFilter, Request
from ..wit import (
    DeviceInfo,
    InferencingParams,
    InferencingUsage,
    ModelInfo,
    Timings,
    TokenInfo,
)
from .columns import COLUMNS, NAMES
from .run import Run

Row = dict[str, Any]

JSON_NAMES = tuple(column.name for column in COLUMNS if column.kind == "json")
_PARAMS = tuple(name for name in InferencingParams.model_fields if name != "stop")
# The way in which bytes and infinities are written is that of the outermost schema.
_TOKENS = TypeAdapter(tuple[TokenInfo, ...], config=TokenInfo.model_config)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def request_row(request: Request) -> Row:
    """What is known of a run before it starts, as the database keeps it."""
    return {
        "model": request.model,
        "model_type": request.model_type,
        "prompt": request.prompt,
        "chat": request.is_chat,
        "system": request.system,
        "chat_template": request.chat_template,
        "control_tokens": request.control_tokens,
        "data_spans": _dump(request.data_spans) if request.data_spans else None,
        **{name: getattr(request.params, name) for name in _PARAMS},
        "stop": _dump(request.params.stop),
        "context_length_requested": request.context_length,
        "anyway": request.anyway,
        "accept": ",".join(request.accept) or None,
        "context_length": request.context_length,
        "gpu_layers_requested": str(request.gpu_layers),
        "threads_requested": str(request.threads),
        "top_logprobs": request.top_logprobs,
        "content_filters": _dump([filter_name(item) for item in request.content_filters]),
        "tags": _dump(dict(request.tags)),
        "group_id": request.group_id,
        "replay_of": request.replay_of,
        "version": __version__,
    }


def filter_name(item: ContentFilter) -> str:
    """A content filter as the log writes it: a pattern as it is, a function by its name."""
    return item if isinstance(item, str) else f"<function {getattr(item, '__name__', item)}>"


def started_row(run: Run) -> Row:
    """The row of a run that starts."""
    return request_row(run.request) | {
        "started_at": run.started_at.isoformat(timespec="microseconds"),
        "status": "running",
    }


def ended_row(run: Run, status: str) -> Row:
    """The row of a run that has ended, whole."""
    return started_row(run) | _result_row(run) | {"status": status}


def _result_row(run: Run) -> Row:
    """What a run has come to."""
    result = run.result
    model, device, timings, usage = result.model, result.device, result.timings, result.usage
    prepared = run.prepared is not None
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
        "device_reason": device.reason if prepared else None,
        "library": device.library if prepared else None,
        "gpu_layers": device.gpu_layers if prepared else None,
        "device_memory_bytes": device.memory_bytes,
        "threads": device.threads if prepared else None,
        "context_length": result.context_length or run.request.context_length,
        "rendered_prompt": result.prompt if result.prompt != run.request.prompt else None,
        "notices": _dump(result.notices) if result.notices else None,
        "tokens": None if result.tokens is None else _TOKENS.dump_json(result.tokens).decode(),
        "error_type": type(run.error).__name__ if run.error else None,
        "error_message": str(run.error) if run.error else None,
    }


def row_of(run: Run) -> Row:
    """The row of a run as the log would read it, whether or not it is in there."""
    row: Row = dict.fromkeys(NAMES)
    row |= ended_row(run, run.status) | {"run_id": run.run_id}
    return row | {name: json.loads(row[name]) for name in JSON_NAMES if row[name] is not None}


# And back -----------------------------------------------------------------------


def parse_json(text: str) -> Any:
    """JSON, its infinities as text: the first version wrote them bare."""
    return json.loads(text, parse_constant=str)


def request_of(row: Mapping[str, Any]) -> Request:
    """The request of a row as the log reads it, its seed included.

    Content filters that are functions are not in a row: they are left out.
    """
    return Request(
        model=row["model"],
        prompt=row["prompt"],
        params=_params_of(row),
        model_type=row["model_type"],
        chat=bool(row["chat"]),
        system=row["system"],
        chat_template=row["chat_template"],
        control_tokens=row["control_tokens"] or "all",  # version 0.1 recognised them everywhere
        data_spans=row["data_spans"] or (),
        context_length=row["context_length_requested"],
        anyway=bool(row["anyway"]),
        accept=tuple(row["accept"].split(",")) if row["accept"] else (),
        gpu_layers=_number_or_auto(row["gpu_layers_requested"]),
        threads=_number_or_auto(row["threads_requested"]),
        top_logprobs=row["top_logprobs"],
        content_filters=tuple(
            item for item in row["content_filters"] or () if item not in function_filters(row)
        ),
        tags=row["tags"] or {},
        group_id=row["group_id"],
        replay_of=row["replay_of"],
    )


def function_filters(row: Mapping[str, Any]) -> list[str]:
    """The content filters of a row that are functions, as they are written there."""
    return [
        item
        for item in row["content_filters"] or ()
        if item.startswith("<function ") and item.endswith(">")
    ]


def _params_of(row: Mapping[str, Any]) -> InferencingParams:
    return InferencingParams(stop=tuple(row["stop"] or ()), **{name: row[name] for name in _PARAMS})


def _number_or_auto(text: str | None) -> Any:
    return "auto" if text in (None, "auto") else int(text)


def result_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the `InferencingResult` of a row as the log reads it."""
    model = None
    if row["model_sha256"] is not None:
        model = ModelInfo(
            name=row["model"],
            path=row["model_path"],
            sha256=row["model_sha256"],
            architecture=row["architecture"],
            quantisation=row["quantisation"],
        )
    device = DeviceInfo()
    if row["device"] is not None:
        device = DeviceInfo(
            name=row["device"],
            library=row["library"] or "",
            threads=row["threads"] or 0,
            requested_gpu_layers=_number_or_auto(row["gpu_layers_requested"]),
            gpu_layers=row["gpu_layers"] or 0,
            memory_bytes=row["device_memory_bytes"],
            reason=row["device_reason"] or "",
        )
    return {
        "text": row["text"] or "",
        "finish_reason": row["finish_reason"],
        "usage": InferencingUsage(
            prompt_token_count=row["prompt_token_count"] or 0,
            generated_token_count=row["generated_token_count"] or 0,
            cached_token_count=row["cached_token_count"] or 0,
        ),
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
        "tokens": None if row["tokens"] is None else _TOKENS.validate_json(_dump(row["tokens"])),
        "prompt": row["prompt"] if row["rendered_prompt"] is None else row["rendered_prompt"],
        "notices": tuple(row["notices"] or ()),
        "status": row["status"],
        "run_id": row["run_id"],
    }
