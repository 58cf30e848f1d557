"""Headers of sound files with other values in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmwit_magic.models.gguf import Header


def with_metadata(header: Header, changes: Mapping[str, Any], kind: int | None = None) -> Header:
    """The header with other values; None takes one away. `kind` is the type of the values."""
    metadata = {k: v for k, v in (dict(header.metadata) | changes).items() if v is not None}
    types = dict(header.types)
    for key, value in changes.items():
        if value is None:
            types.pop(key, None)
            continue
        guess = {str: 8, bool: 7, int: 4, float: 6}.get(type(value), 4)
        types[key] = kind if kind is not None else guess
    return replace(header, metadata=metadata, types=types)
