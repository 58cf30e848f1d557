"""Hostile text in answers, names and messages is inert in all that is printed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from llmwit_magic.contract.events import Progress
from llmwit_magic.errors import EngineFailed, InferenceError, one_line
from llmwit_magic.magics import extension, infer
from llmwit_magic.requests.interpolation import literal
from llmwit_magic.running.results import Results
from llmwit_magic.running.run import Run
from llmwit_magic.views import sweep_text, terminal, text
from llmwit_magic.views.table import LogTable
from tests.support.fake import MODEL
from tests.support.hostile import HOSTILE, assert_harmless_on_a_terminal
from tests.support.hostile_session import (
    HostileEngine,
    HostileSession,
    differing,
    every_text,
    replay_of,
)
from tests.support.report import Report

pytestmark = pytest.mark.timeout(120)

TERMINAL: Mapping[str, Callable[[HostileSession, Run], tuple[str, int | None]]] = {
    "an answer": lambda s, run: (text.plain(run.result, s.said), None),
    "a status line": lambda s, run: (" · ".join(text.status_parts(run.result, s.said)), 1),
    "a sweep": lambda s, run: (sweep_text.plain_table(differing(run)), 3),
    "settings": lambda s, run: (sweep_text.settings_text(run, ["model", "stop"]), 1),
    "progress": lambda s, run: (str(Progress("fetch", 1, 2, s.said)), 1),
    "an error": lambda s, run: (str(EngineFailed(f"failed: {s.said}")), 1),
    "a traceback": lambda s, run: (EngineFailed(s.said)._render_traceback_()[0], 1),
    "the log": lambda s, run: (repr(LogTable(s.log.to_frame())), None),
    "the log's columns": lambda s, run: (
        repr(LogTable(s.log.to_frame().filter(regex="^(text|reasoning|prompt|tag|stop|tokens|model)"))), None),
    "columns of other names": lambda s, run: (
        repr(LogTable(s.log.to_frame()[["text"]].rename(columns={"text": s.said}))), None),
    "groups": lambda s, run: (repr(LogTable(s.log.to_frame().groupby("text").first())), None),
    "groups of two": lambda s, run: (
        repr(LogTable(s.log.to_frame().groupby(["text", "model"]).first())), None),
    "a turned log": lambda s, run: (repr(LogTable(s.log.to_frame().T)), None),
    "an object": lambda s, run: (repr(run.result), None),
    "a filter's warning": lambda s, run: (one_line(s.said), 1),
}  # fmt: skip


@every_text
def test_terminals(
    name: str, hostile_session: Callable[..., HostileSession], report: Report
) -> None:
    """Hostile text adds no control character, no line and no change of direction to a text view."""
    session = hostile_session(HOSTILE[name])
    run = session.ended()
    for view, show in TERMINAL.items():
        shown, lines = show(session, run)
        try:
            assert_harmless_on_a_terminal(shown, lines)
        except AssertionError as error:
            raise AssertionError(f"{view}: {error}") from None
        report.tried("text out: terminals", "inert")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@every_text
def test_the_view_of_a_terminal(
    name: str,
    hostile_session: Callable[..., HostileSession],
    monkeypatch: pytest.MonkeyPatch,
    report: Report,
) -> None:
    """Progress, streamed text and status line are harmless. Only progress uses a carriage return."""
    session = hostile_session(HOSTILE[name])
    for total in (1, 2):
        out, progress = Terminal(), Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", progress)
        view = terminal.TerminalView(total, ("model", "stop"))
        run = session.run(session.request())
        run.follow(view.draw)
        view.draw_progress(Progress("fetch", 1, 2, session.said))
        view.finish(Results([run]))
        assert_harmless_on_a_terminal(out.getvalue())
        assert_harmless_on_a_terminal(progress.getvalue().replace("\r", ""), 1)
        report.tried("text out: terminals", "inert")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[InteractiveShell]:
    monkeypatch.chdir(tmp_path)
    session = HostileSession("", tmp_path / "runs.sqlite3")
    monkeypatch.setattr(infer, "current_session", lambda: session)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    extension.load(shell)
    yield shell
    session.close()


LINES: Mapping[str, tuple[str, str]] = {
    "an unknown option": ("cell", "--{}"),
    "an unexpected word": ("cell", "{}"),
    "a value": ("cell", "--temperature={}"),
    "a variable": ("cell", "-o={}"),
    "a tag": ("cell", "--tag={}"),
    "models": ("infer_models", "{}"),
    "unloading": ("infer_unload", "{}"),
    "a replay": ("infer_replay", "{}"),
    "a replay's option": ("infer_replay", "1 --with {}"),
    "the log": ("infer_log", "{}"),
    "the log's option": ("infer_log", "--{}"),
    "its age": ("infer_log", "--since={}"),
    "its columns": ("infer_log", "--columns={}"),
    "its status": ("infer_log", "--status={}"),
    "its plot": ("infer_log", "--plot={}"),
    "its file": ("infer_log", "--export={}"),
    "its count": ("infer_log", "--last={}"),
    "its rating": ("infer_log", "--rating={}"),
    "its variable": ("infer_log", "-o={}"),
    "its age to prune": ("infer_log", "--prune={}"),
}


@every_text
def test_wrong_lines(name: str, shell: Any, report: Report, capsys: Any) -> None:
    """The error of a wrong magic line is one printable line."""
    said = HOSTILE[name][:5_000]  # longer ones take IPython's own expansion of variables minutes
    word = f"'{said}'" if "'" not in said else f'"{said}"'.replace('""', '"')
    for what, (magic, form) in LINES.items():
        line = form.format(word)
        try:
            if magic == "cell":
                shell.run_cell_magic("infer", line, "a prompt")
            else:
                shell.run_line_magic(magic, line)
        except (UsageError, InferenceError) as error:
            message = str(error)
            assert message.isprintable(), what
        assert_harmless_on_a_terminal(capsys.readouterr().out)
        report.tried("text out: errors of lines", "inert")


@every_text
def test_what_the_magics_print(
    name: str, shell: Any, report: Report, capsys: Any, tmp_path: Path
) -> None:
    """All that the magics print is harmless.

    This covers dry runs, lists of models, unloaded models, results at a cell's end, and errors.
    """
    said = HOSTILE[name]
    magics = shell.find_cell_magic("infer").__self__
    session = magics.session
    session.said = said
    session.engine = HostileEngine(said)
    session.model = MODEL.model_copy(update={"name": said})
    if "\0" not in said and len(said) < 200:
        session.aliases = {said: "/" + said}
        models = tmp_path / ".spin" / "ai-models"
        models.mkdir(parents=True)
        (models / (said.replace("/", "∕")[:60] + ".gguf")).touch()
        magics.aliases = {said: "/" + said}
    shell.user_ns["said"] = said
    shell.run_line_magic("infer_models", "")
    assert len(capsys.readouterr().out.splitlines()) == (1 if not session.aliases else 3)
    session.local.pool.loaded_models = lambda: [(said, 1)]
    session.local.pool.unload = lambda name=None: [said] if name is None else []
    shell.run_line_magic("infer_models", "")
    with pytest.raises(UsageError) as caught:
        shell.run_line_magic("infer_unload", "x")
    assert str(caught.value).isprintable()
    shell.run_line_magic("infer_unload", "")
    shell.run_cell_magic("infer", "--dry-run --stop=x", "{{said}}")
    shell.run_cell_magic("infer", "", "{{said}}")
    assert_harmless_on_a_terminal(capsys.readouterr().out)
    for value in (
        shell.user_ns["_infer"], Results([session.finish(session.request())]), session.log[1],
        replay_of(session, session.finish(session.request())),
    ):  # fmt: skip
        data, _ = shell.display_formatter.format(value)
        assert_harmless_on_a_terminal(data["text/plain"])
    session.engine.last = EngineFailed(f"the library said {said}")
    with pytest.raises(EngineFailed) as failed:
        shell.run_cell_magic("infer", "", "{{said}}")
    assert str(failed.value).isprintable()
    assert_harmless_on_a_terminal(capsys.readouterr().out)
    report.tried("text out: magics", "inert")
    del session.local.pool.loaded_models, session.local.pool.unload


@every_text
def test_a_batch(
    name: str, hostile_session: Callable[..., HostileSession], report: Report, capsys: Any
) -> None:
    """The progress bar of a batch is harmless, also with failed rows."""
    from llmwit_magic.running.batch import run_batch

    session = hostile_session(HOSTILE[name])
    # `{{` in an option would be a placeholder, so it is escaped.
    as_it_is = hostile_session(session.said.replace("{{", literal("{{")))
    frame = pandas.DataFrame({"said": [session.said, "b"]})
    for last in (None, EngineFailed(f"the library said {session.said}")):
        session.engine.last = last
        request = as_it_is.request(group_id="g").model_copy(update={"model": session.said})
        done = run_batch(session, frame, "{{said}}", request, resume=False)
        assert done["infer_text"].tolist() == [session.said] * 2
        messages = done["infer_error_message"].dropna()
        assert all(message.isprintable() for message in messages)
    printed = capsys.readouterr()
    assert_harmless_on_a_terminal((printed.out + printed.err).replace("\r", ""))
    report.tried("text out: batches", "inert")
