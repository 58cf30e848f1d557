"""Content filters by themselves: where a text is cut, and how much of it may be shown meanwhile.

What a text stream makes of them is in `test_stopping.py`; which filters cannot be used, too.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmwit_magic.engines import content_filters
from llmwit_magic.engines.content_filters import FunctionFilter, PatternFilter
from llmwit_magic.errors import EngineFailed, InvalidInput

Judgement = tuple[int | None, int]


def judged(pattern: str, *texts: str, final: bool = False) -> list[Judgement]:
    """What one filter says of a text as it grows; `final` is for the last."""
    item = PatternFilter(pattern)
    return [
        item.judge(text, final and number == len(texts)) for number, text in enumerate(texts, 1)
    ]


def test_a_text_without_a_match_is_safe() -> None:
    """All of it, at once: nothing of it can begin a match."""
    assert judged("xyz", "", "a", "abc") == [(None, 0), (None, 1), (None, 3)]


def test_the_beginning_of_a_match_is_held_back() -> None:
    """Until it is one, and is cut before it; or turns out to be none, and is safe."""
    assert judged("abc!", "xab", "xabc", "xabc!d") == [(None, 1), (None, 1), (1, 1)]
    assert judged("abc!", "xab", "xabx") == [(None, 1), (None, 4)]


def test_a_match_at_the_end_may_go_on() -> None:
    """It is decided by the next character, or by the end of the text."""
    assert judged("ab", "xab", "xabc") == [(None, 1), (1, 1)]
    assert judged("ab", "xab", final=True) == [(1, 1)]
    assert judged("ab$", "xab", "xabc") == [(None, 1), (None, 4)]
    assert judged("ab$", "xab\n", "xab\nc") == [(None, 1), (None, 5)]
    assert judged("ab$", "xab\n", final=True) == [(1, 1)]


def test_a_word_boundary_at_the_end_is_not_known_yet() -> None:
    """A letter may follow, or none."""
    assert judged(r"\bcat\b", "a cat", "a cats") == [(None, 2), (None, 6)]
    assert judged(r"\bcat\b", "a cat", "a cat.") == [(None, 2), (2, 2)]
    assert judged(r"\bcat\b", "a cat", final=True) == [(2, 2)]
    # A boundary in a class is the sign of backspace, and an escaped backslash is none.
    assert judged("a[\\b]c", "xa\bcd") == [(1, 1)]
    assert judged(r"a\\b", "xa\\bd") == [(1, 1)]


def test_the_leftmost_match_counts_though_another_one_is_complete() -> None:
    """What begins further left may yet become a match, and would cut there."""
    assert judged("abcd|c", "xabc", "xabcd.") == [(None, 1), (1, 1)]
    assert judged("abcd|c", "xabc", "xabce") == [(None, 1), (3, 3)]


@pytest.mark.parametrize(
    "pattern",
    [r"a\Kb", r"\Gab", "a(*SKIP)b", "(?:ab){e<=1}", r"a\X", r"(?=a\b)ab", "(?<=a$)b", r"(?!a$)b"],
)
def test_what_only_the_whole_text_can_tell(pattern: str) -> None:
    """Nothing is shown before the end of the text."""
    item = PatternFilter(pattern)
    assert item.judge("xx ab", False) == (None, 0)
    assert item.judge("xx yy", False) == (None, 0)


@pytest.mark.parametrize("pattern", ["a[*]b", r"a\\Kb", r"a\(\*b", "(?=ab)ab", "a{2}b", "[(*]"])
def test_what_only_looks_like_it(pattern: str) -> None:
    """Classes, escapes and plain looks ahead need no whole text."""
    assert PatternFilter(pattern).judge("xyz ", False) == (None, 4)


def test_a_look_ahead_for_what_must_not_follow_is_decided_at_the_end() -> None:
    """What it misses may yet come: the text is safe as far as the match."""
    assert judged("a(?!bc)", "xa", "xab", "xabc") == [(None, 1), (None, 1), (None, 4)]
    assert judged("a(?!bc)", "xabd") == [(None, 1)]
    assert judged("a(?!bc)", "xabd", final=True) == [(1, 1)]


def test_what_was_safe_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next search begins where a match may begin, however long the text has become."""
    item = PatternFilter("abc")
    assert item.judge("x" * 100, False) == (None, 100)
    seen: list[int] = []
    search = item._search

    def watched(text: str, final: bool) -> Any:
        seen.append(item._clean)
        return search(text, final)

    monkeypatch.setattr(item, "_search", watched)
    assert item.judge("x" * 100 + "yab", False) == (None, 101)
    assert item.judge("x" * 100 + "yabc.", False) == (101, 101)
    assert seen == [100, 101]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "is not a regular expression that can be used: "),
        ("(?P<a>", "is not a regular expression that can be used: "),
        ("", "matches the empty text"),
        ("a*", "matches the empty text"),
        ("(?r)ab", "searches backwards"),
    ],
)
def test_patterns_that_cannot_be_used(pattern: str, why: str) -> None:
    """One line names the pattern and says why."""
    with pytest.raises(InvalidInput) as caught:
        PatternFilter(pattern)
    assert f"content filter {pattern!r} {why}" in str(caught.value)


def test_a_search_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, and says on how much text."""
    monkeypatch.setattr(content_filters, "FILTER_SECONDS", 0.05)
    item = PatternFilter("(a{1,9}){1,99}b")
    with pytest.raises(EngineFailed, match=r"took over 0\.05 s on 36 characters: it backtracks"):
        item.judge("a" * 36, True)


@pytest.mark.parametrize(
    ("cut", "kept"), [(2, 2), (0, 0), (-3, 0), (99, 4), (True, 1), (2.9, 2)]
)  # fmt: skip
def test_a_function_cuts_within_the_text(cut: Any, kept: int) -> None:
    """Whatever number it gives, of a text that may be shown no further."""
    assert FunctionFilter(lambda text: cut).judge("abcd", False) == (kept, kept)


def test_a_function_that_objects_to_nothing() -> None:
    """Nobody knows what it might yet object to: the text is safe at its end."""
    item = FunctionFilter(lambda text: None)
    assert item.judge("abcd", False) == (None, 0)
    assert item.judge("abcd", True) == (None, 4)
