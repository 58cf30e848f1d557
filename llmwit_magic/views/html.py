"""The finished view of a run: HTML that is read without scripts and without a style sheet.

A notebook keeps this HTML. nbconvert, GitHub and a reopened notebook show it.
JupyterLab drops `<style>` and data attributes from a notebook that it does not
trust. nbconvert's sanitizer drops all attributes but classes, and turns all
elements but a few into text. So what a reader needs is text in one of
`ELEMENTS`. The page's module (`page/`) adds a style sheet, and makes buttons
from the data attributes.
"""

from __future__ import annotations

import codecs
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..base.printable import on_one_line, visible
from ..contract.events import Progress
from ..contract.scores import ChoiceProbabilities
from ..contract.wit import InferencingResult, TokenInfo
from .score_text import CHART_ROWS, choice_label, ranked, share
from .text import brief_parts, more_parts, reasoning_label
from .value_table import table_of

NO_MATH = "mathjax_ignore tex2jax_ignore"
"""Classes that keep MathJax away: a dollar in an answer begins no formula."""
MAX_FORM = 20_000
"""The most characters of a form that the Copy button offers."""
MAX_UNSCROLLED = 20_000
"""The most characters of an answer that does not scroll. The style sheet makes the box."""

ELEMENTS = frozenset({"div", "pre", "span", "b", "table", "tr", "td"})
"""The elements of finished views. nbconvert's sanitizer lets all of them through."""
FOLDED = frozenset({"details", "summary"})
"""The elements of what is folded: reasoning, and the text of an answer that is shown as Markdown.
That sanitizer writes their tags as text, so they have no attributes. JupyterLab's keeps them."""
TEXT = (
    "margin:0;padding:0;white-space:pre-wrap;overflow-wrap:break-word;word-break:normal;"
    "background-color:transparent;font-family:system-ui,sans-serif"
)
QUIET = "font-size:85%;opacity:0.8"

SHADES = ((0.01, "rgba(230,110,0,0.6)"), (0.03, "rgba(230,110,0,0.35)"),
          (0.1, "rgba(230,110,0,0.15)"))  # fmt: skip
"""A probability, and the colour of tokens that are less probable; the darkest colour first."""
BAR = "rgba(70,130,200,0.75)"
"""The colour of a bar, which can be told from light and dark backgrounds."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a view shows besides the result.

    These are the log with the run, the reason why a run is not logged, the forms in which its
    request can be copied, and the answer as Markdown.
    """

    log_path: str = ""
    log_problem: str | None = None
    forms: Mapping[str, str] = field(default_factory=dict)
    markdown: str = ""
    """The answer as HTML of Markdown (`markdown.py`); empty where it is shown as text."""
    unrendered: str = ""
    """Why an answer that should be Markdown is shown as text."""


NO_EXTRAS = Extras()


def log_key(path: str) -> str:
    """Identifies the log on a page, so that only a kernel with that log handles a click."""
    return hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:12]


def html_of(result: InferencingResult, extras: Extras = NO_EXTRAS) -> str:
    """An answer with its status line. The data attributes hold what its buttons need."""
    return (
        f'<div class="llmwit llmwit-answer {NO_MATH}"{_data(result, extras)}>'
        f"{reasoning_html(result)}{_answer(result, extras)}"
        f"{chart_html(result.choices) if result.choices else _value(result)}"
        f"{_status(result, extras.log_problem)}</div>"
    )


def escape(text: str) -> str:
    """The text as HTML, with its invisible characters made visible.

    No line is blank, as a blank line would end the HTML in Markdown.
    """
    return re.sub(r"\n(?=[ \t]*\n)", "&#10;", html.escape(visible(text)))


def quiet(markup: str, name: str = "llmwit-status") -> str:
    """A small line beside an answer."""
    return f'<div class="{name}" style="{QUIET}">{markup}</div>'


def pre(markup: str, name: str = "llmwit-text", more: str = "") -> str:
    """Escaped text that keeps its white space, with or without a style sheet.

    `more` are further styles.
    """
    # HTML drops a line end right behind <pre>. It drops this one, and none of the text's own.
    return f'<pre class="{name}" dir="auto" style="{TEXT}{more}">\n{markup}</pre>'


def head(names: Iterable[str]) -> str:
    """The first row of a table. The page's module makes a table head of it."""
    return "<tr>" + "".join(cell(f"<b>{_heading(name)}</b>") for name in names) + "</tr>\n"


def _heading(name: str) -> str:
    """A column's name, which may break at its underscores."""
    parts = re.findall(r"[^_]*_|[^_]+", escape(name))
    return "".join(f'<span style="display:inline-block">{part}</span>' for part in parts)


