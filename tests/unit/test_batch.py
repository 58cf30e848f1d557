"""A batch: its DataFrame, resuming from the log, interrupts and the progress bar."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from tqdm import tqdm

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishReason, InferencingParams
from llmwit_magic.errors import Interrupted, InvalidInput, LogWarning
from llmwit_magic.running.batch import batch_name, run_batch
from llmwit_magic.running.batch_rows import BatchRows
from llmwit_magic.running.resuming import KEPT, RESULTS
from tests.support.batches import FRAME, REQUEST, Echo, interrupt_at, needs_signals, run
from tests.support.fake import MODEL, FakeSession, end, prepared


@pytest.fixture
def engine() -> Echo:
    return Echo()


@pytest.fixture
def session(engine: Echo, tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(engine, tmp_path / "runs.sqlite3")
    yield session
    session.close()


def test_what_is_kept_of_a_row_costs_the_garbage_collector_nothing(session: FakeSession) -> None:
    """It goes through no tuple of plain values, however many there are."""
    results: list[Any] = [None]
    rows = BatchRows(session, results, tqdm(disable=True))
    run = session.finish(REQUEST.model_copy(update={"prompt": "Hi Ada"}))
    assert isinstance(run.row()["finish_reason"], FinishReason)
    rows.ended(0, run)
    assert results[0][KEPT.index("finish_reason")] == "stop"
    gc.collect()
    assert not gc.is_tracked(results[0])


# The DataFrame -------------------------------------------------------------------------


def test_a_failed_run_fails_its_row(session: FakeSession, engine: Echo) -> None:
    """The row has the error, and the batch goes on."""
    frame = run(session, pandas.DataFrame({"name": ["Ada", "bad", "Cyd"]}))
    assert engine.prompts == ["Hi Ada", "Hi bad", "Hi Cyd"]
    assert frame["infer_status"].tolist() == ["ok", "error", "ok"]
    assert frame.loc[1, "infer_error_type"] == "EngineDied"
    assert frame["infer_run_id"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "index",
    [[7, 7, 7], pandas.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 2)]), ["x", None, "x"]],
)
def test_any_index_stays(session: FakeSession, index: Any) -> None:
    """Rows are told apart by their place, whatever their index is."""
    frame = FRAME.set_axis(index)
    result = run(session, frame)
    pandas.testing.assert_frame_equal(result[["name", "n"]], frame)
    assert result["infer_text"].tolist() == ["HI ADA", "HI BOB", "HI CYD"]


def test_any_columns_stay(session: FakeSession) -> None:
    """Columns of the same name stay as they are, unless the template names them."""
    frame = pandas.DataFrame([["Ada", 1, 2]], columns=["name", "x", "x"])
    result = run(session, frame)
    pandas.testing.assert_frame_equal(result.iloc[:, :3], frame)
    assert len(result.columns) == 3 + len(RESULTS)
    with pytest.raises(InvalidInput, match="2 columns have that name: rename all but one"):
        run(session, frame, "{{x}}")


def test_a_frame_without_rows_is_done(session: FakeSession, engine: Echo) -> None:
    """Nothing runs, and the columns are there in their types."""
    result = run(session, FRAME.iloc[:0])
    assert (len(result), engine.prompts) == (0, [])
    assert str(result["infer_run_id"].dtype) == "Int64"


def test_columns_are_not_overwritten(session: FakeSession, engine: Echo) -> None:
    """A result column whose name is taken is refused. Another prefix avoids that."""
    first = run(session)
    with pytest.raises(InvalidInput, match="has a column infer_text already: give another prefix="):
        run(session, first)
    second = run(session, first, "{{infer_text}}", prefix="again_")
    assert second["again_text"].tolist() == first["infer_text"].tolist()
    with pytest.raises(InvalidInput, match="has a column text already"):
        run(session, pandas.DataFrame({"name": ["x"], "text": ["y"]}), prefix="")


def test_what_is_no_batch_is_refused(session: FakeSession) -> None:
    """A list is no DataFrame, a function is no executor, and 0 is no number of workers."""
    with pytest.raises(InvalidInput, match="list is not a DataFrame"):
        run(session, ["a"])  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="executor: function is not a concurrent"):
        run(session, executor=lambda: None)
    with pytest.raises(InvalidInput, match="workers: 0 is not valid"):
        run(session, workers=0)


# Going on ------------------------------------------------------------------------------


def test_what_is_done_is_not_run_again(session: FakeSession, engine: Echo) -> None:
    """The same call takes its rows from the log, and runs only new rows."""
    first = run(session)
    engine.requests.clear()
    again = run(session)
    pandas.testing.assert_frame_equal(again, first)
    assert engine.prompts == []
    more = pandas.concat([FRAME, pandas.DataFrame({"name": ["Dot"], "n": [4]})])
    assert run(session, more)["infer_run_id"].tolist() == [1, 2, 3, 4]
    assert engine.prompts == ["Hi Dot"]


def test_resume_can_be_switched_off(session: FakeSession, engine: Echo) -> None:
    """`resume=False` runs all rows again."""
    run(session)
    assert run(session, resume=False)["infer_run_id"].tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    "other",
    [
        {"params": InferencingParams(temperature=0.5)},
        {"params": InferencingParams(temperature=0, stop=("x",))},
        {"params": InferencingParams(temperature=0, seed=1)},
        {"system": "S"},
        {"chat": True},
        {"context_length": 64},
        {"content_filters": ("x",)},
        {"group_id": "c"},
    ],
)
def test_another_request_is_another_run(
    session: FakeSession, engine: Echo, other: dict[str, Any]
) -> None:
    """Rows of other params, options or batches are not taken, but the first ones still are."""
    run(session)
    run(session, request=REQUEST.model_copy(update=other))
    assert len(engine.prompts) == 6
    run(session)
    run(session, request=REQUEST.model_copy(update=other))
    assert len(engine.prompts) == 6


def test_another_model_file_is_another_run(session: FakeSession, engine: Echo) -> None:
    """The hash of the model file counts, and not its name."""
    run(session)
    session.model = session.model.model_copy(update={"sha256": "1" * 64})
    run(session)
    assert len(engine.prompts) == 6


def test_failed_rows_are_run_again(session: FakeSession, engine: Echo) -> None:
    """Only runs that ended well are taken from the log."""
    frame = pandas.DataFrame({"name": ["Ada", "bad"]})
    run(session, frame)
    run(session, frame)
    assert engine.prompts == ["Hi Ada", "Hi bad", "Hi bad"]


def test_equal_prompts_have_runs_of_their_own(session: FakeSession, engine: Echo) -> None:
    """A second row with the same prompt takes the second run. A third row needs a new one."""
    frame = pandas.DataFrame({"name": ["Ada", "Ada"]})
    assert run(session, frame)["infer_run_id"].tolist() == [1, 2]
    assert run(session, frame)["infer_run_id"].tolist() == [1, 2]
    frame = pandas.DataFrame({"name": ["Ada", "Bob", "Ada", "Ada"]})
    assert run(session, frame)["infer_run_id"].tolist() == [1, 3, 2, 4]


def test_a_name_stands_for_the_work() -> None:
    """The same template, model, params and options have the same name; others have another."""
    same = batch_name("{{x}}", REQUEST)
    assert same == batch_name("{{x}}", REQUEST.model_copy(update={"group_id": None}))
    assert same.startswith("batch-")
    others = [
        batch_name("{{y}}", REQUEST),
        *(batch_name("{{x}}", REQUEST.model_copy(update=change)) for change in
          ({"model": "m"}, {"params": InferencingParams()}, {"chat": True}, {"tags": {"a": "b"}})),
    ]  # fmt: skip
    assert len({same, *others}) == 6


def test_a_name_of_version_0_1_is_the_same_today() -> None:
    """A batch that was begun with it is found again by the same call."""
    params: Any = {"temperature": 0.5, "stop": ["."]}
    one = Request(model="m", prompt="", params=params, system="s", tags={"a": "b"})
    other = Request(model="m", prompt="", content_filters=("x",), context_length=100,
                    accept=("context",), threads=2)  # fmt: skip
    assert batch_name("{{a}}", one) == "batch-470c0592f060"
    assert batch_name("{{a}}", other) == "batch-78bc538d147b"
    named = one.model_copy(update={"engine": "llama.cpp"})
    assert batch_name("{{a}}", named) != batch_name("{{a}}", one)


def test_rows_of_another_engine_are_run_again(session: FakeSession) -> None:
    """Its text could be another; rows of version 0.1, which had one engine, are taken."""
    frame = pandas.DataFrame({"x": ["a", "b"]})
    runs = []
    for name in ("ctransformers", "llama.cpp", "llama.cpp", None):
        session.model = MODEL.model_copy(update={"engine": name})
        found = run_batch(session, frame, "{{x}}", REQUEST, progress=False)
        runs.append(list(found["infer_run_id"]))
    assert runs[0] != runs[1]
    assert runs[1] == runs[2]


def test_rows_that_are_not_exact_serve_no_exact_batch(session: FakeSession) -> None:
    """A batch of a fixed name may have rows of either; and without exactness, any row will do."""
    runs = []
    for exact in (False, False, True, True, False):
        request = REQUEST.model_copy(update={"exact": exact, "group_id": "mine"})
        found = run_batch(session, FRAME, "Hi {{name}}", request, progress=False)
        runs.append(set(found["infer_run_id"]))
    assert runs[0] == runs[1]
    assert not runs[0] & runs[2]
    assert runs[2] == runs[3]
    assert runs[4] <= runs[0] | runs[2]


def test_a_name_outlives_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade, the same call still finds its rows."""
    before = batch_name("{{x}}", REQUEST)
    monkeypatch.setattr("llmwit_magic.runlog.rows.__version__", "99")
    assert batch_name("{{x}}", REQUEST) == before


