"""How many columns a text takes in a terminal; cutting and filling texts to a width.

Columns are counted by grapheme cluster, with wcwidth. 田 takes two columns, an accent none, and a
family of emoji two. A terminal that draws each member of a family takes more for it.
"""

from __future__ import annotations

from collections.abc import Callable

import regex
from wcwidth import wcswidth


def width(text: str) -> int:
    """The number of columns of a text without control characters."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, _clusters(text)))


def filled(text: str, columns: int) -> str:
    """The text, filled up with spaces to so many columns."""
    return text + " " * (columns - width(text))


def cut(text: str, columns: int, shown: Callable[[str], str]) -> str:
    """The text as `shown` shows it, at most so many columns wide; "…" stands for what is cut off.

    Only the beginning of a long text is read.
    """
    kept: list[str] = []
    used = 0
    for match in regex.finditer(r"\X", text):
        for cluster in _clusters(shown(match[0])):
            kept.append(cluster)
            used += _columns(cluster)
            if used > columns:
                while used >= columns:
                    used -= _columns(kept.pop())
                return "".join(kept) + "…"
    return "".join(kept)


class StandIns:
    """Replaces texts by stand-ins that have one character for each column.

    pandas counts characters where it lays out a table, so the table gets the stand-ins. Then the
    texts are put back into it. Stand-ins are characters of a private use area. Such characters in
    a text get stand-ins too.
    """

    _FILLER = "\U000f0000"

    def __init__(self) -> None:
        self._signs: dict[str, str] = {}
        self._clusters = {ord(self._FILLER): ""}

    def put(self, text: str) -> str:
        """The stand-in of a text: as many characters as the text has columns."""
        if text.isascii():
            return text
        pieces: list[str] = []
        for cluster in _clusters(text):
            if pieces and not _columns(cluster):
                pieces[-1] += cluster
            else:
                pieces.append(cluster)
        return "".join(map(self._stand_in, pieces))

    def take(self, laid_out: str) -> str:
        """The laid out table, with the texts in place of their stand-ins."""
        return laid_out.translate(self._clusters)

    def _stand_in(self, piece: str) -> str:
        columns = width(piece)
        if len(piece) == columns == 1 and piece < self._FILLER:
            return piece
        if piece not in self._signs:
            sign = chr(ord(self._FILLER) + len(self._clusters))
            self._signs[piece], self._clusters[ord(sign)] = sign, piece if columns else piece + " "
        return self._signs[piece] + self._FILLER * (columns - 1)


def _clusters(text: str) -> list[str]:
    return regex.findall(r"\X", text)


def _columns(cluster: str) -> int:
    return max(wcswidth(cluster), 0)
