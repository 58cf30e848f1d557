"""The run log: SQLite, one row a run.

The row is written when the run starts and completed when it ends, so that a
killed kernel loses no prompt. A row that still says `running` while its kernel
is gone reads `lost`.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs

from ..errors import LogError
from .run import Run

VERSION = 1
BUSY_SECONDS = 5.0
"""How long a write waits for another kernel's."""

Kind = Literal["integer", "real", "text", "boolean", "time", "json"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the log and of its DataFrame."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""


COLUMNS = (
    Column("run_id", "integer", "number of the run"),
    Column("started_at", "time", "when the run started", "UTC"),
    Column("status", "text", "running, ok, interrupted, error, or lost (its kernel is gone)"),
    Column("model", "text", "name of the model, as asked for"),
    Column("prompt", "text", "the prompt as given, variables filled in"),
    Column("text", "text", "the generated text, without the stop sequence"),
    Column("finish_reason", "text", "stop, length or content_filter"),
    Column("finish_detail", "text", "eos, stop_sequence, max_tokens, context_full, content_filter"),
    Column("stop_sequence", "text", "the stop sequence that was reached"),
    Column("prompt_token_count", "integer", "tokens of the prompt", "tokens"),
    Column(
        "generated_token_count", "integer", "tokens generated, end of text not counted", "tokens"
    ),
    Column("cached_token_count", "integer", "prompt tokens known from an earlier run", "tokens"),
    Column("max_tokens", "integer", "limit of generated tokens; missing: none", "tokens"),
    Column("temperature", "real", "0 is greedy"),
    Column("top_k", "integer", "0: off", "tokens"),
    Column("top_p", "real", "1: off"),
    Column("repeat_penalty", "real", "1: off"),
    Column("repeat_penalty_last_n_token_count", "integer", "0: off", "tokens"),
    Column("stop", "json", "list of stop sequences"),
    Column("seed", "integer", "the seed as used, drawn or given"),
    Column("chat", "boolean", "whether the chat template was used"),
    Column("system", "text", "the system message"),
    Column("first_token_seconds", "real", "from the start to the first token", "s"),
    Column(
        "tokens_per_second",
        "real",
        "generated tokens after the first one, over decode_seconds",
        "tokens/s",
    ),
    Column("total_seconds", "real", "from the start to the end", "s"),
    Column("load_seconds", "real", "fetch, check, adapt and load the model", "s"),
    Column("prompt_seconds", "real", "evaluate the prompt", "s"),
    Column("decode_seconds", "real", "from the evaluated prompt to the last token", "s"),
    Column("model_sha256", "text", "hash of the model file"),
    Column("model_path", "text", "the model file"),
    Column("model_type", "text", "format of an old GGML file"),
    Column("architecture", "text", "architecture of the model"),
    Column("quantisation", "text", "tensor type of most of the weights"),
    Column("device", "text", "where the model ran"),
    Column("gpu_layers_requested", "text", "a number, or auto"),
    Column("gpu_layers", "integer", "layers that ran on the GPU", "layers"),
    Column("device_memory_bytes", "integer", "device memory that the model took", "bytes"),
    Column("threads", "integer", "processor threads", "threads"),
    Column("context_length", "integer", "room for prompt and answer", "tokens"),
    Column("rendered_prompt", "text", "the prompt as the model got it, where a template was used"),
    Column("top_logprobs", "integer", "alternatives recorded for each token", "tokens"),
    Column(
        "tokens",
        "json",
        "id, bytes (base64), log-probability, rank, alternatives of each token that is wholly in "
        "the text: not of a stop sequence, nor of what a filter cut",
    ),
    Column("content_filters", "json", "list of patterns; functions by name"),
    Column("error_type", "text", "class of the error"),
    Column("error_message", "text", "its message"),
    Column("tags", "json", "what --tag gave"),
    Column("rating", "integer", "thumbs: 1 up, -1 down"),
    Column("note", "text", "what a person wrote about the run"),
    Column("group_id", "text", "the same for all runs of a sweep"),
    Column("replay_of", "integer", "run_id of the run that this one repeats"),
    Column("session_id", "text", "the kernel's session"),
)

_SQL = {"integer": "INTEGER", "real": "REAL", "boolean": "INTEGER"}


def default_path() -> Path:
    """The log of this user, one file for all kernels."""
    return Path(platformdirs.user_data_path("llmwit-magic", appauthor=False)) / "runs.sqlite3"


class RunLog:
    """The rows of all runs in one SQLite file; safe for several threads and kernels."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = (
            ":memory:"
            if str(path) == ":memory:"
            else str(Path(path).expanduser() if path else default_path())
        )
        self.session_id = uuid.uuid4().hex
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    # Writing ---------------------------------------------------------------------

    def begin(self, run: Run) -> int:
        """Write the row of a run that starts; its run_id."""
        row = _request_row(run) | {"session_id": self.session_id, "status": "running"}
        names = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        with self._transaction() as connection:
            cursor = connection.execute(
                f"INSERT INTO runs ({names}) VALUES ({marks})", list(row.values())
            )
            return int(cursor.lastrowid or 0)

    def complete(self, run: Run, status: str) -> None:
        """Fill in the row of a run that has ended."""
        self._update(run.run_id, _result_row(run) | {"status": status})

    def rate(self, run_id: int, rating: int | None) -> None:
        """Keep a person's opinion: 1 good, -1 bad, None none."""
        self._update(run_id, {"rating": rating})

    def _update(self, run_id: int | None, values: Mapping[str, Any]) -> None:
        settings = ", ".join(f"{name} = ?" for name in values)
        with self._transaction() as connection:
            connection.execute(
                f"UPDATE runs SET {settings} WHERE run_id = ?", [*values.values(), run_id]
            )

    # Reading ---------------------------------------------------------------------

    def rows(self, everyone: bool = True) -> list[dict[str, Any]]:
        """The rows as mappings, oldest first; JSON columns parsed, lost runs named."""
        where = "" if everyone else "WHERE session_id = ?"
        arguments = [] if everyone else [self.session_id]
        with self._lock:
            connection = self._open()
            connection.row_factory = sqlite3.Row
            try:
                found = connection.execute(
                    f"SELECT * FROM runs {where} ORDER BY run_id", arguments
                ).fetchall()
                sessions = connection.execute("SELECT * FROM sessions").fetchall()
            except sqlite3.Error as error:
                raise self._problem(error) from None
        gone = self._gone_sessions(sessions, found)
        return [_read_row(row, gone) for row in found]

    def to_frame(self, everyone: bool = True) -> Any:
        """The rows as a pandas DataFrame, indexed by run_id: all kernels', or only this one's."""
        from .frame import to_frame

        return to_frame(self.rows(everyone))

    def __len__(self) -> int:
        with self._lock:
            return int(self._open().execute("SELECT count(*) FROM runs").fetchone()[0])

    def __repr__(self) -> str:
        return f"<RunLog {self.path}: {len(self)} runs>"

    def _gone_sessions(
        self, sessions: Sequence[sqlite3.Row], rows: Sequence[sqlite3.Row]
    ) -> set[str]:
        running = {row["session_id"] for row in rows if row["status"] == "running"}
        running.discard(self.session_id)
        return {
            session["session_id"]
            for session in sessions
            if session["session_id"] in running and not _alive(session)
        }

    # The file --------------------------------------------------------------------

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = self._open()
                with connection:
                    yield connection
            except (sqlite3.Error, OSError) as error:
                raise self._problem(error) from None

    def _problem(self, error: Exception) -> LogError:
        return LogError(f"the run log {self.path} cannot be used: {error}")

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        try:
            if self.path != ":memory:":
                self._create_file()
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise self._problem(error) from None
        self._connection = connection
        return connection

    def _create_file(self) -> None:
        """Prompts are private: the file is for its owner alone."""
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        # With WAL, NORMAL loses nothing when a process dies, only when the machine does.
        connection.execute("PRAGMA synchronous = NORMAL")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise LogError(
                    f"the run log {self.path} was written by a newer llmwit-magic (schema "
                    f"{version}, this one knows {VERSION}): upgrade, or set "
                    "%config InferMagics.log_path to another file"
                )
            if version == 0:
                columns = ", ".join(
                    f"{column.name} {_SQL.get(column.kind, 'TEXT')}" for column in COLUMNS[1:]
                )
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS runs "
                    f"(run_id INTEGER PRIMARY KEY AUTOINCREMENT, {columns})"
                )
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS sessions "
                    "(session_id TEXT PRIMARY KEY, host TEXT, pid INTEGER, process_started REAL)"
                )
                connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)",
                [self.session_id, socket.gethostname(), os.getpid(), _process_started(os.getpid())],
            )


