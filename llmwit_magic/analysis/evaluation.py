"""Evaluation: answers against the right ones, as a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
import pandas

from ..errors import InferenceError, InvalidInput
from ..running.row_settings import column_of
from .agreement import Agreement, agreement_of, cross_table
from .calibration import (
    ByPrefix,
    Calibration,
    calibration_of,
    confidences,
    probabilities_of,
    probability_columns,
)
from .class_labels import NO_VALUE, in_order, label_text, label_texts

if TYPE_CHECKING:
    from .evaluation_plots import EvaluationPlot

PREFIX = "infer_p_"
"""What the columns of probabilities begin with that `infer_frame` makes."""
_IMBALANCED = 0.8
"""The share of one label from which on the report says what always saying it would reach."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Evaluation:
    """A report of answers against the right ones. A notebook shows it; `print` writes it.

    Rows without a right answer count nowhere but in `without_truth`. An answer that is missing, or
    is none of the labels, is wrong, and has a column of its own in the confusion matrix.

    - `accuracy` is the share of right answers among the `rows` with a right answer. `interval` is
      its Wilson score interval of 95 % (Wilson 1927, doi:10.1080/01621459.1927.10502953), which
      takes the rows for independent.
    - `accuracy_of_valid` leaves out the answers that are not valid; NaN where none is.
    - `missing` and `other` count the answers that are missing, and those that are none of `labels`.
    - `classes` has a row for each label: `precision`, `recall`, `f1`, `rows` (with that right
      answer) and `answers`. A figure that would divide by 0 is NaN.
    - `confusion` counts the rows by right answer (rows) and answer (columns).
    - `calibration` is None where there are no probabilities.
    - `agreement` is None where there is no second setting.
    - `mistakes` are the rows of the DataFrame that are worth looking at first: wrong ones, the most
      confident first, then those without a valid value. The columns `evaluation_problem` and
      `evaluation_confidence` stand in front.
    """

    truth: Any
    prediction: Any
    labels: tuple[str, ...]
    rows: int
    right: int
    accuracy: float
    interval: tuple[float, float]
    accuracy_of_valid: float
    missing: int
    other: int
    without_truth: int
    classes: pandas.DataFrame
    confusion: pandas.DataFrame
    calibration: Calibration | None
    agreement: Agreement | None
    mistakes: pandas.DataFrame
    notices: tuple[str, ...]

    def to_frame(self) -> pandas.DataFrame:
        """The figures of each label, as `classes`."""
        return self.classes.copy()

    def plot(self) -> EvaluationPlot:
        """The confusion matrix, and the reliability curve where there are probabilities.

        It is a matplotlib figure, which a notebook shows as an image.
        """
        from .evaluation_plots import plot

        return plot(self)

    def __repr__(self) -> str:
        from .evaluation_text import plain

        return plain(self)

    def _repr_html_(self) -> str:
        from .evaluation_html import html_of_evaluation

        return html_of_evaluation(self)


