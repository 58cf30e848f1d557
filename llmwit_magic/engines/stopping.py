"""From tokens to chunks: whole characters, stop sequences, content filters, the reason to end.

Text that `SafeText` gives out is final. It is never part of a stop sequence or of
a filter's match. So a view may show it, and a log may keep it.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..contract.request import ContentFilter
from ..contract.wit import FinishDetail

if TYPE_CHECKING:
    from .content_filters import FunctionFilter, PatternFilter


class StopSequence:
    """Counts how many characters of the stop sequence the text ends with.

    This is the Knuth-Morris-Pratt automaton. On average its work for a character
    is constant, however long the sequence is. `matched` is exactly the number of
    characters to hold back.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._fallback = [0] * len(text)
        length = 0
        for i in range(1, len(text)):
            while length and text[i] != text[length]:
                length = self._fallback[length - 1]
            length += text[i] == text[length]
            self._fallback[i] = length

    def feed(self, character: str) -> bool:
        """Take the next character in. Returns whether it completes the sequence."""
        while self.matched and self.text[self.matched] != character:
            self.matched = self._fallback[self.matched - 1]
        self.matched += self.text[self.matched] == character
        return self.matched == len(self.text)


class Literal(str):
    """A content filter that is a text as it stands, and no regular expression."""

    __slots__ = ()


class LiteralFilter:
    """A text. Neither its first occurrence nor the text after that may be shown."""

    def __init__(self, text: str) -> None:
        self._search = StopSequence(text)
        self._read = 0
        self._start: int | None = None
        """Where the text begins that was found."""

    def judge(self, text: str, final: bool) -> tuple[int | None, int]:
        """See `content_filters.PatternFilter.judge`."""
        while self._read < len(text) and self._start is None:
            self._read += 1
            if self._search.feed(text[self._read - 1]):
                self._start = self._read - len(self._search.text)
        if self._start is not None:
            return self._start, self._start
        return None, len(text) - (0 if final else self._search.matched)


class SafeText:
    """The text of one run: token bytes in, text that is safe to show out.

    After `push` or `finish`, `ended` says why the text is complete: by a stop
    sequence or a content filter. It is None where neither has ended the text.
    """

    def __init__(self, stop: Sequence[str] = (), filters: Sequence[ContentFilter] = ()) -> None:
        self.ended: FinishDetail | None = None
        self.stop_sequence: str | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = [StopSequence(text) for text in stop]
        self._patterns: list[PatternFilter | LiteralFilter] = [
            LiteralFilter(item) for item in filters if isinstance(item, Literal)
        ]
        self._functions: list[FunctionFilter] = []
        if len(filters) > len(self._patterns):
            # Most runs have none of these, and a child starts faster without `regex`.
            from .content_filters import FunctionFilter, PatternFilter

            self._patterns += [
                PatternFilter(item)
                for item in filters
                if isinstance(item, str) and not isinstance(item, Literal)
            ]
            self._functions = [FunctionFilter(item) for item in filters if callable(item)]
        self._text = ""
        self.read_count = 0
        """Characters of all tokens so far, those of a stop sequence included.

        An unfinished character counts as one."""
        self.given_count = 0
        """Characters that were given out."""

    def push(self, token: bytes) -> str:
        """Take a token's bytes in. Returns the text that is now safe to show; it may be empty."""
        return self._advance(self._decoder.decode(token), final=False)

    def finish(self) -> str:
        """The rest of the text, when no more tokens come. An unfinished character is U+FFFD."""
        return self._advance(self._decoder.decode(b"", final=True), final=True)

    def _advance(self, characters: str, final: bool) -> str:
        if self.ended:
            return ""
        unfinished = bool(self._decoder.getstate()[0])
        self.read_count = len(self._text) + len(characters) + unfinished
        self._read(characters)
        final = final or self.ended is not None
        safe = len(self._text)
        if not final:
            safe -= max((stop.matched for stop in self._stops), default=0)
        safe = self._filter(safe, final)
        fresh = self._text[self.given_count : safe]
        self.given_count = max(self.given_count, safe)
        return fresh

    def _read(self, characters: str) -> None:
        """Add characters to the text, up to the first stop sequence that they complete.

        They are taken one by one, so that the outcome does not depend on how the
        text was split into tokens.
        """
        for position, character in enumerate(characters if self._stops else ""):
            # A list and no generator expression: every automaton must see the character.
            completed = [stop.text for stop in self._stops if stop.feed(character)]
            if completed:
                self.stop_sequence = max(completed, key=len)
                self._text += characters[: position + 1]
                self._text = self._text[: -len(self.stop_sequence)]
                self.ended = FinishDetail.STOP_SEQUENCE
                return
        self._text += characters

    def _filter(self, safe: int, final: bool) -> int:
        """How many of the first `safe` characters the filters let pass."""
        if not (self._functions or self._patterns):
            return safe
        text = self._text[:safe]
        asked = [item.judge(text, final) for item in self._functions]
        cuts = [cut for cut, _ in asked if cut is not None]
        if cuts:
            text, final = text[: min(cuts)], True
        judged = [item.judge(text, final) for item in self._patterns]
        # A match counts only once no other pattern can still match further left.
        clean = min((allowed for _, allowed in judged), default=len(text))
        if cuts or any(cut == clean for cut, _ in judged):
            self.ended = FinishDetail.CONTENT_FILTER
            self.stop_sequence = None
            self._text = text[:clean]
            return clean
        return min([clean, *(allowed for _, allowed in asked)])
