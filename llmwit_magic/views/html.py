"""The finished view: HTML that says all without a script.

It is what a notebook keeps, and what nbconvert, GitHub and a reopened notebook
show. Where the page has our module (`page.js`), its buttons work.
"""

from __future__ import annotations

import codecs
import hashlib
import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

from ..protocol import Progress
from ..wit import InferencingResult, TokenInfo
from .text import progress_text, status_parts, table, varying_settings, visible

NO_MATH = "mathjax_ignore tex2jax_ignore"
"""Classes of what MathJax leaves alone: the dollars of an answer are no formula's."""
MAX_FORM = 20_000
"""Characters up to which a run's forms are put behind its buttons."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a view knows beside the result: the log it is in, and the forms of its request."""

    log_path: str = ""
    log_problem: str | None = None
    forms: Mapping[str, str] = field(default_factory=dict)


NO_EXTRAS = Extras()


@cache
def style() -> str:
    """The style sheet, in each output: notebooks are read outside of notebooks too."""
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return "<style>" + re.sub(r"\s+", " ", css) + "</style>"


def log_key(path: str) -> str:
    """The log's name on a page: a click is for the kernel that has that log."""
    return hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:12]


def html_of(result: InferencingResult, extras: Extras = NO_EXTRAS) -> str:
    """An answer with its status line and its buttons."""
    first, *rest = status_parts(result, extras.log_problem)
    reason = escape(f"{result.device.library}: {result.device.reason}".strip(": "))
    line = escape(" · ".join(rest))
    run = f' data-run="{result.run_id}"' if result.run_id is not None else ""
    return (
        f'<div class="llmwit {NO_MATH}"{run} data-log="{log_key(extras.log_path)}">{style()}'
        f"{_text(result)}"
        f'<div class="llmwit-status" title="{reason}">'
        f'<span class="llmwit-badge">{escape(first)}</span> {line}</div>'
        f"{_tools(result, extras)}</div>"
    )


def escape(text: str) -> str:
    """Text for a page: no markup, and its unseen characters made visible."""
    return html.escape(visible(text))


def _text(result: InferencingResult) -> str:
    shown = visible(result.text)
    raw = "" if shown == result.text else f' data-raw="{html.escape(json.dumps(result.text))}"'
    long = "llmwit-scroll " if len(shown) > 20_000 else ""
    inner = "".join(_token_spans(result)) if result.tokens else html.escape(shown)
    shaded = " llmwit-shaded" if result.tokens else ""
    label = ' tabindex="0" role="region" aria-label="answer"' if long else ""
    return f'<div class="{long}llmwit-text{shaded}"{raw}{label}>{inner}</div>'


