"""The views of a run that thinks: streamed, folded when it has ended, and always text."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from llmwit_magic import api
from llmwit_magic.contract.events import Chunk, Event
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, InferencingResult, TokenInfo
from llmwit_magic.running.results import Results
from llmwit_magic.running.run import Run
from llmwit_magic.views import live, terminal, text
from llmwit_magic.views.comparison import comparison_html
from llmwit_magic.views.html import html_of
from tests.support.fake import FakeEngine, FakeSession, end, prepared, run_of

REQUEST = Request(model="fake", prompt="p", chat=True, params={"seed": 1})  # type: ignore[arg-type]
HM, OK, PARIS = (
    Chunk("", 1, (), "<b>Hm", 1),
    Chunk("", 2, (), "</b>.", 2),
    Chunk("Pa&ris", 3, (), "", 2),
)
END = end(3, thought=2)


def result_of(*events: Event, status: str = "ok") -> InferencingResult:
    result = run_of([prepared(REQUEST), *events], REQUEST).result
    return result.model_copy(update={"status": status})


class Steps:
    """A run that has had some events, and then some more."""

    def __init__(self) -> None:
        self.run = Run(REQUEST)
        self.run.emit(prepared(REQUEST))

    def then(self, *events: Event) -> Run:
        for event in events:
            self.run.emit(event)
        return self.run

    def ended(self) -> Run:
        self.run.emit(END)
        self.run._ends("ok")
        return self.run


# A terminal ----------------------------------------------------------------------------


def test_a_terminal_has_a_line_before_each_part(capsys: pytest.CaptureFixture[str]) -> None:
    """Reasoning is printed as it comes, and the answer under a line of its own."""
    steps, view = Steps(), terminal.TerminalView()
    for events in ((HM,), (OK,), (PARIS,)):
        view.draw(steps.then(*events))
    view.draw(steps.ended())
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["── thinking", "<b>Hm</b>.", "── answer", "Pa&ris"]
    assert lines[4].startswith("── stop · end of text · 5 + 3 (2 reasoning) tokens")


def test_a_terminal_prints_both_parts_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A drawing may have missed the end of the reasoning. A model may also think again."""
    steps, view = Steps(), terminal.TerminalView()
    view.draw(steps.then(HM, OK, PARIS))
    view.draw(steps.then(Chunk("", 4, (), "More", 3)))
    view.draw(steps.ended())
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == ["── thinking", "<b>Hm</b>.", "── answer", "Pa&ris", "── thinking", "More"]


def test_a_terminal_says_nothing_of_reasoning_where_there_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    view = terminal.TerminalView()
    view.draw(Steps().then(Chunk("Paris", 1)))
    assert capsys.readouterr().out == "Paris"


def test_plain_text_folds_the_reasoning_into_a_line() -> None:
    """The line says how many tokens it took, and where it is."""
    lines = text.plain(result_of(HM, OK, PARIS, END)).splitlines()
    assert lines[:2] == ["── reasoning: 2 tokens, in .reasoning", "Pa&ris"]
    cut = text.plain(result_of(HM, end(1, FinishDetail.MAX_TOKENS, thought=1))).splitlines()
    assert cut[0] == "── reasoning: 1 tokens, in .reasoning"
    assert cut[1].startswith("── length · max tokens")
    assert text.plain(result_of(HM, status="running")).splitlines()[0].startswith("── thinking …")


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ((HM, end(1, FinishDetail.MAX_TOKENS, thought=1)), True),
        ((HM, PARIS, end(2, FinishDetail.MAX_TOKENS, thought=1)), False),
        ((HM, end(1, FinishDetail.STOP_SEQUENCE, "x", thought=1)), False),
        ((end(1, FinishDetail.MAX_TOKENS),), False),
    ],
)
def test_a_limit_that_leaves_no_answer_says_what_to_do(
    events: tuple[Event, ...], said: bool
) -> None:
    """A model that thinks may use up all tokens that it has."""
    assert ("no answer yet: give more --max-tokens" in text.plain(result_of(*events))) is said


# HTML -----------------------------------------------------------------------------------


def test_html_folds_the_reasoning() -> None:
    """It is open while the model thinks, closed when the answer begins, and escaped in any case."""
    finished = html_of(result_of(HM, OK, PARIS, END))
    assert "<details><summary>" in finished
    assert "&lt;b&gt;Hm&lt;/b&gt;." in finished
    assert finished.index("</details>") < finished.index("Pa&amp;ris")
    assert "<b>Hm" not in finished
    thinking = html_of(result_of(HM, status="running"))
    assert "<details open>" in thinking
    assert "thinking …" in thinking
    assert "<details><summary>" in html_of(result_of(HM, PARIS, status="running"))
    assert "<details" not in html_of(result_of(PARIS, END))


