"""A prompt for each row of a DataFrame: templates, failures, going on, executors."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

from llmwit_magic import workers as batch_workers
from llmwit_magic.batch import RESULTS, batch_name, run_batch
from llmwit_magic.errors import EngineDied, EngineFailed, Interrupted, InvalidInput, LogWarning
from llmwit_magic.protocol import Chunk, Emit, Request
from llmwit_magic.wit import InferencingParams
from llmwit_magic.workers import worker_count
from tests.support.fake import FakeEngine, FakeSession, end, prepared

REQUEST = Request(model="fake", prompt="", params=InferencingParams(temperature=0), group_id="b")
FRAME = pandas.DataFrame({"name": ["Ada", "Bob", "Cyd"], "n": [1, 2, 3]})


class Echo(FakeEngine):
    """Says the prompt in capitals; a prompt with `bad` fails; `at` is called with each one."""

    def __init__(self, at: Any = lambda prompt, cancel: None) -> None:
        super().__init__()
        self.at = at

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        self.requests.append(request)
        emit(prepared(request))
        self.at(request.prompt, cancel)
        if cancel.is_set():
            emit(end(0, None))
            return
        if "bad" in request.prompt:
            raise EngineDied("gone")
        emit(Chunk(request.prompt.upper(), 1))
        emit(end(1))

    @property
    def prompts(self) -> list[str]:
        return [request.prompt for request in self.requests]


@pytest.fixture
def engine() -> Echo:
    return Echo()


@pytest.fixture
def session(engine: Echo, tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(engine, tmp_path / "runs.sqlite3")
    yield session
    session.close()


def run(
    session: FakeSession, frame: pandas.DataFrame = FRAME, template: str = "Hi {{name}}", **options: Any
) -> pandas.DataFrame:  # fmt: skip
    request = options.pop("request", REQUEST)
    return run_batch(session, frame, template, request, progress=False, **options)


# Templates and rows ---------------------------------------------------------------------


def test_each_row_has_its_prompt(session: FakeSession, engine: Echo) -> None:
    """The result is a copy with new columns, in their types; the log has the runs."""
    frame = run(session, template="Hi {{name}}, {{ n }}: {{row['n']}} {x}")
    assert engine.prompts == ["Hi Ada, 1: 1 {x}", "Hi Bob, 2: 2 {x}", "Hi Cyd, 3: 3 {x}"]
    assert frame["infer_text"].tolist() == [prompt.upper() for prompt in engine.prompts]
    assert list(frame.columns) == [*FRAME.columns, *(f"infer_{name}" for name in RESULTS)]
    assert frame["infer_run_id"].tolist() == [1, 2, 3]
    assert str(frame["infer_generated_token_count"].dtype) == "Int64"
    assert list(FRAME.columns) == ["name", "n"]
    assert {row["group_id"] for row in session.log.rows()} == {"b"}
    assert frame.attrs["batch"] == "b"


def test_any_column_has_a_name(session: FakeSession, engine: Echo) -> None:
    """`row[…]` reaches names with blanks and numbers; a column called row is that column."""
    run(session, pandas.DataFrame({"a b": ["x"], 0: ["y"]}), "{{row['a b']}}{{row[0]}}")
    run(session, pandas.DataFrame({"row": ["mine"]}), "{{row}}")
    assert engine.prompts == ["xy", "mine"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Hi", "names no column: write {{column}}"),
        ("Hi {name}", "names no column"),
        ("{{nme}}", "{{nme}}: that is no column of the DataFrame, which has name, n"),
        ("{{name + n}}", "only a variable"),
        ("{{a b}}", "only a variable"),
        (3, "the template is int, not text"),
    ],
)
def test_a_template_that_fits_no_row_is_refused(
    session: FakeSession, engine: Echo, template: Any, message: str
) -> None:
    """Before anything runs, in one line that does not speak of options of a cell."""
    with pytest.raises(InvalidInput) as caught:
        run(session, template=template)
    assert message in str(caught.value)
    assert "--" not in str(caught.value)
    assert engine.prompts == []


def test_what_is_no_batch_is_refused(session: FakeSession) -> None:
    """A list is no DataFrame, a function no executor, none no number of workers."""
    with pytest.raises(InvalidInput, match="list is not a DataFrame"):
        run(session, ["a"])  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="executor: function is not a concurrent"):
        run(session, executor=lambda: None)
    with pytest.raises(InvalidInput, match="workers: 0 is not valid"):
        run(session, workers=0)


@pytest.mark.parametrize("missing", [None, float("nan"), pandas.NA, pandas.NaT])
def test_a_missing_value_fails_its_row(session: FakeSession, engine: Echo, missing: Any) -> None:
    """It is not the text `nan`: the row says what is missing, the others run."""
    frame = run(session, pandas.DataFrame({"name": ["Ada", missing, "Cyd"]}, dtype=object))
    assert engine.prompts == ["Hi Ada", "Hi Cyd"]
    assert frame["infer_status"].tolist() == ["ok", "error", "ok"]
    assert frame.loc[1, "infer_error_type"] == "InvalidInput"
    assert frame.loc[1, "infer_error_message"] == "column 'name' has no value in this row"
    assert frame.loc[1, ["infer_text", "infer_run_id"]].isna().all()


def test_a_value_that_does_not_fit_fails_its_row(session: FakeSession) -> None:
    """Attributes and subscripts that one row lacks, and text without a form, are its own failure."""
    frame = pandas.DataFrame({"d": [{"k": "v"}, {}, "text", {"k": "\ud800"}]})
    frame = run(session, frame, "{{d['k']}}")
    assert frame["infer_status"].tolist() == ["ok", "error", "error", "error"]
    messages = frame["infer_error_message"].tolist()
    assert messages[1] == "{{d['k']}}: KeyError: 'k'"
    assert "lone surrogate" in messages[3]


def test_a_failed_run_fails_its_row(session: FakeSession, engine: Echo) -> None:
    """The error stands in its row, and the batch goes on."""
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
    """Rows are told apart by their place, whatever they are called."""
    frame = FRAME.set_axis(index)
    result = run(session, frame)
    pandas.testing.assert_frame_equal(result[["name", "n"]], frame)
    assert result["infer_text"].tolist() == ["HI ADA", "HI BOB", "HI CYD"]


def test_any_columns_stay(session: FakeSession) -> None:
    """Columns that come twice are kept as they are, as long as the template does not mean them."""
    frame = pandas.DataFrame([["Ada", 1, 2]], columns=["name", "x", "x"])
    result = run(session, frame)
    pandas.testing.assert_frame_equal(result.iloc[:, :3], frame)
    assert len(result.columns) == 3 + len(RESULTS)
    with pytest.raises(InvalidInput, match="that is twice a column"):
        run(session, frame, "{{x}}")


def test_a_frame_without_rows_is_done(session: FakeSession, engine: Echo) -> None:
    """Nothing runs, and the columns are there in their types."""
    result = run(session, FRAME.iloc[:0])
    assert (len(result), engine.prompts) == (0, [])
    assert str(result["infer_run_id"].dtype) == "Int64"


def test_columns_are_not_overwritten(session: FakeSession, engine: Echo) -> None:
    """A result's name that is taken is refused; another prefix makes room."""
    first = run(session)
    with pytest.raises(InvalidInput, match="has a column infer_text already: give another prefix="):
        run(session, first)
    second = run(session, first, "{{infer_text}}", prefix="again_")
    assert second["again_text"].tolist() == first["infer_text"].tolist()
    with pytest.raises(InvalidInput, match="has a column text already"):
        run(session, pandas.DataFrame({"name": ["x"], "text": ["y"]}), prefix="")


