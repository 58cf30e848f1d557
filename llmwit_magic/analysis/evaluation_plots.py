"""Pictures of an evaluation: the confusion matrix and the reliability curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from ..runlog.plots import RunPlot, without_formula
from .class_labels import NO_VALUE
from .evaluation_text import figure, name_of

if TYPE_CHECKING:
    from .calibration import Calibration
    from .evaluation import Evaluation

_SMALLEST, _LABEL = 3.2, 0.55
"""The size in inches of a small matrix, and of each label of a larger one."""
_BLUE = "#0072B2"


class EvaluationPlot(RunPlot):
    """A matplotlib figure that a notebook shows as an image. `savefig` writes it to a file."""

    file = "evaluation.png"


def plot(report: Evaluation) -> EvaluationPlot:
    """The confusion matrix, and beside it the reliability curve where there are probabilities."""
    size = max(_SMALLEST, _LABEL * len(report.labels))
    parts = 1 if report.calibration is None else 2
    found = EvaluationPlot(figsize=(parts * (size + 1.4), size + 0.8), layout="constrained")
    axes = found.subplots(1, parts, squeeze=False)[0]
    _confusion(axes[0], report)
    if report.calibration is not None:
        _reliability(axes[1], report.calibration)
    return found


def _confusion(axes: Any, report: Evaluation) -> None:
    """The counts, each shaded by its share of the rows with that right answer."""
    table = report.confusion
    counts = table.to_numpy()
    shares = counts / numpy.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in numpy.ndindex(*counts.shape):
        dark = shares[row, column] > 0.5
        axes.text(
            column, row, f"{counts[row, column]:,}", ha="center", va="center",
            color="white" if dark else "black",
        )  # fmt: skip
    names = [without_formula(name_of(name)) for name in table.columns]
    slanted = sum(map(len, names)) > 24
    axes.set_xticks(
        range(len(names)), names, rotation=30 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.set_yticks(range(len(table)), [without_formula(name_of(name)) for name in table.index])
    if NO_VALUE in table.columns:
        axes.axvline(len(report.labels) - 0.5, color="black", linewidth=1)
    axes.set_xlabel("answer")
    axes.set_ylabel("right answer")
    axes.set_title(f"Accuracy {figure(report.accuracy)} of {report.rows:,} rows")


def _reliability(axes: Any, found: Calibration) -> None:
    """The accuracy over the confidence, each point as large as its number of rows."""
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfect")
    bins = found.bins
    most = max([1, *bins["rows"]])
    axes.plot(bins["confidence"], bins["accuracy"], color=_BLUE, linewidth=1)
    axes.scatter(
        bins["confidence"], bins["accuracy"], s=20 + 130 * bins["rows"] / most, color=_BLUE,
        zorder=3, label="a bin; its area grows with its rows",
    )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("confidence: the probability of the answer")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="best")
    axes.set_title(f"Reliability: calibration error {figure(found.error)}")
