"""A template and a DataFrame become requests: the names in it, and the values of each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest

from llmwit_magic.contract.messages import checked_messages
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import InvalidInput
from llmwit_magic.running.frame_requests import NO_EXAMPLES, worked_examples
from llmwit_magic.running.resuming import RESULTS
from tests.support.batches import FRAME, REQUEST, Echo, run
from tests.support.fake import FakeSession


@pytest.fixture
def engine() -> Echo:
    return Echo()


@pytest.fixture
def session(engine: Echo, tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(engine, tmp_path / "runs.sqlite3")
    yield session
    session.close()


# Templates -----------------------------------------------------------------------------


def test_each_row_has_its_prompt(session: FakeSession, engine: Echo) -> None:
    """The result is a copy with new columns in their types, and the log has the runs."""
    frame = run(session, template="Hi {{name}}, {{ n }}: {{row['n']}} {x}")
    assert engine.prompts == ["Hi Ada, 1: 1 {x}", "Hi Bob, 2: 2 {x}", "Hi Cyd, 3: 3 {x}"]
    assert frame["infer_text"].tolist() == [prompt.upper() for prompt in engine.prompts]
    assert list(frame.columns) == [*FRAME.columns, *(f"infer_{name}" for name in RESULTS)]
    assert frame["infer_run_id"].tolist() == [1, 2, 3]
    assert str(frame["infer_generated_token_count"].dtype) == "Int64"
    assert list(FRAME.columns) == ["name", "n"]
    assert {row["group_id"] for row in session.log.rows()} == {"b"}
    assert frame.attrs["batch"] == "b"


def test_any_column_has_a_name(session: FakeSession, engine: Echo) -> None:
    """`row[…]` reaches names with blanks and numbers, but a column called row has its own name."""
    run(session, pandas.DataFrame({"a b": ["x"], 0: ["y"]}), "{{row['a b']}}{{row[0]}}")
    run(session, pandas.DataFrame({"row": ["mine"]}), "{{row}}")
    assert engine.prompts == ["xy", "mine"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Hi", "names no column: write {{column}}"),
        ("Hi {name}", "names no column"),
        ("{{nme}}", "{{nme}}: that is no column of the DataFrame: did you mean name?"),
        ("{{land}}", "{{land}}: that is no column of the DataFrame, which has name, n"),
        ("{{name + n}}", "only a variable"),
        ("{{a b}}", "only a variable"),
        (3, "the template is int, not text"),
    ],
)
def test_a_template_that_fits_no_row_is_refused(
    session: FakeSession, engine: Echo, template: Any, message: str
) -> None:
    """The error comes before anything runs. It is one line, without options of a cell."""
    with pytest.raises(InvalidInput) as caught:
        run(session, template=template)
    assert message in str(caught.value)
    assert "--" not in str(caught.value)
    assert engine.prompts == []


@pytest.mark.parametrize("missing", [None, float("nan"), pandas.NA, pandas.NaT])
def test_a_missing_value_fails_its_row(session: FakeSession, engine: Echo, missing: Any) -> None:
    """A missing value is not the text `nan`. Its row has the error, and the others run."""
    frame = run(session, pandas.DataFrame({"name": ["Ada", missing, "Cyd"]}, dtype=object))
    assert engine.prompts == ["Hi Ada", "Hi Cyd"]
    assert frame["infer_status"].tolist() == ["ok", "error", "ok"]
    assert frame.loc[1, "infer_error_type"] == "InvalidInput"
    assert frame.loc[1, "infer_error_message"] == "column 'name' has no value in this row"
    assert frame.loc[1, ["infer_text", "infer_run_id"]].isna().all()


def test_a_value_that_does_not_fit_fails_its_row(session: FakeSession) -> None:
    """A missing attribute or key, and a text without a UTF-8 form, fail only their row."""
    frame = pandas.DataFrame({"d": [{"k": "v"}, {}, "text", {"k": "\ud800"}]})
    frame = run(session, frame, "{{d['k']}}")
    assert frame["infer_status"].tolist() == ["ok", "error", "error", "error"]
    messages = frame["infer_error_message"].tolist()
    assert messages[1] == "{{d['k']}}: KeyError: 'k'"
    assert "lone surrogate" in messages[3]


# Values in all texts, and names as they are written ------------------------------------


def test_values_are_put_into_system_stop_and_tags(session: FakeSession, engine: Echo) -> None:
    """Each row has its own values there. The template itself need not name a column then."""
    frame = pandas.DataFrame({"lang": ["French", "Dutch"], "mark": ["a", "b"]})
    request = REQUEST.model_copy(update={
        "system": "In {{lang}}.", "tags": {"in": "{{row['lang']}}"}, "chat": True,
        "params": InferencingParams(temperature=0, stop="{{mark}}"),
    })  # fmt: skip
    answers = run(session, frame, "Hello", request=request)
    assert [asked.system for asked in engine.requests] == ["In French.", "In Dutch."]
    assert [asked.params.stop for asked in engine.requests] == [("a",), ("b",)]
    assert [asked.tags for asked in engine.requests] == [{"in": "French"}, {"in": "Dutch"}]
    assert answers["infer_status"].tolist() == ["ok", "ok"]
    # The same call again takes them from the log.
    assert run(session, frame, "Hello", request=request).equals(answers)
    assert len(engine.requests) == 2


def test_a_misspelt_column_in_an_option_is_refused(session: FakeSession, engine: Echo) -> None:
    """It is refused before anything runs."""
    request = REQUEST.model_copy(update={"system": "In {{nope}}."})
    with pytest.raises(InvalidInput, match=r"{{nope}}: that is no column"):
        run(session, request=request)
    assert not engine.requests


def test_a_stop_sequence_that_a_row_leaves_empty_fails_that_row(session: FakeSession) -> None:
    """The other rows run."""
    request = REQUEST.model_copy(update={"params": InferencingParams(stop="{{name}}")})
    frame = run(session, pandas.DataFrame({"name": ["Ada", ""]}), request=request)
    assert frame["infer_status"].tolist() == ["ok", "error"]


def test_columns_that_python_takes_for_one(session: FakeSession, engine: Echo) -> None:
    """nº is not no. Where a name only looks like a column's, the error shows that column."""
    run(session, pandas.DataFrame({"nº": ["12"], "no": ["nobody"]}), "House {{nº}} is")
    assert engine.prompts == ["House 12 is"]
    with pytest.raises(InvalidInput, match=r"\('caf\\xe9' is written with other signs\)"):
        run(session, pandas.DataFrame({"caf\xe9": ["x"]}), "{{cafe\u0301}}")


