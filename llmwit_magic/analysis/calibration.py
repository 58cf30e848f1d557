"""Whether probabilities mean what they say: Brier score, log loss, and calibration error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import pandas

from ..errors import InvalidInput
from ..running.row_settings import column_of
from .class_labels import label_text

BINS = 10
"""The number of bins of the reliability curve. They have the same width, from 0 to 1."""
_SUM_ERROR = 1e-3
"""How far the probabilities of a row may be from a sum of 1, as for those written as float32."""

ByPrefix = str | Mapping[Any, Any] | None
"""The columns of the probabilities: what their names begin with, or a column for each label."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well probabilities fit the right answers.

    `brier` is the mean of Σₖ (pₖ − yₖ)² over the rows, where yₖ is 1 for the right label and else
    0. It is 0 at best and 2 at worst (Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2).
    With two labels it is twice the figure that is often named so.

    `log_loss` is the mean of −ln p of the right label, in nats. It is infinite where a right label
    had the probability 0.

    `error` is the expected calibration error: Σ_b n_b/N · |accuracy_b − confidence_b| over `BINS`
    bins of the confidence, which is the probability of the label that was answered (Naeini, Cooper
    and Hauskrecht 2015, doi:10.1609/aaai.v29i1.9602).

    `bins` has a row for each bin that is not empty: `lower`, `upper`, `rows`, and the means
    `confidence` and `accuracy`. `rows` is the number of rows with probabilities and a right answer.
    """

    brier: float
    log_loss: float
    error: float
    bins: pandas.DataFrame
    rows: int


def probability_columns(frame: pandas.DataFrame, given: ByPrefix, default: str) -> dict[str, Any]:
    """The column of each label; empty where there are none.

    Raises `InvalidInput` where the caller names columns that are not there. `default` is the prefix
    that may lead to no column.
    """
    if given is None:
        return {}
    if isinstance(given, str):
        found = {
            name[len(given) :]: name
            for name in frame.columns
            if isinstance(name, str) and name.startswith(given) and name != given
        }
        if not found and given != default:
            raise InvalidInput(f"probabilities: no column of the DataFrame begins with {given!r}")
        return found
    for name in given.values():
        column_of(frame, name, "probabilities")
    return {str(label_text(label)): name for label, name in given.items()}


def probabilities_of(
    frame: pandas.DataFrame, columns: Mapping[str, Any], labels: Sequence[str]
) -> numpy.ndarray[Any, Any]:
    """The probabilities, of shape (rows, labels). A row with a missing one is NaN throughout.

    A label without a column has the probability 0. Raises `InvalidInput` for values that are no
    probabilities, and for a row whose sum is not 1.
    """
    found = numpy.zeros((len(frame), len(labels)))
    for label, name in columns.items():
        try:
            values = pandas.to_numeric(column_of(frame, name, "probabilities"))
            found[:, labels.index(label)] = values.to_numpy(float, na_value=numpy.nan)
        except (ValueError, TypeError):
            raise InvalidInput(
                f"probabilities: column {name!r} has values that are no numbers"
            ) from None
    incomplete = numpy.isnan(found).any(axis=1)
    found[incomplete] = numpy.nan
    whole = found[~incomplete]
    if ((whole < 0) | (whole > 1)).any():
        raise InvalidInput("probabilities: each must be from 0 to 1")
    sums = whole.sum(axis=1)
    if (wrong := abs(sums - 1) > _SUM_ERROR).any():
        place = int(numpy.flatnonzero(~incomplete)[wrong.argmax()])
        raise InvalidInput(
            f"probabilities: those of row {place} sum to {sums[wrong][0]:.4g}, not to 1: give one "
            "column for each label"
        )
    return found


def confidences(
    probabilities: numpy.ndarray[Any, Any], said: Sequence[str | None], labels: Sequence[str]
) -> numpy.ndarray[Any, Any]:
    """The probability of each row's answer, of shape (rows,); NaN where there is none."""
    places = {label: place for place, label in enumerate(labels)}
    return numpy.array([
        numpy.nan if answer not in places else row[places[answer]]
        for row, answer in zip(probabilities, said, strict=True)
    ])  # fmt: skip


def calibration_of(
    probabilities: numpy.ndarray[Any, Any],
    rights: Sequence[str | None],
    said: Sequence[str | None],
    labels: Sequence[str],
) -> Calibration | None:
    """The calibration over the rows that have probabilities and a right answer; None without any."""
    known = numpy.array([right is not None for right in rights], dtype=bool)
    known &= ~numpy.isnan(probabilities).any(axis=1)
    if not known.any():
        return None
    places = [
        labels.index(right) for right, use in zip(rights, known, strict=True) if use and right
    ]
    used = probabilities[known]
    target = numpy.eye(len(labels))[places]
    with numpy.errstate(divide="ignore"):
        log_loss = -numpy.log(used[numpy.arange(len(used)), places]).mean()
    confident = confidences(probabilities, said, labels)
    right = numpy.array([one == other for one, other in zip(said, rights, strict=True)])
    answered = known & ~numpy.isnan(confident)
    bins = _bins(confident[answered], right[answered])
    shares = bins["rows"] / max(1, answered.sum())
    error = float((shares * (bins["accuracy"] - bins["confidence"]).abs()).sum())
    return Calibration(
        brier=float(((used - target) ** 2).sum(axis=1).mean()),
        log_loss=float(log_loss),
        error=error if answered.any() else float("nan"),
        bins=bins,
        rows=int(known.sum()),
    )


def _bins(confidence: numpy.ndarray[Any, Any], right: numpy.ndarray[Any, Any]) -> pandas.DataFrame:
    """The reliability curve. A value on a border belongs to the bin below it, as in scikit-learn's
    `calibration_curve`."""
    edges = numpy.linspace(0, 1, BINS + 1)
    place = numpy.searchsorted(edges[1:-1], confidence)
    filled = [number for number in range(BINS) if (place == number).any()]
    return pandas.DataFrame({
        "lower": [edges[number] for number in filled],
        "upper": [edges[number + 1] for number in filled],
        "rows": [int((place == number).sum()) for number in filled],
        "confidence": [confidence[place == number].mean() for number in filled],
        "accuracy": [right[place == number].mean() for number in filled],
    })  # fmt: skip