def _process_started(pid: int) -> float | None:
    """When the living process of that id began (ids are used again), None where there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return None if zombie else float(process.create_time())
    except psutil.Error:
        return None


def _alive(session: sqlite3.Row) -> bool:
    if session["host"] != socket.gethostname():
        return True  # nobody can tell from here
    started = _process_started(session["pid"])
    if session["process_started"] is None:
        return started is not None
    return started is not None and abs(started - session["process_started"]) < 2


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _request_row(run: Run) -> dict[str, Any]:
    request = run.request
    params = request.params
    filters = [
        item if isinstance(item, str) else f"<function {getattr(item, '__name__', item)}>"
        for item in request.content_filters
    ]
    return {
        "started_at": run.started_at.isoformat(timespec="microseconds"),
        "model": request.model,
        "model_type": request.model_type,
        "prompt": request.prompt,
        "chat": request.chat or request.system is not None,
        "system": request.system,
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "repeat_penalty": params.repeat_penalty,
        "repeat_penalty_last_n_token_count": params.repeat_penalty_last_n_token_count,
        "stop": _dump(params.stop),
        "seed": params.seed,
        "context_length": request.context_length,
        "gpu_layers_requested": str(request.gpu_layers),
        "top_logprobs": request.top_logprobs,
        "content_filters": _dump(filters),
        "tags": _dump(dict(request.tags)),
        "group_id": request.group_id,
        "replay_of": request.replay_of,
    }


def _result_row(run: Run) -> dict[str, Any]:
    result = run.result
    model, device, timings, usage = result.model, result.device, result.timings, result.usage
    prepared = run.prepared is not None
    tokens = None
    if result.tokens is not None:
        tokens = _dump([token.model_dump(mode="json") for token in result.tokens])
    return {
        "text": result.text,
        "finish_reason": result.finish_reason,
        "finish_detail": result.finish_detail,
        "stop_sequence": result.stop_sequence,
        "prompt_token_count": usage.prompt_token_count if prepared else None,
        "generated_token_count": usage.generated_token_count if prepared else None,
        "cached_token_count": usage.cached_token_count if prepared else None,
        "first_token_seconds": timings.first_token,
        "tokens_per_second": timings.tokens_per_second,
        "total_seconds": timings.total,
        "load_seconds": timings.load,
        "prompt_seconds": timings.prompt,
        "decode_seconds": timings.decode,
        "model_sha256": model.sha256 if model else None,
        "model_path": model.path if model else None,
        "architecture": model.architecture if model else None,
        "quantisation": model.quantisation if model else None,
        "device": device.name if prepared else None,
        "gpu_layers": device.gpu_layers if prepared else None,
        "device_memory_bytes": device.memory_bytes,
        "threads": device.threads if prepared else None,
        "context_length": result.context_length or run.request.context_length,
        "rendered_prompt": result.prompt if result.prompt != run.request.prompt else None,
        "tokens": tokens,
        "error_type": type(run.error).__name__ if run.error else None,
        "error_message": str(run.error) if run.error else None,
    }


def row_of(run: Run) -> dict[str, Any]:
    """The row of a run as the log would read it, whether or not it is in there."""
    row: dict[str, Any] = dict.fromkeys(column.name for column in COLUMNS)
    row |= _request_row(run) | _result_row(run) | {"run_id": run.run_id, "status": run.status}
    return row | {name: json.loads(row[name]) for name in _JSON if row[name] is not None}


_JSON = {column.name for column in COLUMNS if column.kind == "json"}


def _read_row(row: sqlite3.Row, gone: set[str]) -> dict[str, Any]:
    values = dict(row)
    for name in _JSON:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    if values["status"] == "running" and values["session_id"] in gone:
        values["status"] = "lost"
    return values
