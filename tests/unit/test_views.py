"""The views of a run: the status line, tables, and model output that stays text."""

from __future__ import annotations

import html
import io
import re
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwit_magic.base.printable import visible
from llmwit_magic.contract.events import Chunk, Progress
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, InferencingParams, InferencingResult
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.results import Results
from llmwit_magic.running.run import Run
from llmwit_magic.views import sweep_text, terminal, text
from llmwit_magic.views.comparison import comparison_html
from llmwit_magic.views.html import html_of
from llmwit_magic.views.opening import Guarded
from tests.support.fake import FakeEngine, FakeSession, end, prepared, run_of

REQUEST = Request(model="fake", prompt="p", params=InferencingParams(seed=9))
HOSTILE = "<img src=x onerror=alert(1)><script>evil()</script>&amp;\x1b[31mred\x1b[0m\u202etxt\x07"


def result_of(answer: str, detail: FinishDetail = FinishDetail.EOS) -> InferencingResult:
    return run_of([prepared(REQUEST), Chunk(answer, 3), end(3, detail)], REQUEST).result


def test_the_status_line_says_all() -> None:
    """The status line has reason and detail, tokens, times, model, device and layers, and seed."""
    run = run_of([prepared(REQUEST), Chunk("a", 1), end(1, FinishDetail.STOP_SEQUENCE, "\n\n")],
                 REQUEST)  # fmt: skip
    line = text.plain(run.result).splitlines()[-1]
    for part in ("stop", 'stop sequence "\\n\\n"', "5 + 1 tokens", "first token", "tokens",
                 "fake", "cpu, 0 GPU layers (auto)", "seed 9"):  # fmt: skip
        assert part in line


@pytest.mark.parametrize("form", [html_of, lambda result: comparison_html([result])])
def test_model_output_is_never_markup(form) -> None:  # type: ignore[no-untyped-def]
    """Tags and entities of an answer are escaped in every HTML form.

    Control characters are shown as pictures.
    """
    markup = form(result_of(HOSTILE))
    assert "<img" not in markup
    assert "<script" not in markup
    assert "&lt;script&gt;" in markup
    assert "&amp;amp;" in markup
    assert "\x1b" not in markup
    assert "\u202e" not in markup


@pytest.mark.parametrize("form", [html_of, lambda result: comparison_html([result])])
def test_model_output_is_no_formula(form) -> None:  # type: ignore[no-untyped-def]
    """Classes tell MathJax to leave an answer alone, so that its dollars begin no formula."""
    markup = form(result_of("it costs $5, not $6"))
    assert re.match(r'<div class="[^"]*\bmathjax_ignore tex2jax_ignore"', markup)
    assert "it costs $5, not $6" in markup


def test_a_terminal_is_not_commanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets visible signs for an answer's escape sequences and direction overrides."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    view = terminal.TerminalView(1, ())
    FakeSession(FakeEngine([HOSTILE])).run(REQUEST).follow(view.draw, 0.01)
    assert "␛[31mred␛[0m⟨U+202E⟩txt␇" in out.getvalue()
    assert "\x1b" not in out.getvalue()


@given(st.text())
def test_visible_text_commands_nothing(answer: str) -> None:
    """Visible text has no control character but newline and tab. Printable text is unchanged."""
    shown = visible(answer)
    assert not any((ord(c) < 32 and c not in "\n\t") or ord(c) == 127 for c in shown)
    assert not set(shown) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069")
    if answer.isprintable():
        assert shown == answer


def test_a_terminal_gets_each_character_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal gets the streamed answer once, and then the status line."""
    view = terminal.TerminalView(1, ())
    FakeSession(FakeEngine(["ab"] * 50, pause=0.001)).run(REQUEST).follow(view.draw, 0.005)
    out = capsys.readouterr().out
    assert out.startswith("ab" * 50 + "\n── stop · end of text")
    assert out.count("ab") == 50


def test_a_failed_run_shows_its_partial_text() -> None:
    """The text generated before a failure is shown, with the badge "failed"."""
    run = run_of([prepared(REQUEST), Chunk("partial", 1), RuntimeError("x")], REQUEST)
    assert text.plain(run.result).startswith("partial\n── failed")
    assert "partial" in html_of(run.result)


def test_a_sweep_shows_what_varies() -> None:
    """A sweep's table has a column for each setting that differs, and for no other setting."""
    runs = []
    for temperature in (0.0, 0.7):
        request = Request(
            model="fake", prompt="p",
            params=InferencingParams(seed=1, temperature=temperature, repeat_penalty=1),
        )  # fmt: skip
        run = run_of([prepared(request), Chunk("an\nanswer", 2), end(2)], request)
        runs.append(run)
    results = Results(runs)
    header, *rows = sweep_text.plain_table(results).splitlines()
    assert header.split() == ["run", "temperature", "text", "finish", "tokens", "seconds"]
    assert len(rows) == 2
    assert "an⏎answer" in rows[0]
    assert comparison_html(results).count("<tr") == 4


