"""A request in the forms in which a person can take it along: cell, Python, JSON, WAVE."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ..models.fetch import DEFAULT_NAME
from ..protocol import Request
from ..wit import NO_PENALTY, InferencingParams
from .cell_args import OPTIONS, Option
from .interpolation import literal

_OPTIONS = ("chat_template", "control_tokens", "data_spans")
"""Fields that say how the prompt is read; forms have those that are not as by default."""


def _default(name: str) -> Any:
    return Request.model_fields[name].default


def forms(request: Request, defaults: Mapping[str, Any]) -> dict[str, str]:
    """Each form by its name; `defaults` are what a cell of this notebook leaves unsaid."""
    return {
        "cell": cell_text(request, defaults),
        "Python": python_text(request),
        "JSON": request.model_dump_json(
            indent=2,
            exclude_none=True,
            include={"model", "prompt", "chat", "system", "params"}
            | {name for name in _OPTIONS if getattr(request, name) != _default(name)},
        ),
        "WAVE": wave_text(request.params),
    }


def cell_text(request: Request, defaults: Mapping[str, Any]) -> str:
    """The cell that runs this request again, with its seed."""
    prompt = _with_places(request) if _has_places(request) else request.prompt
    return f"%%infer {option_line(request, defaults)}".rstrip() + f"\n{prompt}\n"


def _has_places(request: Request) -> bool:
    """Whether parts of the prompt can only be had as values: data, and line ends of another kind."""
    return bool(request.data_spans) or "\r" in request.prompt


def _with_places(request: Request) -> str:
    """The prompt with those parts as quoted texts in double braces."""
    prompt, parts, done = request.prompt, list[str](), 0
    for start, end in (*request.data_spans, (len(prompt), len(prompt))):
        typed = re.split(r"(\{\{|\r\n?)", prompt[done:start])
        parts += (literal(text) if number % 2 else text for number, text in enumerate(typed))
        if start < end:
            parts.append(literal(prompt[start:end]))
        done = end
    return "".join(parts)


def option_line(request: Request, defaults: Mapping[str, Any]) -> str:
    """The options of that cell: those that are neither the contract's defaults nor the notebook's."""
    words = []
    places = _has_places(request)

    def as_it_is(text: str) -> str:
        return text.replace("{{", literal("{{")) if places else text

    for option in OPTIONS:
        if option.field is None or option.dest == "tags":
            continue
        source = request.params if option.dest in InferencingParams.model_fields else request
        value = getattr(source, option.dest)
        standard = DEFAULT_NAME if option.dest == "model" else option.field.default
        unsaid = [standard, defaults.get(option.dest, standard)]
        if option.dest == "max_tokens" and request.params.stop:
            # The standard limit makes room for a stop sequence.
            unsaid = [None if limit == standard else limit for limit in unsaid]
        if option.dest == "repeat_penalty" and request.params.temperature == 0:
            unsaid = [NO_PENALTY if penalty == standard else penalty for penalty in unsaid]
        if all(value == other for other in unsaid) or (value is None and not option.words):
            continue
        words += _option_words(option, value, as_it_is)
    texts = [request.prompt, request.system or "", *request.params.stop]
    texts += (text for pair in request.tags.items() for text in pair)
    if not places and any("{{" in text for text in texts):
        words.append("--no-interpolate")
    words += [
        _word("--tag", f"{as_it_is(key)}={as_it_is(value)}") for key, value in request.tags.items()
    ]
    return " ".join(words)


def _option_words(option: Option, value: Any, as_it_is: Callable[[str], str]) -> list[str]:
    if option.is_flag:
        return [option.flag] if value else []
    if option.dest == "stop":
        return [_word(option.flag, as_it_is(text), escapes=True) for text in value]
    if option.dest == "accept":
        return [f"{option.flag} {','.join(value)}"]
    if option.dest == "system":
        return [_word(option.flag, as_it_is(value), escapes=True)]
    if isinstance(value, str):
        return [_word(option.flag, value)]
    return [f"{option.flag} {'none' if value is None else _number(value)}"]


def _word(flag: str, text: str, escapes: bool = False) -> str:
    """The option with its value, which after a space would be taken for another option."""
    return f"{flag}{'=' if text.startswith('--') else ' '}{_quoted(text, escapes)}"


def _number(value: float) -> str:
    """Without a needless `.0`."""
    return repr(int(value)) if isinstance(value, float) and value.is_integer() else repr(value)


def _quoted(text: str, escapes: bool = False) -> str:
    """One word of the line; with `escapes`, as the line decodes them."""
    if escapes:
        text = text.replace("\\", "\\\\").replace("'", "\\x27").replace("\n", "\\n")
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    plain = text and not any(c.isspace() or c in "'\"\\" for c in text) and text[0] != "-"
    if plain:
        return text
    return f'"{text}"' if "'" in text else f"'{text}'"


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def python_text(request: Request) -> str:
    """The call of `infer` that runs this request again."""
    params = request.params.model_dump(exclude_defaults=True)
    if request.params.temperature == 0:  # where another penalty is the default
        params["repeat_penalty"] = request.params.repeat_penalty
    options = {
        name: getattr(request, name)
        for name in ("model_type", "chat", "system", "context_length", "anyway", "accept",
                     "gpu_layers", "threads", "top_logprobs", *_OPTIONS)
        if getattr(request, name) != _default(name)
    }  # fmt: skip
    arguments = [repr(request.model), repr(request.prompt), repr(params)]
    arguments += [f"{name}={value!r}" for name, value in options.items()]
    return "from llmwit_magic import infer\n\nresult = infer({})\n".format(", ".join(arguments))


def wave_text(params: InferencingParams) -> str:
    """The WIT record `inferencing-params` in WAVE, the component model's value syntax."""
    limit = "none" if params.max_tokens is None else f"some({params.max_tokens})"
    stop = ", ".join(_wave_string(text) for text in params.stop)
    return (
        f"{{max-tokens: {limit}, repeat-penalty: {_number(params.repeat_penalty)}, "
        f"repeat-penalty-last-n-token-count: {params.repeat_penalty_last_n_token_count}, "
        f"stop: [{stop}], temperature: {_number(params.temperature)}, top-k: {params.top_k}, "
        f"top-p: {_number(params.top_p)}}}"
    )


def _wave_string(text: str) -> str:
    """Quoted, with the escapes of WAVE: backslash, quotes, newline, tab, and u{…}."""
    known = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"{}"'.format(
        "".join(known.get(c, c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in text)
    )
