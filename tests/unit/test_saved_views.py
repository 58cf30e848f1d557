"""Saved outputs are readable without style sheets, scripts and data attributes."""

from __future__ import annotations

import math
import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

import nbformat
import pytest
from nbconvert import HTMLExporter, LatexExporter, MarkdownExporter

from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import (
    InferencingParams,
    InferencingResult,
    TokenAlternative,
    TokenInfo,
)
from llmwit_magic.requests.snippets import forms
from llmwit_magic.views import html
from llmwit_magic.views.comparison import comparison_html, differences, replay_html
from llmwit_magic.views.display import answer_html
from llmwit_magic.views.markdown import MORE_ELEMENTS
from llmwit_magic.views.sweep_text import plain_table
from llmwit_magic.views.table import LogTable
from llmwit_magic.views.text import plain
from tests.support.fake import FakeEngine, FakeSession, end, prepared, run_of
from tests.support.markdown_texts import ANSWER

LINES = "\n\n  Here *is* a list:\n\n\n    - <b>one</b>\n \n- two & $three$"


def result_of(
    text: str, temperature: float = 0.8, tokens: bool = False, reasoning: str = ""
) -> InferencingResult:
    params = InferencingParams(seed=9, temperature=temperature)
    request = Request(model="fake", prompt="p", params=params, top_logprobs=2 if tokens else None)
    pieces = re.findall(r"\s*\S+|\s+", text)
    found = tuple(
        TokenInfo(id=1, bytes=piece.encode(), logprob=math.log(probability), rank=0,
                  top=(TokenAlternative(id=2, bytes=b"x", logprob=-1),))
        for piece, probability in zip(pieces, [0.5, 0.09, 0.02, 0.001] * len(pieces), strict=False)
    )  # fmt: skip
    chunk = Chunk(text, len(pieces), found if tokens else (), reasoning)
    return run_of([prepared(request), chunk, end(len(pieces), thought=7)], request).result


def extras(result: InferencingResult) -> html.Extras:
    return html.Extras("/log", None, forms(Request(model="m", prompt=LINES), {}))


@cache
def views() -> dict[str, tuple[str, str]]:
    """The HTML and the plain text of each kind of output that a notebook keeps."""
    one, other = result_of(LINES), result_of("Another text altogether", 0.0)
    session = FakeSession(FakeEngine([LINES]))
    session.finish(Request(model="fake", prompt=LINES))
    table = LogTable(session.log.to_frame())
    session.close()
    tokens = result_of(LINES, tokens=True)
    thinking = result_of("Paris", reasoning=LINES)
    chat = result_of(ANSWER)
    return {
        "answer": (html.html_of(one, extras(one)), plain(one)),
        "tokens": (html.html_of(tokens, extras(tokens)), plain(tokens)),
        "thinking": (html.html_of(thinking, extras(thinking)), plain(thinking)),
        "markdown": (answer_html(chat, extras(chat), "markdown"), plain(chat)),
        "sweep": (comparison_html([one, other]), plain_table([one, other])),
        "replay": (replay_html("differs", False, [one, other]), "differs"),
        "log": (table._repr_html_() or "", repr(table)),
        "nothing": (html.html_of(result_of("")), plain(result_of(""))),
    }


KINDS = ("answer", "tokens", "thinking", "markdown", "sweep", "replay", "log", "nothing")


def notebook(kind: str) -> Any:
    markup, text = views()[kind]
    cell = nbformat.v4.new_code_cell("%%infer\nprompt")
    data = {"text/html": markup, "text/plain": text}
    cell.outputs = [nbformat.v4.new_output("display_data", data)]
    return nbformat.v4.new_notebook(cells=[cell])


