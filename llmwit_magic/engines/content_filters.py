"""Content filters: each finds what must not be shown of a text, and cuts the text before it.

A filter is a regular expression or a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import regex

from ..errors import EngineFailed, InvalidInput

if TYPE_CHECKING:
    from ..contract.request import ContentFilter

FILTER_SECONDS = 2.0
"""Seconds that one search of one filter may take. The run fails where it takes longer."""

# Finds the word boundaries of a pattern (group 1). The other alternatives step over escapes and
# character classes, so that nothing in them is taken for a boundary.
_BOUNDARY = regex.compile(r"(\\[bBmM])|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", regex.DOTALL)

# Finds the parts of a pattern that an unfinished text cannot decide.
# Group 1: parts for which the whole text is needed. `\K` moves the beginning of a match. `\G` and
# `(*SKIP)` depend on where the search began. Fuzzy matches and `\X` change with the text that
# follows, and so does a look-around that has a boundary, `$` or a group in it.
# Group 2: a negative look-ahead. The text that it forbids may still follow.
# The other alternatives step over escapes and character classes.
_LATE = regex.compile(
    r"(\\[KGX]|\(\*|\{[\dides<=+,\s]*[ides][^{}]*\}"
    r"|\(\?<?[=!](?!(?:\\[^bBmMzZKGX]|[^()\\$])*\)))"
    r"|(\(\?!)|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]",
    regex.DOTALL,
)


class PatternFilter:
    """A regular expression. Neither its first match nor the text after that may be shown."""

    def __init__(self, pattern: str) -> None:
        """Raise `InvalidInput` for a pattern that cannot be used.

        Such a pattern does not compile, matches the empty text or searches backwards.
        """
        try:
            self._regex = regex.compile(pattern)
            # Whether there is a word boundary at the end of an unfinished text depends on the
            # next character, but `regex` decides at once. So every boundary matches there.
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
        """Whether only the whole text can be judged. Until the end, no text is safe."""
        self._undecided = any(match[2] for match in found)
        """Whether the text that follows may turn a match into none."""
        self._clean = 0  # no match begins before this position

    def judge(self, text: str, final: bool) -> tuple[int | None, int]:
        """Where the text must be cut (None: nowhere yet), and how many characters are safe to show.

        `text` is all the text so far. `final` says that no more of it comes. Raises
        `EngineFailed` where the search takes too long or runs out of memory.
        """
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
        # A match that touches the end may change with the next character (`end$`, `\bend\b`).
        # So it is decided only after that character. `$` also matches before a last newline.
        end = len(text.removesuffix("\n"))
        if not final and (match.partial or self._undecided or match.end() >= end):
            return None, match.start()
        return match.start(), match.start()

    def _search(self, text: str, final: bool) -> regex.Match[str] | None:
        """The leftmost match. In an unfinished text, the beginning of a match counts as one."""
        if final:
            return self._regex.search(text, self._clean, timeout=FILTER_SECONDS)
        match = self._growing.search(text, self._clean, partial=True, timeout=FILTER_SECONDS)
        if match is None or match.partial:
            return match
        # `regex` returns a complete match even where an unfinished one begins further left.
        for start in range(self._clean, match.start()):
            unfinished = self._growing.match(text, start, partial=True, timeout=FILTER_SECONDS)
            if unfinished:
                return unfinished
        return match


def check_filters(filters: Iterable[ContentFilter]) -> None:
    """Raise `InvalidInput` for a pattern that cannot be used. Called before anything is run."""
    for item in filters:
        if isinstance(item, str):
            PatternFilter(item)


class FunctionFilter:
    """A function that takes the text so far, and returns where the text must be cut, or None.

    The function may object to any text later. So no text is safe before the end.
    """

    def __init__(self, function: Callable[[str], int | None]) -> None:
        self._function = function

    def judge(self, text: str, final: bool) -> tuple[int | None, int]:
        """See `PatternFilter.judge`. A cut outside the text means its beginning or its end."""
        cut = self._function(text)
        if cut is not None:
            cut = min(max(int(cut), 0), len(text))
            return cut, cut
        return None, len(text) if final else 0
