"""A model's own chat template, rendered where it can do no harm.

The template comes from the model file, so it runs in jinja2's immutable
sandbox, and in the child process: one that loops for ever costs only that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..errors import InvalidInput, ModelNotSupported


def render_chat(
    metadata: Mapping[str, Any], prompt: str, system: str | None, *, bos: str, eos: str
) -> str:
    """The prompt of one user message (and a system message) as the template writes it.

    The variables are those that Hugging Face's templates expect.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str):
        raise InvalidInput("the model has no chat template: leave out --chat and --system")
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    # Hugging Face renders with these two switched on; templates rely on them.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    try:
        return environment.from_string(template).render(
            messages=messages, add_generation_prompt=True, bos_token=bos, eos_token=eos
        )
    except jinja2.TemplateError as error:
        raise ModelNotSupported(
            f"the chat template of the model failed: {str(error).splitlines()[0]}"
        ) from None


def _refuse(message: str) -> None:
    """What templates call where they do not like the messages."""
    raise InvalidInput(f"the chat template of the model refuses this: {message}")
