"""The view in a terminal, and what can be printed there."""

from __future__ import annotations

import sys
from typing import TextIO

from ..base.printable import visible
from ..base.widths import filled, width
from ..contract.events import Progress
from ..running.results import Results
from ..running.run import Run
from .score_text import chart_lines
from .sweep_text import plain_table, settings_text
from .text import metrics_text, status_parts
from .value_table import value_lines


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line to a file, standard output by default, as its encoding allows."""
    file = sys.stdout if file is None else file
    file.write(encodable(text, getattr(file, "encoding", None)) + "\n")


def encodable(text: str, encoding: str | None) -> str:
    """The text without characters that the encoding lacks.

    If it lacks any, our own signs become plainer ones and other missing characters "?".
    """
    try:
        text.encode(encoding or "utf-8")
        return text
    except UnicodeEncodeError as error:
        return text.translate(_PLAINER).encode(error.encoding, "replace").decode(error.encoding)


_PLAINER = str.maketrans(
    {
        "█": "#",
        "▌": "-",
        "−": "-",
        "␣": "_",
        "─": "-",
        "·": "-",
        "…": "...",
        "⏎": "\\n",
        "⇥": "\\t",
        "⟨": "<",
        "⟩": ">",
    }
)
"""Plainer forms of our signs, which some encodings lack."""


class TerminalView:
    """Prints text as it comes, and the status line under it.

    A line stands before the reasoning, and one between it and the answer.
    """

    def __init__(self, total: int = 1, varying: tuple[str, ...] = ()) -> None:
        self._total = total
        self._varying = varying
        self._run: Run | None = None
        self._ended: Run | None = None
        self._written = {"thinking": 0, "answer": 0}
        """How many characters of each part are printed."""
        self._part = "answer"
        self._progress_width = 0

    def draw(self, run: Run) -> None:
        if run is not self._run:
            self._run, self._written, self._part = run, dict.fromkeys(self._written, 0), "answer"
            if self._total > 1:
                say(f"[{settings_text(run, self._varying)}]")
        if run.progress and not run.done:
            self.draw_progress(run.progress)
            return
        if run is self._ended:
            return
        done = run.done  # read before the text, so that a run seen as done has all its text
        self.draw_progress(None)
        answer = run.text  # read before the reasoning, which comes first
        self._print("thinking", run.reasoning)
        self._print("answer", answer)
        if done:
            self._ended = run
            result = run.result
            lines = chart_lines(result.choices) if result.choices else value_lines(result.value)
            lines.append(f"── {' · '.join(status_parts(result, run.log_problem))}")
            say("\n" * any(self._written.values()) + "\n".join(lines))
        sys.stdout.flush()

    def _print(self, part: str, text: str) -> None:
        """Print what is new of a part, under a line with its name where it is not the first."""
        fresh = text[self._written[part] :]
        if not fresh:
            return
        if part != self._part:
            say("\n" * any(self._written.values()) + f"── {part}")
        self._part, self._written[part] = part, len(text)
        sys.stdout.write(encodable(visible(fresh), getattr(sys.stdout, "encoding", None)))

    def finish(self, results: Results) -> None:
        if self._total > 1 and results:
            say("\n" + plain_table(results))
        elif results and (said := metrics_text(results[0])):
            say(f"── {said}")  # it was not known when the status line was printed

    def draw_progress(self, progress: Progress | None) -> None:
        """Write a line that the next one overwrites; None clears it. Only a terminal gets it."""
        text = str(progress) if progress else ""
        text = encodable(text, getattr(sys.stderr, "encoding", None))
        if sys.stderr.isatty() and (text or self._progress_width):
            sys.stderr.write("\r" + filled(text, self._progress_width) + ("" if text else "\r"))
            sys.stderr.flush()
            self._progress_width = width(text)
