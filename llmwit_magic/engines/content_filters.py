"""Content filters: what must not be shown of a text, nor what follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import regex

from ..errors import EngineFailed, InvalidInput

if TYPE_CHECKING:
    from ..protocol import ContentFilter

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
        except (
            regex.error,
            ValueError,
            KeyError,
            RecursionError,
            MemoryError,
            TimeoutError,
        ) as error:
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


def check_filters(filters: Iterable[ContentFilter]) -> None:
    """Raise `InvalidInput` for a pattern that cannot be used: before anything is run, not after."""
    for item in filters:
        if isinstance(item, str):
            PatternFilter(item)


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
