"""The line of a cell: its words become values, by the fields that they set."""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..errors import InvalidInput
from .interpolation import interpolate
from .options import BY_DEST, BY_FLAG, OPTIONS, Option

MAX_SWEEP = 1000
"""The most runs in one sweep."""


def parse(words: Sequence[str]) -> dict[str, Any]:
    """The values that the words of the line give, by the `dest` of their options.

    A sweeping option has a list of values. Raises `InvalidInput`.
    """
    texts: dict[str, list[str]] = {}
    for option, text in _options(words):
        texts.setdefault(option.dest, []).append(text)
        if not option.many and not option.is_flag and len(set(texts[option.dest])) > 1:
            raise InvalidInput(_contradiction(option, texts[option.dest][0], text))
    given = {
        option.dest: _value(option, texts[option.dest]) for option in OPTIONS
        if option.dest in texts
    }  # fmt: skip
    if given.pop("anyway", False):
        given["accept"] = tuple(dict.fromkeys((*given.get("accept", ()), "context")))
    return given


def _contradiction(option: Option, first: str, second: str) -> str:
    said = f"{option.flag} stands twice on the line, with '{first}' and '{second}'"
    if option.sweeps:
        return f"{said}: for a run with each of them, write {option.flag} {first},{second}"
    return f"{said}: write it once"


def _value(option: Option, texts: Sequence[str]) -> Any:
    """The value of an option from the texts that the line gives for it.

    A `many` option takes all of the texts, any other option the last one.
    """
    if option.is_flag:
        return texts[-1] != option.off_flag
    if option.sweeps:
        return _sweep(option, texts[-1])
    if option.words and option.many:
        return tuple(dict.fromkeys(word.strip() for word in ",".join(texts).split(",")))
    if option.type is not str or option.words:
        return _number(option, texts[-1])
    if option.escapes:
        texts = tuple(unescape(option.flag, text) for text in texts)
    if option.dest == "tags":
        return dict(map(_tag, texts))
    if option.dest == "template_options":
        return dict(map(_template_option, texts))
    return texts if option.many else texts[-1]


_SPACES = " \t\r\n"
# The time is linear in the length of the text: no part of this expression is followed by one that
# could fail, so nothing backtracks. Possessive quantifiers would make that plain. But with them,
# the first versions of Python 3.11 take an unclosed quote for a part of the word (gh-106052).
_WORD = re.compile(rf"""[{_SPACES}]+|((?:[^{_SPACES}'"]+|'[^']*'|"[^"]*")+)|(.)""", re.DOTALL)
_QUOTED = re.compile(r"""(['"])(.*?)\1""", re.DOTALL)


def goes_on(line: str) -> bool:
    """Whether the next line belongs to this one, as in a shell: its last word is a backslash."""
    return line.split()[-1:] == ["\\"]


def whole_line(line: str, cell: str) -> tuple[str, str]:
    """The options and the prompt of a cell, where the line of options may go on below."""
    while goes_on(line):
        more, _, cell = cell.partition("\n")
        line = line.rstrip()[:-1] + more
    return line, cell


def split_line(line: str) -> list[str]:
    """The words of the line. Quotes group; backslashes stay, since `--stop '\\n'` is decoded later.

    It does what `shlex.split` does without escapes and comments, in a time that is linear in the
    length. Raises `InvalidInput` for a quote that is not closed.
    """
    words = []
    for match in _WORD.finditer(line):
        if match[2]:
            raise InvalidInput("a quote is not closed on the line")
        if match[1]:
            words.append(_QUOTED.sub(lambda quoted: quoted[2], match[1]))
    return words


def _options(words: Sequence[str]) -> Iterator[tuple[Option, str]]:
    """Each option of the line with the text of its value. A flag's text is its name."""
    remaining = iter(words)
    ahead = next(remaining, None)
    while ahead is not None:
        word, ahead = ahead, next(remaining, None)
        flag, equals, value = word.partition("=")
        option = BY_FLAG.get(flag)
        if option is None and word.startswith("-"):
            raise InvalidInput(unknown_option(flag, BY_FLAG, "%%infer? lists the options"))
        if option is None:
            raise InvalidInput(
                f"unexpected '{word}' on the %%infer line: the prompt goes below it, and a value "
                "with spaces needs quotes"
            )
        if option.is_flag and equals:
            raise InvalidInput(f"{flag} takes no value")
        if option.is_flag:
            value = flag
        elif not equals:
            if ahead is None or ahead.partition("=")[0] in BY_FLAG:
                raise InvalidInput(f"{flag} needs a value: {flag} {option.metavar}")
            value, ahead = ahead, next(remaining, None)
        yield option, value