# Going on -----------------------------------------------------------------------------


def test_what_is_done_is_not_run_again(session: FakeSession, engine: Echo) -> None:
    """The same call takes its rows from the log; new rows alone are run."""
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
    """Rows of other params, options or batches are not taken; the first ones still are."""
    run(session)
    run(session, request=REQUEST.model_copy(update=other))
    assert len(engine.prompts) == 6
    run(session)
    run(session, request=REQUEST.model_copy(update=other))
    assert len(engine.prompts) == 6


def test_another_model_file_is_another_run(session: FakeSession, engine: Echo) -> None:
    """The hash of the file counts, not its name."""
    run(session)
    session.model = session.model.model_copy(update={"sha256": "1" * 64})
    run(session)
    assert len(engine.prompts) == 6


def test_failed_rows_are_run_again(session: FakeSession, engine: Echo) -> None:
    """Only what ended well is taken from the log."""
    frame = pandas.DataFrame({"name": ["Ada", "bad"]})
    run(session, frame)
    run(session, frame)
    assert engine.prompts == ["Hi Ada", "Hi bad", "Hi bad"]


def test_equal_prompts_have_runs_of_their_own(session: FakeSession, engine: Echo) -> None:
    """The second row with a prompt takes its second run, and a third row needs a new one."""
    frame = pandas.DataFrame({"name": ["Ada", "Ada"]})
    assert run(session, frame)["infer_run_id"].tolist() == [1, 2]
    assert run(session, frame)["infer_run_id"].tolist() == [1, 2]
    frame = pandas.DataFrame({"name": ["Ada", "Bob", "Ada", "Ada"]})
    assert run(session, frame)["infer_run_id"].tolist() == [1, 3, 2, 4]


