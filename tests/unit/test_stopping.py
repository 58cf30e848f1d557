"""From token bytes to text that may be shown, compared with plain references over whole texts."""

import itertools
import time
from collections.abc import Sequence

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmwit_magic.contract.wit import FinishDetail
from llmwit_magic.engines import content_filters
from llmwit_magic.engines.stopping import Literal, SafeText, StopSequence
from llmwit_magic.errors import EngineFailed, InvalidInput

REPLACEMENT = "�"
LETTERS = "ab"
MIXED = "ab \néß日本😀👩🏽‍🚀\0"
STOP, FILTER = FinishDetail.STOP_SEQUENCE, FinishDetail.CONTENT_FILTER

few_letters = st.text(LETTERS, max_size=40)
mixed_text = st.text(MIXED, max_size=30)
texts = few_letters | mixed_text | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
stop_lists = st.lists(
    st.text(LETTERS, min_size=1, max_size=5) | st.text(MIXED, min_size=1, max_size=3), max_size=4
)

PATTERNS = [
    "ab", "a+b", "a.b", "a.*b", "a.*?b", "(?:ab|ba)+c", "[ab]{2,3}c", "b|abc", "bc|abcd",
    "(a+)b\\1", "(?i)AB", "(?s)a.+c", "c+", "^ab", "(?m)^b", "ab$", "(?m)a$", "b\\Z", "\\bab\\b",
    "a\\b", "c\\B", "a\\s\\bb", "[\\b a]\\b[^]b]c?", "\\ma\\M.", "(?<=a)b",
    "(?P<x>[ab])c(?P=x)", "a++b", "(?>a|ab)c", "abcdabce", "a{4}",
    "a(?:bc)?d", "(?<!a)b", "(?:a|ab)(?:c|bcd)", "a[^b]{2}", "é+b", "😀|日本", "[bd]\\s+a",
]  # fmt: skip
patterns = st.sampled_from(PATTERNS)
filter_texts = st.text("abcd", max_size=25) | st.text("ab cd\né日本😀", max_size=25)


@st.composite
def split_texts(draw: st.DrawFn, strategy: st.SearchStrategy[str]) -> tuple[str, list[bytes]]:
    """A text, and its UTF-8 in pieces that are cut anywhere."""
    text = draw(strategy)
    data = text.encode()
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    edges = [0, *cuts, len(data)]
    return text, [data[a:b] for a, b in itertools.pairwise(edges)]


def bytewise(text: str) -> list[bytes]:
    return [bytes([byte]) for byte in text.encode()]


def outcome(
    pieces: Sequence[bytes], stop: Sequence[str] = (), filters: Sequence[object] = ()
) -> tuple[str, FinishDetail | None, str | None]:
    """All the text that was given out, why it ended, and the stop sequence."""
    return outcome_of(SafeText(stop, filters), pieces)  # type: ignore[arg-type]


def outcome_of(
    stream: SafeText, pieces: Sequence[bytes]
) -> tuple[str, FinishDetail | None, str | None]:
    given_out = "".join(stream.push(piece) for piece in pieces) + stream.finish()
    return given_out, stream.ended, stream.stop_sequence


