"""Tokens to chunks: whole characters, stop sequences, content filters, the reason for the end.

What `SafeText` gives out is final: it is never part of a stop sequence or of
a filter's match, so a view may show it and a log may keep it.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..protocol import ContentFilter
from ..wit import FinishDetail

if TYPE_CHECKING:
    from .content_filters import FunctionFilter, PatternFilter


class StopSequence:
    """Knows, after each character, how much of the stop sequence has just been written.

    The Knuth-Morris-Pratt automaton: constant work a character however long
    the sequence is, and `matched` is exactly the text to hold back.
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
        """Whether this character completes the sequence."""
        while self.matched and self.text[self.matched] != character:
            self.matched = self._fallback[self.matched - 1]
        self.matched += self.text[self.matched] == character
        return self.matched == len(self.text)


class SafeText:
    """The text of one run, from token bytes to what may be shown.

    After `push` or `finish`, `ended` says whether and why the text is complete:
    `stop_sequence` or `content_filter`, or None.
    """

    def __init__(self, stop: Sequence[str] = (), filters: Sequence[ContentFilter] = ()) -> None:
        self.ended: FinishDetail | None = None
        self.stop_sequence: str | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = [StopSequence(text) for text in stop]
        self._patterns: list[PatternFilter] = []
        self._functions: list[FunctionFilter] = []
        if filters:  # most runs have none, and a new engine is faster without `regex`
            from .content_filters import FunctionFilter, PatternFilter

            self._patterns = [PatternFilter(item) for item in filters if isinstance(item, str)]
            self._functions = [FunctionFilter(item) for item in filters if callable(item)]
        self._text = ""
        self.read_count = 0
        """Characters of the tokens so far, those of a stop sequence included; an
        unfinished one counts as one."""
        self.given_count = 0
        """Characters that were given out."""

    def push(self, token: bytes) -> str:
        """The text that has become safe to show with this token; perhaps none."""
        return self._advance(self._decoder.decode(token), final=False)

    def finish(self) -> str:
        """The rest, when no more tokens come: an unfinished character becomes U+FFFD."""
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
        """Add characters up to the first stop sequence that is completed.

        Character by character, so that the outcome does not depend on how the
        text was split into tokens.
        """
        for position, character in enumerate(characters):
            # No generator expression here: every automaton must see the character.
            completed = [stop.text for stop in self._stops if stop.feed(character)]
            if completed:
                self.stop_sequence = max(completed, key=len)
                self._text += characters[: position + 1]
                self._text = self._text[: -len(self.stop_sequence)]
                self.ended = FinishDetail.STOP_SEQUENCE
                return
        self._text += characters

    def _filter(self, safe: int, final: bool) -> int:
        """How much of the first `safe` characters the filters let pass."""
        if not (self._functions or self._patterns):
            return safe
        text = self._text[:safe]
        asked = [item.judge(text, final) for item in self._functions]
        cuts = [cut for cut, _ in asked if cut is not None]
        if cuts:
            text, final = text[: min(cuts)], True
        judged = [item.judge(text, final) for item in self._patterns]
        # A match counts only when no other pattern may still come to match further left.
        clean = min((allowed for _, allowed in judged), default=len(text))
        if cuts or any(cut == clean for cut, _ in judged):
            self.ended = FinishDetail.CONTENT_FILTER
            self.stop_sequence = None
            self._text = text[:clean]
            return clean
        return min([clean, *(allowed for _, allowed in asked)])