def unknown_option(flag: str, known: Iterable[str], otherwise: str) -> str:
    """The message about an option that is none, with the known one that is meant, or `otherwise`."""
    names = {each.lstrip("-"): each for each in known}
    near = [each for each in names.values() if flag in each and len(flag) > 2]
    close = difflib.get_close_matches(flag.lstrip("-"), names, 1, 0.7)
    near = near or [names[name] for name in close]
    return f"unknown option {flag}: " + (f"did you mean {near[0]}?" if near else otherwise)


def _sweep(option: Option, text: str) -> list[Any]:
    """The values of `a,b,c` and of `first:last`, the last one included."""
    values: list[Any] = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        if not colon:
            values.append(_number(option, part))
            continue
        if option.type is not int:
            raise InvalidInput(f"{option.flag}: '{part}' is a range, which needs whole numbers")
        low, high = _number(option, first), _number(option, last)
        if not isinstance(low, int) or not isinstance(high, int) or low > high:
            raise InvalidInput(f"{option.flag}: '{part}' is no range: write first:last, as in 1:5")
        if high - low >= MAX_SWEEP or len(values) > MAX_SWEEP:  # or they would fill the memory
            raise InvalidInput(f"{option.flag}: '{part}' makes more than {MAX_SWEEP:,} values")
        values.extend(range(low, high + 1))
    return values


def _number(option: Option, text: str) -> Any:
    """One value of an option that takes numbers or words."""
    word = text.strip().lower()
    if option.words and word in option.words:
        return option.words[word]
    try:
        if option.type is str:
            raise ValueError
        return option.type(word.replace("_", "x"))  # Python takes 1_000, a line does not
    except ValueError:
        raise InvalidInput(
            f"{option.flag}: '{text}' is not valid: it must be {option.valid}"
        ) from None


_ESCAPE = re.compile(
    r"\\(?:[abfnrtv0\\'\"]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^{}]+\})"
)


def unescape(flag: str, text: str) -> str:
    """The text with Python's escapes decoded. A backslash before anything else stays."""
    try:
        return _ESCAPE.sub(lambda match: _character(match[0]), text)
    except InvalidInput as error:
        raise InvalidInput(f"{flag}: {error}") from None


@lru_cache(1024)
def _character(escape: str) -> str:
    try:
        return str(ast.literal_eval(f'"{escape}"'))
    except (SyntaxError, ValueError):
        raise InvalidInput(f"'{escape}' is not a character") from None


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InvalidInput(f"--tag: '{text}' is not valid: write KEY=VALUE")
    return key.strip(), value


def _template_option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        if not equals or not key.strip():
            raise ValueError
        return key.strip(), json.loads(value)
    except (ValueError, RecursionError):
        raise InvalidInput(
            f"--template-option: '{text}' is not valid: write KEY=JSON, as in enable_thinking=false; "
            "a text in both kinds of quotes, as in 'effort=\"high\"'"
        ) from None


def in_words_of_the_line(message: str) -> str:
    """The message with the option of the line in the place of the contract's field."""
    dest, colon, rest = message.partition(": ")
    if colon and dest in BY_DEST:
        return f"{BY_DEST[dest].flag}: {rest}"
    return message


def interpolated(fields: Mapping[str, Any], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The fields among `system`, `continuation`, `stop` and `tags` that have `{{…}}`, with the values put in.

    Raises `InvalidInput` as `fill` does.
    """
    found: dict[str, Any] = {}
    stop, tags = fields.get("stop") or (), fields.get("tags") or {}
    for name in ("system", "continuation"):
        text = fields.get(name)
        if text and "{{" in text:
            found[name] = interpolate(text, namespace)
    if any("{{" in text for text in stop):
        found["stop"] = tuple(interpolate(text, namespace) for text in stop)
    if any("{{" in text for pair in tags.items() for text in pair):
        found["tags"] = {
            interpolate(key, namespace): interpolate(value, namespace)
            for key, value in tags.items()
        }
    return found


def models_of(given: Mapping[str, Any], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The models that a line names, as `{"model": [NAME, …]}`, with the values of `{{…}}` put in.

    Empty where it names none. Raises `InvalidInput` as `fill` does.
    """
    if "model" not in given:
        return {}
    return {"model": [interpolate(name, namespace) for name in given["model"]]}


def complete(words: Sequence[str], models: Callable[[], Sequence[str]]) -> list[str]:
    """What the last of `words`, which is being typed, may become. `models` lists the models."""
    typed = words[-1] if words else ""
    before = words[-2] if len(words) > 1 else ""
    option = BY_FLAG.get(before)
    if option is not None and not option.is_flag:
        found = list(option.words) if option.dest != "model" else list(models())
        return [value for value in found if value.startswith(typed)]
    if typed.startswith("-") or not typed:
        return [flag for flag in BY_FLAG if flag.startswith(typed) and flag.startswith("--")]
    return []
