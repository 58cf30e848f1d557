"""A batch in which each row has settings of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest

from llmwit_magic import api, column, infer_frame
from llmwit_magic.contract.request import Request
from llmwit_magic.errors import InvalidInput
from llmwit_magic.running.resuming import EqualRows
from tests.support.batches import Echo
from tests.support.fake import FakeSession

GRID = pandas.DataFrame(
    list(itertools.product(["a", "b"], [0.0, 0.7], [1, 2])), columns=["p", "t", "s"]
)


@pytest.fixture
def engine() -> Echo:
    return Echo()


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, engine: Echo, tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(engine, tmp_path / "runs.sqlite3")
    monkeypatch.setattr(api, "current_session", lambda: session)
    yield session
    session.close()


def run(
    frame: pandas.DataFrame = GRID, template: str = "{{p}}", **options: Any
) -> pandas.DataFrame:
    return infer_frame(frame, template, progress=False, **{"model": "fake", **options})


def test_a_grid_is_one_call(session: FakeSession, engine: Echo) -> None:
    """The params of a row are its own, and what depends on them is right."""
    found = run(temperature=column("t"), params={"seed": GRID["s"], "top_k": 7})
    asked = [(r.prompt, r.params.temperature, r.params.seed) for r in engine.requests]
    assert asked == list(GRID.itertuples(index=False, name=None))
    assert {request.params.top_k for request in engine.requests} == {7}
    assert [request.params.repeat_penalty for request in engine.requests][:3] == [1.0, 1.0, 1.1]
    assert found["infer_status"].tolist() == ["ok"] * 8


def test_the_same_call_finds_its_rows(session: FakeSession, engine: Echo) -> None:
    """Rows are told apart by their settings, seeds included."""
    first = run(temperature=column("t"), seed=column("s"))
    again = run(temperature=column("t"), seed=column("s"))
    assert len(engine.requests) == 8
    assert first["infer_run_id"].tolist() == again["infer_run_id"].tolist()
    other = GRID.assign(s=GRID["s"] + 10)
    run(other, temperature=column("t"), seed=column("s"), batch=first.attrs["batch"])
    assert len(engine.requests) == 16


def test_other_settings(session: FakeSession, engine: Echo) -> None:
    """A plain text stays a value, and a template need name no column."""
    frame = pandas.DataFrame({"say": ["A", "B"], "chat": [True, False], "stop": [["x"], "y"]})
    run(frame, "hi", system=column("say"), stop=column("stop"))
    run(frame, "hi", system="say", chat=frame["chat"])
    assert [request.system for request in engine.requests] == ["A", "B", "say", "say"]
    assert [request.params.stop for request in engine.requests][:2] == [("x",), ("y",)]


def test_a_column_of_models(session: FakeSession, engine: Echo) -> None:
    """The rows of one model run after those of another, and come back in their order."""
    frame = GRID.assign(m=["one", "two"] * 4).set_index("s")
    found = run(
        frame, model=column("m"), temperature=frame["t"], metric=lambda value, row: row["t"]
    )
    assert [request.model for request in engine.requests] == ["one"] * 4 + ["two"] * 4
    assert found["p"].tolist() == frame["p"].tolist()
    assert found["infer_text"].tolist() == [prompt.upper() for prompt in frame["p"]]
    assert found["infer_metric"].tolist() == frame["t"].tolist()
    assert found.index.tolist() == frame.index.tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": column("u")}, "temperature: 'u' is no column of the DataFrame"),
        ({"temperature": GRID["t"][1:]}, "temperature: the Series has another index"),
        ({"context_length": column("s")}, "context_length: it is the same for all rows"),
        ({"params": {"temprature": column("t")}}, "temprature: it is the same for all rows"),
        ({"model": column("u")}, "model: 'u' is no column of the DataFrame, which has p, t, s"),
        ({"model": column("t ")}, "model: 't ' is no column of the DataFrame: did you mean t?"),
        (
            {"model": pandas.Series([None] * 8)},
            "model: its column has no value in the row 0: give it one",
        ),
    ],
)
def test_what_is_refused(session: FakeSession, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        run(**options)
    assert str(caught.value).startswith(said)


def test_a_row_with_a_bad_value_says_so(session: FakeSession, engine: Echo) -> None:
    frame = pandas.DataFrame({"p": ["a", "b", "c"], "t": [0.5, None, -1.0]})
    found = run(frame, temperature=column("t"))
    assert found["infer_status"].tolist() == ["ok", "error", "error"]
    errors = found["infer_error_message"].tolist()
    assert errors[1] == "temperature: its column has no value in this row"
    assert errors[2].startswith("temperature: -1.0 is not valid")


def test_rows_with_other_settings_are_not_equal() -> None:
    equal = EqualRows()
    one = Request(model="m", prompt="p").with_params(seed=1)
    assert [equal.first(0, one), equal.first(1, one)] == [0, 0]
    assert equal.first(2, one.with_params(temperature=0.1)) == 2
    assert equal.first(3, one.model_copy(update={"chat": True})) == 3