def test_a_comparison_has_the_reasoning_beside_each_answer() -> None:
    """Only answers are compared."""
    other = result_of(Chunk("", 1, (), "Else", 1), PARIS, END)
    markup = comparison_html([result_of(HM, OK, PARIS, END), other])
    assert markup.count("<details><summary>") == 2
    assert "Else" in markup
    assert "llmwit-mark" not in markup


def test_tokens_are_shaded_in_the_part_that_they_are_of() -> None:
    """Between two blocks of reasoning is an empty line of no token."""
    tokens = [
        TokenInfo(id=number, bytes=data, logprob=math.log(share), rank=0, reasoning=reasoning)
        for number, (data, share, reasoning) in enumerate([
            (b"Hm", 0.5, True), ("é".encode()[:1], 0.5, True), ("é".encode()[1:], 0.001, True),
            (b"So", 0.5, True), (b"Pa", 0.02, False), (b"ris", 0.5, False),
        ])
    ]  # fmt: skip
    result = result_of(END).model_copy(
        update={"text": "Paris!", "reasoning": "Hmé\n\nSo", "tokens": tuple(tokens)}
    )
    markup = html_of(result)
    thoughts, answer = (
        re.sub(r"<[^>]*>", "|", part) for part in markup.split("</details>")
    )  # fmt: skip
    assert re.sub(r"\|+", "|", thoughts).endswith("|Hm|é|&#10;\n|So|")
    assert re.sub(r"\|+", "|", answer).split("shaded")[0].strip("|\n") == "Pa|ris|!"
    assert markup.count("llmwit-legend") == 1
    assert markup.count("llmwit-shaded") == 2
    only = html_of(result.model_copy(update={"text": "", "tokens": tuple(tokens[:4])}))
    assert "llmwit-legend" in only


# The live view -----------------------------------------------------------------------------


def test_the_live_view_gets_each_part_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message has what is new of the reasoning before what is new of the answer."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(live.LiveWidget, "send", lambda self, content: sent.append(content))
    stream, steps = live.Stream(live.LiveWidget()), Steps()
    stream.draw(steps.then(HM))
    stream.draw(steps.then(OK, PARIS))
    stream.draw(steps.ended())
    assert [(message.get("r"), message.get("t")) for message in sent if "r" in message or "t" in message] == [
        ("<b>Hm", None), ("</b>.", "Pa&ris"),
    ]  # fmt: skip
    assert [message["a"] for message in sent if "a" in message] == ["thinking", "writing"]
    assert [message["s"] for message in sent if "s" in message] == [
        "thinking …",
        "writing … 3 tokens",
    ]


# In Python -------------------------------------------------------------------------------------


def test_a_stream_has_the_answer_alone() -> None:
    """The reasoning is in the result, and in the events of the run."""
    session = FakeSession(FakeEngine(["Pa", "ris"], thoughts=["Let me ", "see"]))
    stream = api.TextStream(session.run(REQUEST))
    assert list(stream) == ["Pa", "ris"]
    assert (stream.result.reasoning, stream.result.text) == ("Let me see", "Paris")
    said = [event.reasoning for event in stream.run if isinstance(event, Chunk)]
    assert said == ["Let me ", "see", "", ""]
    session.close()


@pytest.mark.parametrize("last", [RuntimeError("gone"), end(1, None, thought=1)])
def test_a_run_that_was_cut_off_keeps_its_reasoning(last: Any) -> None:
    """Nothing said is lost, and its tokens are counted."""
    session = FakeSession(FakeEngine([], last, thoughts=["Hm"]))
    run = session.finish(REQUEST)
    row = session.log.row(1)
    assert (run.result.reasoning, row["reasoning"], row["text"]) == ("Hm", "Hm", "")
    assert row["reasoning_token_count"] == run.result.usage.reasoning_token_count == 1
    assert Results([run]).to_frame()["reasoning"].tolist() == ["Hm"]
    session.close()


def test_a_log_of_an_earlier_version_knows_nothing_of_reasoning() -> None:
    """Its text is all that the model wrote, and the count is not known."""
    session = FakeSession(FakeEngine())
    session.finish(REQUEST)
    session.log._writer.update(1, {"reasoning_token_count": None})
    assert (session.log[1].reasoning, session.log[1].usage.reasoning_token_count) == ("", None)
    session.close()
