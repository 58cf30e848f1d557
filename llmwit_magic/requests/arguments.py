"""A request from the arguments of a Python function."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..contract.record import shown
from ..contract.request import DEFAULT_MODEL, Request
from ..contract.wit import InferencingParams, params_from
from ..errors import InvalidInput, did_you_mean
from .presets import preset_of
from .shapes import KEYWORDS, with_constraint

Messages = Sequence[Mapping[str, str]]
"""Messages of a chat: `[{'role': 'user', 'content': …}, …]`."""
Params = InferencingParams | Mapping[str, Any]
"""Params, or a mapping of some of their fields."""
_OF_PARAMS = InferencingParams.model_fields.keys()
_NAMES = (*_OF_PARAMS, *Request.model_fields, *KEYWORDS, "anyway", "messages")


def request_from(
    model: str | os.PathLike[str] | None,
    prompt: str | Messages,
    params: Params | None,
    options: Mapping[str, Any],
) -> Request:
    """The request. The prompt is a text, or messages with roles.

    `options` are fields of the request and of its params. One of the params' counts before `params`.
    The option `preset` names a preset, before which all others count. Raises `InvalidInput`.
    """
    _check_names(options)
    kept = preset_of(options)
    model = kept.pop("model", None) if model is None else model
    name = os.fspath(model) if model is not None else DEFAULT_MODEL
    said = {"messages" if isinstance(prompt, list | tuple) else "prompt": prompt}
    below, beside = ({key: value for key, value in values.items() if key in _OF_PARAMS}
                     for values in (kept, options))  # fmt: skip
    others = with_constraint({key: value for key, value in options.items() if key not in beside})
    fields = {key: value for key, value in kept.items() if key not in ("model", *below)}
    request = Request(model=name, params=_params(params, below, beside), **said, **fields | others)
    for option in ("normalize", "end_of_text"):
        if option in options and not request.probabilities:
            raise InvalidInput(f"{option} has no effect without probabilities: leave it out")
    return request


def _check_names(options: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` for a name that is no option."""
    for name in options:
        if name not in _NAMES:
            hint = did_you_mean(name, _NAMES, "docs/options.md lists them")
            raise InvalidInput(f"there is no option '{name}': {hint}")


def _params(
    params: Params | None, below: Mapping[str, Any], changes: Mapping[str, Any]
) -> InferencingParams:
    """The params over those `below`, with some changes.

    Only what was given counts, since a default may depend on a change. Raises `InvalidInput`.
    """
    if isinstance(params, Mapping):
        return params_from({**below, **params, **changes})
    made = params_from(params)
    if not below and not changes:
        return made
    return params_from({**below, **made.model_dump(exclude_unset=True), **changes})


def request_of_call(
    first: str | os.PathLike[str] | Messages | None,
    prompt: str | Messages | Params | None,
    params: Params | None,
    options: Mapping[str, Any],
    is_model: Callable[[str], bool],
) -> Request:
    """The request of `infer(first, prompt, params, **options)`.

    With a prompt, `first` is the model. Without one, `first` is the prompt itself, and what stands
    in the prompt's place may be the params. `is_model` says whether a text is the name of a model
    that is there: such a text alone is refused. Raises `InvalidInput`.
    """
    others = {name: value for name, value in options.items() if name != "model"}
    named = options.get("model")
    if isinstance(prompt, InferencingParams | Mapping):
        if params is not None:
            raise InvalidInput(
                f"prompt: {shown(prompt)} is not valid: it must be a text or messages"
            )
        prompt, params = None, prompt
    if prompt is None:
        return _of_prompt_alone(first, params, options, is_model)
    if first is None:
        return request_from(named, prompt, params, others)
    if named is not None:
        raise InvalidInput("model: it is given twice: as the first argument, and by its name")
    if not isinstance(first, str | os.PathLike):
        raise InvalidInput(f"model: {shown(first)} is not valid: it must be a name or a path")
    return request_from(first, prompt, params, others)


def _of_prompt_alone(
    prompt: str | os.PathLike[str] | Messages | None,
    params: Params | None,
    options: Mapping[str, Any],
    is_model: Callable[[str], bool],
) -> Request:
    if prompt is None:
        raise InvalidInput("prompt: there is none: give a text, as in infer('The sky is')")
    may_be_model = isinstance(prompt, str) and "model" not in options
    if isinstance(prompt, os.PathLike) or (may_be_model and is_model(str(prompt))):
        raise InvalidInput(
            f"prompt: there is none, and {shown(str(prompt))} is the name of a model: give a "
            "prompt after it; if it is the prompt, give model=None too"
        )
    others = {name: value for name, value in options.items() if name != "model"}
    return request_from(options.get("model"), prompt, params, others)
