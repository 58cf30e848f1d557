"""The plain and static forms: text for terminals, HTML that needs no widgets.

Model output is text: it is escaped, and characters that would command a
terminal or turn the reading direction round are shown, not obeyed.
"""

from __future__ import annotations

import html
import json
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

from ..engines.protocol import Progress
from ..runlog.run import Results, Run
from ..wit import FinishDetail, InferencingParams, InferencingResult

_DETAILS = {
    FinishDetail.EOS: "end of text",
    FinishDetail.STOP_SEQUENCE: "stop sequence",
    FinishDetail.MAX_TOKENS: "max tokens",
    FinishDetail.CONTEXT_FULL: "context full",
    FinishDetail.CONTENT_FILTER: "the rest is left out",
}
_BADGES = {"stop": "stop", "length": "length", "content_filter": "content filter"}
_STAGES = {
    "fetch": "fetching", "adapt": "rewriting for ctransformers", "load": "loading",
    "prompt": "reading the prompt",
}  # fmt: skip
TABLE_TEXT = 300
"""Characters of an answer in a table's cell; the object keeps all of it."""


def visible(text: str) -> str:
    """The text with control characters as pictures (␛) or by number (⟨U+202E⟩)."""
    if text.isprintable():
        return text
    return "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)
    # Joiners make emoji and Indic scripts; marks of direction stay as they are harmless alone.
    if unicodedata.category(character) in ("Zs", "Co") or character in "\u200c\u200d\u200e\u200f":
        return character
    return f"⟨U+{code:04X}⟩"


def status_parts(result: InferencingResult, log_problem: str | None = None) -> list[str]:
    """What is said under an answer, the badge first."""
    parts = [badge(result)]
    if result.finish_detail:
        detail = _DETAILS[result.finish_detail]
        if result.stop_sequence is not None:
            detail += f" {json.dumps(result.stop_sequence, ensure_ascii=False)}"
        parts.append(visible(detail))
    if result.model:
        parts += _usage_parts(result)
    if log_problem:
        parts.append(f"not logged: {log_problem}")
    elif result.run_id is not None:
        parts.append(f"run {result.run_id}")
    return parts


def _token_counts(result: InferencingResult) -> str:
    usage = result.usage
    cached = f" ({usage.cached_token_count} cached)" if usage.cached_token_count else ""
    return f"{usage.prompt_token_count}{cached} + {usage.generated_token_count}"


def _usage_parts(result: InferencingResult) -> list[str]:
    timings, device = result.timings, result.device
    parts = [f"{_token_counts(result)} tokens"]
    if timings.first_token is not None:
        parts.append(f"first token {timings.first_token:.2f} s")
    if timings.tokens_per_second is not None:
        parts.append(f"{timings.tokens_per_second:.1f} tokens/s")
    layers = f"{device.gpu_layers} GPU layers"
    if device.requested_gpu_layers == "auto":
        layers += " (auto)"
    if device.memory_bytes is not None:
        layers += f", {device.memory_bytes / 2**20:.0f} MiB"
    name = visible(result.model.name) if result.model else ""
    return [*parts, name, f"{device.name}, {layers}", f"seed {result.params.seed}"]


def badge(result: InferencingResult) -> str:
    """Why it ended, in a word or two."""
    if result.finish_reason:
        return _BADGES[result.finish_reason]
    return {"running": "running …", "interrupted": "interrupted", "error": "failed"}[result.status]


def progress_text(progress: Progress) -> str:
    """A stage and how far it is."""
    what = _STAGES[progress.stage]
    if progress.note:
        what += f" {visible(progress.note)}"
    if not progress.total:
        return f"{what} …"
    if progress.stage == "prompt":
        return f"{what}: {progress.done:,} of {progress.total:,} tokens"
    share = 100 * progress.done / progress.total
    return f"{what}: {progress.done / 1e6:,.0f} of {progress.total / 1e6:,.0f} MB ({share:.0f}%)"


# Plain text ---------------------------------------------------------------------


def plain(result: InferencingResult, log_problem: str | None = None) -> str:
    """An answer with its status line."""
    status = " · ".join(status_parts(result, log_problem))
    return f"{visible(result.text)}\n── {status}" if result.text else f"── {status}"


def varying_settings(results: Sequence[InferencingResult]) -> list[str]:
    """The params (and `model`) in which the results differ."""
    names = [
        name for name in InferencingParams.model_fields
        if len({repr(getattr(result.params, name)) for result in results}) > 1
    ]  # fmt: skip
    if len({result.model.name if result.model else None for result in results}) > 1:
        names.insert(0, "model")
    return names


def _setting(result: InferencingResult, name: str) -> str:
    if name == "model":
        return visible(result.model.name) if result.model else ""
    value = getattr(result.params, name)
    return "none" if value is None else str(value)


def _table(results: Sequence[InferencingResult], names: Sequence[str]) -> list[list[str]]:
    """Header and rows of a sweep's table."""
    rows = [["run", *names, "text", "finish", "tokens", "seconds"]]
    for result in results:
        text = visible(result.text)
        if len(text) > TABLE_TEXT:
            text = text[:TABLE_TEXT] + "…"
        total = result.timings.total
        rows.append([
            "" if result.run_id is None else str(result.run_id),
            *(_setting(result, name) for name in names),
            text,
            ": ".join(status_parts(result)[:2]) if result.finish_detail else badge(result),
            _token_counts(result),
            "" if total is None else f"{total:.2f}",
        ])  # fmt: skip
    return rows


