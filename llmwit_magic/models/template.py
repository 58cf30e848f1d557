"""A chat template from a model file, run in jinja2's immutable sandbox.

A template is a program. The sandbox keeps it from Python's internals. The sandbox limits neither
time nor memory, so the caller must. A template runs in the child process: one that loops for ever,
or builds a gigabyte, costs at most that process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import InferenceError, InvalidInput, ModelNotSupported

LONGEST_PROMPT = 4_000_000
"""Characters. More than fits into any context that ctransformers has memory for."""
_TEMPLATE = "tokenizer.chat_template"


def template_of(metadata: Mapping[str, Any], name: str | None = None) -> str:
    """The source of the chat template of that name in a model file; without a name, the default one.

    Raises `InvalidInput` if the file has no such template.
    """
    template = metadata.get(f"{_TEMPLATE}.{name}" if name else _TEMPLATE)
    if isinstance(template, str):
        return template
    names = [
        key.removeprefix(f"{_TEMPLATE}.") for key in metadata if key.startswith(f"{_TEMPLATE}.")
    ]
    if name and (names or isinstance(metadata.get(_TEMPLATE), str)):
        raise InvalidInput(
            f"chat_template: the model has no chat template '{name}': it has "
            f"{', '.join(names) or 'one without a name'}"
        )
    if names:
        raise InvalidInput(
            f"the model has no default chat template: choose one, such as --chat-template {names[0]}"
        )
    raise InvalidInput("the model has no chat template: leave out --chat and --system")


def unread(template: str, names: Iterable[str]) -> list[str]:
    """Those of the variables `names` whose name is no word of the template: it cannot read them."""
    return [name for name in names if not re.search(rf"\b{re.escape(name)}\b", template)]


class TemplateRefused(Exception):
    """The template did not take the messages in this form. `error` says why."""

    def __init__(self, error: InferenceError) -> None:
        self.error = error


class ChatTemplate:
    """A template in an environment like Hugging Face's, because templates rely on that one."""

    def __init__(self, source: str, variables: Mapping[str, Any]) -> None:
        self._source = source
        self._template: Template | None = None
        self._environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )  # fmt: skip
        self._environment.filters["tojson"] = _to_json
        now = datetime.now()  # once, so that every `write` uses the same time
        self._environment.globals["raise_exception"] = _refuse
        self._environment.globals["strftime_now"] = lambda pattern: now.strftime(pattern)
        self._variables = dict(variables) | {
            "tools": None, "documents": None, "add_generation_prompt": True,
        }  # fmt: skip

    def write(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that the template writes of these messages.

        Raises `TemplateRefused` if another form of the messages may help, and `ModelNotSupported`
        if none can.
        """
        try:
            if self._template is None:  # not in `__init__`, because compiling may fail too
                self._template = self._environment.from_string(self._source)
            text = self._template.render({"messages": messages, **self._variables})
        except InvalidInput as error:
            raise TemplateRefused(error) from None
        except MemoryError:
            raise ModelNotSupported(
                "the chat template of the model wants more memory than any prompt takes: leave out "
                "--chat and --system"
            ) from None
        except Exception as error:  # a template is a program: it may fail in any way
            reason = str(error) or type(error).__name__
            raise TemplateRefused(
                ModelNotSupported(f"the chat template of the model failed: {reason}")
            ) from None
        if len(text) > LONGEST_PROMPT:
            raise ModelNotSupported(
                f"the chat template of the model makes a prompt of {len(text):,} characters: leave "
                "out --chat and --system"
            )
        return text


class _Generation(Extension):
    """`{% generation %}` marks the model's own words for training. Here it only writes its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` of Hugging Face. The one of jinja2 escapes for HTML.

    It takes no other keyword of `json.dumps`, because `default` would call whatever it is given.
    """
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    """The template's `raise_exception`, with which it refuses messages."""
    raise InvalidInput(f"the chat template of the model refuses this: {message}")