def before_stop(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """The text before the occurrence that ends first.

    Of several that end there, the longest counts.
    """
    found = [(text.find(item) + len(item), -len(item), item) for item in stop if item in text]
    if not found:
        return text, None
    end, _, item = min(found)
    return text[: end - len(item)], item


def held_back(text: str, stop: Sequence[str]) -> int:
    """The length of the longest end of the text that is also the beginning of a stop sequence."""
    lengths = (n for item in stop for n in range(len(item)) if text.endswith(item[:n]))
    return max(lengths, default=0)


@given(split_texts(texts), stop_lists)
@example(("aab", [b"a", b"a", b"b"]), ["ab", "b"])
@example(("aaab", [b"aaab"]), ["aab", "aaab"])
@settings(max_examples=200)
def test_stop_sequences_equal_the_reference(case: tuple[str, list[bytes]], stop: list[str]) -> None:
    """The text ends before the stop sequence that is completed first, the longest of several."""
    text, pieces = case
    wanted, which = before_stop(text, stop)
    assert outcome(pieces, stop) == (wanted, STOP if which else None, which)


@given(split_texts(texts), stop_lists)
@settings(max_examples=150)
def test_the_split_into_tokens_does_not_matter(
    case: tuple[str, list[bytes]], stop: list[str]
) -> None:
    """One token, a token for each byte and any other split give the same text and reason."""
    text, pieces = case
    assert outcome(pieces, stop) == outcome([text.encode()], stop) == outcome(bytewise(text), stop)


@given(split_texts(texts), stop_lists)
@settings(max_examples=150)
def test_text_is_given_out_as_soon_as_it_is_safe(
    case: tuple[str, list[bytes]], stop: list[str]
) -> None:
    """Only an unfinished character and the beginning of a stop sequence are held back."""
    text, pieces = case
    stream = SafeText(stop)
    given_out, data = "", b""
    for piece in pieces:
        given_out += stream.push(piece)
        data += piece
        if stream.ended:
            break
        whole = data.decode(errors="ignore")
        assert text.startswith(whole)
        assert given_out == whole[: len(whole) - held_back(whole, stop)]


@given(st.text(LETTERS, min_size=1, max_size=8), st.text(LETTERS, max_size=40))
@example("aabaaaa", "aabaaab")
@settings(max_examples=200)
def test_the_automaton_counts_what_has_been_written_of_the_sequence(stop: str, text: str) -> None:
    """`matched` is the length of the longest beginning of the sequence with which the text ends."""
    automaton = StopSequence(stop)
    for end in range(1, len(text) + 1):
        completed = automaton.feed(text[end - 1])
        lengths = [n for n in range(len(stop) + 1) if text[:end].endswith(stop[:n])]
        assert automaton.matched == max(lengths)
        assert completed == text[:end].endswith(stop)
        if completed:
            break


@given(st.lists(st.binary(max_size=6), max_size=10))
@example([b"caf\xc3", b"("])
@example([b"\xf0\x9f", b"\x98", b"\x80\xf0"])
@settings(max_examples=150)
def test_invalid_bytes_become_replacement_characters(pieces: list[bytes]) -> None:
    """Any bytes in any pieces give the text that Python's decoder gives for all of them at once."""
    assert outcome(pieces)[0] == b"".join(pieces).decode(errors="replace")


def test_how_much_has_been_read_and_given_out() -> None:
    """An unfinished character counts as one that was read. It is given out when it is complete.

    So a token that ends inside a character is not recorded before that character is given
    out.
    """
    stream = SafeText(["zz"])
    counts = []
    for piece in (b"a", b"\xf0", b"\x9f\x98", b"\x80", b"z", b"b"):
        stream.push(piece)
        counts.append((stream.read_count, stream.given_count))
    assert counts == [(1, 1), (2, 1), (2, 1), (2, 2), (3, 2), (4, 4)]


@pytest.mark.parametrize("character", ["é", "日", "😀"])
def test_an_unfinished_character_at_the_end_becomes_one_replacement(character: str) -> None:
    """An unfinished character is held back while it may be completed.

    At the end it is shown as U+FFFD.
    """
    for end in range(1, len(character.encode())):
        stream = SafeText()
        assert stream.push(b"caf" + character.encode()[:end]) == "caf"
        assert stream.finish() == REPLACEMENT


def test_a_stop_sequence_may_contain_the_replacement_character() -> None:
    """The U+FFFD at the end is text like any other, and may complete a stop sequence."""
    assert outcome([b"a\xc3"], [REPLACEMENT]) == ("a", STOP, REPLACEMENT)


def test_nothing_comes_after_the_end() -> None:
    """Tokens after a stop sequence or a filter's match are ignored."""
    for stream in (SafeText(["."]), SafeText((), [r"\."])):
        assert stream.push(b"a. b") == "a"
        assert stream.push(b"more.") == stream.finish() == ""
        assert stream.ended


@given(patterns, split_texts(filter_texts))
@example("ab$", ("ab\nc", [b"ab\n", b"c"]))
@example("b|abc", ("abd", [b"ab", b"d"]))
@example("bc|abcd", ("abcdd", [b"a", b"bcd", b"d"]))
@settings(max_examples=500)
def test_a_filter_cuts_where_the_reference_does(
    pattern: str, case: tuple[str, list[bytes]]
) -> None:
    """Exactly the text before the leftmost match in the whole text is given out."""
    text, pieces = case
    match = regex.search(pattern, text)
    wanted = (text[: match.start()], FILTER, None) if match else (text, None, None)
    assert outcome(pieces, filters=[pattern]) == wanted
    assert outcome(bytewise(text), filters=[pattern]) == wanted


@given(st.lists(patterns, min_size=2, max_size=3), split_texts(filter_texts))
@example(["dc", "b.+"], ("xbadccc", [b"xbadcc", b"c"]))
@example(["dc", "b.*Z"], ("xbadccZ", [b"xbad", b"ccc", b"Z"]))
@settings(max_examples=200)
def test_several_filters_cut_at_the_leftmost_match_of_any(
    several: list[str], case: tuple[str, list[bytes]]
) -> None:
    """The result depends neither on the order of the filters nor on the split into tokens."""
    text, pieces = case
    starts = [m.start() for pattern in several if (m := regex.search(pattern, text))]
    wanted = (text[: min(starts)], FILTER, None) if starts else (text, None, None)
    assert outcome(pieces, filters=several) == wanted
    assert outcome(pieces, filters=several[::-1]) == wanted


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("a(?!bc)", "babc"), ("a(?!bc)", "babd"), ("a(?!.*c)", "adcdca"), ("(?!ab)a", "abac"),
        ("a(?=bc)", "abdabc"), ("a(?=b$)", "abc"), ("a(?!b$)", "abc"), ("a(?!b\\b)", "abc"),
        ("b(?<!b$)", "abc"), ("b(?<!b\\b)", "abc"), ("(?<!\\w)abc", "dabc abc"), ("ab\\Kc", "ababcd"),
        ("a\\Kbc", " daabcd"), ("\\Gab", "dab"), ("(?:abc){e<=1}", "bddabc"), ("a(*SKIP)b|c", "bddaabb"),
        ("(?(?=ab)abc|b)", "dabd"), ("[(?!]a", "b!a"), ("\\(?!a", "b(!a"),
    ],
)  # fmt: skip
def test_what_stands_around_a_match(pattern: str, text: str) -> None:
    """Look-arounds, moved beginnings and fuzzy matches do not depend on the split either."""
    match = regex.search(pattern, text)
    wanted = (text[: match.start()], FILTER, None) if match else (text, None, None)
    for cut in range(len(text)):
        assert outcome([text[:cut].encode(), text[cut:].encode()], filters=[pattern]) == wanted
    assert outcome(bytewise(text), filters=[pattern]) == wanted


