"""Reading a `%%infer` cell: its line and its text become requests, or an error of one line."""

from __future__ import annotations

import itertools
import keyword
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from IPython.core import magic_arguments
from IPython.core.error import UsageError

from ..contract.request import Request
from ..contract.wit import InferencingParams
from ..errors import Interrupted, InvalidInput, one_line
from ..requests.interpolation import fill, python_name
from ..requests.line import (
    MAX_SWEEP,
    in_words_of_the_line,
    interpolated,
    models_of,
    parse,
    split_line,
    whole_line,
)
from ..requests.options import BY_DEST, OPTIONS, Option, unsaid
from ..requests.presets import preset_of
from ..requests.prompt_lists import PROMPT_PLACE, in_place, named_prompts
from ..requests.shape_options import take_constraint
from ..running.results import pivot_settings


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell after reading: its requests, and what to do with their results.

    `varying` are the params and options that differ in a sweep. `output` is the variable for the
    result. `metrics` are functions that judge each result, by
    their names. `pivot` are the two settings that a sweep is shown by. `render` is how the answer is shown, or None where the line does not say it.
    """

    requests: tuple[Request, ...]
    is_sweep: bool
    varying: tuple[str, ...]
    output: str | None
    dry_run: bool
    tune: bool
    quiet: bool
    render: str | None
    drop_oldest: bool = False
    pivot: tuple[str, str] | None = None
    metrics: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


def with_options(function: Any) -> Any:
    """Give a magic function its help, in the way of IPython's `magic_arguments`."""
    for option in reversed(OPTIONS):
        function = _argument(option)(function)
    function = magic_arguments.magic_arguments()(function)
    function.parser.prog = "%infer"  # the formatter of the help puts another % in front
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
        action="append" if option.many else "store",
    )  # fmt: skip


GOING_ON = ("continue", "conversation", "reply_to")
"""The options that make a cell the next turn of a conversation."""
SCORING = ("score", "continuation", "probabilities")
"""The options of a cell in which nothing is generated."""

