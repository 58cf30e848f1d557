"""Columns that a text takes in a terminal, and texts cut or filled up to so many.

Counted by Unicode's clusters, as wcwidth has them: 田 takes two columns, an accent none, a family
of emoji two. A terminal that draws each member of a family takes more for it.
"""

from __future__ import annotations

from collections.abc import Callable

import regex
from wcwidth import wcswidth


def width(text: str) -> int:
    """Columns of a text without control characters."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, _clusters(text)))


def filled(text: str, columns: int) -> str:
    """The text with spaces behind it, up to so many columns."""
    return text + " " * (columns - width(text))


def cut(text: str, columns: int, shown: Callable[[str], str]) -> str:
    """The text as it is shown, in so many columns, with "…" where it goes on.

    Of a long text only the beginning is looked at.
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
    """Gives a text as many characters as it takes columns, for who lays it out by its characters.

    So does pandas. What has been laid out gets the texts themselves again. Stand-ins are signs
    of private use, which stand for those in a text too.
    """

    _FILLER = "\U000f0000"

    def __init__(self) -> None:
        self._signs: dict[str, str] = {}
        self._clusters = {ord(self._FILLER): ""}

    def put(self, text: str) -> str:
        """As many characters as the text takes columns."""
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
        """What was laid out, with the texts in their places."""
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
