"""Hostile text in answers, names and messages: inert in every view and every export."""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.cbook import is_math_text
from traitlets.config import Config

from llmwit_magic.errors import EngineFailed, InferenceError, one_line
from llmwit_magic.magics import extension, infer
from llmwit_magic.magics.cell_args import SLIDERS
from llmwit_magic.magics.interpolation import literal
from llmwit_magic.magics.snippets import forms
from llmwit_magic.protocol import Chunk, Emit, Prepared, Progress, Request
from llmwit_magic.replays import Replay
from llmwit_magic.runlog.export import read_export
from llmwit_magic.runlog.run import Results, Run
from llmwit_magic.views import display as display_view
from llmwit_magic.views import live, text, tuning
from llmwit_magic.views.comparison import comparison_html, replay_html
from llmwit_magic.views.html import Extras, escape, html_of, progress_html
from llmwit_magic.views.table import LogTable
from llmwit_magic.views.tuning import TuningPanel
from llmwit_magic.wit import (
    FinishDetail,
    InferencingParams,
    InferencingResult,
    TokenAlternative,
    TokenInfo,
)
from tests.support.fake import MODEL, FakeEngine, FakeSession, end, prepared
from tests.support.hostile import (
    HOSTILE,
    Elements,
    Page,
    assert_harmless_on_a_page,
    assert_harmless_on_a_terminal,
)
from tests.support.report import Report

pytestmark = pytest.mark.timeout(120)
HARMLESS = ("a_harmless answer\nof two lines\x01", "x" * 20_001)
"""What shows with all that our pages have: raw text for the clipboard, a region that scrolls."""


@pytest.fixture(autouse=True)
def quick_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "PAUSE_SECONDS", 0.005)


FEW = ("all together", "long", "an attribute", "NUL")
"""What the short form tries with widgets, of which each panel makes many."""
every_text = pytest.mark.parametrize("name", HOSTILE)


class HostileEngine(FakeEngine):
    """Whatever it has to name or to say is the hostile text."""

    def __init__(self, said: str) -> None:
        super().__init__([said])
        self.said = said
        self.name = said

    def run(self, request: Request, emit: Emit, cancel: threading.Event) -> None:
        for stage in ("fetch", "adapt", "wait", "load"):
            emit(Progress(stage, 1, 2, self.said))  # type: ignore[arg-type]
        emit(self.prepare(request, emit, cancel))
        data = self.said.encode()
        other = TokenAlternative(id=2, bytes=data[:200], logprob=-1.0)
        token = TokenInfo(id=1, bytes=data, logprob=-0.5, rank=0, top=(other,))
        emit(Chunk(self.said, 1, (token,)))
        if isinstance(self.last, Exception):
            raise self.last
        emit(end(1, FinishDetail.STOP_SEQUENCE, self.said))

    def prepare(self, request: Request, emit: Emit, cancel: threading.Event) -> Prepared:
        emit(Progress("load", 1, 2, self.said))
        plain = prepared(request)
        model = MODEL.model_copy(update={"name": self.said, "path": "/" + self.said})
        device = plain.device.model_copy(
            update={"name": self.said, "reason": self.said, "library": self.said}
        )
        return Prepared(
            plain.prompt, 5, 0, 128, plain.params, model, device,
        )  # fmt: skip


class HostileSession(FakeSession):
    """A session whose model, prompts, stop sequences, tags and notes are the hostile text."""

    def __init__(self, said: str, log_path: Path | str = ":memory:") -> None:
        super().__init__(HostileEngine(said), log_path)
        self.said = said
        self.model = MODEL.model_copy(update={"name": said})

    def request(self, **more: Any) -> Request:
        said = self.said
        return Request(
            model=said, prompt=said, system=said, tags={said: said}, top_logprobs=1,
            params=InferencingParams(stop=(said,), seed=1), **more,
        )  # fmt: skip

    def ended(self, **more: Any) -> Run:
        run = self.finish(self.request(**more))
        if run.run_id is not None:
            self.log.annotate(run.run_id, note=self.said)
        return run


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., HostileSession]]:
    """Makes sessions, which end with the test."""
    made: list[HostileSession] = []

    def session(said: str, log_path: Path | str = ":memory:") -> HostileSession:
        made.append(HostileSession(said, log_path))
        return made[-1]

    yield session
    for each in made:
        each.close()


def other(run: Run) -> list[InferencingResult]:
    """Two results that differ in all that may show: model, stop and text."""
    first = run.result
    params = first.params.model_copy(update={"stop": ("x",), "temperature": 0.0})
    changed = {"text": "other " + first.text, "model": MODEL, "params": params}
    return [first, first.model_copy(update=changed)]


