"""Hostile answers as Markdown: inert on a page, shown as they are, and done in a bounded time."""

from __future__ import annotations

import html
import re
import time
from functools import cache

import pytest

from llmwit_magic.contract.wit import InferencingResult, InferencingUsage
from llmwit_magic.views.display import answer_html
from llmwit_magic.views.html import Extras
from llmwit_magic.views.markdown import MAX_MARKDOWN
from llmwit_magic.views.text import visible
from tests.support.hostile import HOSTILE, Elements, Page, assert_harmless_on_a_terminal
from tests.support.markdown_texts import ANSWER, HOSTILE_MARKDOWN
from tests.support.report import Report

TEXTS = {**HOSTILE, **HOSTILE_MARKDOWN}
SECONDS = 20
"""How long a text may take. It takes two seconds at most where nothing else runs."""
ATTRIBUTES = {
    "",
    "class",
    "style",
    "dir",
    "start",
    "role",
    "aria-level",
    "href",
    "rel",
    "target",
    "data-raw",
}


def page_of(text: str) -> str:
    """The finished view of such an answer of a chat."""
    usage = InferencingUsage()
    result = InferencingResult(text=text, finish_reason=None, usage=usage, chat=True)
    return answer_html(result, Extras(), "auto")


@cache
def elements_of_harmless() -> Elements:
    """The elements of views of answers without any HTML, as Markdown and as text."""
    harmless = (f"{ANSWER}\n\n3. a\x01", "a" * (MAX_MARKDOWN + 1))
    return set().union(*(Page(page_of(text)).elements for text in harmless))


class Links(Page):
    """A page with the address of each of its links."""

    def __init__(self, markup: str) -> None:
        self.addresses: list[str] = []
        super().__init__(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        self.addresses += [value or "" for name, value in attrs if name == "href"]


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_markdown_is_inert(name: str, report: Report) -> None:
    """It has only the elements of a harmless answer, and each address that it links to is shown."""
    text = TEXTS[name]
    began = time.monotonic()
    view = page_of(text)
    assert time.monotonic() - began < SECONDS
    whole = Links(view)
    assert whole.open == []
    assert whole.elements <= elements_of_harmless()
    assert {name for _, name in whole.elements} <= ATTRIBUTES
    assert visible(text) in whole.shown
    assert_harmless_on_a_terminal(whole.shown)

    # The text of the answer is folded under the Markdown, which shows the addresses by itself.
    rendered, fold, _ = view.partition("<details>")
    assert not fold or "shown as text: " not in whole.shown
    shown = "".join(re.split(r"<[^>]*>", rendered))
    for address in whole.addresses:
        assert address.startswith(("http://", "https://", "mailto:"))
        assert address.isascii()
        assert "@" not in address.partition("://")[2].partition("/")[0]
        assert html.escape(address) in shown
    report.tried("text out: Markdown", "inert")
