"""`%infer_log` and `%infer_replay`: the run log as a table, in files and in plots, and replays."""

from __future__ import annotations

import itertools
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments

from ..contract.request import ALL_ACCEPTED
from ..contract.wit import STATUSES
from ..errors import InvalidInput, did_you_mean, one_line, warn_unlogged
from ..requests.line import in_words_of_the_line, parse, split_line
from ..runlog.columns import METRIC, NAMES, TAG
from ..runlog.log import RunLog
from ..running.replay import Replay, replay_request
from ..running.results import Results
from ..views.opening import show_progress
from ..views.terminal import say
from .cell import is_variable, plain_interrupt, read_changes, read_metrics, usage_error
from .infer import RESULT_NAME, InferMagics
from .line_arguments import line_arguments

# The options that select runs. Their names are those of the fields of `Filter`.
_FILTERS = ("group", "conversation", "model", "status", "since", "last", "grep", "tag", "metric",
            "rating")  # fmt: skip
_PRUNED = "90d"
"""The age of `--prune` without a value."""


@magics_class
class LogMagics(Magics):
    """The line magics of the run log. Their settings are those of `InferMagics`."""

    def __init__(self, shell: Any, infer: InferMagics) -> None:
        self.infer = infer
        super().__init__(shell)

    @line_magic
    @magic_arguments()
    @argument("--all", action="store_true", help="the runs of all kernels, not only of this one")
    @argument("--group", metavar="ID", help="the runs of a sweep, a tuning panel or a batch")
    @argument(
        "--conversation", metavar="NAME", help="the turns of the conversation with this name or ID"
    )
    @argument("--model", "-m", metavar="NAME", help="the runs of this model")
    @argument("--status", metavar="S", help=f"{', '.join(STATUSES[:-1])} or {STATUSES[-1]}")
    @argument(
        "--since", metavar="AGE", help="started not longer ago (30m, 2h, 7d), or since a time"
    )
    @argument("--last", metavar="N", type=int, help="the newest N of those")
    @argument(
        "--grep", metavar="TEXT", help="with this text in prompt, answer, reasoning, system or note"
    )
    @argument("--tag", metavar="KEY[=VALUE]", help="with this tag")
    @argument(
        "--metric", metavar="NAME[>=X]", help="with this metric, or with this much of it (<, =, >)"
    )
    @argument("--rating", metavar="up|down", help="with this thumb")
    @argument("--columns", metavar="A,B,…", help="these columns; all: every one")
    @argument("-o", "--output", metavar="NAME", help="put the DataFrame into this variable")
    @argument(
        "--export",
        metavar="FILE",
        help="write the runs into FILE.csv, FILE.jsonl or FILE.parquet; in CSV, an apostrophe "
        "stands before what a spreadsheet would run as a formula",
    )
    @argument(
        "--copy",
        metavar="FILE",
        help="copy the whole log, of all kernels, into another file of its kind",
    )
    @argument(
        "--schema", metavar="otel", help="name the fields of JSON Lines as OpenTelemetry does"
    )
    @argument(
        "--plot",
        metavar="KIND",
        nargs="?",
        const="",
        help="draw metric, length, finish, rating or speed, or all but the speed",
    )
    @argument("--by", metavar="COLUMN", help="what a plot compares by; metrics by two: A,B")
    @argument(
        "--prune",
        metavar="AGE",
        nargs="?",
        const=_PRUNED,
        help=f"remove the runs older than AGE ({_PRUNED}), of all kernels, that meet the rest",
    )
    @argument("--info", action="store_true", help="say where the log is and how large")
    def infer_log(self, line: str) -> Any:
        """The run log as a DataFrame: this kernel's runs, or everyone's."""
        if _asks_for_help(line):
            return say(self.infer_log.__doc__)
        try:
            return self._log(line_arguments(self.infer_log, split_line(line)))
        except InvalidInput as error:
            raise usage_error(_as_option(str(error))) from None

    def _log(self, arguments: Namespace) -> Any:
        log = self.infer.session.log
        chosen = {name: getattr(arguments, name) for name in _FILTERS}
        for word, part in (("plot", "by"), ("export", "schema")):
            if getattr(arguments, part) is not None and getattr(arguments, word) is None:
                raise InvalidInput(f"{part}: that goes with --{word}")
        if arguments.info:
            say(f"{one_line(log.path)}: {_runs(len(log))}, {log.size / 1e6:.1f} MB")
            return None
        if arguments.copy is not None:
            count = log.backup(arguments.copy)
            print(f"{_runs(count)} copied to {one_line(arguments.copy)}")
            return None
        if arguments.prune is not None:
            removed, freed = log.prune(arguments.prune, **chosen)
            say(f"{_runs(removed)} removed, {len(log):,} left; {freed / 1e6:.1f} MB given back")
            return None
        # A conversation may have begun in another kernel.
        everyone = arguments.all or arguments.conversation is not None
        if arguments.export is not None:
            count = log.export(arguments.export, everyone, arguments.schema or "log", **chosen)
            say(f"{_runs(count)} written to {one_line(arguments.export)}")
            return None
        value: Any
        if arguments.plot is not None:
            value = log.plot(arguments.plot or None, arguments.by, everyone, **chosen)
        else:
            value = log.to_frame(everyone, **chosen)
            if arguments.columns is not None:
                value = value[_columns(arguments.columns, value.columns)]
        if arguments.output is None:
            if arguments.plot is not None:
                return value
            nothing = "" if len(value) else _nothing(log, everyone, chosen)
            return _shown(value, arguments.columns, arguments.last, nothing)
        if not is_variable(arguments.output):
            raise InvalidInput(f"-o: '{arguments.output}' is not the name of a variable")
        self.shell.push({arguments.output: value}, interactive=False)
        return None

    @line_magic
    @magic_arguments()
    @argument("run_id", metavar="ID", help="number of the run")
    @argument("--with", metavar="OPTION", help="options of %%%%infer that shall be others")
    @argument(
        "--accept",
        metavar="WHAT",
        help="file: also where the model's file has changed; filters: also without the content "
        "filters that are gone; context: also with more than the model was trained with",
    )
    @argument(
        "--metric",
        metavar="NAME",
        help="a function of the notebook that gets the result and returns a number",
    )
    @argument("--anyway", action="store_true", help="accept all of these")
    @argument("--quiet", action="store_true", help="show nothing while it runs")
    def infer_replay(self, line: str) -> Replay | None:
        """Run a run again, with its model file, params and seed, and say whether it is the same."""
        if _asks_for_help(line):
            say(self.infer_replay.__doc__)
            return None
        try:
            words = split_line(line)
        except InvalidInput as error:
            raise usage_error(str(error)) from None
        accepts_all = "--anyway" in words
        quiet = "--quiet" in words
        words = [word for word in words if word not in ("--anyway", "--quiet")]
        place = words.index("--with") if "--with" in words else len(words)
        # `--accept` may stand before `--with` or after it.
        accepted, own = _taken("--accept", words[:place])
        judged, own = _taken("--metric", own)
        changes = read_changes([*accepted, *words[place + 1 :]], self.shell.user_ns)
        accept = changes.pop("accept", ())
        try:
            names = parse(judged).get("metrics", ())
            metrics = read_metrics(names, self.shell.user_ns)
        except InvalidInput as error:
            raise usage_error(in_words_of_the_line(str(error))) from None
        if accepts_all:
            accept = ALL_ACCEPTED
        with plain_interrupt():
            return self._replay(_run_number(own), changes, accept, quiet, metrics)

    def _replay(
        self, run_id: int, changes: Mapping[str, Any], accept: Sequence[str], quiet: bool,
        metrics: Mapping[str, Any],
    ) -> Replay:  # fmt: skip
        infer, session = self.infer, self.infer.session
        original = session.log[run_id]
        try:
            with show_progress(self.shell) as show:
                request, notice = replay_request(
                    session, original, changes, tuple(infer.content_filters), show, accept
                )
        except InvalidInput as error:
            raise usage_error(in_words_of_the_line(str(error))) from None
        view = None if quiet else infer.open_view()
        run = session.run(request)
        try:
            with run:
                run.follow(view.draw if view else lambda run: None)
                if metrics:
                    from ..analysis.run_metrics import judge

                    judge(run, metrics)
        finally:
            self.shell.push({RESULT_NAME: run.result}, interactive=False)
            if view:
                view.finish(Results([run]))
            else:
                warn_unlogged(run.log_problem)
        return Replay(original, run.result, tuple(changes), notice)


