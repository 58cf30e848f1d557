"""A request in the forms in which a person can take it along: cell, Python, JSON, WAVE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..models.fetch import DEFAULT_NAME
from ..protocol import Request
from ..wit import InferencingParams
from .cell_args import OPTIONS, Option


def forms(request: Request, defaults: Mapping[str, Any]) -> dict[str, str]:
    """Each form by its name; `defaults` are what a cell of this notebook leaves unsaid."""
    return {
        "cell": cell_text(request, defaults),
        "Python": python_text(request),
        "JSON": request.model_dump_json(
            indent=2, include={"model", "prompt", "chat", "system", "params"}, exclude_none=True
        ),
        "WAVE": wave_text(request.params),
    }


def cell_text(request: Request, defaults: Mapping[str, Any]) -> str:
    """The cell that runs this request again, with its seed."""
    return f"%%infer {option_line(request, defaults)}".rstrip() + f"\n{request.prompt}\n"


def option_line(request: Request, defaults: Mapping[str, Any]) -> str:
    """The options of that cell: those that are neither the contract's defaults nor the notebook's."""
    words = []
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
        if all(value == other for other in unsaid) or (value is None and not option.words):
            continue
        words += _option_words(option, value)
    if "{{" in request.prompt:
        words.append("--no-interpolate")
    words += [_word("--tag", f"{key}={value}") for key, value in request.tags.items()]
    return " ".join(words)


def _option_words(option: Option, value: Any) -> list[str]:
    if option.is_flag:
        return [option.flag] if value else []
    if option.dest == "stop":
        return [_word(option.flag, text, escapes=True) for text in value]
    if isinstance(value, str):
        return [_word(option.flag, value, escapes=option.dest == "system")]
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
    options = {
        name: getattr(request, name)
        for name in ("model_type", "chat", "system", "context_length", "anyway", "gpu_layers", "threads",
                     "top_logprobs")
        if getattr(request, name) != Request.model_fields[name].default
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