def roomy(markup: str, room: float, name: str = "") -> str:
    """The content of a cell that is at least `room` em wide and breaks anywhere, as on paper."""
    kind = f' class="{name}"' if name else ""
    return f'<div{kind} style="min-width:{room}em;overflow-wrap:anywhere">{markup}</div>'


def cell(markup: str, more: str = "") -> str:
    """A cell of a table. The space parts its text from the next where a reader has no tables."""
    return f'<td style="text-align:left;vertical-align:top;padding:.3em .2em{more}">{markup}</td> '


def _data(result: InferencingResult, extras: Extras) -> str:
    """The data attributes of which the page's module makes buttons."""
    data: dict[str, str] = {}
    if result.run_id is not None and extras.log_path:
        data |= {"run": str(result.run_id), "log": log_key(extras.log_path)}
    if visible(result.text) != result.text:
        data["raw"] = json.dumps(result.text)
    forms = {name: text for name, text in extras.forms.items() if len(text) <= MAX_FORM}
    if forms:
        data["forms"] = json.dumps(forms)
    return "".join(f' data-{name}="{html.escape(value)}"' for name, value in data.items())


def reasoning_html(result: InferencingResult) -> str:
    """The reasoning, folded under a line; empty where there is none.

    It is open while the model thinks.
    """
    if not result.reasoning:
        return ""
    opened = " open" if result.status == "running" and not result.text else ""
    label = f'<span style="{QUIET}">{escape(reasoning_label(result))}</span>'
    tokens = _tokens_of(result, True)
    text = _shown(result.reasoning, tokens, "llmwit-text llmwit-thoughts", ";margin:0 0 .4em 1em")
    return f"<details{opened}><summary>{label}</summary>{text}</details>"


def _answer(result: InferencingResult, extras: Extras) -> str:
    """The text of the answer, or the answer as Markdown with its text folded under it.

    The page's module makes a button of the fold.
    """
    text = _text(result) + (_LEGEND if result.tokens else "")
    if extras.unrendered:
        text += quiet(escape(extras.unrendered), "llmwit-legend")
    if not extras.markdown:
        return text
    label = f'<span style="{QUIET}">the answer as text</span>'
    return f"{extras.markdown}<details><summary>{label}</summary>{text}</details>"


def _text(result: InferencingResult) -> str:
    return _shown(result.text, _tokens_of(result, False)) if result.text else ""


def _value(result: InferencingResult) -> str:
    """The value of the answer as a table; empty where its text says as much."""
    table = table_of(result.value)
    if table is None:
        return ""
    body = "".join(
        "<tr>"
        + "".join(
            cell(f"<b>{_one_line(text)}</b>") if not (table.head or place) else _item(text)
            for place, text in enumerate(row)
        )
        + "</tr>\n"
        for row in table.rows
    )
    headed = head(table.head) if table.head else ""
    notes = quiet(" · ".join(map(escape, table.notes))) if table.notes else ""
    kind = " llmwit-records" if table.head else ""
    return (
        f'<div class="llmwit-value{kind}"><table style="table-layout:auto;font-size:90%">'
        f"{headed}{body}</table>{notes}</div>"
    )


def _item(text: str) -> str:
    """A cell of a value. A short one, such as a date, stays on one line."""
    if len(text) <= 12:
        return cell(_one_line(text), ";white-space:nowrap")
    return cell(roomy(_one_line(text), 6))


def _one_line(text: str) -> str:
    return html.escape(on_one_line(text))


def _tokens_of(result: InferencingResult, reasoning: bool) -> list[TokenInfo]:
    """The recorded tokens of the reasoning, or those of the answer."""
    return [token for token in result.tokens or () if token.reasoning is reasoning]


def _shown(
    text: str, tokens: Sequence[TokenInfo], name: str = "llmwit-text", more: str = ""
) -> str:
    """The text of one part, with its tokens where they are recorded. For the rest see `pre`."""
    name += " llmwit-long" * (len(text) > MAX_UNSCROLLED)
    if not tokens:
        return pre(escape(text), name, more)
    return pre("".join(_tokens(text, tokens)), f"{name} llmwit-shaded", more)


