"""The live view of a run in a notebook: a widget to which text is appended.

When the run has ended, its output becomes plain HTML (`html.py`). A saved
notebook shows it without widgets, and the page's module gives it buttons.
A notebook may also be saved before the run has ended. A widget in it would then
be lost, and JupyterLab would show an error each time the notebook is opened. So
in JupyterLab the output is a line of HTML from the beginning, and the page's
module draws the live view in its place.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython import get_ipython
from IPython.display import display

from ..base.printable import on_one_line, visible
from ..contract.events import Progress
from ..errors import LogError
from ..runlog.log import RunLog
from ..running.results import Results
from ..running.run import Run
from .display import FinalView
from .frontend import draws_in_html, page_answered
from .html import log_key, unfinished_html
from .sweep_text import settings_text
from .text import brief_parts, kept_text, unfinished_text
from .view import Forms

STATUS_SECONDS = 1.0
"""Time between two token counts in the status line while text is streamed."""
# The widgets get texts, not files: anywidget watches a file, and keeps its widget for ever.
_FOLDER = Path(__file__).parent / "page"
_SCRIPTS = ("answer.js", "tokens.js", "comparison.js", "live.js", "page.js")
PAGE_JS = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS)
PAGE_CSS = (_FOLDER / "page.css").read_text(encoding="utf-8")


class PageWidget(anywidget.AnyWidget):  # type: ignore[misc]
    """Connects the finished views on a page with their log. One for each log; it is never shown."""

    _esm = traitlets.Unicode(PAGE_JS).tag(sync=True)
    _css = traitlets.Unicode(PAGE_CSS).tag(sync=True)
    role = traitlets.Unicode("page").tag(sync=True)
    log = traitlets.Unicode().tag(sync=True)

    def __init__(self, log: RunLog) -> None:
        super().__init__(log=log_key(log.path))
        self._runs = log
        self.on_msg(self._receive)

    def _receive(self, widget: Any, content: Mapping[str, Any], buffers: Any) -> None:
        if content.get("hello"):
            page_answered(get_ipython())
            return
        run_id, value = content.get("rate"), content.get("value")
        if not isinstance(run_id, int) or value not in (1, -1, None):
            return
        try:
            self._runs.rate(run_id, value)
        except LogError as error:
            self.send({"rated": run_id, "refused": str(error)})
            return
        self.send({"rated": run_id, "value": value})


_pages: dict[str, PageWidget] = {}


def page_for(log: RunLog) -> PageWidget:
    """The page widget of a log. A log that is chosen later gets a widget of its own."""
    if log.path not in _pages:
        _pages[log.path] = PageWidget(log)
    return _pages[log.path]


class LiveWidget(anywidget.AnyWidget):  # type: ignore[misc]
    """A live view: text that messages append to, a status line, a progress bar, and Stop."""

    _esm = traitlets.Unicode(PAGE_JS).tag(sync=True)
    role = traitlets.Unicode("live").tag(sync=True)
    key = traitlets.Unicode().tag(sync=True)
    stoppable = traitlets.Bool(True).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(key=uuid.uuid4().hex, **traits)


def ending(run: Run) -> dict[str, str]:
    """How a run has ended, as a message for screen readers. An error interrupts what they read."""
    if run.error:
        return {"alert": f"failed: {on_one_line(str(run.error))}"}
    return {"a": ", ".join(brief_parts(run.result, run.log_problem))}


def mimebundle(widget: Any) -> dict[str, Any]:
    """The data that display a widget. A caller can add other forms of the output.

    ipywidgets 7 and 8 make the same data in different ways.
    """
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


class Stream:
    """Sends a live widget what is new of a run. Nothing is sent twice."""

    def __init__(self, widget: LiveWidget) -> None:
        self._widget = widget
        self._run: Run | None = None
        self._sent = {"r": 0, "t": 0}
        """How many characters of the reasoning and of the answer were sent."""
        self._stage = ""
        self._status_time = 0.0

    def draw(self, run: Run, heading: str | None = None) -> None:
        """Send one message with all that has changed since the last one."""
        message: dict[str, Any] = {}
        if run is not self._run:
            self._run, self._sent = run, dict.fromkeys(self._sent, 0)
            self._stage, self._status_time = "", 0.0
            message |= {"clear": True} if heading is None else {"h": heading}
        answer = run.text  # read before the reasoning, which comes first
        for name, text in (("r", run.reasoning), ("t", answer)):
            if len(text) > self._sent[name]:
                message[name] = visible(text[self._sent[name] :])
                self._sent[name] = len(text)
        message |= self._status(run)
        if message:
            self._widget.send(message)

    def _status(self, run: Run) -> dict[str, Any]:
        progress, message = run.progress, dict[str, Any]()
        if progress is None and run.generated_token_count == 0:
            return message  # between two stages, or ended without text
        writing = "thinking" if run.thinks else "writing"
        stage = progress.stage if progress else writing
        if stage != self._stage:
            self._stage = stage
            message["a"] = str(Progress(progress.stage)) if progress else writing
            self._status_time = 0.0
            if progress is None:
                message["p"] = None
        if run.done or time.monotonic() - self._status_time < (0 if progress else STATUS_SECONDS):
            return message
        self._status_time = time.monotonic()
        if progress is None:
            count = run.generated_token_count
            message["s"] = f"{writing} … {count} tokens" if count and count > 1 else f"{writing} …"
        else:
            message["s"] = str(progress)
            if progress.total:
                message["p"] = [progress.done, progress.total]
        return message


class NotebookView(FinalView):
    """One output of a cell: the live view while it runs, plain HTML afterwards."""

    def __init__(
        self, total: int, varying: tuple[str, ...], log: RunLog, forms: Forms,
        rendering: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__(total, log, forms, rendering)
        self._varying = varying
        page_for(log)
        self._widget = LiveWidget()
        self._stream = Stream(self._widget)
        self._done: set[int] = set()
        self._began = time.monotonic()
        self._handle: Any = None
        if total > 1:
            self._widget.send({"w": [f"0 of {total} runs", 0, total]})

    def draw(self, run: Run) -> None:
        heading = None
        if self._total > 1:
            heading = settings_text(run, self._varying)
        self._run = run
        if self._handle is None:
            self._handle = display(self._unfinished(run), raw=True, display_id=True)
        self._stream.draw(run, heading)
        if run.done and self._total > 1 and id(run) not in self._done:
            self._done.add(id(run))
            self._widget.send({"w": [self._time_left(), len(self._done), self._total]})

    def _unfinished(self, run: Run) -> dict[str, Any]:
        """The output while the run goes on. A notebook that is saved meanwhile keeps it."""
        said = unfinished_text(run, self._total)
        if draws_in_html(get_ipython()):
            return {"text/html": unfinished_html(said, self._widget.key), "text/plain": said}
        return mimebundle(self._widget) | {"text/html": unfinished_html(said), "text/plain": said}

    def _time_left(self) -> str:
        each = (time.monotonic() - self._began) / len(self._done)
        left = each * (self._total - len(self._done))
        return f"{len(self._done)} of {self._total} runs, about {left:.0f} s left"

    def finish(self, results: Results) -> None:
        bundle = self._final(results)
        if self._run and self._handle is not None:
            said = ending(self._run)
            if self._total > 1 and not self._run.error:
                said = {"a": f"ended: {len(results)} of {self._total} runs"}
            kept = kept_text(self._run, self._total)
            self._widget.send({"done": True, "kept": kept} | said)
            self._handle.update(bundle, raw=True)
        elif bundle:
            display(bundle, raw=True)
        self._widget.layout.close()
        self._widget.close()
