"""Conversations in Python: turns, the log, forks, what does not fit, the transcript."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.errors import EngineFailed, InvalidInput, PromptTooLong
from llmwit_magic.running.conversations import Conversation
from llmwit_magic.views import transcript
from llmwit_magic.views.frontend import Reach
from llmwit_magic.views.text import plain
from llmwit_magic.views.transcript import transcript_html, transcript_text
from tests.support.conversing import Counting, asked, conversing
from tests.support.fake import FakeEngine, FakeSession, end


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeSession]:
    with conversing(monkeypatch, tmp_path) as session:
        yield session


# Turns -----------------------------------------------------------------------------------


def test_a_turn_has_all_messages_before_it(session: FakeSession) -> None:
    """Settings stay until others are given, which stay then."""
    talk = Conversation("fake", system="S", params={"max_tokens": 7})
    assert talk.ask("a").text == "Hello world"
    talk.ask("b", {"temperature": 0.5}, system="T")
    talk.ask("c")
    answer = "Hello world"
    assert asked(session) == [
        ["S", "a"], ["T", "a", answer, "b"], ["T", "a", answer, "b", answer, "c"]
    ]  # fmt: skip
    params = [request.params for request in session.engine.requests]
    assert [one.max_tokens for one in params] == [7, 7, 7]
    assert [one.temperature for one in params] == [0.8, 0.5, 0.5]
    assert len({one.seed for one in params}) == 3, "each turn draws a seed"
    assert [message["role"] for message in talk.messages] == [
        "system", *["user", "assistant"] * 3
    ]  # fmt: skip


def test_the_log_has_the_conversation(session: FakeSession, tmp_path: Path) -> None:
    """It is read back with the same messages, goes on, and is found by its name and by its ID."""
    talk = Conversation("fake", system="S", name="poem")
    talk.ask("a")
    talk.ask("b")
    session.finish(Request(model="fake", prompt="other", conversation_id="poems-01234567"))
    rows = session.log.rows(conversation="poem")
    assert [(row["turn"], row["reply_to"]) for row in rows] == [(1, None), (2, 1)]
    assert {row["conversation_id"] for row in rows} == {talk.id}
    assert session.log.rows(conversation=talk.id) == rows
    for which in ("poem", talk.id, 2):
        again = Conversation.load(which)
        assert (again.id, again.messages) == (talk.id, talk.messages)
    assert again.ask("c").turn == 3
    assert session.log.row(4)["reply_to"] == 2
    assert talk.export(tmp_path / "talk.jsonl") == 5
    lines = (tmp_path / "talk.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == talk.messages
    with pytest.raises(InvalidInput, match=r"talk.csv: .* a file that ends with .jsonl"):
        talk.export(tmp_path / "talk.csv")
    for nothing in (None, ""):
        with pytest.raises(InvalidInput, match="names no conversation: give its name"):
            Conversation.load(nothing)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="the log has no conversation 'nothing'"):
        Conversation.load("nothing")
    session.finish(Request(model="fake", prompt="p"))
    with pytest.raises(InvalidInput, match="run 5 is no turn of a conversation"):
        Conversation.load(5)


def test_a_conversation_whose_first_rows_are_gone_has_its_messages(session: FakeSession) -> None:
    """Each row has the messages before it, so a log that was pruned loses none of them."""
    talk = Conversation("fake")
    for text in "abc":
        talk.ask(text)
    session.log._database.execute("DELETE FROM runs WHERE run_id = 1")
    again = Conversation.load(talk.id)
    assert again.messages == talk.messages
    assert (again.turn_count, len(again.turns)) == (3, 2)
    assert again.ask("d").turn == 4


def test_a_fork_and_an_undone_turn(session: FakeSession) -> None:
    """A fork goes on apart from its original; an undone turn is not sent any more."""
    talk = Conversation("fake", name="t")
    talk.ask("a")
    other = talk.fork()
    assert other.name == "t"
    assert other.id != talk.id
    other.ask("b")
    talk.ask("c")
    assert asked(session)[1:] == [["a", "Hello world", "b"], ["a", "Hello world", "c"]]
    assert [row["reply_to"] for row in session.log.rows()] == [None, 1, 1]
    assert Conversation.load(other.id).messages == other.messages
    assert talk.undo().request.prompt == "c"
    talk.ask("d")
    assert asked(session)[-1] == ["a", "Hello world", "d"]
    assert Conversation.load(talk.id).messages == talk.messages
    talk.undo()
    talk.undo()
    with pytest.raises(InvalidInput, match="no turn to undo"):
        talk.undo()


def test_a_failed_turn_is_none_and_an_interrupted_one_is_marked(session: FakeSession) -> None:
    """The next turn sees what stood there when the answer was stopped. Nothing: no turn."""
    talk = Conversation("fake", params={"seed": 1})
    session.engine = FakeEngine(last=EngineFailed("broken"))
    with pytest.raises(EngineFailed):
        talk.ask("a")
    assert talk.turns == ()
    session.engine = FakeEngine(["Half"], end(1, None))
    run = talk.start("b")
    assert run.wait(10)
    assert [turn.result.status for turn in talk.turns] == ["interrupted"]
    session.engine = FakeEngine([], end(0, None))
    assert talk.start("c").wait(10)
    session.engine = FakeEngine()
    assert talk.ask("d").turn == 2
    assert asked(session) == [["b", "Half", "d"]]
    assert "interrupted" in transcript_text(talk)
    assert Conversation.load(talk.id).messages == talk.messages


def test_reasoning_is_not_sent_again(session: FakeSession) -> None:
    session.engine = FakeEngine(thoughts=["Hmm"])
    talk = Conversation("fake")
    talk.ask("a")
    talk.ask("b")
    assert asked(session)[1] == ["a", "Hello world", "b"]


def test_one_turn_at_a_time(session: FakeSession) -> None:
    session.engine = FakeEngine(["x"] * 50, pause=0.02)
    talk = Conversation("fake")
    with talk.start("a") as run:
        for act in (lambda: talk.ask("b"), talk.undo):
            with pytest.raises(InvalidInput, match="a turn of this conversation goes on"):
                act()
        assert "running" in transcript_text(talk)
        assert run.wait(10)
    with talk.stream("b") as chunks:
        assert "".join(chunks) == "x" * 50
    assert len(talk.turns) == 2


def test_messages_to_begin_with(session: FakeSession) -> None:
    """They stay in front, and the last one is an answer."""
    shots = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    talk = Conversation("fake", messages=[{"role": "system", "content": "S"}, *shots])
    talk.ask("b")
    assert asked(session) == [["S", "q", "a", "b"]]
    assert Conversation.load(talk.id).messages == talk.messages
    with pytest.raises(InvalidInput, match="end with an answer"):
        Conversation("fake", messages=shots[:1])
    with pytest.raises(InvalidInput, match=r"^history: a conversation takes messages="):
        Conversation("fake", history=shots)


@pytest.mark.parametrize("name", ["", " ", "a\nb", 3])
def test_names_that_are_none(session: FakeSession, name: Any) -> None:
    with pytest.raises(InvalidInput, match=r"conversation: .* is not a name"):
        Conversation("fake", name=name)


def test_a_turn_is_shown_in_short(session: FakeSession) -> None:
    talk = Conversation("fake")
    talk.ask("a\nb" + "c" * 100)
    assert repr(talk.undo()) == f"<Turn: 'a⏎b{'c' * 56}…' → 'Hello world'>"


def test_the_repeat_penalty_follows_the_temperature_of_a_loaded_conversation(
    session: FakeSession,
) -> None:
    """The log has all params. That the penalty was given cannot be seen there."""
    talk = Conversation("fake")
    talk.ask("a", {"temperature": 0.5})
    loaded = Conversation.load(1)
    assert loaded.request("b", {"temperature": 0}).params.repeat_penalty == 1.0
    assert loaded.request("b").params.repeat_penalty == 1.1
    assert loaded.request("b").params.temperature == 0.5


def test_filters_that_the_log_does_not_have_are_said(session: FakeSession) -> None:
    Conversation("fake").ask("a", content_filters=("x", lambda text: None))
    with pytest.warns(UserWarning, match="the log does not have the content filters <function"):
        Conversation.load(1)


# A context that fills --------------------------------------------------------------------


def test_a_context_that_fills_says_so_before(session: FakeSession) -> None:
    """The status line has the tokens that are left, and what to do when they get few."""
    session.engine = Counting()
    talk = Conversation("fake", system="S", params={"max_tokens": 30})
    said = [plain(talk.ask(text)) for text in "abcd"]
    assert "turn 2 · 58 of 100 tokens left · 40 + 2 tokens" in said[1]
    assert "turn 4 · 18 of 100 tokens left · nearly full: --drop-oldest leaves out" in said[3]


def test_drop_oldest(session: FakeSession) -> None:
    session.engine = Counting()
    talk = Conversation("fake", system="S", params={"max_tokens": 30})
    for text in "abcd":
        talk.ask(text)
    session.engine = Counting()
    result = talk.ask("e", drop_oldest=True)
    # Room for 30 tokens: the system message, two turns and the new message make 60.
    assert asked(session) == [["S", "c", "Hello world", "d", "Hello world", "e"]]
    assert "turn 5 · turns 1 to 2 dropped" in plain(result)
    row = session.log.row(-1)
    assert (row["turn"], row["dropped_turns"], row["reply_to"]) == (5, 2, 4)
    assert len(talk.messages) == 11, "the conversation keeps what is not sent"
    assert "user (dropped)" in transcript_text(talk)
    talk.ask("f")
    assert session.log.row(-1)["dropped_turns"] == 2, "what is dropped stays dropped"
    again = Conversation.load(talk.id)
    assert again.messages == talk.messages
    again.ask("g", drop_oldest=True)
    assert asked(session)[-1] == ["S", "e", "Hello world", "f", "Hello world", "g"]


def test_nothing_is_dropped_silently(session: FakeSession) -> None:
    session.engine = Counting()
    talk = Conversation("fake", params={"max_tokens": 1})
    for text in "abcde":
        talk.ask(text)
    with pytest.raises(PromptTooLong, match=r"110 tokens .* holds 100, or --drop-oldest leaves"):
        talk.ask("f")
    assert len(talk.turns) == 5
    assert talk.ask("f", drop_oldest=True).dropped_turns == 1


# The transcript --------------------------------------------------------------------------


def test_the_transcript_is_escaped_text(session: FakeSession) -> None:
    session.engine = FakeEngine(["<b>bold</b>"], thoughts=["<i>Hmm</i>"])
    talk = Conversation("fake", system="<script>")
    talk.ask("<img src=x>")
    markup = transcript_html(talk)
    for text in ("<script", "<img", "<b>bold", "<i>"):
        assert text not in markup
    assert "&lt;img src=x&gt;" in markup
    assert "&lt;i&gt;Hmm" in markup
    assert "run 1" in markup
    said = transcript_text(talk).splitlines()
    assert said[0] == f"── conversation {talk.id} · 1 turn"
    assert said[1:5] == ["── system", "<script>", "── user", "<img src=x>"]


def test_a_transcript_streams(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is drawn until its turn has ended; where updates do not arrive, once and complete."""
    shown: list[str] = []

    class Handle:
        def update(self, bundle: dict[str, str], raw: bool) -> None:
            shown.append(bundle["text/plain"])

    def display(bundle: dict[str, str], **_: Any) -> Handle:
        shown.append(bundle["text/plain"])
        return Handle()

    monkeypatch.setattr(transcript, "display", display)
    monkeypatch.setattr(transcript, "REDRAW_SECONDS", 0.02)
    session.engine = FakeEngine(["x"] * 10, pause=0.03)
    talk = Conversation("fake")
    talk.start("a")
    transcript.show_transcript(talk, Reach.LIVE)
    assert len(shown) > 2
    assert "── assistant · running …" in shown[0]
    assert shown[-1].splitlines()[-1] == "x" * 10
    talk.start("b")
    shown.clear()
    transcript.show_transcript(talk, Reach.UNKNOWN)
    assert len(shown) == 1
    assert shown[0].count("x" * 10) == 2
    transcript.show_transcript(talk, Reach.PRINT)
    assert capsys.readouterr().out == f"{shown[0]}\n"


def test_an_interrupt_ends_the_turn_that_is_drawn(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session.engine = FakeEngine(["x"] * 500, pause=0.02)
    talk = Conversation("fake")
    run = talk.start("a")
    next(event for event in run if getattr(event, "text", ""))

    def interrupted(interval: float) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(run, "updates", interrupted)
    transcript.show_transcript(talk, Reach.PRINT)
    assert [turn.result.status for turn in talk.turns] == ["interrupted"]
    assert "── assistant · interrupted" in capsys.readouterr().out
