"""Parts of long texts: where they end, that nothing is lost, that none has too many tokens."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwit_magic import Passage, count_tokens, split
from llmwit_magic.analysis import splitting
from llmwit_magic.analysis.boundaries import Boundaries
from llmwit_magic.analysis.splitting import Splitting
from llmwit_magic.errors import InvalidInput
from tests.support.fake import FakeEngine, FakeSession


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """Its engine takes a word with the space before it for a token."""
    session = FakeSession(FakeEngine())
    monkeypatch.setattr(splitting, "current_session", lambda: session)
    return session


def texts(parts: list[Passage]) -> list[str]:
    return [part.text for part in parts]


def test_tokens_of_one_text_and_of_several() -> None:
    """A number, or a list of numbers. Nothing is logged."""
    assert count_tokens("one two three") == 3
    assert count_tokens(["one", "one two", ""]) == [1, 2, 0]
    assert count_tokens(pandas.Series(["one", "one two"])) == [1, 2]
    assert count_tokens([]) == []


def test_a_part_ends_at_a_paragraph_if_it_can() -> None:
    """Else at a sentence, else at a word. White space belongs to the part before it."""
    text = "One two three. Four five.\n\nSix seven eight nine. Ten eleven twelve."
    assert texts(split(text, 6)) == [
        "One two three. Four five.\n\n", "Six seven eight nine. ", "Ten eleven twelve.",
    ]  # fmt: skip
    assert texts(split(text, 4)) == [
        "One two three. ", "Four five.\n\n", "Six seven eight nine. ", "Ten eleven twelve.",
    ]  # fmt: skip
    assert texts(split("one two three four five", 2)) == ["one two ", "three four ", "five"]
    assert split(text, 100) == [Passage(text, 0, len(text), 12)]
    assert split("", 5) == []


def test_a_paragraph_in_the_first_half_ends_no_part() -> None:
    """The part would be shorter than half of what it can be."""
    text = "One.\n\nTwo three four five six seven. Eight nine ten eleven."
    assert texts(split(text, 8))[0] == "One.\n\nTwo three four five six seven. "


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("He left. She stayed! Why? So.", [9, 21, 26]),
        ('He said "No." Then (he left.) End', [14, 30]),
        ("It is 3.14 e.g. this one. See a.b?c=d now.", [26]),
        ("これはペンです。あれは「本です。」終わり", [8, 17]),
        ("यह एक है। वह दो है।", [10, 19]),
        ("هل هذا كتاب؟ نعم.", [13]),
        ("First line\nSecond line", []),
        ("A title\n\nA text", [9]),
        ("A title\r\n\r\n  A text", [13]),
    ],
)
def test_where_sentences_end(text: str, ends: list[int]) -> None:
    """By Unicode's properties. A full stop before a small letter ends none."""
    assert [end for end in Boundaries(text)._levels[1] if end < len(text)] == [
        end for end in ends if end < len(text)
    ]


def test_sentences_of_a_language() -> None:
    """With its code, abbreviations end none."""
    text = "They spoke about Prof. Green and left."
    assert texts(split(text, 5))[0] == "They spoke about Prof. "
    assert texts(split(text, 5, language="en"))[0] == "They spoke about Prof. Green "


def test_a_missing_sentencex_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(InvalidInput, match=r'pip install "llmwit-magic\[sentences\]"'):
        split("One. Two.", 1, language="en")


def test_an_overlap_begins_with_a_sentence_or_a_word() -> None:
    """It has at most so many tokens of the part before it."""
    text = "One two. Three four five. Six. Seven eight nine. Ten eleven twelve."
    parts = split(text, 6, overlap=2)
    assert texts(parts) == [
        "One two. Three four five. Six. ", "Six. Seven eight nine. ", "eight nine. Ten eleven twelve.",
    ]  # fmt: skip
    for one, other in pairwise(parts):
        assert one.start < other.start < one.end < other.end


def by_letters(text: str) -> int:
    """Each letter is as many tokens as it has bytes."""
    return len(text.encode())


def test_characters_of_several_signs_stay_whole() -> None:
    """A letter with its accent, a family of emoji, a flag: none of them is cut if it fits."""
    text = "e\u0301" * 5 + "👨‍👩‍👧" * 3 + "🇩🇪" * 3
    parts = Splitting(text, Boundaries(text), by_letters).parts(20, 0)
    assert "".join(texts(parts)) == text
    assert all(part.token_count <= 20 for part in parts)
    assert not any(part.text[0] in "\u0301\u200d" for part in parts)


def test_a_character_with_too_many_tokens_is_refused() -> None:
    """By its name and its number of tokens."""
    with pytest.raises(InvalidInput, match=r"^tokens: 3 is too small: the character '😀' has 4"):
        Splitting("abc😀", Boundaries("abc😀"), by_letters).parts(3, 0)


def uneven(text: str) -> int:
    """Now and then, a longer text has fewer tokens."""
    return len(text) - len(text) // 3 + text.count(" ") * (len(text) % 2)


@settings(max_examples=60)
@given(
    st.text(st.sampled_from("ab. \n。é👍🏽\u0301한"), max_size=120),
    st.integers(8, 30),
    st.integers(0, 7),
    st.sampled_from([by_letters, uneven]),
)
def test_nothing_is_lost_and_no_part_is_too_long(
    text: str, tokens: int, overlap: int, count: Any
) -> None:
    """Whatever the text and the tokens are. Parts say where they stand, and go on."""
    parts = Splitting(text, Boundaries(text), count).parts(tokens, overlap)
    for part in parts:
        assert part.text == text[part.start : part.end] == str(part)
        assert part.token_count == count(part.text) <= tokens
    whole = "".join(part.text[max(0, before - part.start) :] for before, part in pairs(parts))
    assert whole == text
    for one, other in pairwise(parts):
        assert one.start < other.start <= one.end < other.end
        assert count(text[other.start : one.end]) <= overlap or other.start == one.end


def pairs(parts: list[Passage]) -> Any:
    """Each part with the end of the one before it."""
    return zip([0, *(part.end for part in parts)], parts, strict=False)


def test_parts_make_a_table() -> None:
    """A DataFrame of them has a column for each field."""
    table = pandas.DataFrame(split("One two. Three four.", 2))
    assert list(table.columns) == ["text", "start", "end", "token_count"]
    assert table["start"].tolist() == [0, 9]
    assert table["token_count"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", 0), "tokens: 0 is not valid: it must be a whole number ≥ 1"),
        (("a", 2.5), "tokens: 2.5 is not valid"),
        (("a", True), "tokens: True is not valid"),
        (("a", 5, 5), "overlap: 5 is not valid: it must be a whole number from 0 to 4"),
        (("a", 5, -1), "overlap: -1 is not valid"),
        ((b"a", 5), "the text is bytes, not text"),
        (("a\ud800", 5), "the text: a lone surrogate"),
    ],
)
def test_what_is_refused(arguments: Any, message: str) -> None:
    """In one line."""
    with pytest.raises(InvalidInput) as caught:
        split(*arguments)
    assert str(caught.value).startswith(message)


def test_what_is_counted_is_text() -> None:
    """A list names the text that is none by its number."""
    with pytest.raises(InvalidInput, match=r"^text: int is neither a text nor a list of texts$"):
        count_tokens(3)  # type: ignore[call-overload]
    with pytest.raises(InvalidInput, match=r"^text 2 is int, not text$"):
        count_tokens(["a", 5])  # type: ignore[list-item]
