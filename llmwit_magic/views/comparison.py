"""Answers side by side, as HTML: those of a sweep, and those of a replay that differs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from ..contract.wit import InferencingResult
from ..running.results import Results
from .html import NO_MATH, cell, escape, head, pre, quiet, reasoning_html, roomy
from .pivot import pivot_meaning, pivot_table
from .sweep_text import notes, table, varying_settings

SHARED = 0.25
"""The share of their words that two answers must have in common to be marked.

With less in common, the marks would cover nearly everything. `page/comparison.js` has the same
number.
"""

_MARK = "font-weight:normal;text-decoration:underline;background-color:rgba(230,110,0,0.3)"

Pieces = list[tuple[str, bool]]
"""The pieces of a text, each with whether it is marked."""


def comparison_html(results: Sequence[InferencingResult]) -> str:
    """A sweep as a table: a row for each run, a column for each setting that varies, and totals.

    Words that differ from the first answer are marked. `Results` with two settings in `by` are a table of these. The page's module can
    sort the rows, and mark against another answer.
    """
    if isinstance(results, Results) and results.by:
        return _pivot_html(results, results.by)
    header, *rows = table(results, varying_settings(results))
    place = header.index("text")
    # Blank lines at the beginning would make the row higher and show nothing.
    answers = [row[place].strip("\n") for row in rows]
    pieces = [differences(text, answers[0]) for text in answers]
    body = "".join(
        "<tr>"
        + "".join(
            cell(roomy(reasoning_html(result) + _answer(text, parts), 11), ";width:100%")
            if column == place
            else _value(value)
            for column, value in enumerate(row)
        )
        + "</tr>\n"
        for result, row, text, parts in zip(results, rows, answers, pieces, strict=True)
    )
    said = [escape(note) for note in notes(results)]
    if len(rows) > 1:
        said.insert(0, f'marked: what differs from <b class="llmwit-base">{_name(rows[0])}</b>')
    if None in pieces:
        said.insert(1, "not marked: answers that share almost nothing with it")
    return (
        f'<div class="llmwit llmwit-wide {NO_MATH}"><div>'
        f'<table style="table-layout:auto;width:100%">{head(header)}'
        f"{body}{_summary(results, place)}</table></div>"
        f"{quiet(' · '.join(said))}</div>"
    )


def _pivot_html(results: Sequence[InferencingResult], by: tuple[str, str]) -> str:
    """The table as HTML, with what its cells are under it."""
    header, *rows = pivot_table(results, by)
    body = "".join(
        "<tr>"
        + cell(f"<b>{escape(name[0])}</b>")
        + "".join(cell(roomy("<br>".join(map(escape, lines)), 5)) for lines in cells)
        + "</tr>\n"
        for name, *cells in rows
    )
    names = [lines[0] for lines in header]
    said = " · ".join(
        map(
            escape,
            [
                pivot_meaning(results),
            ],
        )
    )
    return (
        f'<div class="llmwit llmwit-wide {NO_MATH}"><div>'
        f'<table style="table-layout:auto">{head(names)}{body}</table></div>{quiet(said)}</div>'
    )


def replay_html(verdict: str, identical: bool, results: Sequence[InferencingResult]) -> str:
    """The verdict of a replay, and both answers side by side where they differ."""
    line = quiet(f'<b class="llmwit-badge">replay</b> {escape(verdict)}')
    table = "" if identical else comparison_html(results)
    return f'<div class="llmwit {NO_MATH}">{line}</div>{table}'


def differences(text: str, base: str) -> Pieces | None:
    """The text in pieces; those that the base does not have at their place are marked.

    None where the two share less than `SHARED` of the longer one's words.
    """
    words, others = (re.findall(r"\s+|\S+", value) for value in (text, base))
    pieces: Pieces = []
    same = 0
    for kind, _, _, start, end in SequenceMatcher(None, others, words, False).get_opcodes():
        if start == end:
            continue
        pieces.append(("".join(words[start:end]), kind != "equal"))
        if kind == "equal":
            same += sum(not word.isspace() for word in words[start:end])
    most = max(len(value.split()) for value in (text, base))
    return pieces if same >= SHARED * most else None


def _answer(text: str, pieces: Pieces | None) -> str:
    parts = [(text, False)] if pieces is None else pieces
    return pre(
        "".join(
            f'<b class="llmwit-mark" style="{_MARK}">{escape(part)}</b>' if marked else escape(part)
            for part, marked in parts
        )
    )


def _value(value: str) -> str:
    """A cell for a value. A short value stays on one line; a long one may break anywhere."""
    if len(value) <= 10:
        return cell(escape(value), ";white-space:nowrap")
    return cell(roomy(escape(value), 6))


def _name(row: Sequence[str]) -> str:
    return f"run {row[0]}" if row[0] else "the first"


def _summary(results: Sequence[InferencingResult], place: int) -> str:
    tokens = sum(result.usage.generated_token_count or 0 for result in results)
    seconds = sum(result.timings.total or 0 for result in results)
    return (
        f'<tr class="llmwit-sum"><td colspan="{place + 2}" style="text-align:left">'
        f"<b>{len(results)} runs</b></td>{cell(f'{tokens:,} generated')}"
        f"{cell(f'{seconds:.2f}')}</tr>"
    )
