"""Old schemas of the log are upgraded; files that are no logs of ours are left alone."""

from __future__ import annotations

import json
import math
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pandas
import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import LogError
from llmwit_magic.runlog.columns import COLUMNS
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.runlog.schema import APPLICATION_ID, VERSION
from llmwit_magic.running.replay import replay_request
from llmwit_magic.running.run import Run
from llmwit_magic.views.html import html_of
from llmwit_magic.views.text import plain
from tests.support.fake import FakeEngine, FakeSession
from tests.support.log_files import execute

REQUEST = Request(model="fake", prompt="p", params=InferencingParams(seed=1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite3"


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
    assert first.begin(Run(REQUEST).row()) == 3
    assert [row["version"] is None for row in first.rows()] == [True, True, False]


# Files of others --------------------------------------------------------------------


def untouched(path: Path, message: str) -> None:
    """The log refuses the file in one line that says what to do, and changes no byte of it."""
    before, mode = path.read_bytes(), path.stat().st_mode
    log = RunLog(path)
    for use in (lambda: log.begin(Run(REQUEST).row()), log.rows, lambda: len(log)):
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
    log.begin(Run(REQUEST).row())
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
    assert log.begin(Run(REQUEST).row()) == 1
    log.close()
