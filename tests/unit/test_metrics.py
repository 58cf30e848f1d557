"""Metrics of answers: their columns, their failures, and the summary by setting."""

from __future__ import annotations

import math
from enum import Enum
from functools import partial
from typing import Any

import pandas
import pytest
import sklearn.metrics

from llmwit_magic import metric_summary
from llmwit_magic.analysis.metrics import add_metrics, check_metrics, metrics_of
from llmwit_magic.errors import InvalidInput

FRAME = pandas.DataFrame(
    {"label": ["a", "b", "c"], "infer_value": ["a", "c", None]}, index=[7, 7, 9]
)


def judge(metric: Any, frame: pandas.DataFrame = FRAME, answer: str = "label") -> pandas.DataFrame:
    return add_metrics(frame, frame["infer_value"], metrics_of(metric), answer, "infer_")


def is_right(value: Any, row: Any) -> bool:
    return bool(value == row["label"])


def test_a_function_gets_the_value_and_its_row() -> None:
    """Its column has its name; a row without a value has none of the metric; no error column."""
    judged = judge(is_right)
    assert judged["infer_is_right"].tolist()[:2] == [True, False]
    assert judged["infer_is_right"].isna().tolist() == [False, False, True]
    assert list(judged.columns) == [*FRAME.columns, "infer_is_right"]
    assert judged.index.tolist() == [7, 7, 9]


def test_whole_numbers_stay_whole() -> None:
    """A missing value makes no float of a number of characters."""
    judged = judge(lambda value, row: len(value))
    assert str(judged["infer_metric"].dtype) == "Int64"
    assert judged["infer_metric"].tolist()[:2] == [1, 1]


def test_a_metric_of_scikit_learn_gets_the_right_answer_and_the_value() -> None:
    """Each row is a list of one; the error of a number is that of this row."""
    assert judge(sklearn.metrics.accuracy_score)["infer_accuracy_score"].tolist()[:2] == [1, 0]
    frame = pandas.DataFrame({"n": [1, 2], "infer_value": [1.5, 5]})
    judged = judge(sklearn.metrics.mean_absolute_error, frame, "n")
    assert judged["infer_mean_absolute_error"].tolist() == [0.5, 3]
    half = judge(partial(sklearn.metrics.fbeta_score, beta=0.5, average="micro"))
    assert half["infer_fbeta_score"].tolist()[:2] == [1, 0]


def test_a_failure_has_its_own_column() -> None:
    """The other rows are judged, and what was raised stands on one line."""

    def strict(value: str, row: Any) -> int:
        if value == "c":
            raise ValueError("no\nc")
        return 1

    judged = judge(strict)
    assert judged["infer_strict"].tolist()[0] == 1
    assert judged["infer_strict_error"].tolist()[1] == "ValueError: no\\nc"
    assert judged["infer_strict_error"].isna().tolist() == [True, False, True]


def test_several_metrics_have_a_column_each() -> None:
    """In the order in which they were given."""
    judged = judge([is_right, sklearn.metrics.accuracy_score])
    assert list(judged.columns)[2:] == ["infer_is_right", "infer_accuracy_score"]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("accuracy", "metric: str is no function of a value and its row"),
        ([is_right, 3], "metric: 3 is no function"),
        ([is_right, is_right], "metric: two are named is_right"),
        (3, "metric: int is no function"),
    ],
)
def test_what_is_no_metric_is_refused(metric: Any, message: str) -> None:
    """Names of metrics are none, and a name stands once."""
    with pytest.raises(InvalidInput) as caught:
        metrics_of(metric)
    assert message in str(caught.value)


def test_columns_are_looked_at_before_anything_runs() -> None:
    """A name that is taken, and a column of right answers that lacks, are refused."""
    for frame, metric, taken, message in (
        (FRAME.assign(infer_is_right=1), is_right, [], "a column infer_is_right already"),
        (FRAME, is_right, ["infer_is_right_error"], "a column infer_is_right_error already"),
        (FRAME[["infer_value"]], sklearn.metrics.accuracy_score, [], "answer: 'label' is no col"),
    ):
        with pytest.raises(InvalidInput, match=message):
            check_metrics(frame, metrics_of(metric), "label", "infer_", taken)
    check_metrics(FRAME[["infer_value"]], metrics_of(is_right), "label", "infer_")


# The summary ---------------------------------------------------------------------------


def answers(*values: Any, truth: str = "aab") -> pandas.DataFrame:
    return pandas.DataFrame({"label": list(truth), "infer_value": list(values)})


def test_the_best_setting_stands_first() -> None:
    """The mean of a function, over the rows that have a value; a setting without any stands last."""
    frames = {"poor": answers("b", "b", None), "none": answers(None, None, None),
              "good": answers("a", "b", "b")}  # fmt: skip
    found = metric_summary(frames, is_right)
    assert found.index.tolist() == ["good", "poor", "none"]
    assert found["is_right"].tolist()[:2] == [pytest.approx(2 / 3), 0]
    assert math.isnan(found["is_right"]["none"])
    assert found["judged"].tolist() == [3, 2, 0]
    assert found["rows"].tolist() == [3, 3, 3]


