"""Metrics: what a function says of each answer, and which setting it says the best of.

A metric judges an answer. A score is a log-probability, and is none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Any

import pandas

from ..errors import InvalidInput, one_line
from ..running.row_settings import column_of
from .class_labels import label_text

Metric = Callable[..., Any]
"""A function of a value and its row, or a metric of scikit-learn."""


def metrics_of(metric: Metric | Sequence[Metric] | None) -> dict[str, Metric]:
    """The metrics by their names. Raises `InvalidInput` for what cannot be called, and for a name
    that stands there twice."""
    if metric is None:
        return {}
    given = [metric] if callable(metric) else metric
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InvalidInput(f"metric: {type(metric).__name__} is no function of a value and its row")
    found: dict[str, Metric] = {}
    for one in given:
        if not callable(one):
            raise InvalidInput(f"metric: {one!r} is no function of a value and its row")
        if (name := metric_name(one)) in found:
            raise InvalidInput(f"metric: two are named {name}: give one of them another name")
        found[name] = one
    return found


def metric_name(metric: Metric | str) -> str:
    """The name of the function, also of a `functools.partial`; `metric` where it has none. A column
    has its own."""
    if isinstance(metric, str):
        return metric
    name = getattr(getattr(metric, "func", metric), "__name__", "metric")
    return "metric" if name == "<lambda>" else str(name)


def of_scikit_learn(metric: Metric) -> bool:
    """Whether it is a metric of scikit-learn, which takes all right answers and all answers."""
    home = getattr(getattr(metric, "func", metric), "__module__", None) or ""
    return home.split(".")[0] == "sklearn"


def smaller_is_better(metric: Metric | str) -> bool:
    """Whether the name ends with `_error` or `_loss`, which scikit-learn minimises
    (https://scikit-learn.org/stable/modules/model_evaluation.html)."""
    return metric_name(metric).endswith(("_error", "_loss"))


def check_metrics(
    frame: pandas.DataFrame,
    metrics: Mapping[str, Metric],
    answer: Any,
    prefix: str,
    taken: Collection[str] = (),
) -> None:
    """Raise `InvalidInput` for a column that is there already, or lacks. `taken` are more columns."""
    for name, metric in metrics.items():
        for column in (prefix + name, f"{prefix}{name}_error"):
            if column in frame.columns or column in taken:
                raise InvalidInput(
                    f"metric: there is a column {column} already: give the metric another name"
                )
        if of_scikit_learn(metric):
            column_of(frame, answer, "answer")


def add_metrics(
    frame: pandas.DataFrame,
    values: pandas.Series[Any],
    metrics: Mapping[str, Metric],
    answer: Any,
    prefix: str,
) -> pandas.DataFrame:
    """The frame with a column for each metric, named by `prefix` and the metric.

    A function gets the value and its row. A metric of scikit-learn gets the right answer, which is
    in the column `answer`, and the value, each as a list of one. A row without a value has none of
    a metric either. Where a metric raises, its column has no value, and a further column
    `…_error` says why.
    """
    added: dict[str, Any] = {}
    for name, metric in metrics.items():
        truths = column_of(frame, answer, "answer") if of_scikit_learn(metric) else None
        results, errors = [], []
        for place, value in enumerate(values):
            said, problem = None, None
            if not _missing(value):
                try:
                    said = (
                        metric(value, frame.iloc[place]) if truths is None
                        else metric(*_comparable([truths.iloc[place]], [value]))
                    )  # fmt: skip
                except Exception as error:  # a person's own function may raise anything
                    problem = one_line(f"{type(error).__name__}: {error}")
            results.append(said)
            errors.append(problem)
        added[prefix + name] = _column(results, frame.index)
        if any(errors):
            added[f"{prefix}{name}_error"] = pandas.Series(errors, frame.index, dtype="string")
    return frame.assign(**added)


def _comparable(truths: list[Any], values: list[Any]) -> tuple[list[Any], list[Any]]:
    """Right answers and values; where the values are labels, both as texts, as `evaluate` does it."""
    if all(isinstance(value, str | Enum) for value in values):
        return [label_text(truth) for truth in truths], [label_text(value) for value in values]
    return truths, values


def _missing(value: Any) -> bool:
    return bool(pandas.api.types.is_scalar(value) and pandas.isna(value))


def _column(values: Sequence[Any], index: pandas.Index[Any]) -> pandas.Series[Any]:
    """The values in the type that fits them; a missing one makes no float of a whole number."""
    made: pandas.Series[Any] = pandas.Series(list(values), index, dtype=object)
    return made.infer_objects() if made.notna().all() else made.convert_dtypes()


def metric_summary(
    frames: Mapping[Any, pandas.DataFrame] | pandas.DataFrame,
    metric: Metric | str,
    *,
    by: Any = None,
    value: Any = None,
    answer: Any = "label",
) -> pandas.DataFrame:
    """A metric for each setting, the best one first.

    `frames` are the answers of each setting by its name; or one DataFrame, in which the columns
    `by` say the setting. `metric` is a function of a value and its row, of which the mean is taken,
    or a metric of scikit-learn, which gets all right answers of a setting (the column `answer`) and
    all values; or the name of a column of numbers, such as one that `infer_frame(metric=…)` made. `value` is the column of the values: by default `infer_value`, or `infer_text` where
    there is none.

    A row for each setting: the metric, `rows`, `judged` (rows with a value of which the metric said
    something), and `failed` (rows where the metric raised). Rows without a value are in `rows` only.
    The highest value is the best one, but for metrics whose names end with `_error` or `_loss`.
    A setting without any judged row has no value, and stands last.

    Raises `InvalidInput` for columns that are not there, or where there is no setting.
    """
    if not callable(metric) and not isinstance(metric, str):
        raise InvalidInput(
            f"metric: {type(metric).__name__} is no function: give one, or the name of a column"
        )
    name = metric_name(metric)
    rows = [
        {"setting": setting, **_judged(frame, name, metric, value, answer)}
        for setting, frame in _settings(frames, by).items()
    ]
    found = pandas.DataFrame(rows).set_index("setting")
    # A stable order: settings that are equally good stay in theirs.
    return found.sort_values(name, ascending=smaller_is_better(metric), kind="stable")


def _settings(
    frames: Mapping[Any, pandas.DataFrame] | pandas.DataFrame, by: Any
) -> dict[Any, pandas.DataFrame]:
    if isinstance(frames, Mapping):
        found = dict(frames)
    elif isinstance(frames, pandas.DataFrame) and by is not None:
        names = list(by) if isinstance(by, list | tuple) else by
        if isinstance(names, list) and len(names) == 1:
            names = names[0]
        for one in names if isinstance(names, list) else [names]:
            column_of(frames, one, "by")
        found = dict(iter(frames.groupby(names, dropna=False, observed=True, sort=False)))
    else:
        raise InvalidInput(
            "give a mapping of names to DataFrames; or one DataFrame, and by= the columns that say "
            "the setting"
        )
    if not found:
        raise InvalidInput("there is no setting to compare: give at least one DataFrame with rows")
    return found


def _judged(
    frame: pandas.DataFrame, name: str, metric: Metric | str, value: Any, answer: Any
) -> dict[str, Any]:
    said: Any
    failed = 0
    try:
        if not isinstance(metric, str) and of_scikit_learn(metric):
            values, truths = _values(frame, value), column_of(frame, answer, "answer")
            use = values.notna() & truths.notna()
            both = _comparable(truths[use].tolist(), values[use].tolist())
            said = metric(*both) if use.any() else float("nan")
        else:
            column = metric
            if not isinstance(metric, str):
                column = "metric m"
                frame = add_metrics(frame, _values(frame, value), {"m": metric}, answer, "metric ")
            judged = column_of(frame, column, "metric")
            use = judged.notna()
            said = judged[use].astype(float).mean()
            if f"{column}_error" in frame:
                failed = int(frame[f"{column}_error"].notna().sum())
        number = float(said)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"metric {name}: {error}") from None
    return {name: number, "rows": len(frame), "judged": int(use.sum()), "failed": failed}


def _values(frame: pandas.DataFrame, value: Any) -> pandas.Series[Any]:
    if value is None:
        value = "infer_value" if "infer_value" in frame.columns else "infer_text"
    return column_of(frame, value, "value")
