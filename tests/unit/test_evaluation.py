"""Evaluation: figures as scikit-learn has them, labels of all kinds, and what is said of odd rows."""

from __future__ import annotations

import math
import sys
from enum import Enum
from html.parser import HTMLParser
from typing import Any

import numpy
import pandas
import pytest
import sklearn.metrics
from sklearn.calibration import calibration_curve

from llmwit_magic import Evaluation, evaluate
from llmwit_magic.errors import InferenceError, InvalidInput

LABELS = ["negative", "neutral", "positive"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def frame() -> pandas.DataFrame:
    """Answers that are right about two times in three, with probabilities."""
    draw = numpy.random.default_rng(1)
    truth = draw.integers(0, 3, 200)
    logits = draw.normal(size=(200, 3))
    logits[numpy.arange(200), truth] += 1.2
    each = numpy.exp(logits) / numpy.exp(logits).sum(axis=1, keepdims=True)
    frame = pandas.DataFrame({
        "text": [f"text {number}" for number in range(200)],
        "label": [LABELS[place] for place in truth],
        "infer_value": [LABELS[place] for place in each.argmax(axis=1)],
        "other": [LABELS[place] for place in draw.integers(0, 3, 200)],
    })  # fmt: skip
    return frame.join(pandas.DataFrame(each, columns=[f"infer_p_{name}" for name in LABELS]))


def small(truth: list[Any], answers: list[Any], **options: Any) -> Evaluation:
    return evaluate(pandas.DataFrame({"label": truth, "infer_value": answers}), **options)


def test_figures_are_those_of_scikit_learn(frame: pandas.DataFrame) -> None:
    """Accuracy, confusion matrix and the figures of each label equal scikit-learn's."""
    report = evaluate(frame)
    right, said = frame["label"], frame["infer_value"]
    assert report.accuracy == sklearn.metrics.accuracy_score(right, said)
    numpy.testing.assert_array_equal(
        report.confusion, sklearn.metrics.confusion_matrix(right, said, labels=LABELS)
    )
    figures = sklearn.metrics.precision_recall_fscore_support(right, said, labels=LABELS)
    for name, values in zip(("precision", "recall", "f1", "rows"), figures, strict=True):
        numpy.testing.assert_allclose(report.to_frame()[name], values)
    assert report.to_frame().index.tolist() == LABELS


def test_the_interval_is_wilsons() -> None:
    """81 right of 263: 0.2553 to 0.3662, as Newcombe has it (1998, Statistics in Medicine 17:857)."""
    report = small(["a"] * 263, ["a"] * 81 + ["b"] * 182, labels=["a", "b"])
    assert report.interval == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_calibration_is_that_of_scikit_learn(frame: pandas.DataFrame) -> None:
    """Log loss and reliability curve equal scikit-learn's; the error is the bins' weighted gap."""
    found = evaluate(frame).calibration
    assert found is not None
    each = frame[[f"infer_p_{name}" for name in LABELS]].to_numpy()
    assert found.log_loss == pytest.approx(
        sklearn.metrics.log_loss(frame["label"], each, labels=LABELS)
    )
    right = (frame["label"] == frame["infer_value"]).to_numpy()
    accuracy, confidence = calibration_curve(right, each.max(axis=1), n_bins=10)
    numpy.testing.assert_allclose(found.bins["accuracy"], accuracy)
    numpy.testing.assert_allclose(found.bins["confidence"], confidence)
    assert found.bins["rows"].sum() == found.rows == 200
    gaps = abs(accuracy - confidence) * found.bins["rows"] / 200
    assert found.error == pytest.approx(gaps.sum())


def test_brier_score_of_two_labels_is_twice_that_of_one() -> None:
    """Brier's own score sums over both labels; scikit-learn's takes one of the two."""
    rain = [0.1, 0.4, 0.8, 0.9]
    truth = ["dry", "rain", "rain", "dry"]
    frame = pandas.DataFrame({"label": truth, "infer_value": "rain", "p": rain})
    frame["q"] = 1 - frame["p"]
    found = evaluate(frame, probabilities={"rain": "p", "dry": "q"}).calibration
    one = sklearn.metrics.brier_score_loss([name == "rain" for name in truth], rain)
    assert found is not None
    assert found.brier == pytest.approx(2 * one)


def test_a_right_label_of_probability_zero_has_an_infinite_loss() -> None:
    """Nothing is clipped: what was called impossible and was right costs everything."""
    frame = pandas.DataFrame({
        "label": ["b"], "infer_value": ["a"], "infer_p_a": [1.0], "infer_p_b": [0.0]
    })  # fmt: skip
    found = evaluate(frame).calibration
    assert found is not None
    assert (found.log_loss, found.brier, found.error) == (math.inf, 2, 1)


def test_kappa_and_mcnemar_have_their_known_values() -> None:
    """A textbook table: 20, 5, 10, 15 gives kappa 0.4; 5 against 15 alone gives p = 0.0414."""
    one = ["y"] * 25 + ["n"] * 25
    other = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    frame = pandas.DataFrame({"label": ["y"] * 50, "infer_value": one, "other": other})
    found = evaluate(frame, against="other", labels=["n", "y"]).agreement
    assert found is not None
    assert (found.rows, found.agreed) == (50, 0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.table.to_numpy().tolist() == [[15, 10], [5, 20]]
    assert (found.only_first, found.only_second) == (5, 10)
    frame = pandas.DataFrame({
        "label": ["y"] * 20, "infer_value": ["y"] * 5 + ["n"] * 15, "other": ["n"] * 5 + ["y"] * 15
    })  # fmt: skip
    found = evaluate(frame, against="other", labels=["n", "y"]).agreement
    assert found is not None
    assert found.p_value == pytest.approx(0.04138947)


def test_settings_that_say_one_label_have_no_kappa() -> None:
    """Kappa would divide by 0; equal settings differ by nothing, so p is 1."""
    frame = pandas.DataFrame({"label": ["a", "b"], "infer_value": ["a", "a"], "other": ["a", "a"]})
    found = evaluate(frame, against="other").agreement
    assert found is not None
    assert math.isnan(found.kappa)
    assert (found.p_value, found.agreed) == (1, 1)


def test_answers_without_a_valid_value_are_wrong_and_counted() -> None:
    """A missing answer and a misspelt one stand in a column of their own, and nothing is dropped."""
    report = small(["a", "a", "b", "b", None], ["a", None, "bb", "b", "a"])
    assert (report.rows, report.right, report.accuracy, report.accuracy_of_valid) == (4, 2, 0.5, 1)
    assert (report.missing, report.other, report.without_truth) == (1, 1, 1)
    assert report.confusion.to_numpy().tolist() == [[1, 0, 1], [0, 1, 1]]
    assert report.classes["recall"].tolist() == [0.5, 0.5]
    assert report.classes["precision"].tolist() == [1, 1]
    said = repr(report)
    assert "no valid value: 1 missing and 1 none of the labels; they count as wrong" in said
    assert "without a right answer, and not counted: 1" in said


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


@pytest.mark.parametrize(
    ("truth", "answers", "labels"),
    [
        ([1, 2, None, 10], ["1", "2", "2", "10"], ("1", "2", "10")),  # floats, as some is missing
        (pandas.array([1, 2, None, 10], "Int64"), [1, 2, 3, 10], ("1", "2", "10")),
        ([True, False], ["True", "False"], ("False", "True")),
        ([Mood.GOOD, Mood.BAD], ["good", Mood.BAD], ("bad", "good")),
        (pandas.Categorical(["hi", "lo"], ["lo", "mid", "hi"]), ["hi", "lo"], ("lo", "mid", "hi")),
        (["a", "b"], pandas.Categorical(["a", "b"], ["b", "a", "c"]), ("b", "a", "c")),
    ],
)
def test_labels_of_all_kinds_are_compared_as_texts(
    truth: Any, answers: Any, labels: tuple[str, ...]
) -> None:
    """Whole numbers, booleans, members of an Enum and categories meet their texts."""
    report = small(truth, answers)
    assert (report.accuracy, report.labels) == (1, labels)


def test_rows_worth_looking_at_come_wrong_and_confident_first(frame: pandas.DataFrame) -> None:
    """Wrong rows by falling confidence, then those without a value; the index is the frame's own."""
    frame.loc[3, "infer_value"] = None
    frame.index = frame.index + 1000
    rows = evaluate(frame).mistakes
    assert rows["evaluation_problem"].tolist()[-1] == "no valid value"
    assert rows.index[-1] == 1003
    confident = rows["evaluation_confidence"].tolist()[:-1]
    assert confident == sorted(confident, reverse=True)
    assert (rows["label"] != rows["infer_value"]).all()
    assert len(rows) == (frame["label"] != frame["infer_value"]).sum()


def test_one_line_says_what_one_label_and_imbalance_mean() -> None:
    """A report over one label, or with a label that nearly all rows have, says so."""
    (line,) = small(["a"] * 3, ["a", "a", "b"]).notices
    assert line == "all right answers are 'a': this says nothing of other labels"
    (line,) = small(["a"] * 9 + ["b"], ["a"] * 10).notices
    assert line.endswith("always saying it would have the accuracy 0.900")
    assert not small(["a", "b"], ["a", "b"]).notices
    report = small(["a", "b"], ["a", "a"])
    assert math.isnan(report.classes.loc["b", "precision"])
    assert report.classes.loc["b", "recall"] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"truth": "nope"}, "truth: 'nope' is no column of the DataFrame, which has label, infer_"),
        ({"prediction": "nope"}, "prediction: 'nope' is no column"),
        ({"against": "nope"}, "against: 'nope' is no column"),
        ({"probabilities": "p_"}, "probabilities: no column of the DataFrame begins with 'p_'"),
        ({"probabilities": {"a": "nope"}}, "probabilities: 'nope' is no column"),
        ({"probabilities": {"a": "half"}}, "those of row 0 sum to 0.5, not to 1"),
        ({"probabilities": {"a": "two"}}, "probabilities: each must be from 0 to 1"),
        ({"probabilities": {"a": "label"}}, "'label' has values that are no numbers"),
        ({"labels": "ab"}, "labels: give a list of labels, not one text"),
        ({"labels": ["b"]}, "labels: the right answer 'a' is not among them"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(options: dict[str, Any], said: str) -> None:
    """Columns that are not there and values that are no probabilities are named."""
    frame = pandas.DataFrame({"label": ["a"], "infer_value": ["a"], "half": [0.5], "two": [2]})
    with pytest.raises(InvalidInput) as caught:
        evaluate(frame, **options)
    assert said in str(caught.value)


def test_nothing_to_evaluate_is_one_line() -> None:
    """No row, or none with a right answer, is an error; what is no DataFrame too."""
    for truth in ([], [None, None]):
        with pytest.raises(InvalidInput, match="no row has a right answer in 'label'"):
            small(truth, truth)
    with pytest.raises(InvalidInput, match="dict is not a DataFrame"):
        evaluate({})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="2 columns are named 'label': rename all but one"):
        evaluate(pandas.DataFrame([["a", "a", "a"]], columns=["label", "label", "infer_value"]))