def test_a_metric_of_scikit_learn_judges_all_rows_of_a_setting_at_once() -> None:
    """The figure is scikit-learn's over the whole setting, which is no mean of rows."""
    frames = {"one": answers("a", "b", "b"), "two": answers("a", "a", "b")}
    found = metric_summary(frames, partial(sklearn.metrics.f1_score, average="macro"))
    assert found.index.tolist() == ["two", "one"]
    assert found.loc["one", "f1_score"] == pytest.approx(
        sklearn.metrics.f1_score(["a", "a", "b"], ["a", "b", "b"], average="macro")
    )


def test_an_error_is_the_better_the_smaller_it_is() -> None:
    """Names with `_error` and `_loss` are minimised, as in scikit-learn."""
    frame = pandas.DataFrame({
        "label": [1, 1, 1, 1], "infer_value": [4, 4, 1, 2], "model": ["m", "m", "n", "n"],
        "temperature": [0, 0, 1, 1],
    })  # fmt: skip
    found = metric_summary(frame, sklearn.metrics.mean_absolute_error, by=["model", "temperature"])
    assert found["mean_absolute_error"].tolist() == [0.5, 3]
    assert found.index.tolist() == [("n", 1), ("m", 0)]


def test_failures_are_counted_and_the_text_is_a_value_too() -> None:
    """A metric that raises judges the other rows; without `infer_value` the text is the value."""
    frame = answers("a", "b", "b").rename(columns={"infer_value": "infer_text"})
    found = metric_summary({"one": frame}, lambda value, row: 1 / (value == "b"))
    assert found.loc["one"].tolist() == [1, 3, 2, 1]


def test_a_column_that_is_there_can_be_summarised() -> None:
    """Such as one that a batch's metric made, with the failures beside it."""

    def strict(value: str, row: Any) -> bool:
        return {"a": True, "b": False}[value]

    frames = {"one": judge(strict, answers("b", "c", None)), "two": judge(strict, answers(*"aab"))}
    found = metric_summary(frames, "infer_strict")
    assert found.index.tolist() == ["two", "one"]
    assert found.loc["one"].tolist() == [0, 3, 1, 1]
    assert found.loc["two"].tolist() == [pytest.approx(2 / 3), 3, 3, 0]


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ({}, {}, "there is no setting to compare"),
        (FRAME, {}, "and by= the columns that say the setting"),
        (FRAME, {"by": "nope"}, "by: 'nope' is no column"),
        ({"x": FRAME}, {"value": "nope"}, "value: 'nope' is no column"),
        ({"x": FRAME}, {"metric": lambda value, row: "good"}, "metric metric: could not convert"),
        ({"x": FRAME}, {"metric": [is_right]}, "metric: list is no function: give one"),
        ({"x": FRAME}, {"metric": "nope"}, "metric: 'nope' is no column"),
        ({"x": FRAME}, {"metric": "label"}, "metric label: could not convert"),
        ({"x": FRAME}, {"metric": sklearn.metrics.mean_absolute_error}, "metric mean_absolute_err"),
    ],
)
def test_what_cannot_be_summarised_is_one_line(
    frames: Any, options: dict[str, Any], message: str
) -> None:
    """Columns that lack, values without a mean, and no setting at all."""
    with pytest.raises(InvalidInput) as caught:
        metric_summary(frames, options.pop("metric", is_right), **options)
    assert message in str(caught.value)


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ([Mood.GOOD, Mood.BAD], ["good", "good"]),
        ([Mood.GOOD, Mood.BAD], [Mood.GOOD, Mood.GOOD]),
        ([1, 0], ["1", "1"]),
        ([1.0, 0.0], ["1", "1"]),
    ],
)
def test_labels_are_compared_as_an_evaluation_does(labels: list[Any], values: list[Any]) -> None:
    """Members of an Enum are their values, and whole numbers their texts."""
    frame = pandas.DataFrame({"label": labels, "infer_value": values})
    accuracy = sklearn.metrics.accuracy_score
    found = add_metrics(frame, frame["infer_value"], {"a": accuracy}, "label", "infer_")
    assert found["infer_a"].tolist() == [1.0, 0.0]
    assert metric_summary({"x": frame}, accuracy)["accuracy_score"].tolist() == [0.5]


def test_one_column_of_settings_names_them() -> None:
    frame = pandas.DataFrame({"label": ["a", "b"], "infer_value": ["a", "a"], "by": ["x", "y"]})
    assert list(metric_summary(frame, sklearn.metrics.accuracy_score, by=["by"]).index) == [
        "x",
        "y",
    ]