NextTurn = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Gives what is known of the next turn, by the fields of request and params: its messages, its
labels, and the settings that stay. It gets the values that the line gives."""


def _no_turn(given: Mapping[str, Any]) -> Mapping[str, Any]:
    return {}


def read_cell(
    line: str,
    cell: str,
    namespace: Mapping[str, Any],
    defaults: Mapping[str, Any],
    next_turn: NextTurn = _no_turn,
) -> Cell:
    """Read a cell.

    `namespace` has the variables for `{{name}}`. `defaults` are the values, by `dest`, of options
    that the line leaves open. `next_turn` is asked where the line names a conversation. Raises
    `UsageError` with one line that says what was wrong and what to write.
    """
    try:
        return _read_cell(line, cell, namespace, defaults, next_turn)
    except InvalidInput as error:
        raise usage_error(in_words_of_the_line(str(error))) from None


def _read_cell(
    line: str,
    cell: str,
    namespace: Mapping[str, Any],
    defaults: Mapping[str, Any],
    next_turn: NextTurn,
) -> Cell:
    line, cell = whole_line(line, cell)
    given = parse(split_line(line))
    if not given.get("no_interpolate"):
        with _hint_of_braces():
            given |= models_of(given, namespace)
    kept = preset_of(given)
    if not cell.strip():
        raise InvalidInput("the cell is empty: write the prompt below the %%infer line")
    # A cell has the line ends of the file that it comes from, but models know only `\n`. The
    # notebook puts a line end after the last line, which nobody typed.
    prompt = cell.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    prompts = _prompts(given, prompt, namespace)
    axes = _axes(given, prompts)
    fixed = dict(defaults) | {"prompt": prompt, "tags": {}}
    said = take_constraint(given, namespace)
    said |= {name: value for name, value in given.items() if BY_DEST[name].field}
    fixed |= said
    texts: dict[str | None, dict[str, Any]] = {
        name: {"prompt": in_place(prompt, text), "prompt_name": name}
        for name, text in prompts.items()
    } or {None: {"prompt": prompt}}
    if not given.get("no_interpolate"):
        texts = {name: text | _filled(fixed | text, namespace) for name, text in texts.items()}
    if not prompts:
        fixed |= texts.pop(None)
    going_on = _going_on(given, axes)
    if going_on:
        # Not filled in again: `{{` in a message or a setting that stays is text by now.
        stays = next_turn(given)
        fixed |= {name: value for name, value in stays.items() if name not in said}
    # Nor is what a preset has. It stands over the settings that stay, and below the line.
    tags = {**kept.get("tags", {}), **fixed["tags"]}
    fixed |= {name: value for name, value in kept.items() if name not in said} | {"tags": tags}
    if given.get("score") and "continuation" not in given:
        # The whole cell is scored, as a text that stands for itself.
        fixed |= {"prompt": "", "continuation": fixed["prompt"], "data_spans": ()}
    combinations = [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    ]
    if len(combinations) > 1:
        fixed["group_id"] = uuid.uuid4().hex[:12]
    requests = [
        _request(fixed | texts.get(chosen.get("prompt_name"), {}) | chosen, kept | given)
        for chosen in combinations
    ]
    if requests[0].is_scored:
        _check_scored(requests[0], given)
    for name in ("normalize", "end_of_text"):
        asked = given.get(name, Request.model_fields[name].default)  # a copied turn gives all
        if asked != Request.model_fields[name].default and not requests[0].probabilities:
            raise InvalidInput(f"{BY_DEST[name].flag} goes with --probabilities")
    varying = [name for name, values in axes.items() if len(values) > 1]
    if len({request.params.repeat_penalty for request in requests}) > 1:
        varying.append("repeat_penalty")  # it is off only where the temperature is 0
    return Cell(
        requests=tuple(requests),
        is_sweep=len(requests) > 1,
        varying=tuple(dict.fromkeys(varying)),
        output=_variable(given.get("output")),
        dry_run=bool(given.get("dry_run")),
        tune=bool(given.get("tune")),
        quiet=bool(given.get("quiet")),
        render=given.get("render"),
        drop_oldest=bool(given.get("drop_oldest")),
        pivot=_pivot(given.get("pivot"), len(requests) > 1),
        metrics=read_metrics(given.get("metrics", ()), namespace),
    )


def _going_on(given: Mapping[str, Any], axes: Mapping[str, list[Any]]) -> bool:
    """Whether the cell is the next turn of a conversation. Raises `InvalidInput` where it cannot."""
    flags = [BY_DEST[name].flag for name in GOING_ON if given.get(name) is not None]
    if len(flags) > 1:
        raise InvalidInput(f"{flags[0]} and {flags[1]}: give one of them")
    if not flags:
        if given.get("drop_oldest"):
            raise InvalidInput("--drop-oldest goes with --continue or --conversation NAME")
        return False
    if scored := [BY_DEST[name].flag for name in SCORING if given.get(name)]:
        raise InvalidInput(
            f"{flags[0]}: a score is no turn of a conversation: leave out {scored[0]}"
        )
    if given.get("chat") is False:
        raise InvalidInput(f"{flags[0]}: a conversation is a chat: leave out --no-chat")
    if "prompts" in given:
        raise InvalidInput(f"{flags[0]} takes one prompt, which is the cell's: leave out --prompts")
    if given.get("tune") or any(len(values) > 1 for values in axes.values()):
        raise InvalidInput(
            f"{flags[0]} takes one value for each option: a conversation goes on with one answer"
        )
    return True


def _check_scored(request: Request, given: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` for an option of the line that has no effect on a score."""
    if not request.prompt and request.is_chat:
        raise InvalidInput(
            "--score scores the whole cell, which is no chat: write what the user says in the cell, "
            "and the answer in --continuation"
        )
    for option in OPTIONS:
        if option.dest in given and option.dest in InferencingParams.model_fields:
            raise InvalidInput(f"{option.flag} has no effect on a score: leave it out")
    if given.get("tune"):
        raise InvalidInput("--tune is for answers that are generated: leave out --score")


def _prompts(given: Mapping[str, Any], cell: str, namespace: Mapping[str, Any]) -> dict[str, str]:
    """The prompts of `--prompts` by name; empty where the cell is the prompt.

    Raises `InvalidInput` where the cell has no place for them.
    """
    if "prompts" not in given:
        return {}
    prompts = named_prompts(given["prompts"], namespace)
    if not PROMPT_PLACE.search(cell):
        raise InvalidInput("prompts: write {{prompt}} in the cell, where each prompt goes")
    if given.get("score") and "continuation" not in given:
        raise InvalidInput("--score with --prompts needs --continuation: the text to score")
    return prompts


