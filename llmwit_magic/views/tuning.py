"""Sliders that run a request again: `%%infer --tune` and `tune(prompt, …)`.

A change of a setting runs the request again (`newest.py`). The kernel is free
for other cells meanwhile.
"""

from __future__ import annotations

import html
import uuid
import weakref
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from ..base.printable import visible
from ..contract.request import Request
from ..contract.spans import moved
from ..contract.wit import InferencingParams
from ..errors import InvalidInput
from ..running.run import Run
from ..running.session import Session
from .controls import LABEL, TOOLTIP, button, half, rows, slider, wide
from .html import NO_MATH, Extras, escape, html_of
from .lifetime import end, hold, reopen, weakly
from .live import LiveWidget, Stream, ending, mimebundle, page_for
from .newest import NewestRunner
from .view import Forms

Sliders = Mapping[str, tuple[float, float, float]]
"""Minimum, maximum and step of the slider of each parameter, by the parameter's name."""


class TuningPanel:
    """The prompt, a control for each parameter, the newest run's view, and the earlier runs."""

    def __init__(self, session: Session, request: Request, forms: Forms, sliders: Sliders) -> None:
        seed = session.draw_seed() % 10_000 if request.params.seed is None else request.params.seed
        params = request.params.model_copy(update={"seed": seed})
        self._forms, self._sliders = forms, sliders
        self._base = request.model_copy(
            update={"params": params, "group_id": uuid.uuid4().hex[:12]}
        )
        self._runner = NewestRunner(session, weakly(self._draw))
        self.runs: list[Run] = []
        self._shown = -1
        self._asked: Request | None = None
        self._live = LiveWidget(stoppable=False)
        self._live.on_msg(weakly(self._receive))
        self._stream = Stream(self._live)
        page_for(session.log)
        self._make_widgets(params)
        # Callbacks hold the panel weakly, so that it can go. Its widgets are closed with it.
        weakref.finalize(self, end, self._runner.cancel, self.box).atexit = False
        self.change()

    @property
    def group_id(self) -> str:
        """The group of this panel's runs in the log."""
        return str(self._base.group_id)

    @property
    def request(self) -> Request:
        """The request that the controls stand for now.

        Raises `InvalidInput` for an empty prompt and for invalid parameters.
        """
        values = {name: control.value for name, control in self.controls.items()}
        # A browser's slider at 0.9 gives 0.9000000000000001.
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
        """Display the panel. A front end without widgets shows the cell that repeats its request."""
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
        """Run the request of the current settings, in place of what runs or waits to run."""
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
        # A browser sends back the values that it was given. They change nothing.
        if request != self._asked:
            self._asked = request
            self._runner.want(request)

    def _draw(self, run: Run) -> None:
        """Draw a run: in the runner's thread, at most once in `INTERVAL`, and at its end."""
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
                if run.status == "ok":  # a run cancelled for a newer setting needs no announcement
                    self._live.send(ending(run))

    def _show(self) -> None:
        """Show the chosen run of the history: finished, or live where it still runs."""
        run = self.runs[self._shown]
        self._move()
        if not run.done:
            self.finished.value, self._live.layout.display = "", ""
            return
        error = _alert(str(run.error)) if run.error else ""
        self.finished.value = error + self._finished(run)
        self._live.layout.display = "none"

    def _move(self) -> None:
        """Say which run of the history is shown; for an earlier one, also its cell's first line."""
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
        """Show the output so many places later, or earlier where `by` is negative."""
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
        """Keep the shown output beside the next ones. A run that goes on cannot be kept."""
        if self.runs and self.runs[self._shown].done:
            line = self._forms(self.runs[self._shown].request)["cell"].partition("\n")[0]
            head = _text(f"kept: <code>{escape(line)}</code>")
            self.kept.value = head + self._finished(self.runs[self._shown])
            self.kept.layout.display = ""

    def _receive(self, widget: Any, content: Any, buffers: Any) -> None:
        if content.get("closed"):
            self.close()

    def close(self) -> None:
        """Cancel what runs. The panel stays, and the next change runs again."""
        self._asked = None
        self._runner.cancel()

    def fold(self) -> None:
        """Cancel what runs, and close the widgets until the panel is displayed again."""
        self._asked = None
        end(self._runner.cancel, self.box)

    def wait(self, timeout: float = 60) -> bool:
        """Block until nothing runs or waits to run, `timeout` seconds at most; whether that is so."""
        return self._runner.wait(timeout)


def _text(markup: str) -> str:
    """Markup in an element in which MathJax typesets nothing: a dollar begins no formula."""
    return f'<div class="{NO_MATH}">{markup}</div>'


def _alert(message: str) -> str:
    """The markup of an error. A screen reader reads it aloud as soon as it appears."""
    return _text(f'<b role="alert">{escape(message)}</b>')