def test_the_same_text_of_other_values_is_another_prompt(
    session: FakeSession, engine: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans that were data in the logged run, where that mattered, must be data in the new row."""
    monkeypatch.setattr(
        engine, "run", lambda request, emit, cancel: (
            engine.requests.append(request),
            emit(replace(prepared(request), data_spans=request.data_spans)),
            emit(end(0)),
        )
    )  # fmt: skip
    frame = pandas.DataFrame({"a": ["x<s>y", "x"], "b": ["z", "y<s>z"]})
    run(session, frame, "{{a}}<s>{{b}}")
    run(session, frame.iloc[::-1], "{{a}}<s>{{b}}")
    assert [asked.data_spans for asked in engine.requests] == [((0, 5), (8, 9)), ((0, 1), (4, 9))]


# Interrupts, the log and the bar -------------------------------------------------------


@needs_signals
@pytest.mark.parametrize("resume", [True, False])
def test_an_interrupt_says_how_to_go_on(session: FakeSession, engine: Echo, resume: bool) -> None:
    """The finished rows are kept, and the same call runs the rest."""
    engine.at = interrupt_at("Bob")
    again = "the same call" if resume else "the same call without resume=False"
    with pytest.raises(Interrupted, match=f"stopped after 1 of 3 rows; {again} goes on there"):
        run(session, resume=resume)
    assert [row["status"] for row in session.log.rows()] == ["ok", "interrupted"]
    assert run(session)["infer_run_id"].tolist() == [1, 3, 4]
    assert engine.prompts == ["Hi Ada", "Hi Bob", "Hi Bob", "Hi Cyd"]


def test_a_log_that_cannot_be_used_stops_nothing(
    engine: Echo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each call runs all rows. The bar and a warning say that they are not logged."""
    session = FakeSession(engine, tmp_path)  # a folder
    for _ in range(2):
        with pytest.warns(LogWarning, match="not logged: the run log"):
            frame = run_batch(session, FRAME, "Hi {{name}}", REQUEST)
        assert frame["infer_text"].tolist() == ["HI ADA", "HI BOB", "HI CYD"]
        assert frame["infer_run_id"].isna().all()
    assert len(engine.prompts) == 6
    assert "not logged: the run log" in capsys.readouterr().out


def test_progress_counts_rows(session: FakeSession, capsys: pytest.CaptureFixture[str]) -> None:
    """The bar ends with the number of rows, of those from the log, and of those that failed."""
    run(session, FRAME.iloc[:1])
    frame = pandas.DataFrame({"name": ["Ada", "bad"]})
    run_batch(session, frame, "Hi {{name}}", REQUEST)
    line = capsys.readouterr().out.split("\r")[-1]
    assert "2/2" in line
    assert "1 from the log, 1 failed" in line


def test_the_bar_counts_rows_with_notices(
    session: FakeSession,
    engine: Echo,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The notices of a row are in the log, and the bar says so."""
    monkeypatch.setattr(
        engine, "run", lambda request, emit, cancel: (
            emit(replace(prepared(request), notices=("moved",))), emit(end(0)),
        )
    )  # fmt: skip
    run_batch(session, FRAME, "{{name}}", REQUEST)
    assert "3 with notices in the log" in capsys.readouterr().out
    assert session.log.rows()[-1]["notices"] == ["moved"]
