"""Sliders that run a request again: `%%infer --tune` and `tune(prompt, …)`.

A change runs the request again after a short pause, and a newer change cancels
the run in flight. There is a thread only while something runs, so a panel that
nobody looks at costs nothing; the kernel is free all the time.
"""

from __future__ import annotations

import html
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from ..base.printable import visible
from ..errors import InferenceError, Interrupted, InvalidInput
from ..protocol import Request
from ..runlog.run import Run
from ..session import Session
from ..spans import moved
from ..wit import InferencingParams
from . import INTERVAL, Forms
from .controls import LABEL, TOOLTIP, button, half, rows, slider, wide
from .html import NO_MATH, Extras, escape, html_of
from .lifetime import end, hold, reopen, weakly
from .live import LiveWidget, Stream, ending, mimebundle, page_for

PAUSE_SECONDS = 0.15
"""How long a setting must rest before it is run."""

Sliders = Mapping[str, tuple[float, float, float]]
"""Least, most and step of the slider of each number of the contract."""


class TuningPanel:
    """A prompt, its sliders, the live view beneath, and what came before."""

    def __init__(self, session: Session, request: Request, forms: Forms, sliders: Sliders) -> None:
        seed = session.draw_seed() % 10_000 if request.params.seed is None else request.params.seed
        params = request.params.model_copy(update={"seed": seed})
        self._forms, self._sliders = forms, sliders
        self._base = request.model_copy(
            update={"params": params, "group_id": uuid.uuid4().hex[:12]}
        )
        self._runner = _Runner(session, weakly(self._draw))
        self.runs: list[Run] = []
        self._shown = -1
        self._asked: Request | None = None
        self._live = LiveWidget(stoppable=False)
        self._live.on_msg(weakly(self._receive))
        self._stream = Stream(self._live)
        page_for(session.log)
        self._make_widgets(params)
        # Nothing that lives longer holds the panel: with it go its widgets.
        weakref.finalize(self, end, self._runner.cancel, self.box).atexit = False
        self.change()

    @property
    def group_id(self) -> str:
        """The same for all runs of this panel."""
        return str(self._base.group_id)

    @property
    def request(self) -> Request:
        """What the settings say now. Raises `InvalidInput` where they make no request."""
        values = {name: control.value for name, control in self.controls.items()}
        # A slider in a browser gives 0.9000000000000001 where it stands at 0.9.
        values |= {name: round(value, 6) for name, value in values.items() if name in self._sliders}
        stops = tuple(line for line in values.pop("stop").split("⏎") if line)
        if values.pop("no_limit"):
            values["max_tokens"] = None
        params = InferencingParams(**values, stop=tuple(s.replace("\\n", "\n") for s in stops))
        if not self.prompt.value.strip():
            raise InvalidInput("the prompt is empty")
        base, prompt = self._base, self.prompt.value
        spans = moved(base.data_spans, base.prompt, prompt)
        return base.model_copy(update={"prompt": prompt, "data_spans": spans, "params": params})

    # What is seen ----------------------------------------------------------------

    def _make_widgets(self, params: InferencingParams) -> None:
        self.prompt = widgets.Textarea(
            self._base.prompt, rows=rows(self._base.prompt),
            layout=widgets.Layout(width="calc(100% - 8px)", height="auto"),
        ).add_class("llmwit-prompt")  # fmt: skip
        self.controls = {}
        for name, limits in self._sliders.items():
            self.controls[name] = slider(name, limits, params)
            if name == "max_tokens":
                self.controls["no_limit"] = widgets.Checkbox(
                    params.max_tokens is None, description="no limit of tokens", indent=False,
                    layout=widgets.Layout(width="auto"),
                )  # fmt: skip
        self.controls["stop"] = widgets.Text(
            "⏎".join(text.replace("\n", "\\n") for text in params.stop),
            description="stop", placeholder="before this text", style=LABEL, layout=wide(),
            **{TOOLTIP: "end before this text; \\n is a line end, ⏎ stands between several"},
        )  # fmt: skip
        self.line, self.problem, self.place = (widgets.HTML() for _ in range(3))
        self.finished, self.kept = widgets.HTML(), widgets.HTML(layout=half())
        self.kept.layout.display = "none"
        self.back = button("◀ earlier", "the output before", self._earlier)
        self.forward = button("later ▶", "the output after", self._later)
        self.keep = button("keep", "pin this output beside the next", self._pin)
        for control in (self.prompt, *self.controls.values()):
            control.observe(weakly(self.change), "value")
        grid = widgets.GridBox(
            list(self.controls.values()),
            layout=widgets.Layout(
                grid_template_columns="repeat(auto-fit, minmax(min(24em, 100%), 1fr))"
            ),
        )
        outputs = widgets.HBox(
            [widgets.VBox([self._live, self.finished], layout=half()), self.kept],
            layout=widgets.Layout(flex_flow="row wrap", grid_gap="1.5em"),
        )
        history = widgets.HBox(
            [self.back, self.place, self.forward, self.keep],
            layout=widgets.Layout(flex_flow="row wrap"),
        )
        self.box = widgets.VBox([self.prompt, grid, self.line, self.problem, history, outputs])
        self._move()

    def _ipython_display_(self) -> None:
        """The panel; where there are no widgets, the cell that it stands for."""
        hold(self)
        reopen(self.box)
        line = self._forms(self.request)["cell"]
        said = "Sliders, in a notebook with a kernel, over:"
        data = mimebundle(self.box) | {
            "text/html": f'<div class="{NO_MATH}"><p>{said}</p><pre>{escape(line)}</pre></div>',
            "text/plain": f"{said}\n{visible(line)}",
        }
        display(data, raw=True)

    # What happens ----------------------------------------------------------------

    def change(self, change: Any = None) -> None:
        """Run what the settings say now; the newest change wins."""
        try:
            request = self.request
        except InvalidInput as error:
            self.problem.value = _alert(str(error))
            self._asked = None
            self._runner.cancel()
            return
        self.problem.value = ""
        self.prompt.rows = rows(self.prompt.value)
        text = self._forms(request)["cell"]
        line = escape(text.partition("\n")[0])
        self.line.value = (
            f'<div class="llmwit llmwit-line {NO_MATH}" data-cell="{html.escape(text)}">'
            f"<code>{line}</code></div>"
        )
        # A browser sends the values back that it was given: no news.
        if request != self._asked:
            self._asked = request
            self._runner.want(request)

    def _draw(self, run: Run) -> None:
        """Called in the runner's thread, at most once in `INTERVAL`, and at the end."""
        if not self.runs or self.runs[-1] is not run:
            self.runs.append(run)
            self._shown = len(self.runs) - 1
            self.finished.value = ""
            self._move()
            self._live.layout.display = ""
        if self._shown == len(self.runs) - 1:
            self._stream.draw(run)
            if run.done:
                self._show()
                if run.status == "ok":  # one that gave way to a newer setting is no news
                    self._live.send(ending(run))

    def _show(self) -> None:
        """The finished view of the run in the history that is looked at."""
        run = self.runs[self._shown]
        self._move()
        if not run.done:
            self.finished.value, self._live.layout.display = "", ""
            return
        error = _alert(str(run.error)) if run.error else ""
        self.finished.value = error + self._finished(run)
        self._live.layout.display = "none"

    def _move(self) -> None:
        """Say which output of the history is looked at, and of an earlier one with which cell."""
        count = len(self.runs)
        self.back.disabled, self.forward.disabled = self._shown < 1, self._shown >= count - 1
        self.keep.disabled = not self.runs
        place = f"{self._shown + 1} of {count}" if self.runs else ""
        if self._shown < count - 1:
            place += ": " + self._forms(self.runs[self._shown].request)["cell"].partition("\n")[0]
        self.place.value = _text(escape(place))

    def _finished(self, run: Run) -> str:
        path = run.log.path if run.log else ""
        return html_of(run.result, Extras(path, run.log_problem, self._forms(run.request)))

    def step(self, by: int) -> None:
        """Look at an earlier or a later output; its settings stand in its status line."""
        if self.runs:
            self._shown = min(max(self._shown + by, 0), len(self.runs) - 1)
            self._show()

    def _earlier(self, button: Any) -> None:
        self.step(-1)

    def _later(self, button: Any) -> None:
        self.step(1)

    def _pin(self, button: Any) -> None:
        self.pin()

    def pin(self) -> None:
        """Keep the output that is looked at beside the next ones."""
        if self.runs and self.runs[self._shown].done:
            line = self._forms(self.runs[self._shown].request)["cell"].partition("\n")[0]
            head = _text(f"kept: <code>{escape(line)}</code>")
            self.kept.value = head + self._finished(self.runs[self._shown])
            self.kept.layout.display = ""

    def _receive(self, widget: Any, content: Any, buffers: Any) -> None:
        if content.get("closed"):
            self.close()

    def close(self) -> None:
        """End what runs. A later change runs again."""
        self._asked = None
        self._runner.cancel()

    def fold(self) -> None:
        """End what runs, and close the widgets until the panel is displayed again."""
        self._asked = None
        end(self._runner.cancel, self.box)

    def wait(self, timeout: float = 60) -> bool:
        """Block until nothing runs and nothing waits to run; whether that is so."""
        return self._runner.wait(timeout)