def _tokens(whole: str, tokens: Sequence[TokenInfo]) -> Iterator[str]:
    """An element for each token: improbable ones are shaded, the data hold the alternatives.

    A token that ends inside a character has a class for the mark that the style
    sheet shows. The character itself is in the token that completes it. Text that
    is between the tokens or after the last one is of no token.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    # The first token of a text that was scored may follow nothing. It has no log-probability.
    joined = b"".join(token.bytes for token in tokens).decode("utf-8", "replace")
    shown = len(whole) - len(joined) if whole.endswith(joined) else 0
    yield escape(whole[:shown])
    for token in tokens:
        text = decoder.decode(token.bytes)
        # An empty line stands between two blocks of reasoning.
        if not whole.startswith(text, shown) and whole.startswith("\n\n" + text, shown):
            yield escape("\n\n")
            shown += 2
        shown += len(text)
        part = "" if text else " llmwit-part"
        alternatives = _alternatives(token)
        title = "  ".join(f"{text} {100 * share:.1f}%" for text, share, _ in alternatives)
        yield (
            f'<span class="llmwit-token{part}"{_shade(math.exp(token.logprob))} '
            f'title="{html.escape(title)}" '
            f'data-top="{html.escape(json.dumps(alternatives, ensure_ascii=False))}">'
            f"{escape(text)}</span>"
        )
    yield escape(whole[shown:])


def _shade(probability: float) -> str:
    """The attribute with the background of an improbable token; empty for a probable one."""
    for below, colour in SHADES:
        if probability < below:
            return f' style="background-color:{colour}"'
    return ""


_LEGEND = quiet(
    "shaded: tokens that the model gave less than "
    + " ".join(
        f'<span style="background-color:{colour}">{below:.0%}</span>'
        for below, colour in reversed(SHADES)
    ),
    "llmwit-legend",
)


def chart_html(choices: ChoiceProbabilities) -> str:
    """A bar chart of the probabilities. It is a table, which screen readers read as one."""
    shown = ranked(choices)[:CHART_ROWS]
    rows = "".join(
        "<tr>"
        + _choice(choice_label(each.choice))
        + cell(share(each.probability), ";text-align:right;white-space:nowrap")
        + cell(_bar(each.probability), ";width:100%;min-width:5em")
        + "</tr>\n"
        for each in shown
    )
    more = len(choices.scores) - len(shown)
    rest = quiet(f"and {more:,} more in .probabilities") if more else ""
    style = "table-layout:auto;width:100%;max-width:40em;font-size:90%"
    table = f'<table style="{style}">{head(["choice", "probability", ""])}'
    return f'<div class="llmwit-chart">{table}{rows}</table>{rest}</div>'


def _choice(label: str) -> str:
    """The cell of a choice. A short one stays on one line."""
    if len(label) <= 20:
        return cell(escape(label), ";white-space:nowrap")
    return cell(roomy(escape(label), 9))


def _bar(probability: float) -> str:
    return (
        f'<div style="background-color:{BAR};height:1em;min-width:1px;'
        f'width:{100 * probability:.2f}%"></div>'
    )


def _alternatives(token: TokenInfo) -> list[tuple[str, float, bool]]:
    """The text and probability of each alternative, and whether it was chosen.

    The most probable comes first. A chosen token that is not among them comes last.
    """
    rows = [(_token_text(item.bytes), math.exp(item.logprob), item.id == token.id)
            for item in token.top]  # fmt: skip
    if not any(chosen for *_, chosen in rows):
        rows.append((_token_text(token.bytes), math.exp(token.logprob), True))
    return rows


def _token_text(data: bytes) -> str:
    """A token as a person reads it.

    Spaces, tabs and line ends are signs. Bytes that make no characters are hexadecimal numbers.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "⟨" + data.hex(" ").upper() + "⟩"
    return visible(text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥"))


def _status(result: InferencingResult, log_problem: str | None) -> str:
    """The status line. The page's module puts its second part behind the Details button."""
    first, *parts = (escape(part) for part in brief_parts(result, log_problem))
    line = " · ".join([f'<b class="llmwit-badge">{first}</b>', *parts])
    more = "".join(f" · {escape(part)}" for part in more_parts(result, log_problem))
    reason = escape(f"{result.device.library}: {result.device.reason}".strip(": "))
    return quiet(
        line + (f'<span class="llmwit-more" title="{reason}">{more}</span>' if more else "")
    )


def unfinished_html(said: str, key: str = "") -> str:
    """A line for a run that goes on. The page's module draws the live view of `key` in its place."""
    live = f' data-live="{key}"' if key else ""
    return f'<div class="llmwit llmwit-unfinished {NO_MATH}"{live}>{quiet(escape(said))}</div>'


def progress_html(progress: Progress) -> str:
    """A stage and its progress bar, where the total is known."""
    bar = ""
    if progress.total:
        bar = f' <progress max="{progress.total}" value="{progress.done}"></progress>'
    line = quiet(escape(str(progress)) + bar)
    return f'<div class="llmwit {NO_MATH}">{line}</div>'
