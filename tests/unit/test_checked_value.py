"""The value of an answer: what it is, why there is none, and how the log keeps it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel, model_validator

from llmwit_magic import api
from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.events import Chunk, End
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, FinishReason, InferencingUsage
from llmwit_magic.errors import EngineFailed, InvalidInput
from llmwit_magic.requests import expressions
from llmwit_magic.requests.shapes import with_constraint
from llmwit_magic.runlog.export import read_export
from llmwit_magic.running.replay import replay_request
from llmwit_magic.running.results import Results
from tests.support.constrained import Invoice, Mood, ObedientEngine, Point, finished
from tests.support.fake import FakeSession, prepared, run_of

RECORD = '{"name": "Ada", "amount": 2, "due": "2026-01-02"}'


def constraint(**options: Any) -> Constraint:
    made: Constraint = with_constraint(options)["constraint"]
    return made


def outcome(answer: str, detail: FinishDetail = FinishDetail.CONSTRAINT, **options: Any) -> Any:
    """The value and the error of an answer to `infer(…, **options)`."""
    result = finished(answer, constraint(**options), detail=detail).result
    assert result.value is None or result.value_error is None
    return result.value if result.value_error is None else result.value_error


@pytest.mark.parametrize(
    ("options", "answer", "value"),
    [
        ({"choices": ["yes", "no"]}, "no", "no"),
        ({"choices": [1, 2]}, "2", "2"),
        ({"choices": Mood}, "bad", Mood.BAD),
        ({"returns": Mood}, "good", Mood.GOOD),
        ({"regex": r"\d+-\p{L}"}, "12-é", "12-é"),
        ({"grammar": 'start: "a"'}, "whatever", "whatever"),
        ({"returns": {"type": "object"}}, ' {"a": [1.50]}\n', {"a": [1.5]}),
        ({"returns": Point}, '{"x": 1, "y": 2}', Point(1, 2)),
        ({"returns": list[int]}, "[1, 2]", [1, 2]),
    ],
)
def test_values(options: dict[str, Any], answer: str, value: Any) -> None:
    """Each kind has its value, whether the engine says `constraint` or `eos`."""
    for detail in (FinishDetail.CONSTRAINT, FinishDetail.EOS, FinishDetail.STOP_SEQUENCE):
        found = outcome(answer, detail, **options)
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    ("options", "answer", "said"),
    [
        ({"choices": ["yes", "no"]}, "yes ", "not valid: 'yes ' is none of the choices"),
        ({"regex": r"\d+"}, "12\n", r"not valid: '12\n' does not match the expression"),
        ({"regex": r"[[:foo:]"}, "12", "not valid: the expression cannot be checked"),
        ({"regex": r"(a|aa)+$"}, "a" * 60 + "b", "the check by the expression takes over"),
        ({"returns": Invoice}, '{"name": "Ada"', "not valid: it is not JSON"),
        ({"returns": Invoice}, '{"name": "Ada", "amount": "2"}', "not valid: $.amount: '2' is not"),
        ({"returns": Invoice}, '{"name": "Ada", "amount": -2}', "not valid: $.amount: Value error, "
         "nobody owes that"),
        ({"returns": int}, "1e999", "not valid: the number 1e999 is too large"),
    ],
)  # fmt: skip
def test_answers_that_are_not_valid(
    options: dict[str, Any], answer: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine may promise what it does not keep. The reason is one line."""
    monkeypatch.setattr(expressions, "MATCH_SECONDS", 0.2)
    found = outcome(answer, **options)
    assert said in found
    assert found.isprintable()


class Rude(BaseModel):
    a: int

    @model_validator(mode="after")
    def _fails(self) -> Rude:
        raise ZeroDivisionError("a second\nline")


def test_a_validator_that_fails_is_no_failed_run() -> None:
    """Whatever a class of the user's raises, the text is kept and the reason is said."""
    run = finished('{"a": 1}', constraint(returns=Rude))
    assert run.error is None
    assert run.result.value_error == "not valid: ZeroDivisionError: a second⏎line"
    assert run.result.text == '{"a": 1}'


def test_a_validator_that_leaves_is_no_run_without_an_end() -> None:
    def leave(value: int) -> int:
        raise SystemExit("bye")

    class Leaving(BaseModel):
        a: Annotated[int, AfterValidator(leave)]

    run = finished('{"a": 1}', constraint(returns=Leaving))
    assert run.wait(5)
    assert run.result.value_error == "not valid: SystemExit: bye"


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        (FinishDetail.MAX_TOKENS, "cut by max tokens"),
        (FinishDetail.CONTEXT_FULL, "cut by a full context"),
        (FinishDetail.CONTENT_FILTER, "cut by a content filter"),
    ],
)
def test_an_answer_that_was_cut_has_no_value(detail: FinishDetail, said: str) -> None:
    """Not even where the part would be valid: 12 may be the beginning of 123."""
    assert outcome("12", detail, returns=int) == said
    assert outcome("yes", detail, choices=["yes", "yes!"]) == said


def test_a_server_may_cut_an_answer_too() -> None:
    """It says the reason `length`, and no detail."""
    request = Request(model="fake", prompt="p", constraint=constraint(regex=".*"))
    usage = InferencingUsage()
    for reason, error in ((FinishReason.LENGTH, "cut by the server"), (FinishReason.STOP, None)):
        last = End(FinishDetail.UNKNOWN, usage, finish_reason=reason)
        result = run_of([prepared(request), Chunk("a", 1), last], request).result
        assert result.value_error == error