def plain_table(results: Results) -> str:
    """A sweep's results, a line each, texts cut to fit."""
    rows = _table(results, varying_settings(results))
    column = rows[0].index("text")
    for row in rows:
        flat = row[column].replace("\n", "⏎")
        row[column] = flat if len(flat) <= 60 else flat[:59] + "…"
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


# HTML -----------------------------------------------------------------------------

_STYLE = """<style>
.llmwit{font-size:var(--jp-content-font-size1,14px);color:var(--jp-content-font-color1,inherit)}
.llmwit-text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;
 font-family:var(--jp-content-font-family,system-ui,sans-serif);line-height:1.5}
.llmwit-status{margin-top:.5em;font-size:.85em;color:var(--jp-content-font-color2,#666);
 font-family:var(--jp-ui-font-family,system-ui,sans-serif)}
.llmwit-badge{display:inline-block;padding:0 .5em;border:1px solid currentColor;
 border-radius:1em;font-weight:600}
.llmwit-bar{width:16em;max-width:60%;vertical-align:middle;margin-left:.5em}
.llmwit-scroll{overflow-x:auto}
.llmwit table{border-collapse:collapse}
.llmwit th,.llmwit td{text-align:left!important;vertical-align:top;padding:.3em .7em;
 border-bottom:1px solid var(--jp-border-color2,#ccc)}
.llmwit td.llmwit-text{min-width:20em}
</style>"""


def html_of(result: InferencingResult, log_problem: str | None = None) -> str:
    """An answer with its status line, as a self-contained piece of HTML."""
    return f'<div class="llmwit">{_STYLE}{_answer(result, log_problem)}</div>'


def _answer(result: InferencingResult, log_problem: str | None) -> str:
    first, *rest = status_parts(result, log_problem)
    reason = html.escape(f"{result.device.library}: {result.device.reason}".strip(": "))
    line = " · ".join(html.escape(part) for part in rest)
    return (
        f'<div class="llmwit-text">{html.escape(visible(result.text))}</div>'
        f'<div class="llmwit-status" title="{reason}">'
        f'<span class="llmwit-badge">{html.escape(first)}</span> {line}</div>'
    )


def html_table(results: Sequence[InferencingResult]) -> str:
    """A sweep's results as a table."""
    header, *rows = _table(results, varying_settings(results))
    column = header.index("text")
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=llmwit-text' if index == column else ''}>{html.escape(value)}</td>"
            for index, value in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="llmwit llmwit-scroll">{_STYLE}{table}</div>'


def _progress_html(progress: Progress) -> str:
    text = html.escape(progress_text(progress))
    bar = ""
    if progress.total:
        bar = f'<progress class="llmwit-bar" max="{progress.total}" value="{progress.done}"></progress>'
    return f'<div class="llmwit">{_STYLE}<div class="llmwit-status">{text}{bar}</div></div>'


# Views ----------------------------------------------------------------------------


class DisplayView:
    """One output of a notebook cell, updated in place: HTML with plain text beside it."""

    def __init__(self, total: int, varying: tuple[str, ...]) -> None:
        self._total = total
        self._varying = varying
        self._finished: list[InferencingResult] = []
        self._handle: Any = None
        self._last: dict[str, str] | None = None

    def draw(self, run: Run) -> None:
        if run.done and self._total > 1:
            self._finished.append(run.result)
        self._show(self._bundle(run))

    def finish(self, results: Results | None) -> None:
        if results is not None:
            self._show({"text/html": html_table(results), "text/plain": plain_table(results)})

    def _bundle(self, run: Run) -> dict[str, str]:
        result = run.result
        if run.progress and not run.done:
            text, markup = progress_text(run.progress), _progress_html(run.progress)
        else:
            text, markup = plain(result, run.log_problem), html_of(result, run.log_problem)
        if self._total == 1:
            return {"text/html": markup, "text/plain": text}
        count = f"{len(self._finished)} of {self._total} runs"
        table = html_table(self._finished) if self._finished else ""
        plain_rows = plain_table(Results(self._finished)) + "\n\n" if self._finished else ""
        return {
            "text/html": f'{table}<div class="llmwit-status">{count}</div>{markup}',
            "text/plain": f"{plain_rows}{count}\n{text}",
        }

    def _show(self, bundle: dict[str, str]) -> None:
        from IPython.display import display

        if bundle == self._last:
            return
        self._last = bundle
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class TerminalView:
    """Text as it comes, and the status line under it."""

    def __init__(self, total: int, varying: tuple[str, ...]) -> None:
        self._total = total
        self._varying = varying
        self._run: Run | None = None
        self._written = 0
        self._progress_width = 0

    def draw(self, run: Run) -> None:
        if run is not self._run:
            self._run, self._written = run, 0
            if self._total > 1:
                settings = ", ".join(
                    f"{name} {run.request.model if name == 'model' else getattr(run.request.params, name)}"
                    for name in self._varying
                )
                print(f"[{settings}]")
        if run.progress and not run.done:
            self._draw_progress(progress_text(run.progress))
            return
        self._draw_progress("")
        text = run.text
        sys.stdout.write(visible(text[self._written :]))
        self._written = len(text)
        if run.done:
            status = " · ".join(status_parts(run.result, run.log_problem))
            sys.stdout.write("\n" * bool(text) + f"── {status}\n")
        sys.stdout.flush()

    def finish(self, results: Results | None) -> None:
        if results is not None:
            print("\n" + plain_table(results))

    def _draw_progress(self, text: str) -> None:
        """A line that the next one overwrites; not written into a file or a pipe."""
        if sys.stderr.isatty() and (text or self._progress_width):
            sys.stderr.write("\r" + text.ljust(self._progress_width) + ("" if text else "\r"))
            sys.stderr.flush()
            self._progress_width = len(text)
