"""Stop sequences and content filters over random splits, against references over the whole text."""

from __future__ import annotations

import codecs
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import regex
from hypothesis import strategies as st

from llmwit_magic.contract.request import ContentFilter, Request
from llmwit_magic.contract.wit import FinishDetail, InferencingParams
from llmwit_magic.engines.content_filters import FILTER_SECONDS
from llmwit_magic.engines.local import conversation
from llmwit_magic.engines.stopping import SafeText
from llmwit_magic.errors import EngineFailed, InvalidInput
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.report import Report
from tests.support.tiny_models import QUESTION, write_llama_gguf
from tests.support.trials import trials

pytestmark = pytest.mark.timeout(230)

SIGNS = "aab b\n\0\x1b.é日😀👩🏽‍🚀\u0301\u202e"


@st.composite
def splits(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes in pieces, cut anywhere: also inside characters."""
    whole = draw(data)
    cuts = sorted(draw(st.sets(st.integers(0, len(whole)), max_size=12)))
    return [whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)])]


def before_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The text before the first stop sequence to be complete, the longest of several."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            which = max(found, key=len)
            return text[: end - len(which)], which
    return text, None


texts = st.text(SIGNS, max_size=40) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
raw = texts.map(str.encode) | st.binary(max_size=30) | st.lists(
    st.sampled_from([b"a", b"ab", b"\xc3", b"\xa9", b"\xf0\x9f", b"\x98\x80", b"\xff", b"\xed\xa0\x80"]),
    max_size=12,
).map(b"".join)  # fmt: skip


def test_nothing_of_a_stop_sequence_is_given_out(report: Report, long: bool) -> None:
    """All before it is, at every moment nothing else, and it ends with the token that completes it."""

    @trials(long, 500, pieces=splits(raw), data=st.data())
    def check(pieces: list[bytes], data: st.DataObject) -> None:
        text = b"".join(pieces).decode(errors="replace")
        stops = data.draw(st.lists(st.text(SIGNS, min_size=1, max_size=3), max_size=2))
        if text:  # stop sequences that do occur
            at = data.draw(st.integers(0, len(text) - 1))
            stops.append(text[at : at + data.draw(st.integers(1, 6))])
        wanted, which = before_stop(text, stops)
        stream = SafeText(stops)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        given, read = "", ""
        for piece in pieces:
            given += stream.push(piece)
            read += decoder.decode(piece)
            assert wanted.startswith(given)
            assert bool(stream.ended) == bool(before_stop(read, stops)[1])
        given += stream.finish()
        assert (given, stream.stop_sequence) == (wanted, which)
        assert stream.ended == (FinishDetail.STOP_SEQUENCE if which else None)
        report.tried(
            "text in: stop sequences", "stopped before it" if which else "went through whole"
        )


# Content filters --------------------------------------------------------------------

ATOMS = ["a", "b", "c", "é", ".", "\\w", "\\s", "\\S", "[ab]", "[^a]", "[^\\W\\d]", "\\n", "(?:ab|b)",
         "(a|bc)", "\\X", "\\p{L}", "\\.", "[\\]b]"]  # fmt: skip
AROUND = ["\\b", "\\B", "^", "$", "\\A", "\\Z", "(?m)^", "\\K", "\\G", "(?=b)", "(?!b)", "(?=.*c)",
          "(?!.*c)", "(?<=a)", "(?<!a)", "(?<=a.)", "(?=b$)", "(?!b\\b)", "(?<!b$)", "(?i)", "(?s)"]  # fmt: skip
FORMS = ["{0}{1}", "{0}|{1}", "{0}*{1}", "{0}+{1}", "{0}?{1}", "{0}+?{1}", "{0}{{2}}{1}", "(?:{0})+{1}",
         "(?:{0}){{e<=1}}{1}", "(?>{0}){1}", "{0}*+{1}", "({0})\\1{1}", "(?={0}){1}", "(?!{0}){1}",
         "{1}(?={0})", "{1}(?!{0})", "(?<!{0}){1}", "{0}(*PRUNE){1}", "(?({0})a|{1})"]  # fmt: skip
patterns = st.recursive(
    st.sampled_from(ATOMS + AROUND),
    lambda inner: st.builds(lambda form, a, b: form.format(a, b), st.sampled_from(FORMS), inner, inner),
    max_leaves=5,
)  # fmt: skip
filtered = st.text("aabbc", max_size=14) | st.text("abc \né.", max_size=14)


def test_what_a_filter_matches_never_appears(report: Report, long: bool) -> None:
    """Given out is the text before the leftmost match in the whole of it, whatever the split."""

    @trials(long, 1000, pattern=patterns, pieces=splits(filtered.map(str.encode)))
    def check(pattern: str, pieces: list[bytes]) -> None:
        kind = "text in: content filters"
        try:
            stream = SafeText((), [pattern])
        except InvalidInput as error:
            line = str(error)
            assert line.isprintable()
            report.tried(kind, "refused in one line")
            return
        text = b"".join(pieces).decode()
        try:
            match = regex.search(pattern, text)
        except MemoryError:  # some fuzzy repeats are more than the library can take
            with pytest.raises(EngineFailed, match=r"ran out of memory|backtracks"):
                "".join(map(stream.push, pieces)) + stream.finish()
            report.tried(kind, "ended in one line")
            return
        given = "".join(map(stream.push, pieces)) + stream.finish()
        assert given == (text[: match.start()] if match else text)
        assert bool(stream.ended) == bool(match)
        report.tried(kind, "cut before the match" if match else "let pass")


# Through a real child -----------------------------------------------------------------

CODE = ("a" * 12, "a" * 12, "a" * 12, "!", "a" * 12, "b")


@pytest.fixture(scope="module")
def repeating_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model that answers with forty letters, a sign and more letters."""
    path = tmp_path_factory.mktemp("repeating") / "repeating.gguf"
    return write_llama_gguf(path, tied=False, weights="successor", answer=CODE)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One session, whose engine goes through all of this."""
    session = Session(tmp_path_factory.mktemp("stops") / "runs.sqlite3")
    yield session
    session.close()


def ask(session: Session, model: Path, filters: Sequence[ContentFilter]) -> Run:
    params = InferencingParams(max_tokens=len(CODE), temperature=0, repeat_penalty=1, seed=1)
    return session.run(
        Request(
            model=str(model), prompt=QUESTION, params=params, content_filters=tuple(filters),
            top_logprobs=1,
        )
    )  # fmt: skip


@pytest.mark.parametrize("pattern", ["(?:a|aa)+b", "(?:a|a?)+b", "(?:a+a+)+b", "(a{1,9}){1,99}b"])
def test_a_filter_that_backtracks_for_ever_ends_its_run(
    session: Session, repeating_model: Path, pattern: str, report: Report
) -> None:
    """In bounded time, with one line that names it; the engine goes on."""
    assert ask(session, repeating_model, ["zzz"]).wait(60)
    engines = session.local.pool.loaded_models()
    began = time.monotonic()
    run = ask(session, repeating_model, [pattern])
    assert run.wait(len(CODE) * FILTER_SECONDS + 10)
    kind = "text in: filters that backtrack for ever"
    if run.error is None:
        # The library was quicker than the pattern deserves: then it must be right.
        match = regex.search(pattern, "".join(CODE))
        assert match
        assert run.text == "".join(CODE)[: match.start()]
        report.tried(kind, "cut before the match")
    else:
        assert isinstance(run.error, EngineFailed)
        assert "backtracks" in str(run.error)
        assert pattern in str(run.error)
        assert str(run.error).isprintable()
        report.tried(kind, "ended in one line")
    assert "b" not in run.text
    assert time.monotonic() - began < len(CODE) * FILTER_SECONDS + 5
    again = ask(session, repeating_model, [])
    assert again.wait(60)
    assert again.text == "".join(CODE)
    assert session.local.pool.loaded_models() == engines


def raises(text: str) -> int | None:
    raise RuntimeError("first\nsecond \x1b[31m")


def exits(text: str) -> int | None:
    raise SystemExit("bye")


def recurses(text: str) -> int | None:
    return recurses(text + " ")


HOSTILE_FUNCTIONS = {
    "raises": (raises, "raises raised RuntimeError: first"),
    "exits": (exits, "exits raised SystemExit"),
    "recurses": (recurses, "recurses raised RecursionError"),
    "gives text": (lambda text: "5", "returned '5'"),
    "gives a fraction": (lambda text: 0.5, "returned 0.5"),
    "gives infinity": (lambda text: float("inf"), "returned inf"),
    "gives a huge number": (lambda text: 2**70, f"returned {2**70}"),
    "gives a negative number": (lambda text: -1, "returned -1"),
    "gives a truth": (lambda text: True, "returned True"),
}


@pytest.mark.parametrize("name", HOSTILE_FUNCTIONS)
def test_a_filter_function_that_misbehaves(
    session: Session, repeating_model: Path, name: str, report: Report
) -> None:
    """One line names it, nothing is shown, and the engine goes on."""
    function, said = HOSTILE_FUNCTIONS[name]
    run = ask(session, repeating_model, [function])  # type: ignore[list-item]
    assert run.wait(60)
    assert isinstance(run.error, InvalidInput)
    assert said in str(run.error)
    assert str(run.error).isprintable()
    assert run.text == ""
    assert not run.result.tokens
    again = ask(session, repeating_model, [])
    assert again.wait(60)
    assert again.text == "".join(CODE)
    report.tried("text in: filter functions", "ended in one line")


def test_a_filter_function_that_never_returns(
    session: Session, repeating_model: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run can be stopped, and the next one works."""
    monkeypatch.setattr(conversation, "CANCEL_SECONDS", 0.3)
    forever = time.sleep
    run = ask(session, repeating_model, [lambda text: forever(20)])
    time.sleep(0.5)
    began = time.monotonic()
    run.cancel()
    assert run.wait(20)
    assert time.monotonic() - began < 5
    assert (run.status, run.text) == ("interrupted", "")
    again = ask(session, repeating_model, [])
    assert again.wait(60)
    assert again.text == "".join(CODE)
    report.tried("text in: filter functions", "stopped by a person")


def test_nothing_filtered_reaches_the_log(
    session: Session, repeating_model: Path, report: Report
) -> None:
    """Neither in the text nor in the bytes of a token; the run ends by its filter."""
    for filters in (["!"], ["a!a"], [lambda text: text.find("!") if "!" in text else None]):
        run = ask(session, repeating_model, filters)
        assert run.wait(60)
        assert run.result.finish_detail is FinishDetail.CONTENT_FILTER
        row = session.log.row(run.run_id or 0)
        assert row["finish_reason"] == "content_filter"
        assert "!" not in row["text"]
        assert "!" not in repr(run.result.tokens)
        report.tried("text in: content filters", "kept out of the log")
