"""The option table, and from it: parser, help, completion; cell text to requests.

Every option stands once, in `OPTIONS`. Its help and range come from the field
of the contract that it sets, so there is one place for each fact.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import keyword
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

from IPython.core import magic_arguments
from IPython.core.error import UsageError

from ..errors import InvalidInput, one_line
from ..protocol import Accept, Request
from ..wit import InferencingParams
from .interpolation import fill, interpolate, python_name

MAX_SWEEP = 1000


@dataclass(frozen=True, slots=True)
class Option:
    """An option of the cell line.

    `dest` is a field of `InferencingParams` or of `Request`, or one of the
    cell's own. `words` are values that are no numbers, such as none. `sweeps`
    options take several values (0.2,0.8 or 1:5). `repeats` may be given
    several times. `slider` is the least, the most and the step of the tuning
    panel's slider; the field's own range may be wider.
    """

    dest: str
    flags: tuple[str, ...]
    metavar: str = ""
    type: type = str
    words: Mapping[str, Any] | None = None
    sweeps: bool = False
    repeats: bool = False
    own_help: str = ""
    slider: tuple[float, float, float] | None = None

    @property
    def field(self) -> Any:
        """The contract's field, None for the cell's own options."""
        return InferencingParams.model_fields.get(self.dest) or Request.model_fields.get(self.dest)

    @property
    def help(self) -> str:
        return self.own_help or str(self.field.description)

    @property
    def valid(self) -> str:
        """The range in words."""
        extra = self.field.json_schema_extra if self.field else None
        return str(extra.get("valid", "text")) if isinstance(extra, dict) else "text"

    @property
    def is_flag(self) -> bool:
        return self.type is bool

    @property
    def flag(self) -> str:
        """The long name, for messages."""
        return next(flag for flag in self.flags if flag.startswith("--"))


NONE: Mapping[str, Any] = {"none": None}
AUTO: Mapping[str, Any] = {"auto": "auto"}

OPTIONS = (
    Option("model", ("-m", "--model"), "NAME", repeats=True),
    Option("max_tokens", ("--max-tokens",), "N|none", int, NONE, sweeps=True, slider=(0, 1024, 1)),
    Option("stop", ("--stop",), "TEXT", repeats=True),
    Option("temperature", ("--temperature",), "T", float, sweeps=True, slider=(0, 2, 0.05)),
    Option("top_k", ("--top-k",), "K", int, sweeps=True, slider=(0, 200, 1)),
    Option("top_p", ("--top-p",), "P", float, sweeps=True, slider=(0.01, 1, 0.01)),
    Option("repeat_penalty", ("--repeat-penalty",), "R", float, sweeps=True,
           slider=(0.5, 2, 0.05)),
    Option(
        "repeat_penalty_last_n_token_count",
        ("--repeat-penalty-last-n", "--repeat-penalty-last-n-token-count"),
        "N", int, sweeps=True, slider=(0, 512, 1),
    ),
    Option("seed", ("--seed",), "S|none", int, NONE, sweeps=True, slider=(0, 9999, 1)),
    Option("chat", ("--chat",), type=bool),
    Option("system", ("--system",), "TEXT"),
    Option("chat_template", ("--chat-template",), "NAME"),
    Option("control_tokens", ("--control-tokens",), "none|typed|all",
           words={"none": "none", "typed": "typed", "all": "all"}),
    Option("context_length", ("--context-length",), "N|none", int, NONE),
    Option("anyway", ("--anyway",), type=bool),
    Option("accept", ("--accept",), "context|file|filters", repeats=True,
           words={word: word for word in get_args(Accept)}),
    Option("gpu_layers", ("--gpu-layers",), "N|auto", int, AUTO),
    Option("threads", ("--threads",), "N|auto", int, AUTO),
    Option("top_logprobs", ("--top-logprobs",), "N|none", int, NONE),
    Option("model_type", ("--model-type",), "TYPE"),
    Option("output", ("-o", "--output"), "NAME",
           own_help="put the result into this variable; the newest is always in _infer"),
    Option("tags", ("--tag",), "KEY=VALUE", repeats=True),
    Option("no_interpolate", ("--no-interpolate",), type=bool,
           own_help="leave {{name}} in the cell and its options as it is"),
    Option("dry_run", ("--dry-run",), type=bool,
           own_help="show the prompt and parameters as the model would get them; run nothing"),
    Option("tune", ("--tune",), type=bool,
           own_help="show sliders that run the prompt again with other settings"),
    Option("quiet", ("--quiet",), type=bool, own_help="show nothing while it runs"),
)  # fmt: skip

# Options whose defaults can be configured: all that set a value of the contract and are not
# particular to one cell.
DEFAULTS = tuple(
    option.dest
    for option in OPTIONS
    if option.field is not None
    and option.dest not in ("model", "tags", "model_type", "anyway", "accept")
)

SLIDERS = {option.dest: option.slider for option in OPTIONS if option.slider}
"""Least, most and step of each slider, in the order of the table."""

_BY_FLAG = {flag: option for option in OPTIONS for flag in option.flags}
_BY_DEST = {option.dest: option for option in OPTIONS}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell, read: what to run, and what to do with the results."""

    requests: tuple[Request, ...]
    is_sweep: bool
    varying: tuple[str, ...]
    output: str | None
    dry_run: bool
    tune: bool
    quiet: bool


