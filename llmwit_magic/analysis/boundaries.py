"""Where a text may be cut: at ends of paragraphs, sentences and words, and between characters."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import regex

from ..errors import InvalidInput

_PARAGRAPH = regex.compile(r"\n[^\S\n]*\n\s*")
# After Unicode's UAX #29: a terminator, closing signs, white space. A full stop before a small
# letter ends no sentence (rule SB8). The terminators of scripts without spaces need none after them.
_SENTENCE = regex.compile(
    r"[\p{SB=ST}\p{SB=AT}]+[\p{SB=CL}]*\s+(?!\p{Ll})|(?:(?![!?])\p{SB=ST})+[\p{SB=CL}]*\s*"
)
_WORD = regex.compile(r"\s+")
_CHARACTER = regex.compile(r"\X")
LONGEST_CHARACTER = 64
"""How far back the beginning of a character is looked for, which may be written in several parts."""


class Boundaries:
    """The places where a text may be cut, as positions in characters."""

    def __init__(self, text: str, language: str | None = None) -> None:
        """`language` is the code of one whose sentences sentencex finds. Raises `InvalidInput`."""
        self._text = text
        paragraphs = [match.end() for match in _PARAGRAPH.finditer(text)]
        ends = _ends_by_language(text, language) if language is not None else _ends(text)
        self._levels = (
            paragraphs,
            sorted({*paragraphs, *ends}),
            [match.end() for match in _WORD.finditer(text)],
        )

    def last_end(self, after: int, reach: int) -> int:
        """The last place after `after` and up to `reach`: of the highest level that has one.

        Without any it is `reach`, or where the character begins that `reach` would cut.
        """
        for places in self._levels:
            found = bisect_right(places, reach) - 1
            if found >= 0 and places[found] > after:
                return places[found]
        place = self._whole_character(reach)
        return place if place > after else reach

    def first_start(self, start: int, before: int, end: int) -> int:
        """The first place from `start` on: of a sentence up to `before`, else of a word, else any."""
        for places in self._levels[1:]:
            found = bisect_left(places, start)
            if found < len(places) and places[found] <= before:
                return places[found]
        place = self._whole_character(start)
        if place < start:  # the character that `start` would cut is left out
            match = _CHARACTER.match(self._text, place)
            place = match.end() if match else start
        return min(place, end)

    def word_end(self, place: int) -> int:
        """The end of the word, with the white space after it, that `place` is in."""
        words = self._levels[-1]
        found = bisect_left(words, place)
        return words[found] if found < len(words) else len(self._text)

    def word_start(self, place: int) -> int:
        """Where the word begins that `place` is in."""
        words = self._levels[-1]
        found = bisect_right(words, place) - 1
        return words[found] if found >= 0 else 0

    def _whole_character(self, place: int) -> int:
        """The place itself, or the beginning of the character that it is in the middle of."""
        begin = max(0, place - LONGEST_CHARACTER)
        whole = begin
        for match in _CHARACTER.finditer(self._text, begin, place + LONGEST_CHARACTER):
            if match.end() > place:
                return match.start()
            whole = match.end()
        return whole


def _ends(text: str) -> Iterator[int]:
    return (match.end() for match in _SENTENCE.finditer(text))


def _ends_by_language(text: str, language: str) -> Iterator[int]:
    try:
        from sentencex import get_sentence_boundaries
    except ImportError:
        raise InvalidInput(
            "language: sentencex finds the sentences of a language, and is not installed: pip "
            'install "llmwit-magic[sentences]", or leave language out'
        ) from None
    return (found["end_index"] for found in get_sentence_boundaries(language, text))
