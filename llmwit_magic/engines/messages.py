"""Events as lines of JSON, from the child to its parent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..protocol import Chunk, End, Event, Prepared, Progress
from ..wit import (
    DeviceInfo,
    FinishDetail,
    InferencingParams,
    InferencingUsage,
    ModelInfo,
    Record,
    TokenInfo,
    lists,
)


def message(kind: str, value: Any) -> bytes:
    """One line: what kind of message it is, and its value."""
    return _encode({"kind": kind, "value": value}).encode() + b"\n"


def _plain(value: Any) -> Any:
    """What the encoder does not know: events, records and mappings."""
    if fields := getattr(value, "__dataclass_fields__", None):
        return {name: getattr(value, name) for name in fields}
    return value.model_dump(mode="json") if isinstance(value, Record) else dict(value)


_encode = json.JSONEncoder(separators=(",", ":"), default=_plain).encode


def event_of(kind: str, value: Mapping[str, Any]) -> Event:
    """The event that a message stands for."""
    if kind == "Progress":
        return Progress(**value)
    if kind == "Chunk":
        tokens = tuple(TokenInfo(**token) for token in value["tokens"])
        return Chunk(value["text"], value["generated_token_count"], tokens)
    if kind == "End":
        detail = value["finish_detail"]
        return End(
            finish_detail=FinishDetail(detail) if detail else None,
            usage=InferencingUsage(**value["usage"]),
            stop_sequence=value["stop_sequence"],
            seconds=value["seconds"],
        )
    assert kind == "Prepared", kind
    return Prepared(
        **dict(value)
        | {
            "params": InferencingParams(**value["params"]),
            "model": ModelInfo(**value["model"]),
            "device": DeviceInfo(**value["device"]),
            "data_spans": lists(value["data_spans"]),
            "notices": tuple(value["notices"]),
        }
    )
