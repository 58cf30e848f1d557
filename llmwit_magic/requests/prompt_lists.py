"""Prompts side by side: a list or a mapping of the notebook becomes prompts with names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidInput
from .interpolation import python_name

PROMPT_PLACE = re.compile(r"\{\{\s*prompt\s*\}\}")
"""Where each prompt goes in the text of a cell. IPython runs no cell without a text."""


def in_place(cell: str, prompt: str) -> str:
    """The text of the cell with a prompt in its place. `{{name}}` in either is filled in later."""
    return PROMPT_PLACE.sub(lambda _: prompt, cell)


def named_prompts(name: str, namespace: Mapping[str, Any]) -> dict[str, str]:
    """The prompts of a variable, by their names: a list's are named 1, 2, and so on.

    A Series of pandas counts as a mapping. Raises `InvalidInput` where the variable is not there,
    is neither, or has something else than prompts in it.
    """
    value = namespace.get(python_name(name))
    if value is None:
        raise InvalidInput(f"prompts: there is no variable '{name}' in the notebook")
    items = getattr(value, "to_dict", None)
    value = items() if items is not None and getattr(value, "ndim", None) == 1 else value
    if isinstance(value, Mapping):
        found = {str(key): text for key, text in value.items()}
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        found = {str(number): text for number, text in enumerate(value, 1)}
    else:
        raise InvalidInput(
            f"prompts: {name} is {type(value).__name__}: it must be a list of texts, or a dict of "
            "names and texts"
        )
    if not found or len(found) != len(value):
        what = "two prompts have the same name" if found else "there is no prompt in it"
        raise InvalidInput(f"prompts: {name}: {what}")
    for key, text in found.items():
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput(f"prompts: {name}: prompt {key} is {text!r}: it must be a text")
    return found
