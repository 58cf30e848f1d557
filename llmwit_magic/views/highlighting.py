"""Colours of code in an answer. Pygments finds the parts, and the page's style sheet colours them."""

from __future__ import annotations

import html
import time

from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Generic

_LANGUAGES = """
    bash c c# c++ cpp cs csharp css diff docker dockerfile go html ini java javascript js json
    julia kotlin latex lua make makefile perl py python python3 r rb rs ruby rust scala sh shell sql
    swift tex toml ts typescript xml yaml zsh
"""
LANGUAGES = frozenset(_LANGUAGES.split())
"""The languages that are coloured. A model names the language, so not every lexer may be tried."""
MAX_COLOURED = 20_000
"""The most characters of a block that is coloured."""
SECONDS = 0.5
"""How long a block may take. The time of some lexers grows with the square of the text."""


def highlighted(code: str, language: str) -> str:
    """The code as HTML, its parts in elements with the short class names of Pygments.

    It is plain text where its language is unknown, and where it is too long or takes too long.
    """
    plain = html.escape(code)
    if language.lower() not in LANGUAGES or len(code) > MAX_COLOURED:
        return plain
    lexer = get_lexer_by_name(language.lower(), stripnl=False, ensurenl=False)
    until = time.monotonic() + SECONDS
    tokens = []
    for kind, text in lexer.get_tokens(code):
        # JupyterLab's own colour of comments is hard to read in the dark.
        tokens.append((Generic.Emph if kind in Comment else kind, text))
        if time.monotonic() > until:
            return plain
    if "".join(text for _, text in tokens) != code:
        return plain  # a lexer must not change what the model wrote
    lines: list[str] = []
    HtmlFormatter(nowrap=True).format(iter(tokens), _Lines(lines))
    made = "".join(lines)
    return made if code.endswith("\n") else made.removesuffix("\n")


class _Lines:
    """What a formatter writes to."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append
