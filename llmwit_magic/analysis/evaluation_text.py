"""An evaluation as plain text, and the lines that its HTML has too."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas

from ..base.printable import short
from .class_labels import label_text

if TYPE_CHECKING:
    from .evaluation import Evaluation

_COLUMNS = 32
"""The most columns of a label or a text in a table."""
MISTAKES = 5
"""How many of the rows worth looking at a report shows."""


def figure(value: Any) -> str:
    """A figure with three decimals; "–" where it is not defined."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def name_of(value: Any) -> str:
    """A label or the name of a column, short and on one line."""
    return short(str(value), _COLUMNS)


def heading(report: Evaluation) -> str:
    """The accuracy with its interval."""
    low, high = report.interval
    return (
        f"accuracy {figure(report.accuracy)} (95 % interval {figure(low)} to {figure(high)}, "
        f"Wilson): {report.right:,} of {report.rows:,} rows are right"
    )


def remarks(report: Evaluation) -> Iterator[str]:
    """What must be known beside the accuracy, a line each."""
    if report.missing or report.other:
        counts = [
            f"{count:,} {what}"
            for count, what in (
                (report.missing, "missing"), (report.other, "none of the labels"),
            )
            if count
        ]  # fmt: skip
        yield (
            f"no valid value: {' and '.join(counts)}; they count as wrong, and without them the "
            f"accuracy is {figure(report.accuracy_of_valid)}"
        )
    if report.without_truth:
        yield f"without a right answer, and not counted: {report.without_truth:,}"
    yield from report.notices


def calibration_line(report: Evaluation) -> str:
    """The figures of the calibration; empty where there is none."""
    found = report.calibration
    if found is None:
        return ""
    rows = "" if found.rows == report.rows else f" (over {found.rows:,} rows)"
    return (
        f"Brier score {figure(found.brier)} (0 to 2), log loss {figure(found.log_loss)} nats, "
        f"expected calibration error {figure(found.error)}{rows}"
    )


def agreement_line(report: Evaluation) -> str:
    """What the comparison with another setting says; empty where there is none."""
    found = report.agreement
    if found is None:
        return ""
    return (
        f"against {name_of(found.second)} (accuracy {figure(found.second_accuracy)}): the same label in "
        f"{figure(found.agreed)} of {found.rows:,} rows, Cohen's kappa {figure(found.kappa)}; "
        f"right alone {found.only_first:,} and {found.only_second:,} times, McNemar's exact test "
        f"p = {found.p_value:.3g}"
    )


def shown_mistakes(report: Evaluation) -> pandas.DataFrame:
    """The first rows worth looking at, with short texts and few columns."""
    rows = report.mistakes.head(MISTAKES)
    texts = [
        name for name in rows.columns[2:]
        if name not in (report.truth, report.prediction) and not str(name).startswith("infer_")
    ][:2]  # fmt: skip
    columns: dict[str, list[str]] = {"row": [name_of(number) for number in rows.index]}
    for name in (report.truth, report.prediction, *texts):
        columns[name_of(name)] = [name_of(label_text(value) or "–") for value in rows[name]]
    if report.calibration is not None:
        columns["confidence"] = [figure(value) for value in rows["evaluation_confidence"]]
    return pandas.DataFrame(columns)


def named(table: pandas.DataFrame) -> pandas.DataFrame:
    """The table with its labels short and on one line."""
    shown = table.set_axis([name_of(name) for name in table.index])
    return shown.set_axis([name_of(name) for name in table.columns], axis="columns")


def plain(report: Evaluation) -> str:
    """The whole report."""
    with pandas.option_context("display.float_format", figure, "display.width", 100):
        parts = ["\n".join([heading(report), *remarks(report)])]
        parts.append(_table(named(report.classes)))
        parts.append(
            f"right answers in rows, answers in columns:\n{_table(named(report.confusion))}"
        )
        if report.calibration is not None:
            parts.append(
                f"{calibration_line(report)}\n"
                f"{report.calibration.bins.to_string(index=False, na_rep='–')}"
            )
        if report.agreement is not None:
            parts.append(f"{agreement_line(report)}\n{_table(named(report.agreement.table))}")
        if len(report.mistakes):
            parts.append(
                f"worth looking at first ({len(report.mistakes):,} in .mistakes):\n"
                f"{shown_mistakes(report).to_string(index=False)}"
            )
    return "\n\n".join(parts)


def _table(table: pandas.DataFrame) -> str:
    return table.rename_axis(None).to_string(na_rep="–")
