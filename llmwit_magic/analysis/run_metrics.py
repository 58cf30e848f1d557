"""Metrics of runs: what functions of a result say of it, kept with the run."""

from __future__ import annotations

import math
import numbers
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput, LogError, one_line, warn, warn_unlogged
from ..runlog.log import RunLog
from ..running.run import Run
from .metrics import Metric, metrics_of, of_scikit_learn

if TYPE_CHECKING:
    import pandas


def result_metrics(metric: Metric | Sequence[Metric] | None) -> dict[str, Metric]:
    """The functions of a result by their names.

    Raises `InvalidInput` as `metrics_of` does, and for a metric of scikit-learn, which needs the
    right answers.
    """
    found = metrics_of(metric)
    for name, one in found.items():
        if of_scikit_learn(one):
            raise InvalidInput(
                f"metric: {name} needs the right answers: write a function of a result, or use "
                "infer_frame(metric=…)"
            )
    return found


def judge(run: Run, metrics: Mapping[str, Metric]) -> None:
    """Let each metric judge the result of an ended run, and keep what it says with the run.

    A metric returns a number, True or False, or None for nothing. A run that did not end well has
    no metrics. Where a metric raises, or returns something else, a warning of one line says so.
    """
    if run.status != "ok":
        return
    for name, metric in metrics.items():
        try:
            said = metric(run.result)
            if said is not None:
                run.add_metrics({name: said})
        except Exception as error:  # a person's own function may raise anything
            why = (
                str(error).removeprefix(f"metrics: {name}: ")
                if isinstance(error, InvalidInput)
                else f"{type(error).__name__}: {error}"
            )
            warn(one_line(f"metric {name} gives no number for some answers: {why}"))


def log_metrics(
    log: RunLog, frame: pandas.DataFrame, names: Iterable[str], prefix: str = "infer_"
) -> None:
    """Keep the metrics of a batch with its runs: the columns `prefix` and name that hold numbers.

    Rows that share a run have the mean of what was said of them. Where the log fails, a warning
    says so.
    """
    said: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        for run_id, value in zip(frame[f"{prefix}run_id"], frame[prefix + name], strict=True):
            if _is_number(run_id) and _is_number(value):
                said[int(run_id)][name].append(float(value))
    means = {
        run_id: {name: sum(values) / len(values) for name, values in each.items()}
        for run_id, each in said.items()
    }
    try:
        log.add_metrics(means)
    except LogError as error:
        warn_unlogged(str(error))


def _is_number(value: Any) -> bool:
    """Whether it is a finite number, or true or false, of Python or of numpy."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    return isinstance(value, numbers.Real) and math.isfinite(value)
