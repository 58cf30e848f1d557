"""A damaged log is set aside and a new one begun; a damaged value hides no other."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas
import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import LogError, LogWarning
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.run import Run
from tests.support.fake import FakeEngine, FakeSession, Meanwhile
from tests.support.log_files import execute

REQUEST = Request(model="fake", prompt="p", params=InferencingParams(seed=1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite3"


@pytest.fixture
def log(path: Path) -> Iterator[RunLog]:
    log = RunLog(path)
    yield log
    log.close()


def overwrite(start: float, length: float, zero: bool = False) -> Callable[[Path], None]:
    """Bytes of a part of the file (in its own length) replaced."""

    def damage(path: Path) -> None:
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(int(start * size) // 4096 * 4096)
            count = max(100, int(length * size))
            file.write(bytes(count) if zero else (b"\xa7garbage" * count)[:count])

    return damage


def truncate(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        os.truncate(path, int(share * path.stat().st_size))

    return damage


DAMAGE = {
    "header": overwrite(0, 0),
    "header zeroed": overwrite(0, 0, zero=True),
    "first half": overwrite(0, 0.5),
    "middle": overwrite(0.3, 0.4),
    "middle zeroed": overwrite(0.3, 0.4, zero=True),
    "end": overwrite(0.9, 0.09),
    "all zeroed": overwrite(0, 1, zero=True),
    "cut in half": truncate(0.5),
    "cut within a page": truncate(0.503),
    "cut within the header": truncate(0.0001),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a log of many rows."""
    path = tmp_path_factory.mktemp("sound") / "runs.sqlite3"
    log = RunLog(path)
    request = REQUEST.model_copy(update={"prompt": "x" * 3000})
    for _ in range(100):
        log.begin(Run(request).row())
    log.close()
    return path.read_bytes()


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_log_is_set_aside(path: Path, sound: bytes, kind: str) -> None:
    """It is kept under another name, with a warning, and a new one begun; the run goes on."""
    path.write_bytes(sound)
    DAMAGE[kind](path)
    damaged = path.read_bytes()
    session = FakeSession(FakeEngine(), path)
    with pytest.warns(LogWarning, match=r"was damaged .* kept as .*\.damaged-") as caught:
        run, rows = session.finish(REQUEST), session.log.rows()
    (kept,) = path.parent.glob("*.damaged-*[0-9]")
    assert str(kept) in str(caught[0].message)
    assert len(kept.read_bytes()) == len(damaged)
    assert (run.status, run.result.text) == ("ok", "Hello world")
    # Damage in the middle is found by the first who reads, when the row is in the old file.
    assert [row["status"] for row in rows] in (["ok"], [])
    assert session.finish(REQUEST).run_id == session.log.rows()[-1]["run_id"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    session.close()


def test_damage_during_a_run_costs_no_row(path: Path, sound: bytes) -> None:
    """The row of a run that is under way goes whole into the new file, with its number."""
    path.write_bytes(sound)

    def damage() -> None:
        session.log.close()
        DAMAGE["header"](path)

    session = FakeSession(Meanwhile(damage), path)
    with pytest.warns(LogWarning):
        run = session.finish(REQUEST)
    assert (run.run_id, run.log_problem) == (101, None)
    assert [(row["run_id"], row["prompt"], row["text"]) for row in session.log.rows()] == [
        (101, "p", "Hello world")
    ]
    assert session.finish(REQUEST).run_id == 102
    session.close()


def test_two_kernels_set_a_file_aside_once(path: Path, sound: bytes) -> None:
    """Who comes second finds the new file, and leaves it."""
    path.write_bytes(sound)
    DAMAGE["header"](path)
    logs = [RunLog(path) for _ in range(4)]
    with pytest.warns(LogWarning) as caught, ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda log: log.begin(Run(REQUEST).row()), logs))
    assert len([item for item in caught if item.category is LogWarning]) == 1
    assert sorted(numbers) == [1, 2, 3, 4]
    for log in logs:
        log.close()


def test_a_damaged_cell_hides_no_other(log: RunLog, path: Path) -> None:
    """Bytes that are no text and JSON that is none cost their cell, with a warning."""
    for _ in range(2):
        log.begin(Run(REQUEST).row())
    execute(path, "UPDATE runs SET prompt = CAST(x'61ff62' AS TEXT), tags = '{\"a', "
                  "stop = '1, 2' WHERE run_id = 1")  # fmt: skip
    with pytest.warns(LogWarning) as caught:
        frame = log.to_frame()
    assert [str(item.message) for item in caught] == [
        f"{name} of run 1 is damaged, and read as missing" for name in ("stop", "tags")
    ]
    assert frame["prompt"].tolist() == ["a\ufffdb", "p"]
    assert frame["stop"].tolist() == [pandas.NA, "[]"]
    with pytest.warns(LogWarning):
        assert log[1].request.params.stop == ()


def test_a_row_that_makes_no_run_says_so(log: RunLog, path: Path) -> None:
    """`runs[n]` of a row with impossible values is one line; the frame shows the row."""
    log.begin(Run(REQUEST).row())
    execute(path, "UPDATE runs SET temperature = -1")
    with pytest.raises(LogError, match=r"run 1 of the log is damaged: temperature: -1\.0"):
        log[1]
    assert log.to_frame()["temperature"].tolist() == [-1.0]