@pytest.mark.parametrize("pattern", ["(?r)ab", "(?R)?ab(?r)"])
def test_a_pattern_that_searches_backwards_is_refused(pattern: str) -> None:
    """A backward search would find the last match, and let the first one pass."""
    with pytest.raises(InvalidInput, match="backwards"):
        SafeText((), [pattern])


def test_a_pattern_that_calls_itself_for_ever_fails_in_one_line() -> None:
    """Such a pattern fails for memory or for time, whichever this machine has less of."""
    with pytest.raises(EngineFailed, match=r"ran out of memory|took over 2 s"):
        outcome([b"dd"], filters=["(?R)?ab"])


@given(patterns, stop_lists, split_texts(filter_texts))
@example("ab", ["bc"], ("xabc", [b"xab", b"c"]))
@settings(max_examples=200)
def test_stop_and_filter_together(
    pattern: str, stop: list[str], case: tuple[str, list[bytes]]
) -> None:
    """The filter judges the text before the stop sequence. Its match there is the reason to end."""
    text, pieces = case
    kept, which = before_stop(text, stop)
    match = regex.search(pattern, kept)
    if match:
        wanted = (kept[: match.start()], FILTER, None)
    else:
        wanted = (kept, STOP if which else None, which)
    assert outcome(pieces, stop, [pattern]) == wanted


@given(
    st.text("ab", min_size=1, max_size=4) | st.sampled_from(["a.b", "日本", "a+", "\\d"]),
    patterns, stop_lists, split_texts(filter_texts),
)  # fmt: skip
@example("cd", "b.*", [], ("abcda\n", [b"abcd", b"a", b"\n"]))
@settings(max_examples=200)
def test_a_text_is_filtered_as_its_escaped_pattern(
    text: str, pattern: str, stop: list[str], case: tuple[str, list[bytes]]
) -> None:
    """`Literal` filters a text as it stands, alone and beside a pattern and stop sequences."""
    literal, escaped = Literal(text), regex.escape(text)
    assert outcome(case[1], stop, [literal]) == outcome(case[1], stop, [escaped])
    assert outcome(case[1], stop, [literal, pattern]) == outcome(case[1], stop, [escaped, pattern])


