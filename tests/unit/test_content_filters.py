"""Content filters alone: where they cut a text, and how much of it may be shown before its end.

`test_stopping.py` tests what a `SafeText` makes of them, and which patterns are refused.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmwit_magic.engines import content_filters
from llmwit_magic.engines.content_filters import FunctionFilter, PatternFilter
from llmwit_magic.errors import EngineFailed, InvalidInput

Judgement = tuple[int | None, int]


def judged(pattern: str, *texts: str, final: bool = False) -> list[Judgement]:
    """The judgements of one filter on a growing text. `final` is for the last of the texts."""
    item = PatternFilter(pattern)
    return [
        item.judge(text, final and number == len(texts)) for number, text in enumerate(texts, 1)
    ]


def test_a_text_without_a_match_is_safe() -> None:
    """A text in which no match can begin is safe at once."""
    assert judged("xyz", "", "a", "abc") == [(None, 0), (None, 1), (None, 3)]


def test_the_beginning_of_a_match_is_held_back() -> None:
    """The beginning of a match is held back.

    It becomes a match and is cut, or no match and is safe.
    """
    assert judged("abc!", "xab", "xabc", "xabc!d") == [(None, 1), (None, 1), (1, 1)]
    assert judged("abc!", "xab", "xabx") == [(None, 1), (None, 4)]


def test_a_match_at_the_end_may_go_on() -> None:
    """A match at the end of the text is decided by the next character, or by the end."""
    assert judged("ab", "xab", "xabc") == [(None, 1), (1, 1)]
    assert judged("ab", "xab", final=True) == [(1, 1)]
    assert judged("ab$", "xab", "xabc") == [(None, 1), (None, 4)]
    assert judged("ab$", "xab\n", "xab\nc") == [(None, 1), (None, 5)]
    assert judged("ab$", "xab\n", final=True) == [(1, 1)]


def test_a_word_boundary_at_the_end_is_not_known_yet() -> None:
    """Whether a word ends at the end of an unfinished text is unknown: a letter may follow."""
    assert judged(r"\bcat\b", "a cat", "a cats") == [(None, 2), (None, 6)]
    assert judged(r"\bcat\b", "a cat", "a cat.") == [(None, 2), (2, 2)]
    assert judged(r"\bcat\b", "a cat", final=True) == [(2, 2)]
    # In a class, `\b` is a backspace. After an escaped backslash, `b` is a plain letter.
    assert judged("a[\\b]c", "xa\bcd") == [(1, 1)]
    assert judged(r"a\\b", "xa\\bd") == [(1, 1)]


def test_the_leftmost_match_counts_though_another_one_is_complete() -> None:
    """An unfinished match further left may become complete, and would then cut the text there."""
    assert judged("abcd|c", "xabc", "xabcd.") == [(None, 1), (1, 1)]
    assert judged("abcd|c", "xabc", "xabce") == [(None, 1), (3, 3)]


@pytest.mark.parametrize(
    "pattern",
    [r"a\Kb", r"\Gab", "a(*SKIP)b", "(?:ab){e<=1}", r"a\X", r"(?=a\b)ab", "(?<=a$)b", r"(?!a$)b"],
)
def test_what_only_the_whole_text_can_tell(pattern: str) -> None:
    """Where a pattern needs the whole text, no text is safe before the end."""
    item = PatternFilter(pattern)
    assert item.judge("xx ab", False) == (None, 0)
    assert item.judge("xx yy", False) == (None, 0)


@pytest.mark.parametrize("pattern", ["a[*]b", r"a\\Kb", r"a\(\*b", "(?=ab)ab", "a{2}b", "[(*]"])
def test_what_only_looks_like_it(pattern: str) -> None:
    """Classes, escapes and simple look-aheads do not need the whole text."""
    assert PatternFilter(pattern).judge("xyz ", False) == (None, 4)


def test_a_look_ahead_for_what_must_not_follow_is_decided_at_the_end() -> None:
    """The forbidden text may still follow, so only the text before the match is safe."""
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
    """The error is one line that names the pattern and says why."""
    with pytest.raises(InvalidInput) as caught:
        PatternFilter(pattern)
    assert f"content filter {pattern!r} {why}" in str(caught.value)


def test_a_search_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that takes too long is given up. The error tells how long the text was."""
    monkeypatch.setattr(content_filters, "FILTER_SECONDS", 0.05)
    item = PatternFilter("(a{1,9}){1,99}b")
    with pytest.raises(EngineFailed, match=r"took over 0\.05 s on 36 characters: it backtracks"):
        item.judge("a" * 36, True)


@pytest.mark.parametrize(
    ("cut", "kept"), [(2, 2), (0, 0), (-3, 0), (99, 4), (True, 1), (2.9, 2)]
)  # fmt: skip
def test_a_function_cuts_within_the_text(cut: Any, kept: int) -> None:
    """A function's cut is a position in the text, whatever number it returns."""
    assert FunctionFilter(lambda text: cut).judge("abcd", False) == (kept, kept)


def test_a_function_that_objects_to_nothing() -> None:
    """A function may object to any text later, so the text is safe only at its end."""
    item = FunctionFilter(lambda text: None)
    assert item.judge("abcd", False) == (None, 0)
    assert item.judge("abcd", True) == (None, 4)
