"""Runs of a log with a wrongly typed value in a column, and every way to look at them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas
import pytest

from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams, TokenInfo
from llmwit_magic.errors import InferenceError, LogWarning
from llmwit_magic.runlog.columns import COLUMNS
from llmwit_magic.runlog.export import read_export
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.replay import replay_request
from llmwit_magic.views.html import html_of
from llmwit_magic.views.table import LogTable
from llmwit_magic.views.text import plain
from tests.support.fake import FakeEngine, FakeSession, end, prepared, run_of

WRONG = {
    "a word": "up", "an empty text": "", "a day": "yesterday", "no whole number": 1.5,
    "infinity": 9e999, "minus one": -1, "seven": 7, "a blob": b"\x00\xff",
    "a text in JSON": '"x"', "a number in JSON": "[1]", "half of JSON": '{"a', "null in JSON": "null",
    "deep JSON": "[" * 100_000, "half a character": '["\\ud800"]', "a huge number": '[{"id": 1e999}]',
    "a mapping": '{"a": 1}', "nothing": None,
}  # fmt: skip
NAMES = [column.name for column in COLUMNS if column.name != "run_id"]
GROUPS = {
    "all": list(WRONG.values()),
    # These have no place in SQLite's JSON, without which reading takes another way.
    "what JSON can hold": [value for value in WRONG.values() if value not in (b"\x00\xff", 9e999)],
}
SOUND = [1, 2 + len(WRONG)]
"""The first run and the last one."""
ALL = list(range(1, 3 + len(WRONG)))


@pytest.fixture
def session() -> Iterator[FakeSession]:
    """Runs with all that a run may have: one for each wrong value, between two others."""
    session = FakeSession(FakeEngine())
    for number in ALL:
        asked = Request(
            model="fake", prompt="p", system="S", tags={"k": "v"}, top_logprobs=0, group_id="g",
            content_filters=("a+",), context_length=99, gpu_layers=2,
            data_spans=((0, 1),), accept=("context",),
            params=InferencingParams(stop=("\n",), seed=number),
        )  # fmt: skip
        token = TokenInfo(id=7, bytes=b"x", logprob=-0.5, rank=0)
        run = run_of([prepared(asked), Chunk("text", 1, (token,)), end(1)], asked)
        run.run_id = session.log.begin(run.row("running"))
        session.log.complete(run.run_id, run.row("ok"))
        session.log.annotate(run.run_id, rating=1, note="n")
    yield session
    session.close()


def export_and_read(ending: str) -> Callable[[RunLog, Path], Any]:
    def look(log: RunLog, folder: Path) -> pandas.DataFrame:
        path = folder / f"runs.{ending}"
        assert log.export(path) == len(ALL)
        return read_export(path)

    return look


TABLES: dict[str, Callable[[RunLog, Path], Any]] = {
    "to_frame": lambda log, folder: log.to_frame(),
    "jsonl": export_and_read("jsonl"),
    "parquet": export_and_read("parquet"),
}
LOOKS: dict[str, Callable[[RunLog, Path], Any]] = {
    "rows": lambda log, folder: log.rows(),
    "csv": lambda log, folder: log.export(folder / "runs.csv"),
    "otel": lambda log, folder: log.export(folder / "otel.jsonl", schema="otel"),
    "html": lambda log, folder: LogTable(log.to_frame())._repr_html_(),
    "text": lambda log, folder: repr(LogTable(log.to_frame())),
    "grep": lambda log, folder: log.to_frame(grep="T"),
    "tag": lambda log, folder: log.to_frame(tag="k=v"),
    "since": lambda log, folder: log.to_frame(since="2020-01-01", before="0s"),
    "others": lambda log, folder: log.to_frame(model="fake", status="ok", rating=1, group="g"),
    "lost": lambda log, folder: log.to_frame(status="lost"),
    "size": lambda log, folder: repr(log),
}


def damage(log: RunLog, name: str, group: str) -> None:
    for run_id, wrong in enumerate(GROUPS[group], 2):
        log._writer.update(run_id, {name: wrong})


@contextmanager
def no_warnings_but_ours() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", LogWarning)
        yield


def look_everywhere(session: FakeSession, tmp_path: Path, name: str, group: str) -> None:
    """All tables have all rows, those of the other runs as they were; no look fails."""
    log = session.log
    before = log.to_frame()
    damage(log, name, group)
    with no_warnings_but_ours():
        tables = {how: look(log, tmp_path) for how, look in TABLES.items()}
        for frame in tables.values():
            assert frame.index.tolist() == ALL
            kept = frame.loc[SOUND].reindex(columns=before.columns)
            pandas.testing.assert_frame_equal(kept, before.loc[SOUND])
            pandas.testing.assert_frame_equal(frame, tables["to_frame"])
        others = [column for column in before if column != name and not column.startswith("tag.")]
        pandas.testing.assert_frame_equal(frame[others], before[others])
        for look in LOOKS.values():
            look(log, tmp_path)
        for run_id in ALL:
            with one_line_or_none():
                look_at_the_run(session, run_id)


def look_at_the_run(session: FakeSession, run_id: int) -> None:
    """A run itself, shown, annotated and asked for again."""
    run = session.log[run_id]
    html_of(run)
    plain(run)
    run.tag(more="m")
    replay_request(session, run, {})


@contextmanager
def one_line_or_none() -> Iterator[None]:
    try:
        yield
    except InferenceError as error:
        lines = str(error).splitlines()
        assert len(lines) == 1, lines


def plot(session: FakeSession, name: str) -> None:
    """Every figure is drawn, or one line says why there is nothing to draw."""
    damage(session.log, name, "all")
    with no_warnings_but_ours():
        with one_line_or_none():
            session.log.plot()
        with one_line_or_none():
            session.log.plot(by=name)._repr_png_()
