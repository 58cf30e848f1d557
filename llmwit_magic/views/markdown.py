"""An answer as Markdown on a page: HTML that runs nothing, loads nothing and hides no address.

- Raw HTML of the model is text. No attribute of an element comes from the model, except the number
  at which a list begins and the address of a link.
- The address of a link stands behind its text, and only the address can be clicked (`links.py`).
- An image is not loaded: its address could carry what the model has read to somebody else.
- A formula is typeset only where it does nothing but show a formula (`formulas.py`).
- Headings are no elements of headings, so they are in no table of contents of the notebook.

The elements are those of `html.py` and of `MORE_ELEMENTS`. Long, deep and hostile texts take a
bounded time: such an answer is shown as text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from ..base.printable import visible
from .formulas import enable_formulas, formula_html
from .highlighting import highlighted
from .html import MAX_UNSCROLLED, cell, escape
from .links import safe_address

MORE_ELEMENTS = frozenset({"a", "blockquote", "code", "em", "li", "ol", "strong", "ul"})
"""The elements of Markdown beside those of other views. nbconvert's sanitizer keeps them too."""
MAX_MARKDOWN = 100_000
"""The most characters of an answer that is shown as Markdown."""
MAX_PARTS = 100_000
"""The most tokens of the parser: begins, ends and texts. Empty cells of tables make many of little."""
MAX_MARKUP = 1_000_000
"""The most characters of its HTML."""
MAX_DEPTH = 30
"""How deep lists and quotations may be nested. The parser leaves out what is deeper."""
MAX_FORMULAS = 300
"""The most formulas of an answer that are typeset. MathJax does about a hundred in a second."""

_LINE = "rgba(128,128,128,0.5)"
_QUOTE = f"margin:.6em 0;padding:0 0 0 .8em;border-left:3px solid {_LINE}"
_CODE = (
    "margin:0;padding:.5em .7em;white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace;"
    "background-color:rgba(128,128,128,0.06)"
)
_SIZES = ("1.4em", "1.25em", "1.1em", "1em", "1em", "1em")
"""The size of each level of heading."""
_BREAK = '<span style="white-space:pre">\n</span>'
_TAGS = {
    "paragraph_open": '<div dir="auto" style="margin:.6em 0">',
    "paragraph_close": "</div>\n",
    "heading_close": "</b></div>\n",
    "blockquote_open": f'<blockquote style="{_QUOTE}">',
    "blockquote_close": "</blockquote>\n",
    "bullet_list_open": '<ul style="margin:.6em 0;padding-left:1.8em">',
    "bullet_list_close": "</ul>\n",
    "ordered_list_close": "</ol>\n",
    "list_item_open": '<li dir="auto">',
    "list_item_close": "</li>\n",
    "hr": f'<div role="separator" style="margin:.8em 0;border-bottom:1px solid {_LINE}"></div>\n',
    "table_open": '<div class="llmwit-scrolling" style="margin:.6em 0;overflow-x:auto"><table>',
    "table_close": "</table></div>\n",
    "thead_open": "",
    "thead_close": "",
    "tbody_open": "",
    "tbody_close": "",
    "tr_open": "<tr>",
    "tr_close": "</tr>\n",
    "softbreak": _BREAK,  # a model that begins a line means one
    "hardbreak": _BREAK,
    "strong_open": "<strong>",
    "strong_close": "</strong>",
    "em_open": "<em>",
    "em_close": "</em>",
    "s_open": '<span style="text-decoration:line-through">',
    "s_close": "</span>",
}
"""What the tokens of the parser become that carry nothing of the model."""


def markdown_html(text: str) -> tuple[str, str]:
    """An answer as HTML, and why it is not shown as Markdown. One of the two is empty."""
    if len(text) > MAX_MARKDOWN:
        return "", f"shown as text: more than {MAX_MARKDOWN:,} characters"
    try:
        markup = _Page().of(_parser().parse(visible(text.replace("\r\n", "\n"))))
    except _TooMuch as error:
        return "", f"shown as text: {error}"
    except Exception as error:  # of a parser that reads what a model has written
        return "", f"shown as text: it cannot be read as Markdown ({type(error).__name__})"
    if len(markup) > MAX_MARKUP:
        return "", "shown as text: as Markdown it is too large"
    name = "llmwit-markdown" + " llmwit-long" * (len(text) > MAX_UNSCROLLED)
    # A blank line would end the HTML in Markdown. Only code has some.
    markup = re.sub(r"\n(?=[ \t]*\n)", "&#10;", markup)
    return f'<div class="{name}" style="overflow-wrap:break-word">{markup}</div>', ""


