"""The log's file: old schemas, foreign files, damage, a full disk, a deleted file, many writers."""

from __future__ import annotations

import json
import math
import os
import socket
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas
import pytest

from llmwit_magic.errors import LogError, LogWarning
from llmwit_magic.protocol import Emit, Request
from llmwit_magic.replays import replay_request
from llmwit_magic.runlog import database
from llmwit_magic.runlog.columns import COLUMNS
from llmwit_magic.runlog.database import APPLICATION_ID, VERSION
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.run import Run
from llmwit_magic.views.html import html_of
from llmwit_magic.views.text import plain, status_parts
from llmwit_magic.wit import InferencingParams
from tests.support.fake import FakeEngine, FakeSession

REQUEST = Request(model="fake", prompt="p", params=InferencingParams(seed=1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite3"


@pytest.fixture
def log(path: Path) -> Iterator[RunLog]:
    log = RunLog(path)
    yield log
    log.close()


def execute(path: Path | str, *statements: str) -> list[Any]:
    """What the last statement gives, over a connection that is not the log's."""
    connection = sqlite3.connect(path)
    for statement in statements:
        found = connection.execute(statement).fetchall()
    connection.commit()
    connection.close()
    return found


# The first schema -------------------------------------------------------------------

NEW_IN_2 = ("device_reason", "library", "threads_requested", "context_length_requested", "version")
FIRST_DDL = (
    "CREATE TABLE runs (run_id INTEGER PRIMARY KEY AUTOINCREMENT, started_at TEXT, status TEXT, "
    "model TEXT, prompt TEXT, text TEXT, finish_reason TEXT, finish_detail TEXT, "
    "stop_sequence TEXT, prompt_token_count INTEGER, generated_token_count INTEGER, "
    "cached_token_count INTEGER, max_tokens INTEGER, temperature REAL, top_k INTEGER, top_p REAL, "
    "repeat_penalty REAL, repeat_penalty_last_n_token_count INTEGER, stop TEXT, seed INTEGER, "
    "chat INTEGER, system TEXT, first_token_seconds REAL, tokens_per_second REAL, "
    "total_seconds REAL, load_seconds REAL, prompt_seconds REAL, decode_seconds REAL, "
    "model_sha256 TEXT, model_path TEXT, model_type TEXT, architecture TEXT, quantisation TEXT, "
    "device TEXT, gpu_layers_requested TEXT, gpu_layers INTEGER, device_memory_bytes INTEGER, "
    "threads INTEGER, context_length INTEGER, rendered_prompt TEXT, top_logprobs INTEGER, "
    "tokens TEXT, content_filters TEXT, error_type TEXT, error_message TEXT, tags TEXT, "
    "rating INTEGER, note TEXT, group_id TEXT, replay_of INTEGER, session_id TEXT)",
    "CREATE TABLE sessions "
    "(session_id TEXT PRIMARY KEY, host TEXT, pid INTEGER, process_started REAL)",
    "PRAGMA user_version = 1",
)
# As the first version wrote them; an unlikely token's infinity stood bare.
FIRST_TOKENS = (
    '[{"id": 1, "bytes": "SGVsbG8gdw==", "logprob": -0.5, "rank": 0, "top": '
    '[{"id": 2, "bytes": "_w==", "logprob": -Infinity}]}]'
)
FIRST_ASKED = {
    "started_at": "2026-11-20T16:47:37.428262+00:00", "model": "fake", "prompt": "p\n日本",
    "max_tokens": None, "temperature": 0.8, "top_k": 40, "top_p": 0.9, "repeat_penalty": 1.1,
    "repeat_penalty_last_n_token_count": 64, "stop": '["a"]', "seed": 3, "chat": 1,
    "system": "S", "gpu_layers_requested": "auto", "top_logprobs": 1,
    "content_filters": '["x+", "<function len>"]', "tags": '{"k": "v"}', "session_id": "dead",
}  # fmt: skip
FIRST_RESULT = {
    "status": "ok", "text": "Hello w", "finish_reason": "stop", "finish_detail": "eos",
    "prompt_token_count": 5, "generated_token_count": 2, "cached_token_count": 0,
    "first_token_seconds": 0.25, "tokens_per_second": 5.0, "total_seconds": 1.5,
    "load_seconds": 0.5, "prompt_seconds": 0.1, "decode_seconds": 0.2, "model_sha256": "0" * 64,
    "model_path": "/fake.gguf", "architecture": "llama", "quantisation": "F32", "device": "cpu",
    "gpu_layers": 0, "threads": 1, "context_length": 128, "rendered_prompt": "<p>",
    "tokens": FIRST_TOKENS, "rating": 1, "note": "kept",
}  # fmt: skip


@pytest.fixture
def first(path: Path) -> Iterator[RunLog]:
    """A log of schema 1 with a whole run and one whose kernel died."""
    connection = sqlite3.connect(path)
    for statement in ("PRAGMA journal_mode = WAL", *FIRST_DDL):
        connection.execute(statement)
    for row in (FIRST_ASKED | FIRST_RESULT, FIRST_ASKED | {"status": "running"}):
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", list(row.values()))
    connection.execute("INSERT INTO sessions VALUES ('dead', ?, 1, 1.0)", [socket.gethostname()])
    connection.commit()
    connection.close()
    log = RunLog(path)
    yield log
    log.close()


def test_an_old_log_gets_the_new_columns(first: RunLog, path: Path) -> None:
    """The first use adds what schema 1 did not have; nothing of it is lost."""
    assert len(first) == 2
    there = {row[1] for row in execute(path, "PRAGMA table_info(runs)")}
    assert there == {column.name for column in COLUMNS}
    assert execute(path, "PRAGMA user_version") == [(VERSION,)]
    assert execute(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    kept = execute(path, f"SELECT {', '.join(FIRST_RESULT)} FROM runs WHERE run_id = 1")
    assert kept == [tuple(FIRST_RESULT.values())]


def test_old_runs_read_well(first: RunLog) -> None:
    """Frame, result, tokens and request of an old row; what it did not know is missing."""
    frame = first.to_frame()
    assert frame["status"].tolist() == ["ok", "lost"]
    assert frame["stop"].tolist() == ['["a"]'] * 2
    assert frame[list(NEW_IN_2)].isna().all().all()
    run = first[1]
    assert (run.text, run.prompt, run.timings.total, run.context_length) == (
        "Hello w", "<p>", 1.5, 128,
    )  # fmt: skip
    assert run.tokens is not None
    (other,) = run.tokens[0].top
    assert (run.tokens[0].bytes, other.bytes, other.logprob) == (b"Hello w", b"\xff", -math.inf)
    assert run.request == Request(
        model="fake", prompt="p\n日本", chat=True, system="S", top_logprobs=1,
        params=InferencingParams(max_tokens=None, stop=("a",), seed=3),
        content_filters=("x+",), tags={"k": "v"},
        control_tokens="all",  # as it ran: version 0.1 knew no other way
    )  # fmt: skip
    assert (run.row["rating"], run.row["note"]) == (1, "kept")


def test_old_runs_show_and_replay(first: RunLog) -> None:
    """An old row has its HTML and its status line, a lost one too; it can be run again."""
    assert "Hello w" in html_of(first[1])
    assert plain(first[1]).endswith(
        "5 + 2 tokens · first token 0.25 s · 5.0 tokens/s · fake · cpu, 0 GPU layers (auto) · "
        "seed 3 · run 1"
    )
    assert "lost: its kernel is gone" in html_of(first[2])
    session = FakeSession(FakeEngine())
    request, notice = replay_request(session, first[1], {}, (len,))
    assert (request.params.seed, request.replay_of, notice) == (3, 1, "")
    assert request.content_filters == ("x+", len)
    session.close()


def test_old_runs_are_exported(first: RunLog, tmp_path: Path) -> None:
    """The bare infinities of schema 1 become JSON, and read back as the same values."""
    from llmwit_magic.runlog.export import read_export

    for ending in ("jsonl", "parquet"):
        first.export(tmp_path / f"old.{ending}")
        pandas.testing.assert_frame_equal(read_export(tmp_path / f"old.{ending}"), first.to_frame())
    lines = (tmp_path / "old.jsonl").read_text().splitlines()
    tokens = json.loads(lines[0], parse_constant=pytest.fail)["tokens"]
    assert tokens[0]["top"][0]["logprob"] == "-Infinity"


def test_an_old_log_takes_new_runs(first: RunLog) -> None:
    """New rows stand beside the old ones; their numbers go on."""
    assert first.begin(Run(REQUEST)) == 3
    assert [row["version"] is None for row in first.rows()] == [True, True, False]


# Files of others --------------------------------------------------------------------


def untouched(path: Path, message: str) -> None:
    """The log refuses the file in one line that says what to do, and changes no byte of it."""
    before, mode = path.read_bytes(), path.stat().st_mode
    log = RunLog(path)
    for use in (lambda: log.begin(Run(REQUEST)), log.rows, lambda: len(log)):
        with pytest.raises(LogError, match=message) as caught:
            use()
        assert len(str(caught.value).splitlines()) == 1
        assert "set %config InferMagics.log_path to another file" in str(caught.value)
    log.close()
    assert (path.read_bytes(), path.stat().st_mode) == (before, mode)
    assert sorted(item.name for item in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize("version", [0, 1, 2, 99])
@pytest.mark.parametrize("tables", [["t"], ["runs", "sessions"]])
def test_another_programs_database_is_left_alone(
    path: Path, version: int, tables: list[str]
) -> None:
    """A database that is no run log is refused, whatever its tables and its version are called."""
    execute(path, *(f"CREATE TABLE {name} (a, b, c, d)" for name in tables),
            f"PRAGMA user_version = {version}")  # fmt: skip
    untouched(path, "a database of another program")


def test_a_newer_log_is_left_alone(path: Path) -> None:
    """A log of a later version is refused unchanged: it is to be read by that version."""
    log = RunLog(path)
    log.begin(Run(REQUEST))
    log.close()
    execute(path, f"PRAGMA user_version = {VERSION + 1}")
    untouched(path, "newer llmwit-magic .* upgrade")


@pytest.mark.parametrize("content", [b"hello", b"some notes\n" * 1000])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """A path that was meant for something else is refused, not renamed."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    untouched(path, "is no run log")


def test_an_empty_file_becomes_a_log(path: Path) -> None:
    """A file without content is nobody's, as `mktemp` makes one."""
    path.touch()
    log = RunLog(path)
    assert log.begin(Run(REQUEST)) == 1
    log.close()


# Damage -----------------------------------------------------------------------------


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
        log.begin(Run(request))
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


class Meanwhile(FakeEngine):
    """Something happens between the start of a run and its end."""

    def __init__(self, happens: Callable[[], Any]) -> None:
        super().__init__()
        self.happens = happens

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        self.happens()
        self.happens = lambda: None
        super().run(request, emit, cancel)


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
        numbers = list(pool.map(lambda log: log.begin(Run(REQUEST)), logs))
    assert len([item for item in caught if item.category is LogWarning]) == 1
    assert sorted(numbers) == [1, 2, 3, 4]
    for log in logs:
        log.close()


def test_a_damaged_cell_hides_no_other(log: RunLog, path: Path) -> None:
    """Bytes that are no text and JSON that is none cost their cell, with a warning."""
    for _ in range(2):
        log.begin(Run(REQUEST))
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
    log.begin(Run(REQUEST))
    execute(path, "UPDATE runs SET temperature = -1")
    with pytest.raises(LogError, match=r"run 1 of the log is damaged: temperature: -1\.0"):
        log[1]
    assert log.to_frame()["temperature"].tolist() == [-1.0]


# A full disk, a lock, a file that is gone ---------------------------------------------


def limit(log: RunLog, pages: int) -> None:
    """SQLite's own word for a full disk: no more pages than these, or than there are."""
    log._database.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_stops_no_run(path: Path) -> None:
    """The result is there, the status line says that it is not logged; later it is."""
    session = FakeSession(FakeEngine(["x" * 100_000]), path)
    session.log.begin(Run(REQUEST))
    limit(session.log, 1)
    run = session.finish(REQUEST)
    assert (run.status, len(run.result.text)) == ("ok", 100_000)
    said = status_parts(run.result, run.log_problem)[-1]
    assert said == f"not logged: the run log {path} cannot be used: database or disk is full"
    assert session.log.rows()[-1]["status"] == "running"
    limit(session.log, 1_000_000)
    session.finish(REQUEST)
    assert [row["status"] for row in session.log.rows()] == ["running", "ok", "ok"]
    assert len(session.log.rows()[1]["text"]) == 100_000
    session.close()


def test_what_waits_is_written_at_the_end(path: Path) -> None:
    """Closing the log writes the rows that could not be written, where there is room again."""
    session = FakeSession(FakeEngine(["x" * 100_000]), path)
    session.log.begin(Run(REQUEST))
    limit(session.log, 1)
    run = session.finish(REQUEST)
    assert run.log_problem is not None
    limit(session.log, 1_000_000)
    session.close()
    log = RunLog(path)
    assert len(log.rows()[1]["text"]) == 100_000
    log.close()


def test_rows_that_wait_are_all_written(path: Path) -> None:
    """Several runs end on a full disk; none is forgotten, and a try in between loses none."""
    session = FakeSession(FakeEngine(["x" * 100_000]), path)
    runs = [Run(REQUEST) for _ in range(3)]
    for run in runs:
        run.run_id = session.log.begin(run)
    row = {"text": "y" * 100_000, "status": "ok"}
    limit(session.log, 1)
    for run in runs:
        with pytest.raises(LogError, match="full"):
            session.log.complete_row(run.run_id or 0, row)
    limit(session.log, 1_000_000)
    session.log.begin(Run(REQUEST))
    assert [item["status"] for item in session.log.rows()] == ["ok"] * 3 + ["running"]
    session.close()


def test_a_locked_log_stops_no_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another program holds the file too long, the run says that it is not logged; later it is."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    session = FakeSession(FakeEngine(), path)
    session.finish(REQUEST)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    run = session.finish(REQUEST)
    assert (run.status, run.run_id) == ("ok", None)
    assert "database is locked" in (run.log_problem or "")
    other.execute("ROLLBACK")
    other.close()
    assert session.finish(REQUEST).run_id == 3
    assert [(row["run_id"], row["status"], row["text"]) for row in session.log.rows()] == [
        (number, "ok", "Hello world") for number in (1, 2, 3)
    ]
    session.close()


def delete(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


@pytest.mark.parametrize("all_files", [True, False])
def test_a_deleted_log_is_begun_again(path: Path, all_files: bool) -> None:
    """Under a running kernel too; the run under way is whole in the new file, numbers go on."""
    session = FakeSession(Meanwhile(lambda: delete(path) if all_files else path.unlink()), path)
    run = session.finish(REQUEST)
    assert (run.run_id, run.log_problem) == (1, None)
    assert session.finish(REQUEST).run_id == 2
    assert [(row["run_id"], row["text"]) for row in session.log.rows()] == [
        (1, "Hello world"), (2, "Hello world"),
    ]  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    session.close()


def test_numbers_go_on_in_a_new_file(path: Path) -> None:
    """A run that begins in the new file does not take the number of one that goes on."""
    log, first, second = RunLog(path), Run(REQUEST), Run(REQUEST)
    first.run_id = log.begin(first)
    delete(path)
    second.run_id = log.begin(second)
    assert (first.run_id, second.run_id) == (1, 2)
    log.complete(first, "ok")
    assert [(row["run_id"], row["status"]) for row in log.rows()] == [(1, "ok"), (2, "running")]
    log.close()


def test_no_run_takes_anothers_place(path: Path) -> None:
    """A file made anew meanwhile gives numbers again: a run that goes on gets another one."""
    session, other = FakeSession(FakeEngine(), path), RunLog(path)

    def happens() -> None:
        delete(path)
        assert other.begin(Run(Request(model="fake", prompt="other"))) == 1

    session.engine = Meanwhile(happens)
    run = session.finish(REQUEST)
    assert run.run_id == 2
    assert [(row["run_id"], row["prompt"]) for row in other.rows()] == [(1, "other"), (2, "p")]
    session.close()
    other.close()


# Who may read, who may write ------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_all_files_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write-ahead log holds prompts too; a folder that is made is its owner's alone."""
    monkeypatch.setattr(database, "is_local", lambda place: True)
    log = RunLog(tmp_path / "deep" / "er" / "runs.sqlite3")
    log.begin(Run(REQUEST))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in
             (tmp_path / "deep" / "er").iterdir()}  # fmt: skip
    assert modes == dict.fromkeys(("runs.sqlite3", "runs.sqlite3-wal", "runs.sqlite3-shm"), 0o600)
    assert stat.S_IMODE((tmp_path / "deep" / "er").stat().st_mode) == 0o700
    log.close()


def test_many_write_at_once(path: Path) -> None:
    """Kernels and their threads that begin a log together lose no row and share no number."""
    logs = [RunLog(path) for _ in range(3)]

    def work(log: RunLog) -> list[int]:
        numbers = []
        for _ in range(10):
            run = Run(REQUEST)
            run.run_id = log.begin(run)
            log.complete(run, "ok")
            numbers.append(run.run_id)
        return numbers

    with ThreadPoolExecutor(6) as pool:
        numbers = [number for found in pool.map(work, logs * 2) for number in found]
    assert sorted(numbers) == list(range(1, 61))
    assert {row["status"] for row in logs[0].rows()} == {"ok"}
    for log in logs:
        log.close()


def test_a_log_in_memory_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`:memory:` is a log as others are, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    log = RunLog(":memory:")
    log.begin(Run(REQUEST))
    assert (len(log), log.size, list(tmp_path.iterdir())) == (1, 0, [])
    assert log.prune("0s") == (0, 0)
    log.close()
