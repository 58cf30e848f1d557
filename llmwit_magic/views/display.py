"""The view of a run in a notebook without widgets: one output, updated in place."""

from __future__ import annotations

from typing import Any

from IPython.display import display

from ..runlog.log import RunLog
from ..runlog.run import Results, Run
from .html import Extras, comparison_html, html_of, progress_html
from .text import plain, plain_table, progress_text


class DisplayView:
    """HTML with plain text beside it."""

    def __init__(self, total: int, log: RunLog) -> None:
        self._total = total
        self._log = log
        self._done: set[int] = set()
        self._handle: Any = None
        self._last: dict[str, str] | None = None

    def draw(self, run: Run) -> None:
        result = run.result
        if run.progress and not run.done:
            text, markup = progress_text(run.progress), progress_html(run.progress)
        else:
            text = plain(result, run.log_problem)
            markup = html_of(result, Extras(self._log.path, run.log_problem))
        if self._total > 1:
            self._done |= {id(run)} if run.done else set()
            count = f"{len(self._done)} of {self._total} runs"
            text = f"{count}\n{text}"
            markup = f'<div class="llmwit-status">{count}</div>{markup}'
        self._show({"text/html": markup, "text/plain": text})

    def finish(self, results: Results) -> None:
        if self._total > 1 and results:
            self._show({"text/html": comparison_html(results), "text/plain": plain_table(results)})

    def _show(self, bundle: dict[str, str]) -> None:
        if bundle == self._last:
            return
        self._last = bundle
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)