def _pivot(text: str | None, is_sweep: bool) -> tuple[str, str] | None:
    if text is None:
        return None
    names = text.split(",")
    if len(names) != 2:
        raise InvalidInput(f"pivot: '{text}' is not valid: write two settings: prompt,temperature")
    if not is_sweep:
        raise InvalidInput("pivot: this cell is one run: give an option several values")
    return pivot_settings(names[0], names[1])


def _axes(given: Mapping[str, Any], prompts: Mapping[str, str]) -> dict[str, list[Any]]:
    """The values of each option that makes a sweep where it has several, the model first, then the
    names of the prompts.

    Raises `InvalidInput` where they make more than `MAX_SWEEP` runs.
    """
    axes = {
        option.dest: given[option.dest] for option in OPTIONS
        if (option.sweeps or option.dest == "model") and option.dest in given
    }  # fmt: skip
    if prompts:
        models = {name: axes.pop(name) for name in ("model",) if name in axes}
        axes = models | {"prompt_name": list(prompts)} | axes
    count = math.prod(map(len, axes.values()))
    if count > MAX_SWEEP:
        raise InvalidInput(f"a sweep of {count:,} runs: at most {MAX_SWEEP:,} are done in one cell")
    return axes


def _filled(fields: Mapping[str, Any], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt, and the options that have `{{…}}` in them, with the values put in."""
    with _hint_of_braces():
        prompt, spans = fill(fields["prompt"], namespace)
        return {"prompt": prompt, "data_spans": spans} | interpolated(fields, namespace)


@contextmanager
def _hint_of_braces() -> Iterator[None]:
    """An error of `{{…}}` says how braces are left alone."""
    try:
        yield
    except InvalidInput as error:
        hint = "--no-interpolate leaves the braces as they are"
        raise InvalidInput(f"{error} ({hint})") from None


def _request(fields: Mapping[str, Any], given: Mapping[str, Any]) -> Request:
    """One request of the cell. `given` are the values that its line and its preset give."""
    standard = InferencingParams()
    params = {name: fields.get(name, value) for name, value in standard}
    for name in params.keys() - given.keys():
        params[name] = unsaid(name, params[name], "stop" in given, params["temperature"])
    others = {name: value for name, value in fields.items() if name not in params}
    return Request(**others, params=InferencingParams(**params))


def read_changes(words: Sequence[str], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of params and request that the options in `words` set, each with one value.

    Raises `UsageError` as `read_cell` does.
    """
    try:
        given = parse(words)
        given |= models_of(given, namespace)
        kept = preset_of(given)
        given.pop("preset", None)
        shape = take_constraint(given, namespace)
        for dest, value in given.items():
            option = BY_DEST[dest]
            if option.field is None:
                raise InvalidInput(f"{option.flag} says nothing of how a run is done")
            if option.sweeps or dest == "model":
                if len(value) > 1:
                    raise InvalidInput(f"{option.flag}: one value, and no sweep")
                given[dest] = value[0]
        return kept | given | shape | interpolated(given, namespace)
    except InvalidInput as error:
        raise usage_error(in_words_of_the_line(str(error))) from None


def read_metrics(
    names: Sequence[str], namespace: Mapping[str, Any]
) -> dict[str, Callable[..., Any]]:
    """The functions of the notebook with those names, by the names of the metrics.

    Raises `InvalidInput` where one is no function of a result.
    """
    if not names:
        return {}
    from ..analysis.run_metrics import result_metrics

    found = []
    for name in names:
        metric = namespace.get(python_name(name))
        if not callable(metric):
            raise InvalidInput(
                f"metrics: there is no function '{name}' in the notebook: define one that gets a "
                "result and returns a number"
            )
        found.append(metric)
    return result_metrics(found)


def is_variable(name: str) -> bool:
    """Whether this can be the name of a variable."""
    return name.isidentifier() and not keyword.iskeyword(name)


def _variable(name: str | None) -> str | None:
    """The variable of `-o`, under the name that Python keeps it."""
    if name is not None and not is_variable(name):
        raise InvalidInput(f"-o: '{name}' is not the name of a variable")
    return name and python_name(name)


def usage_error(message: str) -> UsageError:
    """IPython's error for a wrong line. Its message is one printable line, whatever was typed."""
    return UsageError(one_line(message))


@contextmanager
def plain_interrupt() -> Iterator[None]:
    """An interrupt that comes beside the runs is one line too, and no traceback of this package.

    So it is while the first cell imports, and while a result is shown.
    """
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted("stopped; the log has what was run") from None
