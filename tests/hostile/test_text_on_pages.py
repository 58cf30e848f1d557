"""Hostile text in answers, names and messages is inert in HTML and in widgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas
import pytest

from llmwit_magic.contract.events import Progress
from llmwit_magic.errors import EngineFailed
from llmwit_magic.requests.options import SLIDERS
from llmwit_magic.requests.snippets import forms
from llmwit_magic.running.results import Results
from llmwit_magic.running.run import Run
from llmwit_magic.views import display as display_view
from llmwit_magic.views import live, newest, text, tuning
from llmwit_magic.views.comparison import comparison_html, replay_html
from llmwit_magic.views.html import Extras, html_of, progress_html
from llmwit_magic.views.table import LogTable
from llmwit_magic.views.tuning import TuningPanel
from tests.support.hostile import (
    HOSTILE,
    Elements,
    Page,
    assert_harmless_on_a_page,
    assert_harmless_on_a_terminal,
)
from tests.support.hostile_session import HostileSession, differing, every_text, replay_of
from tests.support.report import Report

pytestmark = pytest.mark.timeout(120)
HARMLESS = ("a_harmless answer\nof two lines\x01", "x" * 20_001)
"""Harmless texts that use all parts of our pages: raw text to copy, and a box that scrolls."""

FEW = ("all together", "long", "an attribute", "NUL")
"""The texts that the short form tries in a tuning panel, as each panel makes many widgets."""


@pytest.fixture(autouse=True)
def quick_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "PAUSE_SECONDS", 0.005)


def panel_of(session: HostileSession) -> TuningPanel:
    panel = TuningPanel(session, session.request(), lambda request: forms(request, {}), SLIDERS)
    assert panel.wait(20)
    return panel


def tuned(session: HostileSession, run: Run) -> str:
    """All HTML of a tuning panel: with a kept output, an earlier output, and a failed run."""
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
    "a comparison": lambda s, run: comparison_html(differing(run)),
    "a replay": lambda s, run: replay_html(replay_of(s, run).verdict, False, differing(run)),
    "progress": lambda s, run: progress_html(Progress("fetch", 1, 2, s.said)),
    "the log": lambda s, run: frame_html(s.log.to_frame()),
    "all of the log": lambda s, run: frame_html(
        s.log.to_frame().filter(regex="^(prompt|text|reasoning|system|note|tag|stop|tokens|model)")),
    "the log with other names": lambda s, run: frame_html(
        s.log.to_frame()[["text"]].rename(columns={"text": s.said}).rename_axis(s.said)),
    "groups of the log": lambda s, run: frame_html(s.log.to_frame().groupby(["text", "model"]).first()),
    "the tuning panel": tuned,
}  # fmt: skip


@pytest.fixture(scope="module")
def harmless_pages() -> Mapping[str, Elements]:
    """The elements of each view of texts that contain no markup."""
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
    name: str, hostile_session: Callable[..., HostileSession], harmless_pages: Mapping[str, Elements],
    report: Report, long: bool,
) -> None:  # fmt: skip
    """Hostile text adds no element and no attribute to a page. It is shown as text."""
    session = hostile_session(HOSTILE[name])
    run = session.ended()
    for view, show in PAGES.items():
        if name == "long" and view in ("a comparison", "a replay"):
            continue  # comparing many thousand words takes long
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
    """Stands for `display` and its handle, and keeps each state of the output."""

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
    name: str, hostile_session: Callable[..., HostileSession], monkeypatch: pytest.MonkeyPatch, report: Report,
    long: bool, harmless_pages: Mapping[str, Elements],
) -> None:  # fmt: skip
    """The live widget's messages and all states of an output are harmless: run, sweep and panel."""
    session = hostile_session(HOSTILE[name])
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
            run.follow(view.draw)
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