def is_plain(markup: str, text: str) -> bool:
    """Whether the HTML of an answer says no more than its text, so that the text may be shown."""
    for known in (_TAGS["paragraph_open"], _TAGS["paragraph_close"], _BREAK):
        markup = markup.replace(known, " ")
    inside = re.sub(r'^<div class="llmwit-markdown[^>]*>|</div>$', "", markup)
    return "<" not in inside and html.unescape(inside).split() == visible(text).split()


def _parser() -> MarkdownIt:
    """A parser of CommonMark with tables, formulas and lines through text.

    It makes no links of bare addresses. It has no definitions of links, which a reader would not
    see. Addresses that may not be links leave the text as it is.
    """
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_DEPTH})
    parser.enable(["table", "strikethrough"])
    parser.disable(["html_block", "html_inline", "reference", "autolink"])
    parser.normalizeLink = lambda url: safe_address(url) or ""  # type: ignore[method-assign]
    parser.validateLink = bool  # type: ignore[method-assign, assignment]
    enable_formulas(parser)
    parser.core.ruler.after("block", "bounds", _check_bounds)
    return parser


class _TooMuch(Exception):
    """The answer would take too much time or room as Markdown. The message says why."""


def _check_bounds(state: StateCore) -> None:
    """Refuse what is too deep or too much, before the texts of all its parts are read."""
    if any(token.level >= MAX_DEPTH - 2 for token in state.tokens):
        raise _TooMuch("its lists or quotations are nested too deep")
    if len(state.tokens) > MAX_PARTS:
        raise _TooMuch(f"as Markdown it has more than {MAX_PARTS:,} parts")


class _Page:
    """Writes the tokens of one answer."""

    def __init__(self) -> None:
        self._formulas = 0
        self._end_of_cell = ""

    def of(self, tokens: Sequence[Token]) -> str:
        return "".join("" if token.hidden else self._block(token) for token in tokens)

    def _block(self, token: Token) -> str:
        if token.type == "inline":
            return self._inline(token.children or [])
        if token.type in _TAGS:
            return _TAGS[token.type]
        if token.type == "heading_open":
            level = int(token.tag[1:])
            return (
                f'<div dir="auto" role="heading" aria-level="{min(level + 2, 6)}" '
                f'style="margin:.8em 0 .4em;font-size:{_SIZES[level - 1]}"><b>'
            )
        if token.type == "ordered_list_open":
            start = f' start="{int(token.attrGet("start") or 1)}"'
            return f'<ol{start} style="margin:.6em 0;padding-left:2.4em">'
        if token.type in ("fence", "code_block"):
            language = token.info.split(maxsplit=1)[0] if token.info.strip() else ""
            # HTML drops a line end right behind <pre>. It drops this one, and none of the code's own.
            return (
                f'<div class="highlight llmwit-code" style="margin:.6em 0"><pre style="{_CODE}">\n'
                f"{highlighted(token.content.removesuffix(chr(10)), language)}</pre></div>\n"
            )
        if token.type == "formula_block":
            place = '<div class="llmwit-formula" style="margin:.6em 0;overflow-x:auto">'
            return f"{place}{self._formula(token)}</div>\n"
        if token.type in ("th_open", "td_open"):
            side = str(token.attrGet("style") or "").removeprefix("text-align:")
            align = f";text-align:{side}" if side in ("right", "center") else ""
            begin, self._end_of_cell = cell("\0", align).split("\0")
            return begin + "<b>" * (token.type == "th_open")
        if token.type in ("th_close", "td_close"):
            return "</b>" * (token.type == "th_close") + self._end_of_cell
        return escape(token.content)

    def _inline(self, tokens: Sequence[Token]) -> str:
        parts: list[str] = []
        address, begin = "", 0
        for token in tokens:
            if token.type == "link_open":
                address, begin = str(token.attrGet("href") or ""), len(parts)
            elif token.type == "link_close":
                parts[begin:] = [_link("".join(parts[begin:]), address)]
            elif token.type == "image":
                parts.append(_image(token))
            elif token.type == "code_inline":
                parts.append(f"<code>{escape(token.content)}</code>")
            elif token.type == "formula":
                parts.append(self._formula(token))
            else:
                parts.append(_TAGS[token.type] if token.type in _TAGS else escape(token.content))
        return "".join(parts)

    def _formula(self, token: Token) -> str:
        self._formulas += 1
        return formula_html(token, self._formulas <= MAX_FORMULAS)


def _link(text: str, address: str) -> str:
    """The text of a link, and its address behind it, which can be clicked."""
    if not address:
        return text
    link = (
        f'<a href="{html.escape(address)}" rel="noopener noreferrer" target="_blank" dir="ltr">'
        f"{escape(address)}</a>"
    )
    return link if text.strip() in ("", escape(address)) else f"{text} ({link})"


def _image(token: Token) -> str:
    """A line of text in the place of an image."""
    said = ", ".join(filter(None, [token.content.strip(), str(token.attrGet("src") or "")]))
    return f"[image, not loaded: {escape(said)}]"
