"""Sweeps, runs of the log and replays are values: they are copied, pickled and kept."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import pandas
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams, InferencingResult
from llmwit_magic.errors import RunNotFound
from llmwit_magic.running.replay import Replay
from llmwit_magic.running.results import Results
from tests.support.fake import FakeEngine, FakeSession


@pytest.fixture
def session(tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine(), tmp_path / "runs.sqlite3")
    yield session
    session.close()


@pytest.fixture
def sweep(session: FakeSession) -> Results:
    """Four runs that differ in their temperature and text."""
    runs = []
    for number in range(4):
        session.engine = FakeEngine(["x" * (4 - number)])
        params = InferencingParams(temperature=number, seed=1)
        request = Request(model="fake", prompt="p", params=params, tags={"n": str(number)},
                          content_filters=("a+", len), group_id="g")  # fmt: skip
        runs.append(session.finish(request))
    return Results(runs, "g")


def through_joblib(value: Any, folder: Path) -> Any:
    joblib.dump(value, folder / "value")
    return joblib.load(folder / "value")


def through_store(value: Any, folder: Path) -> Any:
    """`%store` in one shell, `%store -r` in another."""

    def shell() -> Any:
        config = Config({"HistoryManager": {"enabled": False}})
        shell = InteractiveShell(config=config, ipython_dir=str(folder / "ipython"))
        shell.run_line_magic("load_ext", "storemagic")
        return shell

    first = shell()
    first.user_ns["value"] = value
    first.run_line_magic("store", "value")
    second = shell()
    second.run_line_magic("store", "-r value")
    return second.user_ns["value"]


WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "copy": lambda value, folder: copy.copy(value),
    "deepcopy": lambda value, folder: copy.deepcopy(value),
    **{
        f"pickle {protocol}": lambda value, folder, protocol=protocol: pickle.loads(
            pickle.dumps(value, protocol)
        )
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
    "joblib": through_joblib,
    "%store": through_store,
}


# Copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_sweep_is_kept_as_it_is(sweep: Results, tmp_path: Path, way: str) -> None:
    """Its results, its table and its group are kept."""
    kept = WAYS[way](sweep, tmp_path)
    assert kept == sweep
    assert kept.group_id == "g"
    pandas.testing.assert_frame_equal(kept.to_frame(), sweep.to_frame())


@pytest.mark.parametrize("way", WAYS)
def test_a_run_of_the_log_is_kept(
    session: FakeSession, sweep: Results, tmp_path: Path, way: str
) -> None:
    """It keeps its request and its log: what is written there later is seen."""
    run = session.log[2]
    kept = WAYS[way](run, tmp_path)
    assert kept == run
    assert kept.request == run.request
    assert kept.log is session.log
    kept.rate(-1)
    assert session.log.row(2)["rating"] == kept.row["rating"] == -1


@pytest.mark.parametrize("way", WAYS)
def test_a_replay_is_kept(session: FakeSession, sweep: Results, tmp_path: Path, way: str) -> None:
    """It keeps its verdict."""
    replay = Replay(session.log[1], sweep[2], ("temperature",), "another file")
    kept = WAYS[way](replay, tmp_path)
    assert kept == replay
    assert kept.verdict == replay.verdict


@pytest.mark.parametrize("where", ["file", "memory"])
def test_a_run_that_goes_elsewhere_is_whole(
    session: FakeSession, sweep: Results, tmp_path: Path, where: str
) -> None:
    """In another process it has its result. Its log is the same file, or an empty one in memory."""
    if where == "memory":
        session = FakeSession(FakeEngine())
        session.finish(Request(model="fake", prompt="p"))
    (tmp_path / "run").write_bytes(pickle.dumps(session.log[1]))
    code = (
        "import pickle, sys; from llmwit_magic.errors import RunNotFound\n"
        "run = pickle.load(open(sys.argv[1], 'rb'))\n"
        "try: run.note('from afar')\n"
        "except RunNotFound as error: print(error)\n"
        "print(run.text, run.run_id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    text = session.log[1].text
    said = "there is no run 1 in the log: it is empty\n" if where == "memory" else ""
    assert done.stdout == f"{said}{text} 1\n", done.stderr
    assert session.log.row(1)["note"] == ("from afar" if where == "file" else None)


# A sequence -----------------------------------------------------------------------------


def in_step(sweep: Results) -> None:
    """Checks that the rows of the table are those of the results."""
    frame = sweep.to_frame()
    assert frame.index.tolist() == [result.run_id for result in sweep]
    assert frame["text"].tolist() == [result.text for result in sweep]


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        (lambda sweep: sweep[1:3], [2, 3]),
        (lambda sweep: sweep[::-1], [4, 3, 2, 1]),
        (lambda sweep: sweep[:0], []),
        (lambda sweep: sweep + sweep[:1], [1, 2, 3, 4, 1]),
        (lambda sweep: sum([sweep[:1], sweep[2:]], Results()), [1, 3, 4]),
        (lambda sweep: copy.copy(sweep)[1:], [2, 3, 4]),
    ],
)
def test_a_part_has_its_own_table(
    sweep: Results, part: Callable[[Results], Any], wanted: list[int]
) -> None:
    """Slices and sums are `Results`, each with the table of its own results."""
    made = part(sweep)
    assert isinstance(made, Results)
    assert [result.run_id for result in made] == wanted
    in_step(made)
    in_step(sweep)
    assert len(sweep) == 4


def test_a_sum_has_a_name_where_both_have_it(sweep: Results) -> None:
    """`group_id` finds the runs in the log, so the sum of two different sweeps has none."""
    assert (sweep[:1] + sweep[1:]).group_id == "g"
    assert (sweep + Results(group_id="h")).group_id is None


@pytest.mark.parametrize(
    "name",
    ["sort", "append", "extend", "insert", "pop", "remove", "reverse", "clear", "__setitem__",
     "__delitem__", "__iadd__", "__imul__"],
)  # fmt: skip
def test_what_would_break_the_table_is_not_offered(sweep: Results, name: str) -> None:
    """`Results` do not change. `sorted` and `list` make lists of them."""
    assert not hasattr(sweep, name)
    ordered = sorted(sweep, key=lambda result: result.text)
    assert [len(result.text) for result in ordered] == [1, 2, 3, 4]
    in_step(sweep)


def test_a_sweep_reads_as_a_list_does(sweep: Results) -> None:
    """It has places from both ends, membership, iteration, and comparison with a list."""
    assert sweep[0] is next(iter(sweep))
    assert sweep[-1].run_id == 4
    assert sweep[1] in sweep
    assert sweep.index(sweep[2]) == 2
    assert sweep.count(sweep[2]) == 1
    assert [*reversed(sweep)] == list(sweep)[::-1]
    assert sweep == list(sweep)
    assert list(sweep) == sweep
    assert sweep != list(sweep)[1:]
    assert sweep != sweep[1:]
    assert sweep != "p"
    assert bool(sweep)
    assert not Results()
    assert all(isinstance(result, InferencingResult) for result in sweep)
    assert repr(sweep[:1]) == f"Results([{sweep[0]!r}])"
    with pytest.raises(IndexError):
        sweep[4]
    with pytest.raises(TypeError):
        sweep + [sweep[0]]  # type: ignore[operator]  # noqa: RUF005 - it is refused


def test_a_deleted_run_leaves_the_sweep_whole(session: FakeSession, sweep: Results) -> None:
    """A sweep holds the rows of its runs, even if they are deleted from the log."""
    session.log.prune("0s")
    with pytest.raises(RunNotFound):
        session.log[1]
    in_step(sweep)
