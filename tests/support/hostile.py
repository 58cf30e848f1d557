"""Text that would command a page, a terminal, a spreadsheet or a plot, and what it must not do."""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser

HOSTILE = {
    "a script": "<script>evil()</script>",
    "an event handler": '<img src=x onerror="evil()">',
    "ends of our elements": "</span></div></td></tr></table></pre></code></style></body><h1>owned</h1>",
    "an attribute": "\" onmouseover=\"evil()\" data-x=\"' onfocus='evil()' autofocus='",
    "entities": "&lt;script&gt;&#x3c;b&#x3e;&quot; onload=&quot;&amp;amp;",
    "a comment": "<!-- --><!--><svg/onload=evil()><![CDATA[<b>]]>",
    "a style": "</style><style>*{display:none}</style><link rel=stylesheet href=//evil>",
    "SVG and MathML": "<svg><a xlink:href='javascript:evil()'><math><mtext></math></svg>",
    "half a tag": "<a href='javascript:evil()'",
    "Markdown": "[a](javascript:evil()) ![b](http://evil/x.png)\n# title\n```\n~~~\n|a|b|\n|-|-|",
    "a formula": "$\\href{javascript:evil()}{x}$ $$\\unicode{x1b}$$ \\(a\\) \\[b\\] $\\frac{",
    "matplotlib": "_hidden $\\undefined{ ^_ \\$ $",
    "colours": "\x1b[31;5mred\x1b[0m\x1b[8mhidden",
    "a title": "\x1b]0;owned\x07\x1b]2;owned\x1b\\",
    "a link": "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "a clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "clearing": "\x1b[2J\x1b[H\x1bc\x1b[?1049h",
    "keys of a terminal": "\x1bP1$r\x1b\\\x1b[6n\x1b[21t\x05",
    "C1 controls": "\x9b31m\x9d0;owned\x9c\x90q\x85\x84\x8d",
    "overwriting": "real\rfake\b\b\b\x7f\x0b\x0c\x0e\x0f",
    "NUL": "a\0b",
    "all controls": "".join(map(chr, [*range(32), *range(127, 160)])),
    "direction": "\u202egpj.exe\u202c \u2066isolated\u2069 \u202a\u202b\u202d\u2067\u2068\u061c",
    "invisible": "a\u200bb\ufeffc\u2060d\u00ade\U000e0041\U000e007ff\u2028g\u2029h\ufffei",
    "a row of the log": '"}\n{"run_id": 99, "text": "forged"}\r\n',
    "a second line": "fine\n── stop · end of text · run 1\nUsageError: forged\n\tforged",
    "a formula of a sheet": "=HYPERLINK(\"http://evil\",\"x\")",
    "a command of a sheet": "+cmd|' /C calc'!A0",
    "a sum of a sheet": "@SUM(1+1)*cmd|'x'!A0",
    "a number of a sheet": "-2+3",
    "a tab of a sheet": "\t=1+1",
    "a quoted cell": "\",=1+1,\"\r\n=1+1",
    "templates": "{{7*7}} {0.__class__} %s%n ${x} `id`",
    "long": "<b>" * 7_000,
}  # fmt: skip

HOSTILE["all together"] = "\n".join(text[:300] for text in HOSTILE.values())


def assert_harmless_on_a_terminal(text: str, lines: int | None = None) -> None:
    """No control character, and no override of the direction; so many lines, where it is said."""
    for character in text:
        if character == "\n":
            continue
        category = unicodedata.category(character)
        assert category not in ("Cc", "Zl", "Zp", "Cs") or character == "\t", ascii(character)
        # Joiners belong to emoji and scripts; the marks of direction do nothing alone.
        assert category != "Cf" or character in "\u200c\u200d\u200e\u200f", ascii(character)
    if lines is not None:
        assert len(text.splitlines()) == lines, ascii(text)


class Page(HTMLParser):
    """The elements of a markup with the names of their attributes, and what is shown of it."""

    RAW = ("data-copy", "data-raw", "data-cell")
    """Attributes for the clipboard alone: they have the text as it is."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: set[tuple[str, str]] = set()
        self.shown = ""
        self.hidden: list[str] = []
        self._in_style = False
        self.open: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements |= {(tag, "")} | {(tag, name) for name, _ in attrs}
        self.hidden += [value or "" for name, value in attrs if name not in self.RAW]
        self._in_style = tag == "style"
        if tag not in ("wbr", "br", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.shown += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:40]!a}")

    handle_decl = handle_pi = unknown_decl = handle_comment


Elements = set[tuple[str, str]]
"""Names of elements, each alone and with the name of each of its attributes."""


def assert_harmless_on_a_page(markup: str, allowed: Elements) -> Page:
    """No other elements and attributes than harmless text has; all that is shown is visible."""
    page = Page(markup)
    assert page.open == []
    assert page.elements <= allowed, page.elements - allowed
    assert not [
        name for _, name in page.elements if name.startswith("on") or name in ("href", "src")
    ]
    for text in (page.shown, *page.hidden):
        assert_harmless_on_a_terminal(text)
    return page
