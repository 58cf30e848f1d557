"""The forms of a request that a person can copy: cell, Python, JSON, WAVE."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..base.printable import number_text
from ..contract.constraint import Constraint
from ..contract.request import DEFAULT_MODEL, Prompt, Request, Scored
from ..contract.wit import InferencingParams
from .interpolation import literal
from .options import OPTIONS, Option, unsaid


def _changed(request: Request, names: Iterable[str]) -> dict[str, Any]:
    """The fields of the request, among `names`, whose values are not their defaults."""
    fields = Request.model_fields
    return {
        name: value for name in names if (value := getattr(request, name)) != fields[name].default
    }


def forms(request: Request, defaults: Mapping[str, Any]) -> dict[str, str]:
    """Each form by its name. `defaults` are the values, by field, that cells of this notebook have
    where their line leaves them open."""
    # The messages before the prompt cannot stand in a cell. The run that it replies to has them.
    cell = not request.history or request.reply_to is not None
    return ({"cell": cell_text(request, defaults)} if cell else {}) | {
        "Python": python_text(request),
        "JSON": request.model_dump_json(
            indent=2,
            exclude_none=True,
            include={"model", "prompt", "chat", "system", "params"}
            | _changed(request, [*Prompt.model_fields, *Scored.model_fields, "constraint"]).keys(),
        ),
        "WAVE": wave_text(request.params),
    }


def cell_text(request: Request, defaults: Mapping[str, Any]) -> str:
    """The cell that runs this request again, with its seed."""
    line = option_line(request, defaults)
    if request.continuation is not None and not request.prompt:
        # The whole cell is scored. Nothing in it is a control token, so it has no other places.
        whole = request.model_copy(update={"continuation": None, "prompt": request.continuation})
        line = f"--score {option_line(whole, defaults)}".rstrip()
        request = whole
    prompt = _with_places(request) if _has_places(request) else request.prompt
    return f"%%infer {line}".rstrip() + f"\n{prompt}\n"


def _has_places(request: Request) -> bool:
    """Whether parts of the prompt can stand in a cell only as values: data, and the line end `\\r`,
    which a cell would turn into `\\n`."""
    return bool(request.data_spans) or "\r" in request.prompt


def _with_places(request: Request) -> str:
    """The prompt with those parts, and `{{`, as quoted texts in double braces."""
    prompt, parts, done = request.prompt, list[str](), 0
    for start, end in (*request.data_spans, (len(prompt), len(prompt))):
        typed = re.split(r"(\{\{|\r\n?)", prompt[done:start])
        parts += (literal(text) if number % 2 else text for number, text in enumerate(typed))
        if start < end:
            parts.append(literal(prompt[start:end]))
        done = end
    return "".join(parts)


def option_line(request: Request, defaults: Mapping[str, Any]) -> str:
    """The options of that cell. An option is left out where its value is both the contract's and
    the notebook's default."""
    # The options of a conversation stay, so all that differ from its own must be given.
    replies = bool(request.history)
    words = [f"--reply-to {request.reply_to}"] if replies else []
    words += ["--drop-oldest"] if request.dropped_turns else []
    places = _has_places(request)

    def as_it_is(text: str) -> str:
        return text.replace("{{", literal("{{")) if places else text

    for option in OPTIONS:
        if option.field is None or option.dest == "tags":
            continue
        source = request.params if option.dest in InferencingParams.model_fields else request
        value = getattr(source, option.dest)
        standard = DEFAULT_MODEL if option.dest == "model" else option.field.default
        unsaid_values = [standard, defaults.get(option.dest, standard)]
        if option.dest in InferencingParams.model_fields:
            if request.is_scored:
                continue  # nothing is generated
            stops, temperature = bool(request.params.stop), request.params.temperature
            unsaid_values = [
                unsaid(option.dest, other, stops, temperature) for other in unsaid_values
            ]
        if not replies and all(value == other for other in unsaid_values):
            continue
        if value == () or (value is None and "none" not in option.words):
            continue
        words += _option_words(option, value, as_it_is)
    if request.constraint is not None:
        words += _shape_words(request.constraint)
    texts = [
        request.model,
        request.prompt,
        request.system or "",
        request.continuation or "",
        *request.params.stop,
    ]
    texts += (text for pair in request.tags.items() for text in pair)
    if not places and any("{{" in text for text in texts):
        words.append("--no-interpolate")
    words += [
        _word("--tag", f"{as_it_is(key)}={as_it_is(value)}") for key, value in request.tags.items()
    ]
    return " ".join(words)


def _option_words(option: Option, value: Any, as_it_is: Callable[[str], str]) -> list[str]:
    if option.is_flag:
        return [option.flag if value else str(option.off_flag)]
    if option.dest == "template_options":
        return [_word(option.flag, f"{name}={_json(item)}") for name, item in value.items()]
    if option.escapes:
        texts = value if option.many else [value]
        return [_word(option.flag, as_it_is(text), escapes=True) for text in texts]
    if option.many and option.words:
        return [f"{option.flag} {','.join(value)}"]
    if isinstance(value, str):
        return [_word(option.flag, value)]
    return [f"{option.flag} {'none' if value is None else number_text(value)}"]