def _text(markup: str) -> str:
    """Markup around escaped text; the dollars in that are no formula's."""
    return f'<div class="{NO_MATH}">{markup}</div>'


def _alert(message: str) -> str:
    """An error, which a screen reader says as soon as it stands there."""
    return _text(f'<b role="alert">{escape(message)}</b>')


class _Runner:
    """Runs the newest request; the one in flight is cancelled when a newer one comes."""

    def __init__(self, session: Session, draw: Callable[[Run], None]) -> None:
        self._session = session
        self._draw = draw
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._wanted: Request | None = None
        self._since = 0.0
        self._run: Run | None = None
        self._thread: threading.Thread | None = None

    def want(self, request: Request) -> None:
        with self._lock:
            self._wanted, self._since = request, time.monotonic()
            if self._run is not None:
                self._run.cancel()
            if self._thread is None:
                self._idle.clear()
                self._thread = threading.Thread(target=self._work, name="llmwit-tune", daemon=True)
                self._thread.start()

    def cancel(self) -> None:
        with self._lock:
            self._wanted = None
            if self._run is not None:
                self._run.cancel()

    def wait(self, timeout: float) -> bool:
        return self._idle.wait(timeout)

    def _work(self) -> None:
        while (run := self._next()) is not None:
            # The failures of a run are shown in the panel: there is no cell to raise them in.
            with suppress(InferenceError, Interrupted):
                run.follow(INTERVAL, self._drawn)

    def _drawn(self, run: Run) -> None:
        """Draw; a page that cannot be reached any more ends neither the run nor the thread."""
        with suppress(Exception):
            self._draw(run)

    def _next(self) -> Run | None:
        """The next run, once its settings have rested; None when nothing is wanted."""
        while True:
            with self._lock:
                self._run = None
                rested = time.monotonic() - self._since
                if self._wanted is None:
                    self._thread = None
                    self._idle.set()
                    return None
                if rested >= PAUSE_SECONDS:
                    request, self._wanted = self._wanted, None
                    self._run = self._session.run(request)
                    return self._run
            time.sleep(max(PAUSE_SECONDS - rested, 0.005))
