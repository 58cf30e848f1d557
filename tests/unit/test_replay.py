"""A replay: the request that repeats a run, and the verdict on its result."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.request import ALL_ACCEPTED, Request
from llmwit_magic.contract.wit import FinishDetail, InferencingParams, ModelInfo
from llmwit_magic.errors import InvalidInput, ModelNotFound, ModelNotSupported
from llmwit_magic.runlog.logged_run import LoggedRun
from llmwit_magic.running.replay import Replay, replay_request
from llmwit_magic.views.comparison import replay_html
from tests.support.fake import MODEL, FakeEngine, FakeSession, end

ASKED = Request(
    model="fake", prompt="p", system="S", context_length=99, gpu_layers=2, threads=3,
    top_logprobs=1, tags={"k": "v"}, group_id="g", content_filters=("a+",),
    params=InferencingParams(temperature=0.5, stop=("x", "y"), max_tokens=None),
)  # fmt: skip


@pytest.fixture
def session() -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine())
    yield session
    session.close()


def logged(
    session: FakeSession, text: str = "Hello", last: Any = None, thoughts: str = "", **fields: Any
) -> LoggedRun:
    session.engine = FakeEngine([text] if text else [], last, thoughts=filter(None, [thoughts]))
    run = session.finish(ASKED.model_copy(update=fields))
    assert run.run_id is not None
    return session.log[run.run_id]


# The request --------------------------------------------------------------------------


def test_the_request_is_the_same_again(session: FakeSession) -> None:
    """It has the same fields, no group, and the run's number as `replay_of`."""
    original = logged(session)
    request, notice = replay_request(session, original, {})
    assert notice == ""
    assert request == original.request.model_copy(update={"group_id": None, "replay_of": 1})
    assert request.params.seed is not None
    session.finish(request)
    assert session.log.rows()[-1]["replay_of"] == 1


def test_a_replay_of_a_replay_names_that_one(session: FakeSession) -> None:
    """`replay_of` is the run that was named, and not the first of a chain."""
    first = logged(session)
    session.finish(replay_request(session, first, {})[0])
    assert replay_request(session, session.log[2], {})[0].replay_of == 2


def test_changes_go_where_they_belong(session: FakeSession) -> None:
    """Fields of the params and of the request may be changed. A bad one is refused."""
    original = logged(session)
    changes = {"temperature": 0.0, "stop": ("z",), "threads": 1, "tags": {"n": "m"}}
    request, _ = replay_request(session, original, changes)
    assert (request.params.temperature, request.params.stop) == (0.0, ("z",))
    assert request.params.seed == original.request.params.seed
    assert (request.threads, dict(request.tags)) == (1, {"n": "m"})
    with pytest.raises(InvalidInput, match=r"top_p: 2\.0 is not valid"):
        replay_request(session, original, {"top_p": 2.0})
    with pytest.raises(InvalidInput, match="no field 'heat'"):
        replay_request(session, original, {"heat": 2})


def test_another_file_is_refused(session: FakeSession) -> None:
    """The hash decides. Where the file is accepted, it runs, and the notice says so."""
    original = logged(session)
    session.model = MODEL.model_copy(update={"sha256": "1" * 64, "path": "/new.gguf"})
    said = r"the model file /new.gguf is not the one of run 1 \(sha256 1{12}…, was 0{12}…\)"
    with pytest.raises(ModelNotSupported, match=f"{said}: --accept file"):
        replay_request(session, original, {})
    _, notice = replay_request(session, original, {}, accept=ALL_ACCEPTED)
    assert notice.startswith("the model file /new.gguf is not the one of run 1")


def test_a_server_of_our_own_is_the_same_after_a_restart(session: FakeSession) -> None:
    """Its port changes, so the hash of its model's file decides, where both runs have one."""
    logged(session)
    was = {"model_path": "http://h:5/v1#m", "gpu_layers": None}
    session.log._writer.update(1, was)
    original = session.log[1]
    session.model = MODEL.model_copy(update={"path": "http://h:6/v1#m"})
    assert replay_request(session, original, {})[1] == ""
    session.model = MODEL.model_copy(update={"path": "http://h:5/v1#m", "sha256": "1" * 64})
    said = r"fake is http://h:5/v1#m \(sha256 1{12}…\), and was http://h:5/v1#m \(sha256 0{12}…\)"
    with pytest.raises(ModelNotSupported, match=f"{said} in run 1: --accept file"):
        replay_request(session, original, {})
    session.model = MODEL.model_copy(update={"path": "http://h:6/v1#m", "sha256": None})
    said = "fake is http://h:6/v1#m, and was http://h:5/v1#m in run 1"
    assert replay_request(session, original, {}, accept="file")[1] == said


def test_another_model_may_be_asked_for(session: FakeSession) -> None:
    """Where the caller names a model, no hash is compared."""
    original = logged(session)
    session.model = MODEL.model_copy(update={"sha256": "1" * 64})
    request, notice = replay_request(session, original, {"model": "other"})
    assert (request.model, notice) == ("other", "")


def test_a_run_that_reached_no_model_has_no_hash(session: FakeSession) -> None:
    """The request is repeated as it was."""
    run = session.finish(ASKED)
    with session.log._database._lock:
        session.log._writer.update(run.run_id or 0, {"model_sha256": None})
    assert replay_request(session, session.log[1], {})[0].model == "fake"


