"""Hostile text in answers, names and messages is inert in plots and exports, and kept whole."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from matplotlib.cbook import is_math_text

from llmwit_magic.runlog.export import read_export
from llmwit_magic.views.html import escape, html_of
from tests.support.hostile import HOSTILE, assert_harmless_on_a_terminal
from tests.support.hostile_session import HostileEngine, HostileSession
from tests.support.report import Report

pytestmark = pytest.mark.timeout(120)


def test_plots(hostile_session: Callable[..., HostileSession], report: Report) -> None:
    """Hostile names of models and settings are plain labels, and are drawn without a warning."""
    from llmwit_magic.runlog.plots import plot

    session = hostile_session("")
    for said in HOSTILE.values():
        session.said, session.engine = said, HostileEngine(said)  # type: ignore[assignment]
        session.log.rate(session.ended().run_id or 0, 1)
    frame = session.log.to_frame()
    frame["finish_detail"] = "_$x$ \x1b[31m<b>"  # as somebody else's log may have it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for by in ("model", "text"):
            figure = plot(frame, by=by)
            assert figure._repr_png_().startswith(b"\x89PNG")
            for axes in figure.axes:
                labels = [*axes.get_xticklabels(), *axes.get_yticklabels()]
                labels += axes.get_legend().get_texts() if axes.get_legend() else []
                for label in labels:
                    written = label.get_text()
                    assert not is_math_text(written) or written.startswith("$\\mathdefault")
                    assert_harmless_on_a_terminal(written, 1 if written else 0)
            report.tried("text out: plots", "inert")


FORMULA_SIGNS = "=+-@\t\r\n＝＋－＠"


@pytest.mark.parametrize("schema", ["log", "otel"])
def test_files(
    hostile_session: Callable[..., HostileSession], tmp_path: Path, schema: str, report: Report
) -> None:
    """A file has one row for each run, texts are read back unchanged, and CSV has no formulas."""
    session = hostile_session("")
    for said in HOSTILE.values():
        session.said, session.engine = said, HostileEngine(said)  # type: ignore[assignment]
        session.ended()
    rows = session.log.rows()
    assert [row["text"] for row in rows] == list(HOSTILE.values())
    session.log.export(tmp_path / "runs.jsonl", schema=schema)
    lines = (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(HOSTILE)
    for line, said in zip(lines, HOSTILE.values(), strict=True):
        found = json.loads(line)
        if schema == "otel":
            assert found["gen_ai.output.messages"][0]["parts"][0]["content"] == said
        else:
            assert found["text"] == found["prompt"] == found["model"] == said
        report.tried("text out: files", "inert")
    if schema == "otel":
        return
    for name in ("runs.jsonl", "runs.parquet"):
        session.log.export(tmp_path / name)
        pandas.testing.assert_frame_equal(read_export(tmp_path / name), session.log.to_frame())
        report.tried("text out: files", "inert", len(HOSTILE))
    session.log.export(tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open(encoding="utf-8", newline="") as file:
        csv.field_size_limit(10**9)
        table = list(csv.DictReader(file))
    assert len(table) == len(HOSTILE)
    for row, said in zip(table, HOSTILE.values(), strict=True):
        for value in row.values():
            number = value.lstrip("-").replace(".", "").replace("e-", "").isdigit()
            assert number or not value.strip().startswith(tuple(FORMULA_SIGNS)), value[:50]
            assert number or not value.startswith(tuple(FORMULA_SIGNS)), value[:50]
        assert row["text"].removeprefix("'") == said or row["text"] == said
        report.tried("text out: files", "inert")


def test_the_log_s_own_views(
    hostile_session: Callable[..., HostileSession], tmp_path: Path
) -> None:
    """A run that is read from the log has exactly its old text, prompt and request."""
    for number, said in enumerate(HOSTILE.values()):
        session = hostile_session(said, tmp_path / f"{number}.sqlite3")
        run = session.ended()
        logged = session.log[run.run_id or 0]
        assert (logged.text, logged.prompt, logged.stop_sequence) == (said, said, said)
        assert logged.request.model_copy(update={"chat": False}) == run.request
        assert escape(said) in html_of(logged.model_copy(update={"tokens": None}))