def test_a_text_is_held_back_as_long_as_it_may_come() -> None:
    """Neither the text nor its beginning is given out before it is clear that it does not come."""
    stream = SafeText((), [Literal("a.b.c")])
    assert stream.push(b"xa.b") == "x"
    assert stream.push(b".a") == "a.b."
    assert stream.push(b".b.cd") == ""
    assert stream.ended is FILTER
    assert stream.finish() == ""


def test_a_filter_lets_pass_what_no_match_can_begin_in() -> None:
    """Text is held back only as long as a match may come of it."""
    stream = SafeText((), ["secret"])
    assert stream.push(b"a word ") == "a word "
    assert stream.push(b"sec") == ""
    assert stream.push(b"ond") == "second"
    assert stream.push(b" se") == " "
    assert stream.finish() == "se"
    assert stream.ended is None


def test_a_function_gives_nothing_before_the_end() -> None:
    """A function may object to any text later, so its text comes at the end, cut or whole."""
    stream = SafeText((), [lambda text: None])
    assert stream.push(b"one ") == stream.push(b"two") == ""
    assert stream.finish() == "one two"
    assert stream.ended is None

    stream = SafeText((), [lambda text: text.find("x") if "x" in text else None])
    assert stream.push(b"one ") == ""
    assert stream.push(b"two x") == "one two "
    assert stream.ended is FILTER


@pytest.mark.parametrize(("cut", "kept"), [(-5, ""), (0, ""), (2, "ab"), (99, "abcd")])
def test_a_function_s_cut_is_held_to_the_text(cut: int, kept: str) -> None:
    """A cut outside the text means its beginning or its end."""
    assert outcome([b"abcd"], filters=[lambda text: cut]) == (kept, FILTER, None)


def test_a_function_s_cut_does_not_let_another_filter_s_match_out() -> None:
    """For the patterns, the text before a function's cut is a finished text."""
    cut_at_six = lambda text: 6 if len(text) >= 6 else None  # noqa: E731
    assert outcome([b"xx abc", b"d"], filters=["abc", cut_at_six]) == ("xx ", FILTER, None)
    assert outcome([b"xx abc", b"d"], filters=["abc.*z", cut_at_six]) == ("xx abc", FILTER, None)


def test_a_pattern_s_match_ends_the_run_beside_a_function() -> None:
    """A pattern's match is not held back by a function that never objects."""
    stream = SafeText((), ["abc", lambda text: None])
    assert stream.push(b"xx abcd") == "xx "
    assert stream.ended is FILTER


def test_a_stop_sequence_asks_functions_about_the_text_before_it() -> None:
    """The last text that a function judges is the one without the stop sequence."""
    asked: list[str] = []
    result = outcome([b"one", b" two###x"], ["###"], [lambda text: asked.append(text)])
    assert result == ("one two", STOP, "###")
    assert asked == ["one", "one two"]


@pytest.mark.parametrize("pattern", ["", "a*", "a?", "x|", "(?:ab)*", "^", "$", "^$", r"\s*"])
def test_a_pattern_that_matches_nothing_at_all_is_refused(pattern: str) -> None:
    """A pattern that matches the empty text would cut every text at its beginning."""
    with pytest.raises(InvalidInput, match="empty"):
        SafeText((), [pattern])


@pytest.mark.parametrize(
    "pattern", ["(", "[a", "*a", "(?P<a", r"\p{foo}", "(?V0)(?V1)a", "(" * 3000 + ")" * 3000]
)
def test_a_broken_pattern_is_refused_in_one_line(pattern: str) -> None:
    """Whatever `regex.compile` raises becomes one line of `InvalidInput` with the pattern."""
    with pytest.raises(InvalidInput, match="content filter") as caught:
        SafeText((), [pattern])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(?:a|aa)+b", "(a|a)*b"])
def test_a_pattern_that_backtracks_for_ever_fails_in_bounded_time(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is given up after its time, with one line that names the pattern."""
    monkeypatch.setattr(content_filters, "FILTER_SECONDS", 0.1)
    stream = SafeText((), ["x" + pattern])
    started = time.monotonic()
    with pytest.raises(EngineFailed, match="backtracks") as caught:
        outcome_of(stream, [b"x" + b"a" * 5000 + b"!"])
    assert time.monotonic() - started < 5
    assert pattern in str(caught.value)
    assert "\n" not in str(caught.value)