def test_interrupted_and_failed_runs_have_no_value() -> None:
    """They say so, also where the text would be valid."""
    request = Request(model="fake", prompt="p", constraint=constraint(regex=".*"))
    run = run_of([prepared(request), Chunk("a", 1), End(None, InferencingUsage())], request)
    assert (run.result.value, run.result.value_error) == (None, "interrupted")
    run = run_of([prepared(request), Chunk("a", 1), EngineFailed("no")], request)
    assert (run.result.value, run.result.value_error) == (None, "the run failed")


def test_reasoning_is_no_part_of_the_answer() -> None:
    """What the model thought before is not checked."""
    engine = ObedientEngine("no", thoughts=["yes? ", "no."])
    session = FakeSession(engine)
    run = session.finish(
        Request(model="fake", prompt="p", chat=True, constraint=constraint(choices=["yes", "no"]))
    )
    assert run.result.value == "no"
    session.close()


def test_a_run_without_a_constraint_has_neither() -> None:
    """And nothing of it is in its row."""
    run = finished("a", None)
    assert (run.result.value, run.result.value_error) == (None, None)
    row = run.row()
    assert (row["value"], row["value_error"]) == (None, None)


# The log ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_log_has_the_value_as_json(tmp_path: Path, ending: str) -> None:
    """A run that is read back has plain JSON, and so have exports. The class is not in the log."""
    session = FakeSession(ObedientEngine(RECORD))
    for options in ({"returns": Invoice}, {"choices": [RECORD]}, {"returns": {"type": "null"}}):
        session.finish(Request(model="fake", prompt="p", constraint=constraint(**options)))
    first, second, third = session.log[1], session.log[2], session.log[3]
    assert first.value == {"name": "Ada", "amount": 2, "due": "2026-01-02"}
    assert first.request.constraint == constraint(returns=Invoice)
    assert second.value == RECORD
    assert third.value is None
    assert str(third.value_error).startswith("not valid: $: {'name': 'Ada'")
    frame = session.log.to_frame()
    assert json.loads(frame["value"][1]) == first.value
    assert frame["value_error"].notna().tolist() == [False, False, True]
    path = tmp_path / f"runs.{ending}"
    session.log.export(path)
    assert read_export(path)["value"].tolist()[:2] == frame["value"].tolist()[:2]
    session.close()


def test_a_replay_keeps_the_constraint_and_may_have_a_class_again() -> None:
    """From the log the value is plain JSON; `returns=` of the replay gives the instance."""
    session = FakeSession(ObedientEngine(RECORD))
    session.finish(Request(model="fake", prompt="p", constraint=constraint(returns=Invoice)))
    request, _ = replay_request(session, session.log[1], {})
    assert session.finish(request).result.value == session.log[1].value
    request, _ = replay_request(session, session.log[1], with_constraint({"returns": Invoice}))
    assert isinstance(session.finish(request).result.value, Invoice)
    session.close()


def test_results_with_values_can_be_pickled_and_compared() -> None:
    """The value of a class comes back as one of that class; the table has JSON."""
    results = Results([finished(RECORD, constraint(returns=Invoice))])
    again = pickle.loads(pickle.dumps(results))
    assert again == results
    assert again[0].value == Invoice(name="Ada", amount=2, due="2026-01-02")
    assert json.loads(results.to_frame()["value"].iloc[0])["name"] == "Ada"


# The Python functions -----------------------------------------------------------------


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:
    session = FakeSession(ObedientEngine(RECORD))
    monkeypatch.setattr(api, "current_session", lambda: session)
    yield session
    session.close()


def test_functions(session: FakeSession) -> None:
    """`infer`, `stream`, `tune` and `replay` take a shape; embeddings refuse one."""
    wanted = Invoice(name="Ada", amount=2, due="2026-01-02")
    assert api.infer(None, "p", returns=Invoice).value == wanted
    stream = api.stream(None, "p", returns=Invoice)
    assert "".join(stream) == RECORD
    assert stream.result.value == wanted
    assert api.infer(None, "p", regex=".*").value == RECORD
    assert api.infer(None, "p", grammar='start: "a"').value == RECORD
    assert api.infer(None, "p", choices=["a"]).value is None
    assert api.replay(1).result.value == json.loads(RECORD)
    replayed = api.replay(1, returns=Invoice)
    assert replayed.result.value == wanted
    assert replayed.changed == ("constraint",)
    with pytest.raises(InvalidInput, match="returns has no effect on embeddings"):
        api.generate_embeddings(None, "a", returns=Invoice)


def test_functions_of_an_event_loop(session: FakeSession) -> None:
    """`ainfer` and `astream` take a shape too."""
    import asyncio

    async def work() -> Any:
        stream = api.astream(None, "p", returns=Invoice)
        parts = [part async for part in stream]
        assert "".join(parts) == RECORD
        return (await api.ainfer(None, "p", returns=Invoice), await stream.result())

    for result in asyncio.run(work()):
        assert isinstance(result.value, Invoice)


def test_a_panel_keeps_the_shape(session: FakeSession) -> None:
    """Each of its runs has it."""
    panel = api.tune("p", returns=Invoice)
    assert panel.wait(10)
    panel.controls["top_k"].value = 7
    assert panel.wait(10)
    assert [type(run.result.value) for run in panel.runs] == [Invoice, Invoice]
    panel.fold()