def test_a_model_is_found_where_it_was(
    session: FakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads nowhere now, such as another kernel's alias, still has its path."""
    path = tmp_path / "fake.gguf"
    original = logged(session)
    session.log._writer.update(1, {"model_path": str(path)})
    original = session.log[1]

    def find(request: Request, show: Any = None) -> ModelInfo:
        if request.model == "fake":
            raise ModelNotFound("there is no model fake")
        return MODEL

    monkeypatch.setattr(session, "find", find)
    with pytest.raises(ModelNotFound, match="no model fake"):
        replay_request(session, original, {})
    path.touch()
    assert replay_request(session, original, {})[0].model == str(path)


def test_function_filters_must_be_there(session: FakeSession) -> None:
    """The log has their names. Known functions are used, and a missing one is an error."""
    keep = partial(len)
    original = logged(session, content_filters=("a+", len, keep))
    request, _ = replay_request(session, original, {}, ("b+", keep, len, max))
    assert request.content_filters == ("a+", len, keep)
    with pytest.raises(InvalidInput, match="the content filter <function len>, which is not"):
        replay_request(session, original, {}, (keep,))
    request, _ = replay_request(session, original, {}, (keep,), accept=ALL_ACCEPTED)
    assert request.content_filters == ("a+", keep)
    request, _ = replay_request(session, original, {"content_filters": ()})
    assert request.content_filters == ()


# The verdict --------------------------------------------------------------------------

STOP_X, STOP_Y = (end(1, FinishDetail.STOP_SEQUENCE, stop) for stop in "xy")


@pytest.mark.parametrize(
    ("was", "now", "identical", "said"),
    [
        (("Hello", None), ("Hello", None), True, "identical to run 1"),
        (("", end(0)), ("", end(0)), True, "identical to run 1"),
        (("Hello", STOP_X), ("Hello", STOP_X), True, "identical to run 1"),
        (("Hello", None), ("Help", None), False,
         "differs from run 1: at character 4 it had 'lo', now 'p'"),
        (("Hello", None), ("Hell", None), False,
         "differs from run 1: at character 5 it had 'o', now the end"),
        (("", end(0)), ("a\n", None), False,
         "differs from run 1: at character 1 it had the end, now 'a\\n'"),
        (("a" * 2000 + "b" * 99, None), ("a" * 2000 + "c", None), False,
         f"differs from run 1: at character 2,001 it had '{'b' * 30}', now 'c'"),
        (("Hello", None), ("Hello", end(1, FinishDetail.MAX_TOKENS)), False,
         "differs from run 1: the same text, ended by max_tokens and not by eos"),
        (("Hello", STOP_X), ("Hello", STOP_Y), False,
         "differs from run 1: the same text, ended by stop_sequence 'y' and not by stop_sequence "
         "'x'"),
        (("Hel", end(1, None)), ("Hello", None), True,
         "identical to run 1, as far as that went (interrupted)"),
        (("Hel", ValueError()), ("Hello", None), True,
         "identical to run 1, as far as that went (error)"),
        (("Hex", end(1, None)), ("Hello", None), False,
         "differs from run 1: at character 3 it had 'x', now 'llo'"),
        (("Hello", end(1, None)), ("Hel", None), False,
         "differs from run 1: at character 4 it had 'lo', now the end"),
        (("", ValueError()), ("Hello", None), False,
         "run 1 has no text to compare with (error)"),
        (("Hello", None, "Hm."), ("Hello", None, "Hm."), True, "identical to run 1"),
        (("Hello", None, "Hm."), ("Hello", None, "Hmm"), False,
         "differs from run 1: at character 3 of the reasoning it had '.', now 'm'"),
        (("Hello", None), ("Hello", None, "Hm."), False,
         "differs from run 1: at character 1 of the reasoning it had the end, now 'Hm.'"),
        (("", end(1, None), "H"), ("Hello", None, "Hm."), True,
         "identical to run 1, as far as that went (interrupted)"),
        (("Hel", end(2, None), "Hm"), ("Hello", None, "Hm."), False,
         "differs from run 1: at character 3 of the reasoning it had the end, now '.'"),
    ],
)  # fmt: skip
def test_the_verdict_says_where_it_differs(
    session: FakeSession, was: Any, now: Any, identical: bool, said: str
) -> None:
    """It compares reasoning, text, ending and stop sequence.

    Of a run that was cut off, it compares what there is of reasoning and text.
    """
    original = logged(session, *was)
    replay = Replay(original, logged(session, *now))
    assert (replay.identical, replay.verdict) == (identical, said)


def test_the_verdict_says_where_no_same_text_is_promised(session: FakeSession) -> None:
    """Only a difference needs the explanation."""
    original, other = logged(session, exact=False), logged(session, "Help", exact=False)
    assert Replay(original, original).verdict == "identical to run 1"
    said = Replay(original, other).verdict
    assert said.endswith("now 'p' (without --exact, the same text is not promised)")


def test_the_verdict_says_what_was_changed(session: FakeSession) -> None:
    """Other settings and another model file may explain a difference; tags do not."""
    original = logged(session)
    replay = Replay(original, original, ("max_tokens", "tags", "stop"), "another file")
    assert replay.verdict == "identical to run 1 · changed: max tokens, stop · another file"


def test_a_difference_shows_both_answers(session: FakeSession) -> None:
    """An identical replay shows one line. Different answers stand side by side, as text."""
    original, other = logged(session, "<i>the one"), logged(session, "<i>the two")
    same = replay_html("identical to run <1>", True, [original, original])
    assert "identical to run &lt;1&gt;" in same
    assert "<table" not in same
    differs = replay_html("differs", False, [original, other])
    assert "<i>" not in differs
    assert "&lt;i&gt;" in differs
    assert "llmwit-mark" in differs