def test_progress_has_its_units() -> None:
    """Progress of fetching is in megabytes and per cent, and of reading a prompt in tokens."""
    assert str(Progress("fetch", 50_000_000, 100_000_000, "m")) == (
        "fetching m: 50 of 100 MB (50%)"
    )
    assert str(Progress("prompt", 1024, 4000)) == ("reading the prompt: 1,024 of 4,000 tokens")
    assert str(Progress("fetch", 50_000_000, None, "m")) == "fetching m: 50 MB"
    assert str(Progress("load", note="m")) == "loading m …"


def test_an_unlogged_run_says_so() -> None:
    """The status line of a run that is not logged says why."""
    assert "not logged: disk full" in text.plain(result_of("x"), "disk full")


def test_a_view_that_fails_ends_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A failing view is reported once and drawn no more. Its `finish` is still called."""
    calls = []

    class Broken:
        def draw(self, run: object) -> None:
            calls.append("draw")
            raise BrokenPipeError("gone")

        def finish(self, results: object) -> None:
            calls.append("finish")
            raise ValueError("gone too")

    view = Guarded(Broken())
    run = FakeSession(FakeEngine(["ab"] * 5, pause=0.02)).run(REQUEST)
    run.follow(view.draw)
    view.finish(Results([run]))
    assert run.status == "ok"
    assert calls == ["draw", "finish"]
    said = capsys.readouterr().err
    assert said == "the run cannot be shown, and goes on: BrokenPipeError: gone\n"


def test_a_sweep_says_what_there_is_to_know() -> None:
    """Under a sweep's table, its prompts' notices stand once, and the runs that are not logged.

    All of it is escaped.
    """
    request = Request(model="fake", prompt="p")
    made = replace(prepared(request), notices=("moved: <b>&",))
    runs = [run_of([made, Chunk("x", 1), end(1)], request) for _ in range(2)]
    for run in runs:
        run.log_problem = "no <img src=x>"
    results = Results(runs)
    assert sweep_text.plain_table(results).splitlines()[-2:] == [
        "── moved: <b>&", "── 2 of 2 runs not logged: no <img src=x>",
    ]  # fmt: skip
    page = comparison_html(results)
    assert page.count("moved: &lt;b&gt;&amp;") == 1
    assert "no &lt;img src=x&gt;" in page
    assert "<img" not in page


def test_html_is_drawn_again_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTML is drawn at first, then once a second, and at the end.

    While the run goes on, the output says how to stop it, and where its answer will be.
    """
    from llmwit_magic.views import display

    states: list[dict[str, str]] = []

    class Handle:
        def update(self, bundle: dict[str, str], raw: bool) -> None:
            states.append(bundle)

    def show(bundle: dict[str, str], **how: object) -> Handle:
        states.append(bundle)
        return Handle()

    now = 100.0
    monkeypatch.setattr(display, "display", show)
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    run = Run(REQUEST)
    run.run_id = 12
    run.emit(prepared(REQUEST))
    view = display.DisplayView(1, RunLog(":memory:"), lambda request: {})
    for number in range(1, 41):
        run.emit(Chunk(f"{number} ", number))
        view.draw(run)
        now += 0.055
    assert len(states) == 3
    for state in states:
        for form in state.values():
            assert "the answer is in runs[12]" in form
            assert "the notebook's own Stop ends it" in html.unescape(form)
    run._ends("ok")
    view.draw(run)
    view.finish(Results([run]))
    assert len(states) == 4
    assert "own Stop" not in states[-1]["text/plain"]
    assert "39 40 " in states[-1]["text/plain"]