def test_a_name_stands_for_the_work() -> None:
    """The same template, model, params and options have the same name, and no others."""
    same = batch_name("{{x}}", REQUEST)
    assert same == batch_name("{{x}}", REQUEST.model_copy(update={"group_id": None}))
    assert same.startswith("batch-")
    others = [
        batch_name("{{y}}", REQUEST),
        *(batch_name("{{x}}", REQUEST.model_copy(update=change)) for change in
          ({"model": "m"}, {"params": InferencingParams()}, {"chat": True}, {"tags": {"a": "b"}})),
    ]  # fmt: skip
    assert len({same, *others}) == 6


def test_a_name_outlives_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade the same call goes on where it was."""
    before = batch_name("{{x}}", REQUEST)
    monkeypatch.setattr("llmwit_magic.runlog.rows.__version__", "99")
    assert batch_name("{{x}}", REQUEST) == before


needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")


def interrupt() -> None:
    time.sleep(0.1)  # until the batch watches its run
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def interrupt_at(word: str) -> Any:
    """A person's interrupt while that prompt runs for the first time."""
    waiting = [word]

    def at(prompt: str, cancel: threading.Event) -> None:
        if waiting and word in prompt:
            waiting.clear()
            interrupt()
            cancel.wait(5)

    return at


@needs_signals
@pytest.mark.parametrize("resume", [True, False])
def test_an_interrupt_says_how_to_go_on(session: FakeSession, engine: Echo, resume: bool) -> None:
    """What is done is kept: the same call runs the rest."""
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
    """All rows run, each time; the progress line and a warning say that they are not logged."""
    session = FakeSession(engine, tmp_path)  # a folder
    for _ in range(2):
        with pytest.warns(LogWarning, match="not logged: the run log"):
            frame = run_batch(session, FRAME, "Hi {{name}}", REQUEST)
        assert frame["infer_text"].tolist() == ["HI ADA", "HI BOB", "HI CYD"]
        assert frame["infer_run_id"].isna().all()
    assert len(engine.prompts) == 6
    assert "not logged: the run log" in capsys.readouterr().out


def test_progress_counts_rows(session: FakeSession, capsys: pytest.CaptureFixture[str]) -> None:
    """The line ends with all rows done, and how many were there or failed."""
    run(session, FRAME.iloc[:1])
    frame = pandas.DataFrame({"name": ["Ada", "bad"]})
    run_batch(session, frame, "Hi {{name}}", REQUEST)
    line = capsys.readouterr().out.split("\r")[-1]
    assert "2/2" in line
    assert "1 from the log, 1 failed" in line


# Executors ----------------------------------------------------------------------------


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[FakeSession]:
    """The sessions that workers in threads make."""
    made: list[FakeSession] = []

    def make(path: str) -> FakeSession:
        made.append(FakeSession(Echo(), path))
        return made[-1]

    monkeypatch.setattr(batch_workers, "Session", make)
    return made


def test_threads_share_the_rows(session: FakeSession, workers: list[FakeSession]) -> None:
    """Results stand in their rows, whoever was first; this process logs them, each once."""
    frame = pandas.DataFrame({"name": [f"n{number}" for number in range(20)]})
    with ThreadPoolExecutor(3) as pool:
        result = run(session, frame, executor=pool)
        assert result["infer_text"].tolist() == [f"HI N{number}" for number in range(20)]
        rows = {row["run_id"]: row for row in session.log.rows()}
        assert [rows[run_id]["text"] for run_id in result["infer_run_id"]] == (
            result["infer_text"].tolist()
        )
        assert {row["status"] for row in rows.values()} == {"ok"}
        assert {row["threads_requested"] for row in rows.values()} == {"auto"}
        again = run(session, frame, executor=pool)
    pandas.testing.assert_frame_equal(again, result)
    assert 1 <= len(workers) <= 3
    assert sum(len(worker.engine.requests) for worker in workers) == 20
    assert batch_workers._sessions == {}