class Elements(HTMLParser):
    """The names of a page's elements, and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_made_of_what_all_readers_know(kind: str) -> None:
    """Views consist of elements that nbconvert's sanitizer keeps.

    They have no style sheet, no script and no button.
    """
    markup, _ = views()[kind]
    more = {"thinking": html.FOLDED, "markdown": html.FOLDED | MORE_ELEMENTS}
    assert Elements(markup).names <= html.ELEMENTS | more.get(kind, frozenset())


@pytest.mark.parametrize("kind", KINDS)
def test_a_sanitized_page_shows_text_alone(kind: str) -> None:
    """`nbconvert --sanitize_html` turns no tag, attribute, style or button into text."""
    body, _ = HTMLExporter(sanitize_html=True).from_notebook_node(notebook(kind))
    output = Elements(body.split('class="jp-Cell-outputWrapper"')[1])
    # The parser adds `tbody` to each table. The sanitizer knows neither that nor `details`.
    shown = re.sub(r"</?(tbody|details|summary)>", "", output.text)
    for word in ("llmwit", "style", "data-", "<div", "<pre", "<span", "<t", "Copy", "WAVE"):
        assert word not in shown
    if kind in ("answer", "tokens"):
        assert LINES in shown
        assert "stop · end of text" in shown
    if kind == "thinking":
        assert shown.index("reasoning: 7 tokens") < shown.index(LINES) < shown.index("Paris")


@pytest.mark.parametrize("kind", KINDS)
def test_no_line_of_html_is_blank(kind: str) -> None:
    """No line is blank: in Markdown it would end the HTML, and the rest would be Markdown."""
    markup, _ = views()[kind]
    body, _ = MarkdownExporter().from_notebook_node(notebook(kind))
    assert markup in body
    assert all(line.strip() for line in markup.split("\n"))
    assert "<style" not in body
    assert "<button" not in body


def test_the_white_space_of_an_answer_is_kept() -> None:
    """`<pre>` has exactly the answer's lines, also the first ones."""
    for markup in (views()["answer"][0], views()["tokens"][0]):
        [inside] = re.findall(r"<pre[^>]*>\n(.*?)</pre>", markup, re.DOTALL)
        assert Elements(inside).text == LINES


def test_reasoning_is_folded() -> None:
    """It stands under one line that says how long it was, and LaTeX gets that line alone."""
    markup, text = views()["thinking"]
    [(label, inside)] = re.findall(
        r"<details><summary>(.*?)</summary><pre[^>]*>\n(.*?)</pre></details>", markup, re.DOTALL
    )
    assert Elements(label).text == "reasoning: 7 tokens"
    assert Elements(inside).text == LINES
    assert text.splitlines()[:2] == ["── reasoning: 7 tokens, in .reasoning", "Paris"]
    assert "Here *is* a list:" not in text
    assert "(7 reasoning) tokens" in text
    body, _ = LatexExporter().from_notebook_node(notebook("thinking"))
    assert "Here *is* a list:" not in body


def test_latex_gets_the_plain_text() -> None:
    """LaTeX gets the answer and the status line as plain text, and no HTML."""
    body, _ = LatexExporter().from_notebook_node(notebook("answer"))
    assert "Here *is* a list:" in body
    assert "stop · end of text" in body
    assert "llmwit-" not in body


def test_only_the_improbable_is_shaded() -> None:
    """Tokens under 10%, 3% and 1% each have a colour that the legend shows; others have none."""
    markup = html.html_of(result_of("one two three four", tokens=True))
    colours = re.findall(r'llmwit-token"(?: style="background-color:([^"]+)")?', markup)
    darkest, middle, lightest = (colour for _, colour in html.SHADES)
    assert colours == ["", lightest, middle, darkest]
    legend = markup[markup.index("llmwit-legend") :]
    assert [legend.index(colour) for colour in (lightest, middle, darkest)] == sorted(
        legend.index(colour) for colour in (lightest, middle, darkest)
    )
    assert "10%" in Elements(legend).text


def test_blank_lines_before_an_answer_take_no_room_in_a_table() -> None:
    """A table leaves out the blank lines before an answer."""
    result = result_of(LINES)
    assert re.search(r"<pre[^>]*>\n {2}Here", comparison_html([result]))


def test_marks_are_left_out_where_almost_nothing_is_shared() -> None:
    """If less than a quarter of the words is shared, nothing is marked, and a line says why."""
    assert differences("the cat sat there", "the cat sat here") == [
        ("the cat sat ", False), ("there", True),
    ]  # fmt: skip
    assert differences("bananas are the best of all fruits", "the cat sat") is None
    said = comparison_html([result_of("the cat sat"), result_of("bananas never sleep at night", 0)])
    assert "llmwit-mark" not in said
    assert "not marked: answers that share almost nothing with it" in said
    said = comparison_html([result_of("the cat sat"), result_of("the cat ran", 0)])
    assert said.count("llmwit-mark") == 1
    assert "not marked" not in said


def test_the_same_answers_have_no_marks() -> None:
    """Between equal answers nothing is marked, and no line says that marks are missing."""
    said = comparison_html([result_of("the cat sat"), result_of("the cat sat", 0)])
    assert "llmwit-mark" not in said
    assert "not marked" not in said
    empty = comparison_html([result_of(""), result_of("", 0)])
    assert "not marked" not in empty
