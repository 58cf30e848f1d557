"""The run log as a table: a DataFrame that is shown shortened and keeps all its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC
from typing import Any

import pandas

from ..base.printable import on_one_line, short
from ..base.widths import StandIns, width
from ..runlog.columns import COLUMNS, METRIC, TAG
from .html import NO_MATH, cell, escape, head, quiet, roomy

TEXT_COLUMNS = 80
"""The most columns of a text in a cell of the HTML table. The DataFrame keeps all of it."""
_TERMINAL_COLUMNS = 24
MAX_ROWS = 20
"""The most rows that are shown, unless `LogTable.rows` says otherwise."""

_BRIEF = [column.name for column in COLUMNS if column.brief and column.name != "run_id"]
_LONG = ("prompt", "text", "reasoning", "rendered_prompt", "system", "note")
"""Columns of the log whose cells get more width."""
_KINDS = {column.name: column.kind for column in COLUMNS}


class LogTable(pandas.DataFrame):
    """A DataFrame of the log that is shown with short texts and local times.

    Its values are those of the log. A table with all columns shows the most
    important ones. A table of more than `rows` rows shows the last ones.
    Every DataFrame made from it, also a copy, is a plain one.
    """

    brief = True
    """Whether a table with all columns shows only the most important ones."""

    rows = MAX_ROWS
    """The most rows that are shown. The DataFrame keeps all."""
    nothing = "no runs"
    """What is said where there is no row."""

    @property
    def _constructor(self) -> Callable[..., pandas.DataFrame]:
        return pandas.DataFrame

    def _repr_html_(self) -> str | None:
        shown = self._shown(TEXT_COLUMNS)
        names = [" ".join(map(str, filter(None, self.index.names))), *map(str, shown.columns)]
        body = "".join(
            f"<tr>{cell(f'<b>{escape(_short(number, TEXT_COLUMNS))}</b>')}"
            + "".join(map(_cell, shown.columns, values))
            + "</tr>\n"
            for number, values in zip(shown.index, shown.itertuples(index=False), strict=True)
        )
        return (
            f'<div class="llmwit llmwit-wide {NO_MATH}"><div>'
            f'<table style="table-layout:auto;font-size:72%">{head(names)}{body}</table></div>'
            f"{quiet(escape(self._left_out()))}</div>"
        )

    def __repr__(self) -> str:
        if not len(self):
            return self._left_out()
        stand_ins = StandIns()
        shown = self._shown(_TERMINAL_COLUMNS, stand_ins.put)
        with pandas.option_context(
            "display.max_columns", None, "display.max_rows", self.rows,
            "display.max_colwidth", TEXT_COLUMNS,
        ):  # fmt: skip
            text = stand_ins.take(repr(shown))
        return f"{text}\n{self._left_out()}".rstrip()

    def _is_whole(self) -> bool:
        known = [name for name in self.columns if name in _KINDS]
        # Three are missing: `run_id` is the index, and each tag and metric is a column of its own.
        return self.brief and len(known) == len(_KINDS) - 3 and self.index.name == "run_id"

    def _brief_names(self) -> list[str]:
        """The most important columns: the brief ones, and all metrics."""
        metrics = [str(name) for name in self.columns if str(name).startswith(METRIC)]
        return [*_BRIEF, *metrics]

    def _left_out(self) -> str:
        said = [] if len(self) else [self.nothing]
        if (more := len(self) - self.rows) > 0:
            said.append(
                f"the newest {self.rows} of {len(self):,} runs: --last {len(self)} shows the other "
                f"{more:,}"
            )
        if len(self) and self._is_whole():
            said.append(
                f"{len(self._brief_names())} of {len(self.columns)} columns: --columns all shows the others"
            )
        return "; ".join(said)

    def _shown(self, columns: int, put: Callable[[str], str] = str) -> pandas.DataFrame:
        """A plain DataFrame of what is shown, each text at most so many columns wide."""

        def show(value: Any) -> str:
            return put(_short(value, columns))

        chosen = pandas.DataFrame(self.tail(self.rows))
        if self._is_whole():
            chosen = chosen[self._brief_names()]
        readable = {
            place: _readable(name, chosen.iloc[:, place], show)
            for place, name in enumerate(chosen.columns)
        }
        for place, name in enumerate(chosen.columns):
            values = chosen.iloc[:, place]
            if name == "prompt":
                readable[place] = _told_apart(values, columns, put)
        shown = pandas.DataFrame(readable, index=chosen.index)
        return shown.set_axis(_labels(chosen.columns, put), axis=1).set_axis(
            _labels(chosen.index, put)
        )


def _kind(name: Any) -> str | None:
    if not isinstance(name, str):
        return None
    if name.startswith(METRIC):
        return "real"
    return "text" if name.startswith(TAG) else _KINDS.get(name)


def _readable(
    name: Any, values: pandas.Series[Any], show: Callable[[Any], str]
) -> pandas.Series[Any]:
    kind = _kind(name)
    if kind == "time" and pandas.api.types.is_datetime64_dtype(values.dtype):
        return values.map(_local)
    if kind == "real" and pandas.api.types.is_float_dtype(values.dtype):
        return values.map(lambda number: "" if pandas.isna(number) else f"{number:.4g}")
    if kind in ("integer", "boolean"):
        return values.astype("object").where(values.notna(), "")
    if kind in ("text", "json"):
        return values.astype("object").map(show)
    if pandas.api.types.is_numeric_dtype(values.dtype):
        return values
    # A column may have been renamed. Its texts must be harmless in a terminal all the same.
    kinds = (str, dict, list, tuple)
    return values.map(lambda value: show(value) if isinstance(value, kinds) else value)


def _told_apart(
    prompts: pandas.Series[Any], columns: int, put: Callable[[str], str]
) -> pandas.Series[Any]:
    """The prompts, shortened. Where long ones have the same beginning, their ends are shown."""
    texts = {prompt for prompt in prompts if isinstance(prompt, str)}
    shown = {prompt: _short(prompt, columns) for prompt in texts}
    counts = Counter(shown.values())

    def show(prompt: Any) -> str:
        if not isinstance(prompt, str):  # it is missing
            return put(_short(prompt, columns))
        beginning = shown[prompt]
        return put(_end(prompt, columns) if counts[beginning] > 1 else beginning)

    return prompts.astype("object").map(show)


def _end(text: str, columns: int) -> str:
    """The end of a text on one line, at most so many columns wide."""
    # Each sign of a line is one column wide or wider, so the end has no more signs than columns.
    end = on_one_line(text)[-(columns - 1) :]
    while width(end) > columns - 1:
        end = end[1:]
    return f"…{end}"


def _labels(index: pandas.Index[Any], put: Callable[[str], str]) -> pandas.Index[Any]:
    """The shown names of columns or rows. After `groupby` or `pivot` they are texts of the log."""
    if pandas.api.types.is_numeric_dtype(index.dtype) or not len(index):
        return index

    def label(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(label, value))
        return put(_short(value, TEXT_COLUMNS)) if isinstance(value, str) else value

    return index.map(label).set_names(index.names)


def _local(time: Any) -> str:
    if pandas.isna(time):
        return ""
    return f"{time.to_pydatetime().replace(tzinfo=UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def _cell(name: Any, value: Any) -> str:
    text = escape(_short(value, TEXT_COLUMNS))
    if name in _LONG:
        return cell(roomy(text, 5.5, "llmwit-room"))
    return cell(roomy(text, 5) if len(text) > 11 else text)


def _short(value: Any, columns: int) -> str:
    """A value on one line, with its invisible characters made visible."""
    if value is None or value is pandas.NA:
        return ""
    return short(value if isinstance(value, str) else str(value), columns)