@pytest.mark.parametrize(("count", "threads"), [(1, {"auto"}), (2, {4}), (16, {1})])
def test_workers_share_the_cores(
    count: int, threads: set[object], session: FakeSession, workers: list[FakeSession],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Several take the same number each; a single one chooses as a cell does."""
    monkeypatch.setattr(batch_workers, "physical_cores", lambda: 8)
    with ThreadPoolExecutor(count) as pool:
        run(session, pandas.DataFrame({"name": ["Ada", "Bob"]}), executor=pool)
    asked = {request.threads for worker in workers for request in worker.engine.requests}
    assert asked == threads


def test_a_failure_in_a_worker_fails_its_row(
    session: FakeSession, workers: list[FakeSession]
) -> None:
    """As it does without workers."""
    with ThreadPoolExecutor(2) as pool:
        frame = run(session, pandas.DataFrame({"name": ["Ada", "bad"]}), executor=pool)
    assert frame["infer_status"].tolist() == ["ok", "error"]
    assert session.log.rows(status="error")[0]["error_message"] == "gone"


def test_workers_know_the_aliases(session: FakeSession, workers: list[FakeSession]) -> None:
    """A name of the notebook is one in the workers too."""
    session.aliases = {"tiny": "/models/tiny.gguf"}
    with ThreadPoolExecutor(1) as pool:
        run(session, executor=pool)
    assert workers[0].aliases == {"tiny": "/models/tiny.gguf"}


class Broken(Executor):
    """Does what it is told to do with each task."""

    def __init__(self, error: Exception | None, at_submit: bool = False) -> None:
        self.error, self.at_submit = error, at_submit

    def submit(self, *call: Any, **options: Any) -> Future[Any]:  # type: ignore[override]
        if self.at_submit and self.error:
            raise self.error
        future: Future[Any] = Future()
        if self.error is None:
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_exception(self.error)
        return future


def test_an_executor_that_fails_a_task_fails_its_row(session: FakeSession) -> None:
    """A task that cannot be sent or whose worker is lost is a failure of its row alone."""
    frame = run(session, executor=Broken(TypeError("no pickle")), workers=1)
    assert frame["infer_status"].tolist() == ["error"] * 3
    said = "the executor could not run it: TypeError: no pickle"
    assert frame["infer_error_message"].tolist() == [said] * 3
    assert [row["error_message"] for row in session.log.rows()] == [said] * 3


def test_a_task_that_was_cancelled_is_interrupted(session: FakeSession) -> None:
    """Whoever shuts the executor down cancels its tasks: no row stays running."""
    frame = run(session, executor=Broken(None), workers=1)
    assert frame["infer_status"].tolist() == ["interrupted"] * 3
    assert {row["status"] for row in session.log.rows()} == {"interrupted"}


@pytest.mark.parametrize(
    ("error", "at_submit"),
    [
        (BrokenProcessPool("a worker died"), False),
        (RuntimeError("cannot schedule new futures after shutdown"), True),
    ],
)
def test_a_broken_executor_ends_the_batch(
    session: FakeSession, engine: Echo, error: Exception, at_submit: bool
) -> None:
    """It says what broke and how to go on; no row stays running, and the next call goes on."""
    with pytest.raises(EngineFailed, match=f"takes no more work .{error}.: what is done is kept"):
        run(session, executor=Broken(error, at_submit), workers=1)
    assert {row["status"] for row in session.log.rows()} == {"error"}
    assert run(session)["infer_status"].tolist() == ["ok"] * 3


@needs_signals
def test_an_interrupt_keeps_what_workers_still_do(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs is finished and logged for the next time; what waits is not begun."""
    release = threading.Event()

    def slow(prompt: str, cancel: threading.Event) -> None:
        if "n3" in prompt:
            interrupt()
            release.wait(10)

    monkeypatch.setattr(batch_workers, "Session", lambda path: FakeSession(Echo(slow), path))
    frame = pandas.DataFrame({"name": [f"n{number}" for number in range(9)]})
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(Interrupted, match="stopped after 3 of 9 rows"):
            run(session, frame, executor=pool)
        release.set()
    rows = session.log.rows()
    # With one worker, one more at most was waiting.
    assert [row["status"] for row in rows] in (["ok"] * 4, ["ok"] * 4 + ["interrupted"])
    assert rows[3]["text"] == "HI N3"
    assert batch_workers._sessions == {}


def test_workers_are_counted() -> None:
    """As the executor says it, or as Dask's client does; else the machine's processors."""
    with ThreadPoolExecutor(3) as pool:
        assert worker_count(pool) == 3
    with ProcessPoolExecutor(2) as processes:
        assert worker_count(processes) == 2

    class Client:
        status = "running"

        def nthreads(self) -> dict[str, int]:
            return {"a": 2, "b": 3}

    dask = Broken(None)
    dask._client = Client()  # type: ignore[attr-defined]
    assert worker_count(dask) == 5
    assert worker_count(Broken(None)) >= 1


# Values in all texts, and names as they are written ---------------------------------------


def test_values_are_put_into_system_stop_and_tags(session: FakeSession, engine: Echo) -> None:
    """Each row has its own; where the template names a column no more than they do, it may."""
    frame = pandas.DataFrame({"lang": ["French", "Dutch"], "mark": ["a", "b"]})
    request = REQUEST.model_copy(update={
        "system": "In {{lang}}.", "tags": {"in": "{{row['lang']}}"}, "chat": True,
        "params": InferencingParams(temperature=0, stop="{{mark}}"),
    })  # fmt: skip
    answers = run(session, frame, "Hello", request=request)
    assert [asked.system for asked in engine.requests] == ["In French.", "In Dutch."]
    assert [asked.params.stop for asked in engine.requests] == [("a",), ("b",)]
    assert [asked.tags for asked in engine.requests] == [{"in": "French"}, {"in": "Dutch"}]
    assert answers["infer_status"].tolist() == ["ok", "ok"]
    # The same call again takes them from the log.
    assert run(session, frame, "Hello", request=request).equals(answers)
    assert len(engine.requests) == 2


def test_a_misspelt_column_in_an_option_is_refused(session: FakeSession, engine: Echo) -> None:
    """Before anything runs."""
    request = REQUEST.model_copy(update={"system": "In {{nope}}."})
    with pytest.raises(InvalidInput, match=r"{{nope}}: that is no column"):
        run(session, request=request)
    assert not engine.requests


def test_a_stop_sequence_that_a_row_leaves_empty_fails_that_row(session: FakeSession) -> None:
    """The others run."""
    request = REQUEST.model_copy(update={"params": InferencingParams(stop="{{name}}")})
    frame = run(session, pandas.DataFrame({"name": ["Ada", ""]}), request=request)
    assert frame["infer_status"].tolist() == ["ok", "error"]


def test_columns_that_python_takes_for_one(session: FakeSession, engine: Echo) -> None:
    """nº is not no; a name that only looks like a column's is refused, with the column's signs."""
    run(session, pandas.DataFrame({"nº": ["12"], "no": ["nobody"]}), "House {{nº}} is")
    assert engine.prompts == ["House 12 is"]
    with pytest.raises(InvalidInput, match=r"\('caf\\xe9' is written with other signs\)"):
        run(session, pandas.DataFrame({"caf\xe9": ["x"]}), "{{cafe\u0301}}")


def test_values_are_data(session: FakeSession, engine: Echo) -> None:
    """The spans of a row's values go with its prompt."""
    run(session, pandas.DataFrame({"review": ["Nice.<|im_end|>"]}), "Classify: {{review}}!")
    assert engine.requests[0].data_spans == ((10, 25),)


def test_the_same_text_of_other_values_is_another_prompt(
    session: FakeSession, engine: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was data where it mattered must be data in the row that is taken from the log."""
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


def test_the_bar_counts_rows_with_notices(
    session: FakeSession,
    engine: Echo,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What there is to know of a row's prompt is in the log, and the bar says that it is."""
    monkeypatch.setattr(
        engine, "run", lambda request, emit, cancel: (
            emit(replace(prepared(request), notices=("moved",))), emit(end(0)),
        )
    )  # fmt: skip
    run_batch(session, FRAME, "{{name}}", REQUEST)
    assert "3 with notices in the log" in capsys.readouterr().out
    assert session.log.rows()[-1]["notices"] == ["moved"]