def with_options(function: Any) -> Any:
    """Give a magic function its help, in IPython's own way."""
    for option in reversed(OPTIONS):
        function = _argument(option)(function)
    function = magic_arguments.magic_arguments()(function)
    function.parser.prog = "%infer"  # the help's formatter puts another % in front
    function.__doc__ = function.parser.format_help()
    return function


def _argument(option: Option) -> Any:
    help_text = option.help.replace("%", "%%")
    if option.is_flag:
        return magic_arguments.argument(
            *option.flags, dest=option.dest, action="store_const", const=True, help=help_text
        )
    if option.valid != "text":
        help_text += f" ({option.valid})"
    if option.sweeps:
        help_text += "; several values make a sweep"
    return magic_arguments.argument(
        *option.flags, dest=option.dest, metavar=option.metavar, help=help_text,
        action="append" if option.repeats else "store",
    )  # fmt: skip


def read_cell(
    line: str, cell: str, namespace: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Cell:
    """The requests of a cell.

    `defaults` are values by `dest` for what the line leaves open. Raises
    `UsageError` with one line that says what was wrong and what to write.
    """
    try:
        return _read_cell(line, cell, namespace, defaults)
    except InvalidInput as error:
        raise usage_error(in_words_of_the_line(str(error))) from None


def _read_cell(
    line: str, cell: str, namespace: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Cell:
    given = _parse(split_line(line))
    if not cell.strip():
        raise InvalidInput("the cell is empty: write the prompt below the %%infer line")
    # Line ends are those of the file that the cell comes from; models know one kind. The notebook
    # puts one after the last line, which nobody typed.
    prompt = cell.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    fixed = dict(defaults)
    fixed |= {
        key: value for key, value in given.items()
        if key in Request.model_fields and key not in ("model", "tags")
    }  # fmt: skip
    fixed["tags"] = given.get("tags", {})
    if "stop" in given:
        fixed["stop"] = given["stop"]
    if not given.get("no_interpolate"):
        try:
            prompt, fixed["data_spans"] = fill(prompt, namespace)
            fixed |= interpolated(fixed, namespace)
        except InvalidInput as error:
            hint = "--no-interpolate leaves the braces as they are"
            raise InvalidInput(f"{error} ({hint})") from None

    axes = {
        option.dest: given[option.dest]
        for option in OPTIONS
        if option.sweeps and option.dest in given
    }
    if "model" in given:
        axes = {"model": given["model"]} | axes
    varying = tuple(name for name, values in axes.items() if len(values) > 1)
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MAX_SWEEP:
        raise InvalidInput(f"a sweep of {count:,} runs: at most {MAX_SWEEP:,} are done in one cell")

    param_values = {name: fixed.pop(name) for name in list(fixed) if name in _PARAMS}
    # A standard makes room for what the line says; a default that was configured stays.
    if "stop" in given and "max_tokens" not in given and _is_standard(param_values, "max_tokens"):
        param_values["max_tokens"] = None
    if "repeat_penalty" not in given and _is_standard(param_values, "repeat_penalty"):
        param_values.pop("repeat_penalty", None)
    group = uuid.uuid4().hex[:12] if count > 1 else None
    requests = []
    for combination in itertools.product(*axes.values()):
        chosen = dict(zip(axes, combination, strict=True))
        model = chosen.pop("model", fixed.get("model"))
        params = InferencingParams(**(param_values | chosen))
        requests.append(
            Request(**(fixed | {
                "model": model, "prompt": prompt, "params": params, "group_id": group,
            }))
        )  # fmt: skip
    if len({request.params.repeat_penalty for request in requests}) > 1:
        varying = tuple(dict.fromkeys([*varying, "repeat_penalty"]))  # off where T is 0
    return Cell(
        requests=tuple(requests),
        is_sweep=count > 1,
        varying=varying,
        output=_variable(given.get("output")),
        dry_run=bool(given.get("dry_run")),
        tune=bool(given.get("tune")),
        quiet=bool(given.get("quiet")),
    )


_PARAMS = frozenset(InferencingParams.model_fields)


def _is_standard(values: Mapping[str, Any], name: str) -> bool:
    """Whether a param has the contract's own default."""
    standard = InferencingParams.model_fields[name].default
    return bool(values.get(name, standard) == standard)


def interpolated(fields: Mapping[str, Any], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `system`, `stop` and `tags` that have `{{…}}` in them, with the values put in.

    Raises `InvalidInput` as `fill` does.
    """
    found: dict[str, Any] = {}
    system, stop, tags = fields.get("system"), fields.get("stop") or (), fields.get("tags") or {}
    if system and "{{" in system:
        found["system"] = interpolate(system, namespace)
    if any("{{" in text for text in stop):
        found["stop"] = tuple(interpolate(text, namespace) for text in stop)
    if any("{{" in text for pair in tags.items() for text in pair):
        found["tags"] = {
            interpolate(key, namespace): interpolate(value, namespace)
            for key, value in tags.items()
        }
    return found


def read_changes(words: Sequence[str], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of params and request that the options in `words` set, each to one value.

    Raises `UsageError` as `read_cell` does.
    """
    try:
        given = _parse(words)
        for dest, value in given.items():
            option = _BY_DEST[dest]
            if option.field is None:
                raise InvalidInput(f"{option.flag} says nothing of how a run is done")
            if option.sweeps or dest == "model":
                if len(value) > 1:
                    raise InvalidInput(f"{option.flag}: one value, and no sweep")
                given[dest] = value[0]
        return given | interpolated(given, namespace)
    except InvalidInput as error:
        raise usage_error(in_words_of_the_line(str(error))) from None


def _parse(words: Sequence[str]) -> dict[str, Any]:
    """The values that the words of the line give, by dest; sweeping options as lists."""
    texts: dict[str, list[str]] = {}
    for option, text in _options(words):
        texts.setdefault(option.dest, []).append(text)
    return {
        option.dest: _value(option, texts[option.dest]) for option in OPTIONS
        if option.dest in texts
    }  # fmt: skip


def _value(option: Option, texts: Sequence[str]) -> Any:
    """What the texts given for an option mean: all of one that repeats, else the last."""
    if option.is_flag:
        return True
    if option.sweeps:
        return _sweep(option, texts[-1])
    if option.dest == "accept":
        return tuple(dict.fromkeys(word.strip() for word in ",".join(texts).split(",")))
    if option.type is int or option.words:
        return _number(option, texts[-1])
    if option.dest == "stop":
        return tuple(_unescape(option.flag, text) for text in texts)
    if option.dest == "system":
        return _unescape(option.flag, texts[-1])
    if option.dest == "tags":
        return dict(map(_tag, texts))
    return list(texts) if option.repeats else texts[-1]


_SPACES = " \t\r\n"
# The time is linear in the length of the text: no part of this expression is followed by one that
# could fail, so nothing backtracks. Possessive quantifiers would say so too, but they would take a
# quote that is not closed for a part of the word.
_WORD = re.compile(rf"""[{_SPACES}]+|((?:[^{_SPACES}'"]+|'[^']*'|"[^"]*")+)|(.)""", re.DOTALL)
_QUOTED = re.compile(r"""(['"])(.*?)\1""", re.DOTALL)


def split_line(line: str) -> list[str]:
    """The words of the line: quotes group, backslashes stay (`--stop '\\n'` is decoded later).

    As `shlex` without its escapes and comments, in a time that is linear in the length.
    """
    words = []
    for match in _WORD.finditer(line):
        if match[2]:
            raise InvalidInput("a quote is not closed on the line")
        if match[1]:
            words.append(_QUOTED.sub(lambda quoted: quoted[2], match[1]))
    return words


def _options(words: Sequence[str]) -> Iterator[tuple[Option, str]]:
    """Each option of the line with the text of its value; that of a flag is empty."""
    remaining = iter(words)
    ahead = next(remaining, None)
    while ahead is not None:
        word, ahead = ahead, next(remaining, None)
        flag, equals, value = word.partition("=")
        option = _BY_FLAG.get(flag)
        if option is None and word.startswith("-"):
            near = [known for known in _BY_FLAG if flag in known and len(flag) > 2]
            near = near or difflib.get_close_matches(flag, _BY_FLAG, 1, 0.7)
            hint = f"did you mean {near[0]}?" if near else "%%infer? lists the options"
            raise InvalidInput(f"unknown option {flag}: {hint}")
        if option is None:
            raise InvalidInput(
                f"unexpected '{word}' on the %%infer line: the prompt goes below it, and a value "
                "with spaces needs quotes"
            )
        if option.is_flag and equals:
            raise InvalidInput(f"{flag} takes no value")
        if not option.is_flag and not equals:
            if ahead is None or ahead.partition("=")[0] in _BY_FLAG:
                raise InvalidInput(f"{flag} needs a value: {flag} {option.metavar}")
            value, ahead = ahead, next(remaining, None)
        yield option, value


def _sweep(option: Option, text: str) -> list[Any]:
    """The values of `a,b,c` and of `first:last`, the last included."""
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
        if high - low >= MAX_SWEEP or len(values) > MAX_SWEEP:  # before they fill the memory
            raise InvalidInput(f"{option.flag}: '{part}' makes more than {MAX_SWEEP:,} values")
        values.extend(range(low, high + 1))
    return values


def _number(option: Option, text: str) -> Any:
    word = text.strip().lower()
    if option.words and word in option.words:
        return option.words[word]
    try:
        if option.type is str:
            raise ValueError
        return option.type(word.replace("_", "x"))  # 1_000 is Python's, not a user's
    except ValueError:
        raise InvalidInput(
            f"{option.flag}: '{text}' is not valid: it must be {option.valid}"
        ) from None


_ESCAPE = re.compile(
    r"\\(?:[abfnrtv0\\'\"]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^{}]+\})"
)


def _unescape(flag: str, text: str) -> str:
    """Python's escapes decoded; a backslash before anything else stays."""
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


def is_variable(name: str) -> bool:
    """Whether a value can be kept under this name."""
    return name.isidentifier() and not keyword.iskeyword(name)


def _variable(name: str | None) -> str | None:
    if name is not None and not is_variable(name):
        raise InvalidInput(f"-o: '{name}' is not the name of a variable")
    return name and python_name(name)


def usage_error(message: str) -> UsageError:
    """IPython's error for a wrong line: one printable line, whatever stood on that."""
    return UsageError(one_line(message))


def in_words_of_the_line(message: str) -> str:
    """The contract names its fields; the line's names are what a person typed."""
    dest, colon, rest = message.partition(": ")
    if colon and dest in _BY_DEST:
        return f"{_BY_DEST[dest].flag}: {rest}"
    return message


def complete(words: Sequence[str], models: Callable[[], Sequence[str]]) -> list[str]:
    """What may come next on the line: `words` end with the one being typed."""
    typed = words[-1] if words else ""
    before = words[-2] if len(words) > 1 else ""
    option = _BY_FLAG.get(before)
    if option is not None and not option.is_flag:
        found = list(option.words or ()) if option.dest != "model" else list(models())
        return [value for value in found if value.startswith(typed)]
    if typed.startswith("-") or not typed:
        return [flag for flag in _BY_FLAG if flag.startswith(typed) and flag.startswith("--")]
    return []
