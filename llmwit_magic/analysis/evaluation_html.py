"""An evaluation as HTML that is read without scripts and without a style sheet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas

from ..views.html import NO_MATH, cell, escape, head, quiet
from .class_labels import NO_VALUE
from .evaluation_text import (
    agreement_line,
    calibration_line,
    figure,
    heading,
    name_of,
    remarks,
    shown_mistakes,
)

if TYPE_CHECKING:
    from .evaluation import Evaluation

_RIGHT, _WRONG = "0,114,178", "230,110,0"
"""The colours of right and of wrong answers, as red, green and blue. People who see few colours can
tell them apart (Okabe and Ito)."""
_DEEPEST = 0.45
"""The opacity of a cell with all rows of its label. Text stays readable on it, dark or light."""
_TABLE = "table-layout:auto;width:auto;margin:.2em 0 .8em"


def html_of_evaluation(report: Evaluation) -> str:
    """The report: figures, tables, and the rows worth looking at first."""
    parts = [f"<b>{escape(heading(report))}</b>"]
    parts += [quiet(escape(line)) for line in remarks(report)]
    parts += [_classes(report), quiet("right answers in rows, answers in columns")]
    parts.append(_counts(report.confusion, report.truth))
    if report.calibration is not None:
        parts += [f"<div>{escape(calibration_line(report))}</div>", _bins(report.calibration.bins)]
    if (found := report.agreement) is not None:
        line = f"{name_of(found.first)} in rows, {name_of(found.second)} in columns"
        parts += [f"<div>{escape(agreement_line(report))}</div>", quiet(escape(line))]
        parts.append(_counts(found.table, found.first))
    if len(report.mistakes):
        line = f"worth looking at first ({len(report.mistakes):,} in .mistakes)"
        shown = shown_mistakes(report)
        parts += [f"<div>{escape(line)}</div>", _rows(shown.columns, shown.itertuples(index=False))]
    parts.append(quiet(".plot() draws the confusion matrix and the reliability curve"))
    return f'<div class="llmwit llmwit-wide {NO_MATH}">{"".join(parts)}</div>'


def _rows(names: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    body = "".join(
        "<tr>" + "".join(cell(escape(str(value))) for value in row) + "</tr>\n" for row in rows
    )
    return f'<div><table style="{_TABLE}">{head(map(str, names))}{body}</table></div>'


def _classes(report: Evaluation) -> str:
    rows = [
        (name_of(row.Index), figure(row.precision), figure(row.recall), figure(row.f1), row.rows,
         row.answers)
        for row in report.classes.itertuples()
    ]  # fmt: skip
    return _rows(("label", *report.classes.columns), rows)


def _counts(table: pandas.DataFrame, corner: Any) -> str:
    """Counts in a table whose cells are the darker the larger their share of the row is."""
    body = []
    for name, counts in table.iterrows():
        cells = [cell(f"<b>{escape(name_of(name))}</b>")]
        for other, count in counts.items():
            share = count / max(1, counts.sum())
            right = name == other and name != NO_VALUE
            colour = f"rgba({_RIGHT if right else _WRONG},{_DEEPEST * share:.2f})"
            shade = f";text-align:right;background-color:{colour}" if count else ";text-align:right"
            cells.append(cell(f"{count:,}", shade))
        body.append(f"<tr>{''.join(cells)}</tr>\n")
    names = [name_of(corner), *map(name_of, table.columns)]
    return f'<div><table style="{_TABLE}">{head(names)}{"".join(body)}</table></div>'


def _bins(bins: pandas.DataFrame) -> str:
    rows = [
        (f"{row.lower:.1f} to {row.upper:.1f}", row.rows, figure(row.confidence),
         figure(row.accuracy))
        for row in bins.itertuples()
    ]  # fmt: skip
    return _rows(("confidence", "rows", "mean confidence", "accuracy"), rows)