def _shape_words(constraint: Constraint) -> list[str]:
    """The options that state a constraint, with all of it on the line."""
    if constraint.kind == "choices":
        return [_word("--choice", choice, escapes=True) for choice in constraint.choices]
    if constraint.kind == "grammar":
        return [_word("--grammar", constraint.source, escapes=True)]
    if constraint.kind == "regex":
        return [_word("--regex", _SIGN.sub(_printable_sign, constraint.source))]
    source = re.sub("[\n\r\t]", " ", constraint.source)  # in JSON, these stand in no text
    return [
        _word(
            "--json-schema", "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in source)
        )
    ]


_SIGN = re.compile(r"\\?(.)", re.DOTALL)


def _printable_sign(match: re.Match[str]) -> str:
    """A character of an expression, or one that is escaped there, as it can stand on a line."""
    return match[0] if match[1].isprintable() else _escaped(match[1])


def _json(value: Any) -> str:
    """The value as JSON that can stand in single quotes."""
    return json.dumps(value).replace("'", "\\u0027")


def _word(flag: str, text: str, escapes: bool = False) -> str:
    """The option with its value. A value that begins with `--` follows `=`: after a space it would
    be taken for another option."""
    return f"{flag}{'=' if text.startswith('--') else ' '}{_quoted(text, escapes)}"


def _quoted(text: str, escapes: bool = False) -> str:
    """The text as one word of the line; with `escapes`, written so that the line decodes it."""
    if escapes:
        text = text.replace("\\", "\\\\").replace("'", "\\x27").replace("\n", "\\n")
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    plain = text and not any(c.isspace() or c in "'\"\\" for c in text) and text[0] != "-"
    if plain:
        return text
    if "'" in text and '"' in text:  # quoted parts side by side are one word
        return "'" + text.replace("'", "'\"'\"'") + "'"
    return f'"{text}"' if "'" in text else f"'{text}'"


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_PYTHON_OPTIONS = [
    option.dest for option in OPTIONS
    if option.dest in Request.model_fields and option.dest not in ("model", "tags", "preset")
]  # fmt: skip


def python_text(request: Request) -> str:
    """The call of `infer`, `score` or `choose` that runs this request again."""
    if request.is_scored:
        return _scored_text(request)
    params = request.params.model_dump(exclude_defaults=True)
    if request.params.temperature == 0:  # the default penalty is another one there
        params["repeat_penalty"] = request.params.repeat_penalty
    options = _changed(request, [*_PYTHON_OPTIONS, "data_spans"])
    prompt, options = _said(request, options)
    arguments = [repr(request.model), repr(prompt), repr(params)]
    arguments += [f"{name}={value!r}" for name, value in options.items()]
    if request.constraint is not None:
        arguments.append(_python_shape(request.constraint))
    return "from llmwit_magic import infer\n\nresult = infer({})\n".format(", ".join(arguments))


def _said(request: Request, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The prompt as an argument, which is a list of messages where there are earlier ones, and the
    options beside it."""
    if not request.history:
        return request.prompt, options
    others = {name: value for name, value in options.items() if name not in ("chat", "system")}
    return [message.model_dump() for message in request.messages], others


def _scored_text(request: Request) -> str:
    options = _changed(request, [*_PYTHON_OPTIONS, "data_spans"])
    options = {**options, "model": request.model}
    for field in ("continuation", "probabilities"):
        options.pop(field, None)
    name, what = "score", repr(request.continuation)
    if request.probabilities:
        assert request.constraint is not None
        name, what = "choose", repr(list(request.constraint.choices))
    prompt, options = _said(request, options)
    arguments = [
        repr(prompt),
        what,
        *(f"{key}={value!r}" for key, value in options.items()),
    ]
    return f"from llmwit_magic import {name}\n\nresult = {name}({', '.join(arguments)})\n"


def _python_shape(constraint: Constraint) -> str:
    """The argument of `infer` that states a constraint."""
    if constraint.kind == "choices":
        return f"choices={list(constraint.choices)!r}"
    if constraint.kind == "json_schema":
        return f"returns={json.loads(constraint.source)!r}"
    return f"{constraint.kind}={constraint.source!r}"


def wave_text(params: InferencingParams) -> str:
    """The WIT record `inferencing-params` in WAVE, the component model's value syntax."""
    limit = "none" if params.max_tokens is None else f"some({params.max_tokens})"
    stop = ", ".join(_wave_string(text) for text in params.stop)
    return (
        f"{{max-tokens: {limit}, repeat-penalty: {number_text(params.repeat_penalty)}, "
        f"repeat-penalty-last-n-token-count: {params.repeat_penalty_last_n_token_count}, "
        f"stop: [{stop}], temperature: {number_text(params.temperature)}, top-k: {params.top_k}, "
        f"top-p: {number_text(params.top_p)}}}"
    )


def _wave_string(text: str) -> str:
    """The text quoted, with WAVE's escapes: backslash, quotes, newline, tab, return and u{…}."""
    known = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"{}"'.format(
        "".join(known.get(c, c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in text)
    )