def replay_of(session: HostileSession, run: Run) -> Replay:
    """A replay that came out otherwise, of a model file that has another name now."""
    changed = run.result.model_copy(update={"text": "x", "stop_sequence": None})
    return Replay(session.log[run.run_id or 0], changed, ("stop",), f"the model {session.said}")


# Terminals ------------------------------------------------------------------------

TERMINAL: Mapping[str, Callable[[HostileSession, Run], tuple[str, int | None]]] = {
    "an answer": lambda s, run: (text.plain(run.result, s.said), None),
    "a status line": lambda s, run: (" · ".join(text.status_parts(run.result, s.said)), 1),
    "a sweep": lambda s, run: (text.plain_table(other(run)), 3),
    "settings": lambda s, run: (text.settings_text(run, ["model", "stop"]), 1),
    "progress": lambda s, run: (text.progress_text(Progress("fetch", 1, 2, s.said)), 1),
    "an error": lambda s, run: (str(EngineFailed(f"failed: {s.said}")), 1),
    "a traceback": lambda s, run: (EngineFailed(s.said)._render_traceback_()[0], 1),
    "the log": lambda s, run: (repr(LogTable(s.log.to_frame())), None),
    "the log's columns": lambda s, run: (
        repr(LogTable(s.log.to_frame().filter(regex="^(text|prompt|tag|stop|tokens|model)"))), None),
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
def test_terminals(name: str, make: Callable[..., HostileSession], report: Report) -> None:
    """No view of text has a control character, a line of its own, or another direction."""
    session = make(HOSTILE[name])
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
    name: str, make: Callable[..., HostileSession], monkeypatch: pytest.MonkeyPatch, report: Report
) -> None:
    """Progress, streamed text and status line; a progress line begins where it stood, no more."""
    session = make(HOSTILE[name])
    for total in (1, 2):
        out, progress = Terminal(), Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", progress)
        view = text.TerminalView(total, ("model", "stop"))
        run = session.run(session.request())
        run.follow(0, view.draw)
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
    """Whatever stands on a line of ours and is wrong, its error is one printable line."""
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
    """Dry runs, lists of models, what was unloaded, results at a cell's end, and errors."""
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
    session.engines.loaded_models = lambda: [(said, 1)]
    session.engines.unload = lambda name=None: [said] if name is None else []
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
    del session.engines.loaded_models, session.engines.unload


@every_text
def test_a_batch(
    name: str, make: Callable[..., HostileSession], report: Report, capsys: Any
) -> None:
    """The bar of a batch, its failed rows too."""
    from llmwit_magic.batch import run_batch

    session = make(HOSTILE[name])
    # In the options too, where what looks like a place is one.
    as_it_is = make(session.said.replace("{{", literal("{{")))
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


# Pages ----------------------------------------------------------------------------


def panel_of(session: HostileSession) -> TuningPanel:
    panel = TuningPanel(session, session.request(), lambda request: forms(request, {}), SLIDERS)
    assert panel.wait(20)
    return panel


def tuned(session: HostileSession, run: Run) -> str:
    """All that the tuning panel shows as HTML, with an earlier output kept and looked at."""
    panel = panel_of(session)
    panel.controls["temperature"].value = 0.1
    assert panel.wait(20)
    panel.pin()
    panel.step(-1)
    shown = [panel.line.value, panel.place.value, panel.kept.value, panel.finished.value]
    panel.problem.value = ""
    session.engine.last = EngineFailed(f"the library said {session.said}")
    panel.controls["temperature"].value = 0.2
    assert panel.wait(20)
    shown.append(panel.finished.value)
    panel.close()
    session.engine.last = None
    return "".join(shown)


def extras(session: HostileSession, run: Run) -> Extras:
    return Extras(session.log.path, session.said, forms(run.request, {}))


def frame_html(frame: pandas.DataFrame) -> str:
    return LogTable(frame)._repr_html_() or ""


PAGES: Mapping[str, Callable[[HostileSession, Run], str]] = {
    "an answer with its tokens": lambda s, run: html_of(run.result, extras(s, run)),
    "an answer": lambda s, run: html_of(
        run.result.model_copy(update={"tokens": None}), extras(s, run)),
    "a comparison": lambda s, run: comparison_html(other(run)),
    "a replay": lambda s, run: replay_html(replay_of(s, run).verdict, False, other(run)),
    "progress": lambda s, run: progress_html(Progress("fetch", 1, 2, s.said)),
    "the log": lambda s, run: frame_html(s.log.to_frame()),
    "all of the log": lambda s, run: frame_html(
        s.log.to_frame().filter(regex="^(prompt|text|system|note|tag|stop|tokens|model)")),
    "the log with other names": lambda s, run: frame_html(
        s.log.to_frame()[["text"]].rename(columns={"text": s.said}).rename_axis(s.said)),
    "groups of the log": lambda s, run: frame_html(s.log.to_frame().groupby(["text", "model"]).first()),
    "the tuning panel": tuned,
}  # fmt: skip