def evaluate(
    frame: pandas.DataFrame,
    truth: Any = "label",
    prediction: Any = "infer_value",
    *,
    probabilities: ByPrefix = PREFIX,
    labels: Collection[Any] | None = None,
    against: Any = None,
) -> Evaluation:
    """Evaluate a column of answers against the column `truth` of right ones.

    Labels are compared as texts: 1, 1.0 and "1" are the same, and a member of an Enum is its value.

    `probabilities` are columns, one for each label: what their names begin with, or a mapping of
    labels to columns. By default they are those that `infer_frame` made, where there are any. None
    leaves them out. `labels` are all that may be answered; by default those that occur among the
    right answers, the categories of categorical columns, and those that have probabilities.
    `against` is the column of another setting's answers to the same rows.

    Raises `InvalidInput` for columns that are not there or hold no labels, and where no row has a
    right answer. Needs scikit-learn: `pip install "llmwit-magic[evaluation]"`.
    """
    try:
        import sklearn.metrics
        from scipy.stats import binomtest
    except ImportError:
        raise InferenceError(
            'evaluate needs scikit-learn: pip install "llmwit-magic[evaluation]"'
        ) from None
    if not isinstance(frame, pandas.DataFrame):
        raise InvalidInput(
            f"{type(frame).__name__} is not a DataFrame: give one, with a row an answer"
        )
    columns = [column_of(frame, truth, "truth"), column_of(frame, prediction, "prediction")]
    if against is not None:
        columns.append(column_of(frame, against, "against"))
    rights, given, *others = map(label_texts, columns)
    judged = [right is not None for right in rights]
    if not any(judged):
        raise InvalidInput(f"no row has a right answer in {truth!r}: there is nothing to evaluate")
    by_label = probability_columns(frame, probabilities, PREFIX)
    names = _labels(labels, rights, columns, by_label)
    said = [answer if answer in names else None for answer in given]

    confidence = numpy.full(len(frame), numpy.nan)
    calibration = None
    if by_label:
        each = probabilities_of(frame, by_label, names)
        confidence = confidences(each, said, names)
        calibration = calibration_of(each, rights, said, names)

    agreement = None
    if others:
        agreement = agreement_of(
            (prediction, against), rights, said,
            [answer if answer in names else None for answer in others[0]], names,
        )  # fmt: skip

    pairs = [
        (right, answer) for right, answer in zip(rights, said, strict=True) if right is not None
    ]
    correct = sum(right == answer for right, answer in pairs)
    valid = sum(answer is not None for _, answer in pairs)
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        [right for right, _ in pairs], [answer or NO_VALUE for _, answer in pairs],
        labels=names, zero_division=numpy.nan,
    )  # fmt: skip
    interval = binomtest(correct, len(pairs)).proportion_ci(0.95, method="wilson")
    counts = Counter(answer for _, answer in pairs)
    without = [
        answer is None for answer, judge in zip(given, judged, strict=True) if judge
    ]  # fmt: skip
    return Evaluation(
        truth=truth, prediction=prediction, labels=tuple(names),
        rows=len(pairs), right=correct, accuracy=correct / len(pairs),
        interval=(float(interval.low), float(interval.high)),
        accuracy_of_valid=correct / valid if valid else float("nan"),
        missing=sum(without), other=len(pairs) - valid - sum(without),
        without_truth=len(frame) - len(pairs),
        classes=pandas.DataFrame(
            {"precision": precision, "recall": recall, "f1": f1, "rows": support.astype("int64"),
             "answers": [counts[name] for name in names]},
            index=pandas.Index(names, name="label"),
        ),
        confusion=cross_table([right for right, _ in pairs], [answer for _, answer in pairs], names),
        calibration=calibration, agreement=agreement,
        mistakes=_mistakes(frame, rights, said, confidence),
        notices=tuple(_notices(Counter(right for right, _ in pairs), len(pairs))),
    )  # fmt: skip


def _labels(
    given: Collection[Any] | None,
    rights: list[str | None],
    columns: list[pandas.Series[Any]],
    by_label: dict[str, Any],
) -> list[str]:
    """All labels. Raises `InvalidInput` for a right answer that is none of the given ones."""
    if given is None:
        return in_order([*rights, *by_label], columns)
    if isinstance(given, str):
        raise InvalidInput("labels: give a list of labels, not one text")
    names = list(dict.fromkeys(str(label_text(label)) for label in given))
    for what, found in (("the right answer", rights), ("the label with probabilities", by_label)):
        for name in found:
            if name is not None and name not in names:
                raise InvalidInput(f"labels: {what} {name!r} is not among them")
    return names


def _notices(truths: Counter[str], rows: int) -> list[str]:
    (label, most), *_ = truths.most_common(1)
    if len(truths) == 1:
        return [f"all right answers are {label!r}: this says nothing of other labels"]
    if most / rows >= _IMBALANCED:
        return [
            f"{most:,} of {rows:,} right answers are {label!r}: always saying it would have the "
            f"accuracy {most / rows:.3f}"
        ]
    return []


def _mistakes(
    frame: pandas.DataFrame,
    rights: list[str | None],
    said: list[str | None],
    confidence: numpy.ndarray[Any, Any],
) -> pandas.DataFrame:
    wrong = [
        place
        for place, (right, answer) in enumerate(zip(rights, said, strict=True))
        if right is not None and right != answer
    ]
    wrong.sort(key=lambda place: (said[place] is None, -numpy.nan_to_num(confidence[place])))
    rows = frame.iloc[wrong].copy()
    problems = ["no valid value" if said[place] is None else "wrong" for place in wrong]
    for name, values in (
        ("evaluation_confidence", confidence[wrong]), ("evaluation_problem", problems),
    ):  # fmt: skip
        rows.insert(0, name, values, allow_duplicates=True)
    return rows