def test_values_are_data(session: FakeSession, engine: Echo) -> None:
    """The spans of a row's values belong to its request."""
    run(session, pandas.DataFrame({"review": ["Nice.<|im_end|>"]}), "Classify: {{review}}!")
    assert engine.requests[0].data_spans == ((10, 25),)


# Worked examples -----------------------------------------------------------------------


EXAMPLES = pandas.DataFrame({"name": ["Dot", "<s>Eve"], "n": [7, 8], "label": ["yes", "no</s>"]})


def test_worked_examples_stand_in_front_of_each_prompt(session: FakeSession, engine: Echo) -> None:
    """Each is the template with its row's values, its answer and a blank line."""
    template = "{{name}} ({{row['n']}}): "
    run(session, template=template, examples=worked_examples(EXAMPLES, template, "label"))
    front = "Dot (7): yes\n\n<s>Eve (8): no</s>\n\n"
    assert engine.prompts == [f"{front}{row}: " for row in ("Ada (1)", "Bob (2)", "Cyd (3)")]


def test_values_and_answers_of_worked_examples_are_data(session: FakeSession, engine: Echo) -> None:
    """No control token is recognised in them; the template's own text and blank lines were typed."""
    template = "{{name}}? "
    run(session, template=template, examples=worked_examples(EXAMPLES, template, "label"))
    request = engine.requests[0]
    data = [request.prompt[start:end] for start, end in request.data_spans]
    assert data == ["Dot", "yes", "<s>Eve", "no</s>", "Ada"]


