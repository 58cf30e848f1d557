"""A model's own chat template, rendered where it can do no harm.

The template comes from the model file, so it runs in jinja2's immutable
sandbox, and in the child process: one that loops for ever, or builds a
gigabyte, costs at most that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..errors import InvalidInput, ModelNotSupported

LONGEST_PROMPT = 4_000_000
"""Characters; more than any context that ctransformers has memory for."""


def render_chat(
    metadata: Mapping[str, Any], prompt: str, system: str | None, *, bos: str, eos: str
) -> str:
    """The prompt of one user message (and a system message) as the template writes it.

    The variables are those that Hugging Face's templates expect. Time and
    memory are for the caller to bound: the sandbox does not.
    """
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str):
        raise InvalidInput("the model has no chat template: leave out --chat and --system")
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    # Hugging Face renders with these; templates rely on them.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    try:
        text = environment.from_string(template).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True,
            bos_token=bos, eos_token=eos,
        )  # fmt: skip
    except InvalidInput:
        raise
    except MemoryError:
        raise ModelNotSupported(
            "the chat template of the model wants more memory than any prompt takes: leave out "
            "--chat and --system"
        ) from None
    except Exception as error:  # a template is a program: it may fail in any way
        reason = str(error) or type(error).__name__
        raise ModelNotSupported(f"the chat template of the model failed: {reason}") from None
    if len(text) > LONGEST_PROMPT:
        raise ModelNotSupported(
            f"the chat template of the model makes a prompt of {len(text):,} characters: leave "
            "out --chat and --system"
        )
    return text


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """As Hugging Face has it: jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(message: str) -> None:
    """What templates call where they do not like the messages."""
    raise InvalidInput(f"the chat template of the model refuses this: {message}")
