"""The figures of the run log: what they show, with which words, and without colour."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, InferencingParams
from llmwit_magic.errors import EngineDied, InvalidInput, LogError
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.plots import KINDS, MAX_GROUPS
from llmwit_magic.running.run import Run
from tests.support.fake import FakeEngine, FakeSession, end

PNG = b"\x89PNG\r\n\x1a\n"


def fill(session: FakeSession, count: int, **fields: Any) -> None:
    """Runs of all endings, lengths and ratings; `fields` are lists of params or of the request."""
    draw = random.Random(1)
    for number in range(count):
        length = draw.randint(2, 9)
        last: Any = end(length, list(FinishDetail)[number % 5])
        session.engine = FakeEngine(["x"] * length, EngineDied("gone") if number % 7 == 6 else last)
        values = {name: options[number % len(options)] for name, options in fields.items()}
        model = values.pop("model", "fake")
        params = InferencingParams(seed=number, **values)
        run = session.finish(Request(model=model, prompt="p", params=params))
        if number % 3:
            session.log.rate(run.run_id or 0, 1 if number % 2 else -1)


@pytest.fixture
def session() -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine())
    yield session
    session.close()


@pytest.fixture
def log(session: FakeSession) -> RunLog:
    fill(session, 24, temperature=[0, 0.5, 1.5], model=["one", "two"])
    return session.log


def texts(axes: Any) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def test_all_plots_are_one_image(log: RunLog) -> None:
    """Three axes and no speed, each with a title and labels with units; a notebook gets a PNG."""
    figure = log.plot()
    assert [axes.get_title() for axes in figure.axes] == [
        "Length of the answers", "Why runs ended", "Ratings",
    ]  # fmt: skip
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "generated [tokens]", "runs", "runs",
    ]  # fmt: skip
    assert [axes.get_xlabel() for axes in figure.axes] == ["temperature"] * 3
    assert figure._repr_png_().startswith(PNG)
    assert repr(figure).startswith("<RunPlot of Length of the answers, Why")


def test_speed_shows_each_run_of_each_model(log: RunLog) -> None:
    """A point a run over its number; models differ in marker and colour."""
    above, below = log.plot("speed").axes
    frame = log.to_frame()
    for line in above.get_lines():
        runs = frame[frame.model == line.get_label()]
        assert line.get_xdata().tolist() == runs.index.tolist()
        speeds = runs.tokens_per_second.to_numpy(float, na_value=numpy.nan)
        numpy.testing.assert_array_equal(line.get_ydata(), speeds)
    assert [line.get_label() for line in above.get_lines()] == ["one", "two"]
    for feature in ("get_marker", "get_color"):
        assert len({getattr(line, feature)() for line in below.get_lines()}) == 2
    assert above.get_legend().get_title().get_text() == "model"


def test_finish_counts_every_run_that_ended(log: RunLog) -> None:
    """Bars add up to the runs of a setting; pieces differ in hatch and colour, also for errors."""
    log.begin(Run(Request(model="one", prompt="goes on")).row())
    (axes,) = log.plot("finish").axes
    assert texts(axes) == ["0", "0.5", "1.5"]
    frame = log.to_frame()[lambda frame: frame.status != "running"]
    heights = [sum(bars[place].get_height() for bars in axes.containers) for place in range(3)]
    assert heights == frame.groupby("temperature").size().tolist()
    kinds = [text.get_text() for text in axes.get_legend().get_texts()]
    assert kinds == [
        "content filter", "context full", "eos", "error", "max tokens", "stop sequence",
    ]  # fmt: skip
    for feature in ("get_hatch", "get_facecolor"):
        assert len({getattr(bars[0], feature)() for bars in axes.containers}) == len(kinds)


def test_length_is_by_the_swept_setting(log: RunLog) -> None:
    """A box and the runs themselves for each value of what varies most."""
    (axes,) = log.plot("length").axes
    points = [line for line in axes.get_lines() if line.get_marker() == "o"]
    frame = log.to_frame()
    assert [sorted(line.get_ydata()) for line in points] == [
        sorted(runs.generated_token_count) for _, runs in frame.groupby("temperature")
    ]
    assert axes.get_ylim()[0] == 0


def test_ratings_are_counted(log: RunLog) -> None:
    """Good and bad ones of each setting; runs without a rating are left out."""
    (axes,) = log.plot("rating", by="model").axes
    assert texts(axes) == ["one", "two"]
    counts = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    rated = log.to_frame()
    assert counts == {
        word: [len(rated[(rated.rating == sign) & (rated.model == model)]) for model in texts(axes)]
        for word, sign in (("good", 1), ("bad", -1))
    }
    assert sum(map(sum, counts.values())) == rated.rating.count()


@pytest.mark.parametrize("kind", KINDS)
def test_by_chooses_what_is_compared(log: RunLog, kind: str) -> None:
    """Any column will do, in every kind."""
    log.add_metrics({1: {"right": 1}})
    last = log.plot(kind, by="chat").axes
    words = (
        [line.get_label() for line in last[0].get_lines()] if kind == "speed" else texts(last[0])
    )
    assert words == ["False"]


def test_metrics_are_drawn_with_their_spread(log: RunLog) -> None:
    """Mean and deviation of each setting, the runs behind them, and a marker for a second setting."""
    log.add_metrics({run: {"right": run % 2, "far": -float(run)} for run in range(1, 23)})
    figure = log.plot("metric")
    assert [axes.get_title() for axes in figure.axes] == ["right", "far"]
    right, _ = figure.axes
    assert texts(right) == ["0", "0.5", "1.5"]
    assert right.get_legend().get_title().get_text() == "model"
    frame = log.to_frame()
    for bars in right.containers:
        runs = frame[frame.model == bars.get_label()]
        means = runs.groupby("temperature")["metric.right"].mean()
        deviations = runs.groupby("temperature")["metric.right"].std()
        numpy.testing.assert_allclose(
            bars.lines[0].get_ydata().astype(float), means.to_numpy(float)
        )
        lengths = [end[1] - start[1] for start, end in bars.lines[2][0].get_segments()]
        numpy.testing.assert_allclose(lengths, 2 * deviations.to_numpy(float))
    points = [line for line in right.get_lines() if line.get_markersize() == 3 and line.get_alpha()]
    assert sum(len(line.get_ydata()) for line in points) == 22


def test_metrics_are_drawn_by_two_settings(log: RunLog) -> None:
    """`by` names them; one alone has no legend, and a third is no column."""
    log.add_metrics({run: {"right": 1} for run in range(1, 9)})
    (axes,) = log.plot("metric", by="model, temperature").axes
    assert texts(axes) == ["one", "two"]
    assert axes.get_legend().get_title().get_text() == "temperature"
    assert log.plot("metric", by="model").axes[0].get_legend() is None
    assert [axes.get_xlabel() for axes in log.plot(by="model,temperature").axes] == ["model"] * 4
    with pytest.raises(InvalidInput, match="by: the log has no column 'heat'"):
        log.plot("metric", by="model,heat")
    with pytest.raises(InvalidInput, match="none of these runs has a metric: %%infer --metric"):
        log.plot("metric", last=1)


def test_filters_choose_the_runs(log: RunLog) -> None:
    """`plot` takes those of the table."""
    above, _ = log.plot("speed", model="one", last=3).axes
    assert [len(line.get_xdata()) for line in above.get_lines()] == [3]


def test_settings_read_as_numbers_do(session: FakeSession) -> None:
    """In the order of numbers, whole ones without a point, none last; lists as they are."""
    fill(session, 12, max_tokens=[None, 1_000_000, 20, 100])
    assert texts(session.log.plot("length").axes[0]) == ["20", "100", "1000000", "none"]
    fill(session, 4, stop=[("\n",), ("$a$", "b")])
    words = texts(session.log.plot("length", by="stop", last=4).axes[0])
    assert words == [r'["\$a\$", "b"]', r'["\n"]']


def test_many_settings_are_gathered(session: FakeSession) -> None:
    """What would fill the axis stands together as others, and no run is lost."""
    fill(session, MAX_GROUPS + 6, top_k=list(range(MAX_GROUPS + 6)))
    (axes,) = session.log.plot("finish").axes
    assert len(texts(axes)) == MAX_GROUPS
    assert texts(axes)[-1] == "others"
    assert sum(bar.get_height() for bars in axes.containers for bar in bars) == MAX_GROUPS + 6


HARD = ["a$b$c", "$\\frac{$", "_hidden", "日本語", "two\nlines", "\x1b[31m", "x" * 99]


def test_any_name_can_be_drawn(session: FakeSession) -> None:
    """Names are no formulas, no terminal codes and no secret labels; each has its marker."""
    fill(session, 15, model=[*HARD, *map(str, range(8))])
    figure = session.log.plot("speed")
    assert figure._repr_png_().startswith(PNG)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(legend) == 10
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    assert len({line.get_marker() for line in lines}) == 10
    (axes,) = session.log.plot("finish", by="model").axes
    assert {r"a\$b\$c", " _hidden", "two⏎lines", "xxxxxxxxxxx…xxxxxxxxxxx"} <= set(texts(axes))


def test_one_token_is_enough(session: FakeSession) -> None:
    """A run without a speed of its own draws as the others do."""
    session.engine = FakeEngine(["x"])
    session.finish(Request(model="fake", prompt="p"))
    figure = session.log.plot("speed")
    assert figure._repr_png_().startswith(PNG)
    assert figure.axes[0].get_ylim() == (0, 1)


def test_plots_without_their_data_are_left_out(session: FakeSession) -> None:
    """A failed run has an end alone; what is asked for by name says why there is nothing."""
    session.engine = FakeEngine([], EngineDied("gone"))
    session.finish(Request(model="fake", prompt="p"))
    titles = [axes.get_title() for axes in session.log.plot().axes]
    assert titles == ["Length of the answers", "Why runs ended"]
    with pytest.raises(InvalidInput, match="no speed to plot"):
        session.log.plot("speed")
    with pytest.raises(InvalidInput, match=r"none of these runs is rated: runs\[12\].rate"):
        session.log.plot("rating")


def test_what_cannot_be_plotted_is_said(log: RunLog) -> None:
    """Unknown kinds and columns, no runs, and none that has ended."""
    with pytest.raises(InvalidInput, match=r"plot: 'pie' .* metric, length, finish, rating, speed"):
        log.plot("pie")
    with pytest.raises(InvalidInput, match="by: the log has no column 'xyzzy': docs/run-log"):
        log.plot(by="xyzzy")
    with pytest.raises(InvalidInput, match="no run to plot"):
        log.plot(model="none")
    log.begin(Run(Request(model="new", prompt="p")).row())
    with pytest.raises(InvalidInput, match="none of these runs has ended"):
        log.plot(model="new")


def test_without_matplotlib_it_says_what_to_install(
    log: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is the command."""
    monkeypatch.delitem(sys.modules, "llmwit_magic.runlog.plots")
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(LogError, match=r'pip install "llmwit-magic\[plots\]"'):
        log.plot()


def test_a_legend_names_what_has_points(session: FakeSession) -> None:
    """A model that never wrote a token, and a thumb that nobody gave, are in no legend."""
    fill(session, 6, model=["one", "two"])
    session.engine = FakeEngine([], EngineDied("gone"))
    session.finish(Request(model="broken", prompt="p"))
    for row in session.log.rows():
        session.log.rate(row["run_id"], 1)
    speed = session.log.plot("speed").axes[0]
    assert [text.get_text() for text in speed.get_legend().get_texts()] == ["one", "two"]
    assert [line.get_label() for line in speed.lines] == ["one", "two"]
    ratings = session.log.plot("rating").axes[0]
    assert [text.get_text() for text in ratings.get_legend().get_texts()] == ["good"]