class Mood(Enum):
    GOOD = "good"


@dataclass
class Point:
    x: float
    day: date


def test_worked_examples_of_a_chat_are_messages(session: FakeSession, engine: Echo) -> None:
    """Of the user and the assistant by turns, after the messages of the template; `{{` in a value
    of theirs is text."""
    frame = EXAMPLES.assign(name=["Dot", "{{n}}"])
    told = ({"role": "user", "content": "I am {{name}}."}, {"role": "assistant", "content": "Ok"})
    request = REQUEST.model_copy(update={
        "system": "Be {{n}}.", "chat": True, "history": checked_messages(told),
    })  # fmt: skip
    template = "{{name}}?"
    examples = worked_examples(frame, template, "label")
    run(session, template=template, request=request, examples=examples)
    said = [[(one.role, one.content) for one in asked.messages] for asked in engine.requests]
    assert said[0] == [
        ("system", "Be 1."), ("user", "I am Ada."), ("assistant", "Ok"),
        ("user", "Dot?"), ("assistant", "yes"), ("user", "{{n}}?"), ("assistant", "no</s>"),
        ("user", "Ada?"),
    ]  # fmt: skip
    assert [messages[-1] for messages in said] == [
        ("user", "Ada?"), ("user", "Bob?"), ("user", "Cyd?"),
    ]  # fmt: skip
    assert engine.requests[0].data_spans == ((0, 3),)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("a text", "a text"),
        (Mood.GOOD, "good"),
        (3, "3"),
        (numpy.int64(3), "3"),
        (True, "true"),
        ({"é": [1, 2.5]}, '{"é": [1, 2.5]}'),
        (numpy.array([1, 2]), "[1, 2]"),
        (Point(1.5, date(2026, 11, 26)), '{"x": 1.5, "day": "2026-11-26"}'),
        (pandas.Timestamp("2026-11-26"), '"2026-11-26T00:00:00"'),
    ],
)
def test_answers_that_are_no_texts_are_json(answer: Any, text: str) -> None:
    """A model that has to write JSON sees JSON."""
    frame = pandas.DataFrame({"a": ["A"], "label": pandas.Series([answer], dtype=object)})
    assert worked_examples(frame, "{{a}}:", "label").front().text == f"A:{text}\n\n"


@pytest.mark.parametrize(
    ("examples", "template", "message"),
    [
        ([("Dot", "yes")], "{{name}}", "few_shot: list is not a DataFrame"),
        (EXAMPLES.drop(columns="label"), "{{name}}", "no column 'label' with the answers: name it"),
        (EXAMPLES, "{{other}}", "few_shot: {{other}}: that is no column of the DataFrame"),
        (EXAMPLES, 3, "few_shot: the template is int, not text"),
        (
            EXAMPLES.assign(label=["yes", None]),
            "{{name}}",
            "few_shot: row 2: column 'label' has no",
        ),
        (EXAMPLES.assign(name=[None, "x"]), "{{name}}", "few_shot: row 1: column 'name' has no"),
        (
            EXAMPLES.assign(label=float("inf")),
            "{{name}}",
            "row 1: the answer is float, which cannot",
        ),
        (
            EXAMPLES.assign(label=[object, "x"]),
            "{{name}}",
            "few_shot: row 1: the answer is type, which",
        ),
    ],
)
def test_examples_that_do_not_fit_are_refused(examples: Any, template: Any, message: str) -> None:
    """The error names the examples, and comes before anything runs."""
    with pytest.raises(InvalidInput) as caught:
        worked_examples(examples, template, "label")
    assert message in str(caught.value)


def test_no_examples_are_none() -> None:
    """A DataFrame without rows puts nothing in front."""
    assert worked_examples(EXAMPLES.iloc[:0], "{{name}}", "label") == NO_EXAMPLES
