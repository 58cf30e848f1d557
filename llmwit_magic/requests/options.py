"""The table of a cell's options.

A field of a request is an option where it has a `Setting`. The cell's own options set no field;
they are written out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ..contract.record import setting_of
from ..contract.request import Labels, ModelSpec, Prompt, Recorded, Request
from ..contract.wit import NO_PENALTY, InferencingParams


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a cell's line.

    `dest` is the name of the field that it sets, or of the cell's own value. `type` is the type of
    one value. `words` maps the words that may stand for a value, such as `none`, to that value. A
    `many` option may be given several times. `Setting` describes the rest.
    """

    dest: str
    flags: tuple[str, ...]
    help: str
    type: type = str
    metavar: str = ""
    words: Mapping[str, Any] = field(default_factory=dict)
    many: bool = False
    sweeps: bool = False
    escapes: bool = False
    per_cell: bool = False
    valid: str = "text"
    slider: tuple[float, float, float] | None = None
    field: FieldInfo | None = None
    """The contract's field; None for the cell's own options."""

    def __str__(self) -> str:
        return self.flag

    @property
    def is_flag(self) -> bool:
        return self.type is bool

    @property
    def flag(self) -> str:
        """The long name, for messages."""
        return next(flag for flag in self.flags if flag.startswith("--"))

    @property
    def off_flag(self) -> str | None:
        """The name that switches a flag off; None for the cell's own flags, which are off."""
        return self.flags[-1] if self.is_flag and self.field else None


def _members(annotation: Any) -> Iterator[Any]:
    """The types and the words that a field's annotation allows for one value of it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from inner
    elif origin in (Union, UnionType):
        for member in inner:
            yield from _members(member)
    elif inner:  # `Annotated`, or a collection of values
        yield from _members(inner[0])
    else:
        yield annotation


def _option(name: str, info: FieldInfo) -> Option | None:
    """The option that sets a field; None where no person sets the field."""
    setting = setting_of(info)
    if setting is None:
        return None
    members = list(_members(info.annotation))
    types = [member for member in members if member in (bool, int, float, str)]
    words: dict[str, Any] = {member: member for member in members if isinstance(member, str)}
    kind = types[0] if types else str
    if NoneType in members and kind in (int, float):
        words["none"] = None
    flags = setting.flags or (f"--{name.replace('_', '-')}",)
    if kind is bool:  # the configured default may be either
        flags += (f"--no-{flags[0][2:]}",)
    return Option(
        dest=name,
        flags=flags,
        help=str(info.description),
        type=kind,
        metavar="|".join(filter(None, [setting.metavar, *words])),
        words=words,
        # A model's name may have a comma in it, so each model of a sweep has its own -m.
        many=get_origin(info.annotation) in (tuple, Mapping) or name == "model",
        sweeps=setting.sweeps,
        escapes=setting.escapes,
        per_cell=setting.per_cell,
        valid=setting.valid or "text",
        slider=setting.slider,
        field=info,
    )


def _of_fields() -> Iterator[Option]:
    """The options of all fields. The ones that are used most come first."""
    parts = (InferencingParams, Prompt, ModelSpec, Request, Recorded, Labels)
    fields = {name: info for part in parts for name, info in part.model_fields.items()}
    first = ("model", "max_tokens", "stop", "temperature", "top_k", "top_p")
    for name in dict.fromkeys((*first, *fields)):
        if option := _option(name, fields[name]):
            yield option


OPTIONS = (
    *_of_fields(),
    Option("choice", ("--choice",), "a text that the answer may be; give it again for each further one",
           metavar="TEXT", many=True, escapes=True),
    Option("choices", ("--choices",), "the texts that the answer may be: a list or an Enum in the notebook",
           metavar="NAME"),
    Option("regex", ("--regex",), "a regular expression that the whole answer matches", metavar="R"),
    Option("json_schema", ("--json-schema",),
           "the answer is JSON that this allows: a dict, a pydantic model, a dataclass or a TypedDict "
           "in the notebook, a file with a JSON schema, or the schema itself", metavar="NAME|FILE"),
    Option("grammar", ("--grammar",),
           "the answer is what this grammar makes, in the notation of Lark or GBNF: a text in the "
           "notebook, a file, or the grammar itself", metavar="NAME|FILE"),
    Option("preset", ("--preset",),
           "take the options that %infer_preset has kept under this name; those of the line count "
           "before them", metavar="NAME"),
    Option("anyway", ("--anyway",), "the name that --accept context had before", bool),
    Option("continue", ("--continue",),
           "go on with the newest conversation of this kernel", bool),
    Option("conversation", ("--conversation",),
           "go on with the conversation of this name, or begin it; an ID finds one of the log",
           metavar="NAME"),
    Option("reply_to", ("--reply-to",),
           "go on after this run of the log; where the conversation has gone on since, that is a "
           "fork", int, metavar="RUN", valid="the number of a run"),
    Option("drop_oldest", ("--drop-oldest",),
           "leave out the conversation's oldest turns where the context is too short", bool),
    Option("prompts", ("--prompts",),
           "run each prompt of a list, or of a dict of named ones, in the notebook, where "
           "the cell says {{prompt}}", metavar="NAME"),
    Option("pivot", ("--pivot",),
           "show the sweep as a table by two settings, such as prompt,temperature",
           metavar="ROWS,COLUMNS", valid="two different settings, such as prompt,temperature"),
    Option("metrics", ("--metric",),
           "a function of the notebook that gets each result and returns a number, which is kept with "
           "the run; give it again for each further one", metavar="NAME", many=True),
    Option("output", ("-o", "--output"),
           "put the result into this variable; the newest is always in _infer", metavar="NAME"),
    Option("no_interpolate", ("--no-interpolate",),
           "leave {{name}} in the cell and its options as it is", bool),
    Option("dry_run", ("--dry-run",),
           "show the prompt and parameters as the model would get them; run nothing", bool),
    Option("tune", ("--tune",),
           "show sliders that run the prompt again with other settings", bool),
    Option("score", ("--score",),
           "give the log-probability of the cell's text, and generate nothing; with --continuation "
           "the cell is the prompt, and that text is scored", bool),
    Option("quiet", ("--quiet",), "show nothing while it runs", bool),
    Option("render", ("--render",),
           "how the finished answer is shown on a page; auto: as Markdown with --chat",
           metavar="markdown|text|auto", words={word: word for word in ("markdown", "text", "auto")},
           valid="markdown, text or auto"),
)  # fmt: skip

DEFAULTS = tuple(option.dest for option in OPTIONS if option.field and not option.per_cell)
"""The fields whose defaults can be configured."""

SLIDERS = {option.dest: option.slider for option in OPTIONS if option.slider}
"""The least value, the greatest value and the step of each slider, in the order of the table."""

BY_FLAG = {flag: option for option in OPTIONS for flag in option.flags}
BY_DEST = {option.dest: option for option in OPTIONS}


def unsaid(name: str, default: Any, stops: bool, temperature: float) -> Any:
    """The value of a param that the line of a cell leaves open; `default` is its default.

    Two defaults of the contract depend on the line. With a stop sequence (`stops`) there is no
    limit of tokens, and at temperature 0 the repeat penalty is off. A default that a person has
    configured stays.
    """
    if default == InferencingParams.model_fields[name].default:
        if name == "max_tokens" and stops:
            return None
        if name == "repeat_penalty" and temperature == 0:
            return NO_PENALTY
    return default
