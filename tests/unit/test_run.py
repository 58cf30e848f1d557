"""A run: its thread, its events, its result, and its end."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from llmwit_magic.contract.events import Chunk, Progress
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, FinishReason
from llmwit_magic.errors import EngineDied, EngineFailed, Interrupted
from llmwit_magic.running.run import Run
from tests.support.fake import FakeEngine, FakeSession, end, prepared, run_of

REQUEST = Request(model="fake", prompt="p")


def test_a_run_replays_its_events() -> None:
    """Whoever iterates later gets the same events again."""
    events = [Progress("load"), prepared(REQUEST), Chunk("a", 1), Chunk("b", 2), end(2)]
    run = run_of(events)
    assert list(run) == events
    assert list(run) == events


def test_nothing_is_written_before_the_prompt_is_read() -> None:
    """Between the prepared request and the engine's first word the run reads its prompt.

    A view that looks just then must not say that it writes.
    """
    run = Run(REQUEST)
    stages = []
    for event in (Progress("load"), prepared(REQUEST), Progress("prompt", 2, 5), Chunk("a", 1)):
        run.emit(event)
        stages.append(run.progress and (run.progress.stage, run.progress.done, run.progress.total))
    assert stages == [("load", 0, None), ("prompt", 0, 5), ("prompt", 2, 5), None]


def test_a_result_comes_from_the_events() -> None:
    """Text, finish reason, usage and timings are those of the engine's events."""
    run = run_of([prepared(REQUEST), Chunk("a", 1), Chunk("b", 2),
                  end(2, FinishDetail.STOP_SEQUENCE, ".")])  # fmt: skip
    result = run.result
    assert (result.text, result.status) == ("ab", "ok")
    assert result.finish_reason is FinishReason.STOP
    assert result.stop_sequence == "."
    assert result.usage.generated_token_count == 2
    assert result.timings.tokens_per_second == pytest.approx(5)
    assert result.timings.total is not None
    assert result.timings.load is not None
    assert result.timings.first_token is not None


def test_a_failed_run_keeps_its_text_and_raises() -> None:
    """The text before a failure stays. Following the run raises the failure."""
    run = run_of([prepared(REQUEST), Chunk("partial", 1), EngineDied("gone")])
    assert (run.status, run.text) == ("error", "partial")
    assert run.result.finish_reason is None
    with pytest.raises(EngineDied, match="gone"):
        run.follow(lambda run: None)


def test_an_unexpected_error_does_not_look_like_a_run_that_goes_on() -> None:
    """The run ends as failed, and the error has the exception's name."""
    run = run_of([RuntimeError("surprise")])
    assert run.status == "error"
    with pytest.raises(EngineFailed, match="unexpected RuntimeError: surprise"):
        run.raise_failure()


def test_following_draws_the_last_state_always() -> None:
    """However fast the events come, there are few drawings, and the last one has all text."""
    session = FakeSession(FakeEngine(["x"] * 500))
    drawn: list[str] = []
    session.run(REQUEST).follow(lambda run: drawn.append(run.text), 0.05)
    assert drawn[-1] == "x" * 500
    assert len(drawn) < 50


def test_drawings_keep_their_distance() -> None:
    """Two drawings are at least the interval apart, except the last one."""
    session = FakeSession(FakeEngine(["x"] * 60, pause=0.005))
    times: list[float] = []
    session.run(REQUEST).follow(lambda run: times.append(time.monotonic()), 0.05)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times[:-1])]
    assert gaps
    assert min(gaps) >= 0.045


def test_an_interrupt_cancels_and_keeps_the_text() -> None:
    """An interrupt while following cancels the run, draws it once more and raises `Interrupted`."""
    session = FakeSession(FakeEngine(["x"] * 1000, pause=0.005))
    run = session.run(REQUEST)
    drawn: list[str] = []

    def draw(run: Run) -> None:
        drawn.append(run.status)
        if len(run.text) > 5 and run.status == "running":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stopped after"):
        run.follow(draw)
    assert drawn[-1] == "interrupted"
    assert 5 < len(run.text) < 1000
    assert run.result.status == "interrupted"
    assert session.log.rows()[-1]["status"] == "interrupted"


def test_a_run_says_what_it_is() -> None:
    """A conversation's `start` gives one, and a cell may end with it."""
    session = FakeSession(FakeEngine(["Hello", " world"]))
    run = session.finish(REQUEST)
    assert repr(run) == "<Run 1: ok, 'Hello world'>"
    assert repr(Run(REQUEST)) == "<Run: running, ''>"


def test_a_second_interrupt_adds_nothing() -> None:
    """Stop that is pressed twice is one line: the second one may come while the end is drawn."""
    session = FakeSession(FakeEngine(["x"] * 1000, pause=0.005))
    run = session.run(REQUEST)

    def draw(run: Run) -> None:
        if run.text:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stopped after"):
        run.follow(draw)
    assert session.log.rows()[-1]["status"] == "interrupted"


def test_a_run_can_be_read_from_other_threads() -> None:
    """Two readers at once see all events in order."""
    session = FakeSession(FakeEngine([str(n) for n in range(200)], pause=0.0005))
    run = session.run(REQUEST)
    seen: list[list[str]] = [[], []]

    def read(index: int) -> None:
        seen[index] = [event.text for event in run if isinstance(event, Chunk)]

    readers = [threading.Thread(target=read, args=(index,)) for index in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(20)
    assert seen[0] == seen[1] == [str(n) for n in range(200)]


def test_who_watches_hears_of_an_end_in_the_middle_of_an_event() -> None:
    """A run is left behind by one thread while another one tells of an event.

    Here the end comes after the last watcher has been called for the event, and before the event's
    thread goes on. Both are played by one thread.
    """
    run = Run(REQUEST)
    seen: list[str] = []
    run.watch(lambda: seen.append(run.status))

    def end_of_the_run() -> None:
        if seen[-1:] == ["running"] and len(run.events) == 1:
            with run._changed:
                run._status = "interrupted"  # as `_ends` does it, before it tells

    run.watch(end_of_the_run)
    run.emit(Progress("load"))
    run._tell_watchers()
    assert seen == ["running", "running", "interrupted"]
    assert run._watchers == []


def test_a_seed_is_drawn_and_recorded_at_once() -> None:
    """A request without a seed gets one before its row is written."""
    session = FakeSession(FakeEngine())
    run = session.run(REQUEST)
    assert run.request.params.seed is not None
    run.wait(10)
    assert session.log.rows()[0]["seed"] == run.request.params.seed == run.result.params.seed
