"""Tokens to chunks: whole characters, stop sequences, content filters, the reason for the end.

What `TextStream` gives out is final: it is never part of a stop sequence or of
a filter's match, so a view may show it and a log may keep it.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

import regex

from ..errors import EngineFailed, InvalidInput
from ..protocol import ContentFilter
from ..wit import FinishDetail

FILTER_SECONDS = 2.0
"""How long one search of one filter may take before the run is given up."""

# A word boundary of a pattern; other escapes and character classes are stepped over.
_BOUNDARY = regex.compile(r"(\\[bBmM])|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", regex.DOTALL)

# What makes an unfinished text tell too little: `\K` moves the beginning of a match, `\G` and
# `(*SKIP)` depend on where the search began, fuzzy matches and `\X` change with what comes, and so
# does a look around in which there is a boundary or `$`. In a group of its own, a negative look
# ahead: what it misses may yet come. Other escapes and character classes are stepped over.
_LATE = regex.compile(
    r"(\\[KGX]|\(\*|\{[\dides<=+,\s]*[ides][^{}]*\}"
    r"|\(\?<?[=!](?!(?:\\[^bBmMzZKGX]|[^()\\$])*\)))"
    r"|(\(\?!)|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]",
    regex.DOTALL,
)


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


class PatternFilter:
    """A regular expression of which no match may be shown, nor what follows it."""

    def __init__(self, pattern: str) -> None:
        try:
            self._regex = regex.compile(pattern)
            # At the end of an unfinished text nobody knows whether there is a word boundary,
            # but `regex` thinks that it does: there, any may be one.
            self._growing = regex.compile(
                _BOUNDARY.sub(lambda m: rf"(?:{m[1]}|\Z)" if m[1] else m[0], pattern)
            )
            empty = self._regex.search("", timeout=FILTER_SECONDS)
        except (regex.error, ValueError, RecursionError, MemoryError, TimeoutError) as error:
            raise InvalidInput(
                f"content filter {pattern!r} is not a regular expression that can be used: "
                f"{str(error) or type(error).__name__}"
            ) from None
        if empty:
            raise InvalidInput(f"content filter {pattern!r} matches the empty text")
        if self._regex.flags & regex.REVERSE:
            raise InvalidInput(
                f"content filter {pattern!r} searches backwards, and would let the first match "
                "pass: write it without (?r)"
            )
        found = list(_LATE.finditer(pattern))
        self._needs_all = any(match[1] for match in found)
        """Whether only the whole text can be judged; until the end, nothing of it is safe."""
        self._undecided = any(match[2] for match in found)
        """Whether a match may yet turn out to be none."""
        self._clean = 0  # no match begins before this position

    def judge(self, text: str, final: bool) -> tuple[int | None, int]:
        """Where the text must be cut (None: nowhere), and how much of it is safe."""
        if self._needs_all and not final:
            return None, 0
        try:
            match = self._search(text, final)
        except TimeoutError:
            raise EngineFailed(
                f"content filter {self._regex.pattern!r} took over {FILTER_SECONDS:g} s on "
                f"{len(text)} characters: it backtracks; write it without nested repeats"
            ) from None
        except MemoryError:
            raise EngineFailed(
                f"content filter {self._regex.pattern!r} ran out of memory on {len(text)} "
                "characters: write it without recursion"
            ) from None
        if match is None:
            self._clean = len(text)
            return None, len(text)
        self._clean = match.start()
        # A match that touches the end may change with the next character
        # (`end$`, `\bend\b`), so it is decided then. `$` also matches before a last newline.
        end = len(text.removesuffix("\n"))
        if not final and (match.partial or self._undecided or match.end() >= end):
            return None, match.start()
        return match.start(), match.start()

    def _search(self, text: str, final: bool) -> regex.Match[str] | None:
        """The leftmost match, or beginning of what may become one if the text goes on."""
        if final:
            return self._regex.search(text, self._clean, timeout=FILTER_SECONDS)
        match = self._growing.search(text, self._clean, partial=True, timeout=FILTER_SECONDS)
        if match is None or match.partial:
            return match
        # `regex` prefers a complete match to an unfinished one further left.
        for start in range(self._clean, match.start()):
            unfinished = self._growing.match(text, start, partial=True, timeout=FILTER_SECONDS)
            if unfinished:
                return unfinished
        return match


class FunctionFilter:
    """A function from the text so far to where it must be cut, or None.

    Nobody knows what it might yet object to, so nothing is safe before the end.
    """

    def __init__(self, function: Callable[[str], int | None]) -> None:
        self._function = function

    def judge(self, text: str, final: bool) -> tuple[int | None, int]:
        cut = self._function(text)
        if cut is not None:
            cut = min(max(int(cut), 0), len(text))
            return cut, cut
        return None, len(text) if final else 0


class TextStream:
    """The text of one run, from token bytes to what may be shown.

    After `push` or `finish`, `ended` says whether and why the text is complete:
    `stop_sequence` or `content_filter`, or None.
    """

    def __init__(self, stop: Sequence[str] = (), filters: Sequence[ContentFilter] = ()) -> None:
        self.ended: FinishDetail | None = None
        self.stop_sequence: str | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = [StopSequence(text) for text in stop]
        self._patterns = [PatternFilter(item) for item in filters if isinstance(item, str)]
        self._functions = [FunctionFilter(item) for item in filters if not isinstance(item, str)]
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