@pytest.fixture(scope="module")
def harmless_pages() -> Mapping[str, Elements]:
    """The elements of each view of a text without a sign that means anything."""
    pages: dict[str, Elements] = {view: set() for view in PAGES}
    for said in HARMLESS:
        session = HostileSession(said)
        run = session.ended()
        for view, show in PAGES.items():
            pages[view] |= Page(show(session, run)).elements
        session.close()
    return pages


@every_text
def test_pages(
    name: str, make: Callable[..., HostileSession], harmless_pages: Mapping[str, Elements],
    report: Report, long: bool,
) -> None:  # fmt: skip
    """No element and no attribute comes of it; it is shown, and as text."""
    session = make(HOSTILE[name])
    run = session.ended()
    for view, show in PAGES.items():
        if name == "long" and view in ("a comparison", "a replay"):
            continue  # differences of many thousand words take their time
        if view == "the tuning panel" and not (long or name in FEW):
            continue
        try:
            page = assert_harmless_on_a_page(show(session, run), harmless_pages[view])
        except AssertionError as error:
            raise AssertionError(f"{view}: {error}") from None
        if view == "an answer":
            assert text.visible(session.said) in page.shown
        report.tried("text out: pages", "inert")


# Widgets --------------------------------------------------------------------------


class Handle:
    """Where a view displays; keeps every state."""

    def __init__(self) -> None:
        self.states: list[dict[str, str]] = []

    def __call__(self, data: dict[str, str], **how: object) -> Handle:
        self.states.append(dict(data))
        return self

    update = __call__


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)


@every_text
def test_notebook_views(
    name: str, make: Callable[..., HostileSession], monkeypatch: pytest.MonkeyPatch, report: Report,
    long: bool, harmless_pages: Mapping[str, Elements],
) -> None:  # fmt: skip
    """The live widget's messages, and all states of the output: of a run, a sweep, a panel."""
    session = make(HOSTILE[name])
    handle, messages = Handle(), list[Any]()
    for module in (live, display_view, tuning):
        monkeypatch.setattr(module, "display", handle)
    monkeypatch.setattr(live.LiveWidget, "send", lambda self, content: messages.append(content))
    allowed = {("em", ""), ("p", ""), ("pre", "")}.union(*harmless_pages.values())
    for total in (1, 2):
        widget_view = live.NotebookView(
            total, ("model", "stop"), session.log, lambda request: forms(request, {})
        )
        html_view = display_view.DisplayView(total, session.log, lambda request: forms(request, {}))
        for view in (widget_view, html_view):
            run = session.run(session.request())
            run.follow(0, view.draw)
            if name != "long":
                view.finish(Results([run, run]) if total > 1 else Results([run]))
    if long or name in FEW:
        panel_of(session)._ipython_display_()
    assert messages
    for said in strings(messages):
        assert_harmless_on_a_terminal(said)
    for state in handle.states:
        assert_harmless_on_a_terminal(state["text/plain"])
        assert_harmless_on_a_page(state["text/html"], allowed)
        report.tried("text out: notebooks", "inert")


# Plots and files --------------------------------------------------------------------


def test_plots(make: Callable[..., HostileSession], report: Report) -> None:
    """Hostile names of models and settings are labels as they are, and draw without a warning."""
    from llmwit_magic.runlog.plots import plot

    session = make("")
    for said in HOSTILE.values():
        session.said, session.engine = said, HostileEngine(said)  # type: ignore[assignment]
        session.log.rate(session.ended().run_id or 0, 1)
    frame = session.log.to_frame()
    frame["finish_detail"] = "_$x$ \x1b[31m<b>"  # of a log of somebody else
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
    make: Callable[..., HostileSession], tmp_path: Path, schema: str, report: Report
) -> None:
    """One row a run, whatever it holds; what comes back is what went in; no formulas in CSV."""
    session = make("")
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


def test_the_log_s_own_views(make: Callable[..., HostileSession], tmp_path: Path) -> None:
    """A run that comes out of the log again is as it was, to the letter."""
    for number, said in enumerate(HOSTILE.values()):
        session = make(said, tmp_path / f"{number}.sqlite3")
        run = session.ended()
        logged = session.log[run.run_id or 0]
        assert (logged.text, logged.prompt, logged.stop_sequence) == (said, said, said)
        assert logged.request.model_copy(update={"chat": False}) == run.request
        assert escape(said) in html_of(logged.model_copy(update={"tokens": None}))
