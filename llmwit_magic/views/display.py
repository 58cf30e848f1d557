"""Views without widgets: a display that is updated while a run goes on, and one at its end."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from IPython.display import display

from ..contract.wit import InferencingResult
from ..runlog.log import RunLog
from ..running.results import Results
from ..running.run import Run
from .comparison import comparison_html
from .html import Extras, html_of, progress_html, unfinished_html
from .sweep_text import plain_table
from .text import plain, unfinished_text
from .view import Forms, is_markdown

REDRAW_SECONDS = 1.0
"""Time between two updates of an output. Each update takes away what a person has selected."""
STOP = "the notebook's own Stop ends it"


def answer_html(result: InferencingResult, extras: Extras, rendering: str) -> str:
    """An answer as HTML, as text or as Markdown."""
    if is_markdown(rendering, result):
        from .markdown import is_plain, markdown_html

        markup, problem = markdown_html(result.text)
        if not is_plain(markup, result.text):
            extras = replace(extras, markdown=markup, unrendered=problem)
    return html_of(result, extras)


class FinalView:
    """Shows nothing while the run goes on, and the answer when it has ended."""

    def __init__(self, total: int, log: RunLog, forms: Forms, rendering: str = "auto") -> None:
        self._total, self._log, self._forms = total, log, forms
        self._rendering = rendering
        self._run: Run | None = None

    def draw(self, run: Run) -> None:
        """Remember the run. It is not drawn, as an update might not arrive."""
        self._run = run

    def finish(self, results: Results) -> None:
        if bundle := self._final(results):
            display(bundle, raw=True)

    def _final(self, results: Results) -> dict[str, str]:
        """What a notebook keeps of the runs, as HTML and as plain text; empty without a run."""
        if self._total > 1 and results:
            return {"text/html": comparison_html(results), "text/plain": plain_table(results)}
        return self._answer(self._run) if self._run else {}

    def _answer(self, run: Run) -> dict[str, str]:
        result, problem = run.result, run.log_problem
        extras = Extras(self._log.path, problem, self._forms(run.request))
        markup = answer_html(result, extras, self._rendering)
        return {"text/html": markup, "text/plain": plain(result, problem)}


class DisplayView(FinalView):
    """One output that is updated in place while the run goes on."""

    def __init__(self, total: int, log: RunLog, forms: Forms, rendering: str = "auto") -> None:
        super().__init__(total, log, forms, rendering)
        self._done: set[int] = set()
        self._handle: Any = None
        self._last: dict[str, str] | None = None
        self._next_time = 0.0

    def draw(self, run: Run) -> None:
        self._run = run
        if not run.done and time.monotonic() < self._next_time:
            return
        self._next_time = time.monotonic() + REDRAW_SECONDS
        if run.progress and not run.done:
            text, markup = str(run.progress), progress_html(run.progress)
            bundle = {"text/html": markup, "text/plain": text}
        else:
            bundle = self._answer(run)
        if self._total > 1:
            self._done |= {id(run)} if run.done else set()
            count = f"{len(self._done)} of {self._total} runs"
            bundle = {
                "text/html": f"<p>{count}</p>{bundle['text/html']}",
                "text/plain": f"{count}\n{bundle['text/plain']}",
            }
        if not run.done:
            said = f"{unfinished_text(run, self._total)} · {STOP}"
            bundle = {
                "text/html": bundle["text/html"] + unfinished_html(said),
                "text/plain": f"{bundle['text/plain']}\n── {said}",
            }
        self._show(bundle)

    def finish(self, results: Results) -> None:
        if bundle := self._final(results):
            self._show(bundle)

    def _show(self, bundle: dict[str, str]) -> None:
        if bundle == self._last:
            return
        self._last = bundle
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)