def _token_spans(result: InferencingResult) -> Iterator[str]:
    """A span for each token, shaded by its probability, its alternatives in its data.

    A token that ends inside a character shows a mark; the character stands in
    the token that completes it. Text after the last recorded token is added.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    shown, tab = 0, "0"
    for token in result.tokens or ():
        text = decoder.decode(token.bytes)
        shown += len(text)
        part = "" if text else " llmwit-part"
        alternatives = _alternatives(token)
        title = "  ".join(f"{text} {100 * share:.1f}%" for text, share, _ in alternatives)
        yield (
            f'<span class="llmwit-token{part}" tabindex="{tab}" '
            f'style="--p:{math.exp(token.logprob):.3f}" title="{html.escape(title)}" '
            f'data-top="{html.escape(json.dumps(alternatives, ensure_ascii=False))}">'
            f"{escape(text)}</span>"
        )
        tab = "-1"
    yield escape(result.text[shown:])


def _alternatives(token: TokenInfo) -> list[tuple[str, float, bool]]:
    """Text, probability and whether it was chosen; the likeliest first, the chosen one in any case."""
    rows = [(_token_text(item.bytes), math.exp(item.logprob), item.id == token.id)
            for item in token.top]  # fmt: skip
    if not any(chosen for *_, chosen in rows):
        rows.append((_token_text(token.bytes), math.exp(token.logprob), True))
    return rows


def _token_text(data: bytes) -> str:
    """A token as a person reads it: spaces and line ends as signs, lone bytes by number."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "⟨" + data.hex(" ").upper() + "⟩"
    return visible(text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥"))


def _tools(result: InferencingResult, extras: Extras) -> str:
    """The buttons; the style sheet shows them only where they can work."""
    buttons = ['<button type="button" data-copy-text>Copy text</button>']
    for name, text in extras.forms.items():
        if len(text) <= MAX_FORM:
            buttons.append(
                f'<button type="button" data-copy="{html.escape(text)}" '
                f'title="copy this run as {name}">{name}</button>'
            )
    if result.tokens:
        buttons.append(
            '<button type="button" data-tokens aria-pressed="true" '
            'title="shade each token by its probability">Tokens</button>'
        )
    if result.run_id is not None and extras.log_path:
        buttons += [
            f'<button type="button" data-rate="{value}" aria-pressed="false" aria-label="{label}" '
            f'title="{label}">{sign}</button>'
            for value, sign, label in ((1, "👍", "good answer"), (-1, "👎", "bad answer"))
        ]
    return f'<div class="llmwit-tools">{"".join(buttons)}</div>'


def progress_html(progress: Progress) -> str:
    """A stage with its bar."""
    bar = ""
    if progress.total:
        bar = f'<progress max="{progress.total}" value="{progress.done}"></progress>'
    text = html.escape(progress_text(progress))
    return f'<div class="llmwit">{style()}<div class="llmwit-status">{text}{bar}</div></div>'


# Comparison -----------------------------------------------------------------------


def comparison_html(results: Sequence[InferencingResult]) -> str:
    """A sweep side by side: a row a run, a column for each setting that varies.

    What differs from the first answer is marked; the page's module sorts by a
    column and marks against another answer. A last row sums up.
    """
    header, *rows = table(results, varying_settings(results), cut=False)
    place = header.index("text")
    head = "".join(
        f'<th scope="col"><button type="button" data-sort title="sort">{escape(name)}</button></th>'
        for name in header
    )
    base = rows[0][place] if rows else ""
    body = "".join(
        f'<tr data-run="{result.run_id}">'
        + "".join(
            _answer_cell(value, base, index) if column == place else _cell(value, header[column])
            for column, value in enumerate(row)
        )
        + "</tr>"
        for index, (result, row) in enumerate(zip(results, rows, strict=True))
    )
    return (
        f'<div class="llmwit llmwit-wide {NO_MATH}">{style()}<table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody><tfoot>{_summary(results, header, place)}</tfoot></table></div>"
    )


def replay_html(verdict: str, identical: bool, results: Sequence[InferencingResult]) -> str:
    """Whether a repetition is the same; both answers side by side where it is not."""
    line = (
        f'<div class="llmwit {NO_MATH}">{style()}<div class="llmwit-status">'
        f'<span class="llmwit-badge">replay</span> {escape(verdict)}</div></div>'
    )
    return line if identical else line + comparison_html(results)


def _cell(value: str, name: str) -> str:
    number = value.rpartition("+ ")[2] if name == "tokens" else value
    return f'<td data-value="{escape(number)}">{escape(value)}</td>'


def _answer_cell(text: str, base: str, index: int) -> str:
    pressed = "true" if index == 0 else "false"
    marked = html.escape(text) if index == 0 else _marked(text, base)
    return (
        f'<td><div class="llmwit-text">{marked}</div><div class="llmwit-tools">'
        f'<button type="button" data-base aria-pressed="{pressed}" '
        'title="mark what differs from this answer">base</button></div></td>'
    )


def _marked(text: str, base: str) -> str:
    """The text with the words marked that the base does not have there."""
    words, others = (re.findall(r"\s+|\S+", value) for value in (text, base))
    pieces = []
    for kind, _, _, start, end in SequenceMatcher(None, others, words, False).get_opcodes():
        piece = html.escape("".join(words[start:end]))
        pieces.append(piece if kind == "equal" or not piece else f"<mark>{piece}</mark>")
    return "".join(pieces)


def _summary(results: Sequence[InferencingResult], header: list[str], place: int) -> str:
    tokens = sum(result.usage.generated_token_count for result in results)
    seconds = sum(result.timings.total or 0 for result in results)
    return (
        f'<tr><th scope="row" colspan="{place + 2}">{len(results)} runs</th>'
        f"<td>{tokens:,} generated</td><td>{seconds:.2f}</td></tr>"
    )
