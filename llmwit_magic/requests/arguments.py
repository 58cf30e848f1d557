"""A request from the arguments of a Python function."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..contract.request import DEFAULT_MODEL, Request
from ..contract.wit import InferencingParams, params_from
from ..errors import InvalidInput
from .shapes import with_constraint

Messages = Sequence[Mapping[str, str]]
"""Messages of a chat: `[{'role': 'user', 'content': …}, …]`."""


def request_from(
    model: str | os.PathLike[str] | None,
    prompt: str | Messages,
    params: InferencingParams | Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Request:
    """The request. The prompt is a text, or messages with roles. Raises `InvalidInput`."""
    misplaced = [name for name in options if name in InferencingParams.model_fields]
    if misplaced:
        raise InvalidInput(f"{misplaced[0]} belongs into params: params={{'{misplaced[0]}': …}}")
    name = os.fspath(model) if model is not None else DEFAULT_MODEL
    said = {"messages" if isinstance(prompt, list | tuple) else "prompt": prompt}
    values = with_constraint(options)
    request = Request(model=name, params=params_from(params), **said, **values)
    for option in ("normalize", "end_of_text"):
        if option in options and not request.probabilities:
            raise InvalidInput(f"{option} has no effect without probabilities: leave it out")
    return request