def _asks_for_help(line: str) -> bool:
    return "--help" in line.split()


def _nothing(log: RunLog, everyone: bool, chosen: Mapping[str, Any]) -> str:
    """What a table without runs says, by what was chosen, and where there are runs."""
    if not (total := len(log)):
        return "no runs"
    said = "no runs" if everyone else "no runs of this kernel"
    if any(value for name, value in chosen.items() if name != "last"):
        said += " meet that"
    return said if everyone else f"{said}: --all looks at all {total:,} of the log"


def _shown(frame: Any, columns: str | None, last: int | None, nothing: str) -> Any:
    """The DataFrame as the table that a person reads.

    It is brief where no `columns` were asked for, and has `last` rows where these were. `nothing` is
    what it says where it has no row.
    """
    from ..views.table import MAX_ROWS, LogTable

    table = LogTable(frame)
    table.brief = columns is None
    table.rows = max(MAX_ROWS, last or 0)
    table.nothing = nothing
    return table


def _columns(text: str, there: Iterable[str]) -> list[str]:
    """The columns that `--columns` asks for, among those that are there.

    Raises `InvalidInput` for any other name.
    """
    names = [name.strip() for name in text.split(",")]
    known = list(there)
    if names == ["all"]:
        return known
    by_key = {"tags": TAG, "metrics": METRIC}
    meant: list[str] = []
    for name in names:
        if name in by_key:
            meant += [column for column in known if column.startswith(by_key[name])]
        elif name in known:
            meant.append(name)
        elif name != NAMES[0]:  # the first one is the index, which is there in any case
            hint = did_you_mean(name, known, "docs/run-log-columns.md lists them")
            raise InvalidInput(f"columns: the log has no column '{name}': {hint}")
    return meant


def _as_option(message: str) -> str:
    """The message with the option of the line in the place of the log's word."""
    name, colon, rest = message.partition(": ")
    known = (*_FILTERS, "columns", "by", "plot", "schema", "before")
    if colon and name in known:
        return f"--{'prune' if name == 'before' else name}: {rest}"
    return message


def _runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"


def _taken(option: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of an option that may stand several times with their values, and the others."""
    taken: list[str] = []
    others: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word.partition("=")[0] != option:
            others.append(word)
        else:
            taken += [word] if "=" in word else [word, *itertools.islice(remaining, 1)]
    return taken, others


def _run_number(words: Sequence[str]) -> int:
    if len(words) != 1 or not re.fullmatch("-?[0-9]+", words[0]):
        said = f"'{' '.join(words)}' is not the number of a run" if words else "give a run's number"
        raise usage_error(f"{said}: %infer_replay 12 [--with OPTION…] [--accept …]")
    return int(words[0])
