"""A chat template from a model file: a program, run in jinja2's immutable sandbox.

The sandbox keeps a template from Python's insides; time and memory are for the
caller to bound. It runs in the child process, so one that loops for ever, or
builds a gigabyte, costs at most that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import InferenceError, InvalidInput, ModelNotSupported

LONGEST_PROMPT = 4_000_000
"""Characters; more than any context that ctransformers has memory for."""
_TEMPLATE = "tokenizer.chat_template"


def template_of(metadata: Mapping[str, Any], name: str | None = None) -> str:
    """The chat template of a model file: its only or default one, or that of a name.

    Raises `InvalidInput` where the file has none of that name.
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


class TemplateRefused(Exception):
    """A template that did not take the messages in this form; `error` says why."""

    def __init__(self, error: InferenceError) -> None:
        self.error = error


class ChatTemplate:
    """A template in an environment like Hugging Face's, on which templates rely."""

    def __init__(self, source: str, variables: Mapping[str, Any]) -> None:
        self._source = source
        self._template: Template | None = None
        self._environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )  # fmt: skip
        self._environment.filters["tojson"] = _to_json
        now = datetime.now()  # the same one however often the messages are written
        self._environment.globals["raise_exception"] = _refuse
        self._environment.globals["strftime_now"] = lambda pattern: now.strftime(pattern)
        self._variables = dict(variables) | {
            "tools": None, "documents": None, "add_generation_prompt": True,
        }  # fmt: skip

    def write(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt of these messages.

        Raises `TemplateRefused` where another form of them may help, and
        `ModelNotSupported` where none can.
        """
        try:
            if self._template is None:  # compiled once, and here: it may fail
                self._template = self._environment.from_string(self._source)
            text = self._template.render(messages=messages, **self._variables)
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
    """`{% generation %}`: marks the model's own words for training; here it only groups."""

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
    """As Hugging Face has it: jinja2's own filter escapes for HTML.

    No other keyword of `json.dumps` is taken: `default` would call anything.
    """
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    """What templates call where they do not like the messages."""
    raise InvalidInput(f"the chat template of the model refuses this: {message}")