def test_rows_without_probabilities_are_left_out_of_calibration(frame: pandas.DataFrame) -> None:
    """A row that failed has no probabilities; the report says over how many rows it calibrates."""
    frame.loc[:9, ["infer_value", "infer_p_neutral"]] = None
    report = evaluate(frame)
    assert report.calibration is not None
    assert (report.rows, report.calibration.rows) == (200, 190)
    assert "(over 190 rows)" in repr(report)
    assert evaluate(frame, probabilities=None).calibration is None


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)


def test_a_notebook_shows_tables_and_no_markup_of_the_data() -> None:
    """Labels, names of columns and texts are escaped; only elements that every reader keeps occur."""
    evil = "<img src=x onerror=alert(1)>\n$x$"
    frame = pandas.DataFrame({
        evil: [evil, "b"], "infer_value": ["b", "b"], "text": [evil, evil], "other": [evil, evil],
    })  # fmt: skip
    report = evaluate(frame, evil, against="other", labels=[evil, "b"])
    elements = _Elements()
    elements.feed(report._repr_html_())
    assert set(elements.found) == {"div", "b", "table", "tr", "td", "span"}
    assert "onerror" in report._repr_html_()
    assert "\n$x" not in repr(report)
    assert report.plot()._repr_png_().startswith(PNG)


def test_pictures_show_every_count(frame: pandas.DataFrame) -> None:
    """The matrix has a number in each cell, and the curve a point for each bin, in one image."""
    frame.loc[0, "infer_value"] = "nonsense"
    report = evaluate(frame)
    matrix, curve = report.plot().axes
    texts = [int(text.get_text()) for text in matrix.texts]
    assert texts == report.confusion.to_numpy().ravel().tolist()
    assert [label.get_text() for label in matrix.get_xticklabels()] == [*LABELS, "(no valid value)"]
    assert report.calibration is not None
    assert len(curve.collections[0].get_offsets()) == len(report.calibration.bins)
    assert len(evaluate(frame, probabilities=None).plot().axes) == 1
    assert repr(report.plot()).endswith(".savefig('evaluation.png') writes it to a file>")


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scikit-learn the error says how to install it."""
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(InferenceError, match=r'pip install "llmwit-magic\[evaluation\]"'):
        small(["a"], ["a"])
