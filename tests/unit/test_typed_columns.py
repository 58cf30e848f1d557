"""Values of answers as typed columns: their types, their errors, and the same from the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Literal

import pandas
import pytest
from pydantic import BaseModel, Field, field_validator
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from llmwit_magic.contract.engine import Capabilities
from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import InvalidInput
from llmwit_magic.requests.shapes import of_choices, of_regex, of_returns
from llmwit_magic.running.batch import run_batch
from llmwit_magic.running.resuming import RESULTS
from llmwit_magic.running.typed_columns import (
    choice_probabilities,
    judged_values,
    plain_values,
    typed_columns,
    value_columns,
)
from tests.support.batches import Echo
from tests.support.constrained import KINDS
from tests.support.fake import FakeSession, end, prepared


class YesNo(Enum):
    YES = "yes"
    NO = "no"


class Kind(Enum):
    INVOICE = "invoice"
    REMINDER = "reminder"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Place(BaseModel):
    city: str


class Invoice(BaseModel):
    name: str
    amount: float
    count: int
    kind: Kind
    level: Level
    paid: bool
    currency: Literal["EUR", "USD"]
    due: date
    sent: datetime | None = None
    places: list[Place] = []
    at: Place | None = None
    discount: float | int = 0
    note: str | int = ""


WHOLE = {
    "name": "Ada", "amount": 3, "count": 2, "kind": "invoice", "level": 2, "paid": True,
    "currency": "USD", "due": "2026-11-26", "sent": "2026-11-26T12:00:00+02:00",
    "places": [{"city": "Oslo"}], "at": {"city": "Rome"}, "discount": 1, "note": "x",
}  # fmt: skip
DTYPES = {
    "name": "string", "amount": "float64", "count": "Int64", "kind": "category",
    "level": "category", "paid": "boolean", "currency": "category", "due": "datetime64[us]",
    "sent": "datetime64[us]", "places": "object", "at": "object", "discount": "float64",
    "note": "object",
}  # fmt: skip


def columns_of(returns: Any, *values: Any) -> tuple[pandas.DataFrame, list[str | None]]:
    columns = value_columns(of_returns(returns))
    found, errors = typed_columns(columns, values, [None] * len(values))
    return pandas.DataFrame(found), errors


# Types ----------------------------------------------------------------------------------


def test_each_field_has_the_type_of_its_values() -> None:
    """Numbers, dates, Enums, Literals, lists and nested objects, and a row that has no value."""
    frame, errors = columns_of(Invoice, WHOLE, None)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == DTYPES
    assert errors == [None, None]
    row = frame.iloc[0]
    assert (row["amount"], row["count"], row["level"], row["paid"]) == (3.0, 2, 2, True)
    assert row["due"] == pandas.Timestamp("2026-11-26")
    assert row["sent"] == pandas.Timestamp("2026-11-26 10:00:00")  # UTC, without the zone
    assert (row["places"], row["at"]) == ([{"city": "Oslo"}], {"city": "Rome"})
    assert frame["kind"].cat.categories.tolist() == ["invoice", "reminder"]
    assert frame["level"].cat.categories.tolist() == [1, 2]
    assert frame.iloc[1].isna().all()


def test_no_row_gives_the_same_types() -> None:
    """A frame without rows, or without values, has the columns in their types."""
    for values in ((), (None, None)):
        frame, _ = columns_of(Invoice, *values)
        assert {name: str(kind) for name, kind in frame.dtypes.items()} == DTYPES


def test_a_schema_a_dataclass_and_a_typed_dict_give_the_columns_of_a_model() -> None:
    """The types come from the JSON schema, whatever it was made of."""

    @dataclass
    class Point:
        x: float
        n: int
        tags: list[str] = field(default_factory=list)

    class Dict(TypedDict):
        x: float
        n: int
        tags: list[str]

    schema = {"type": "object", "properties": {
        "x": {"type": "number"}, "n": {"type": ["integer", "null"]}, "tags": {"type": "array"},
    }}  # fmt: skip
    for returns in (Point, Dict, schema):
        frame, errors = columns_of(returns, {"x": 1, "n": 2, "tags": ["a"]}, {"x": 1.5})
        assert errors == [None, None]
        assert [str(kind) for kind in frame.dtypes] == ["float64", "Int64", "object"]
        assert frame["x"].tolist() == [1, 1.5]
        assert frame["n"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("returns", "values", "dtype"),
    [
        (list[Place], ([{"city": "Oslo"}], None), "object"),
        (int, (3, None), "Int64"),
        (float, (3, None), "float64"),
        (bool, (True, None), "boolean"),
        (date, ("2026-11-26", None), "datetime64[us]"),
        ({"type": "object"}, ({"a": 1}, None), "object"),
        ({"enum": ["a", None, "b"]}, ("b", None), "category"),
        ({"const": "a"}, ("a", None), "category"),
        ({"enum": [["a"], {}]}, (["a"], None), "object"),
        (True, ("x", None), "object"),
        (["no", "yes"], ("yes", None), "category"),
        (Literal["no", "yes"], ("yes", None), "category"),
        (Kind, ("reminder", None), "category"),
    ],
)
def test_an_answer_without_fields_is_one_column(
    returns: Any, values: tuple[Any, ...], dtype: str
) -> None:
    """It is `value`: of a list, a number, a label, and of a schema that names no property."""
    frame, errors = columns_of(returns, *values)
    assert list(frame.columns) == ["value"]
    assert str(frame["value"].dtype) == dtype
    assert frame["value"].isna().tolist() == [False, True]
    assert errors == [None, None]


def test_categories_are_all_choices_in_their_order() -> None:
    """Also those that no row has; a regular expression gives texts."""
    found, _ = typed_columns(value_columns(of_choices(["b", "a", "c"])), ["c"], [None])
    assert found["value"].cat.categories.tolist() == ["b", "a", "c"]
    found, _ = typed_columns(value_columns(of_regex("[ab]+")), ["ab", None], [None, "no"])
    assert str(found["value"].dtype) == "string"


def test_a_value_that_its_column_cannot_hold_is_an_error_of_its_row() -> None:
    """A whole number beyond 64 bits, and a date that is none, are missing; the other fields stay."""
    schema = {"properties": {"n": {"type": "integer"}, "day": {"type": "string", "format": "date"}}}
    frame, errors = columns_of(
        schema, {"n": 2**63, "day": "2026-11-26"}, {"n": -(2**63), "day": "no day"}, {"n": 1.0}
    )
    assert errors[0] == "n: 9223372036854775808 does not fit into 64 bits"
    assert errors[1] == "day: 'no day' is no date that pandas has"
    assert errors[2] is None
    assert frame["n"].isna().tolist() == [True, False, False]
    assert frame["day"].isna().tolist() == [False, True, True]


def test_a_field_with_the_name_of_a_batchs_own_column_is_refused() -> None:
    """One rule, before anything runs: `text` and `status` are ours; `value` may be a field."""

    class Clash(BaseModel):
        text: str

    class Renamed(BaseModel):
        text: str = Field(alias="body")
        value: int

    with pytest.raises(InvalidInput, match="the column of the field 'text' is one that a batch"):
        value_columns(of_returns(Clash))
    assert list(value_columns(of_returns(Renamed)).types) == ["body", "value"]


def test_references_that_lead_nowhere_or_round_end() -> None:
    """A schema is read without following a reference for ever."""
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    frame, _ = columns_of(
        {"properties": {"x": schema, "y": {"$ref": "#/nope"}}}, {"x": 1, "y": "z"}
    )
    assert frame.iloc[0].tolist() == [1, "z"]


# In a batch -----------------------------------------------------------------------------


class Person(BaseModel):
    name: str
    n: int

    @field_validator("name")
    @classmethod
    def _no_eve(cls, name: str) -> str:
        if name == "Eve":
            raise ValueError("no Eve")
        return name


class Writer(Echo):
    """Says the prompt as it is, and takes any constraint for honoured."""

    capabilities = Capabilities(constraints=KINDS)

    def run(self, request: Request, emit: Any, cancel: Any) -> None:
        self.requests.append(request)
        emit(prepared(request))
        emit(Chunk(request.prompt, 1))
        emit(end(1))


@pytest.fixture
def session(tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(Writer(), tmp_path / "runs.sqlite3")
    yield session
    session.close()


def batch(session: FakeSession, answers: list[str], returns: Any, **options: Any) -> Any:
    request = Request(model="fake", prompt="", params=InferencingParams(temperature=0),
                      group_id="b", constraint=of_returns(returns))  # fmt: skip
    frame = pandas.DataFrame({"say": answers})
    return run_batch(session, frame, "{{say}}", request, progress=False, **options)


ANSWERS = ['{"name": "Ada", "n": 1}', '{"name": "Bob"', '{"name": "Eve", "n": 2}', '{"n": 3}']


def test_rows_that_do_not_validate_say_so(session: FakeSession) -> None:
    """Broken JSON, a lacking field, and what a validator of the notebook's own type refuses."""
    frame = batch(session, ANSWERS, Person)
    added = ["name", "n", "value_error"]
    assert list(frame.columns) == ["say", *(f"infer_{name}" for name in (*RESULTS, *added))]
    assert frame["infer_name"].tolist()[0] == "Ada"
    assert frame["infer_n"].isna().tolist() == [False, True, True, True]
    assert str(frame["infer_n"].dtype) == "Int64"
    errors = frame["infer_value_error"]
    assert errors.isna().tolist() == [True, False, False, False]
    assert "no Eve" in errors[2]
    assert frame["infer_status"].tolist() == ["ok"] * 4


def test_a_row_that_was_not_run_says_so(session: FakeSession) -> None:
    """It has no value, and `value_error` is the column that says why rows have none."""
    frame = batch(session, [ANSWERS[0], None], Person)  # type: ignore[list-item]
    assert frame["infer_status"].tolist() == ["ok", "error"]
    assert frame["infer_name"].isna().tolist() == [False, True]
    assert pandas.isna(frame["infer_value_error"][0])
    assert frame["infer_value_error"][1] == "the row was not run"
    assert frame["infer_error_message"][1] == "column 'say' has no value in this row"


def test_rows_of_the_log_give_the_same_columns(session: FakeSession) -> None:
    """Resumed and fresh: the same values, types and errors."""
    fresh = batch(session, ANSWERS, Person)
    asked = len(session.engine.requests)
    again = batch(session, ANSWERS, Person)
    assert len(session.engine.requests) == asked
    pandas.testing.assert_frame_equal(again, fresh)


def test_choices_are_a_categorical_column(session: FakeSession) -> None:
    """An answer that is none of them has no value and says why, though its text is kept."""
    frame = batch(session, ["yes", "maybe", "no"], ["no", "yes"])
    assert frame["infer_value"].cat.categories.tolist() == ["no", "yes"]
    assert frame["infer_value"].isna().tolist() == [False, True, False]
    assert frame["infer_text"].tolist() == ["yes", "maybe", "no"]
    assert "'maybe' is none of the choices" in frame["infer_value_error"][1]


def test_columns_that_are_taken_are_refused(session: FakeSession) -> None:
    """Those of the fields too, before anything runs; without a constraint they are free."""
    frame = pandas.DataFrame({"say": ["x"], "infer_name": ["y"]})
    request = Request(model="fake", prompt="", constraint=of_returns(Person))
    with pytest.raises(InvalidInput, match="has a column infer_name already: give another prefix="):
        run_batch(session, frame, "{{say}}", request, progress=False)
    assert not session.engine.requests
    plain = Request(model="fake", prompt="")
    taken = frame.rename(columns={"infer_name": "infer_value"})
    assert run_batch(session, taken, "{{say}}", plain, progress=False)["infer_value"].item() == "y"


def test_columns_of_several_levels_stay(session: FakeSession) -> None:
    """The new columns stand in the first level, as the others of a batch do."""
    frame = pandas.DataFrame([["yes"]], columns=pandas.MultiIndex.from_tuples([("say", "a")]))
    request = Request(model="fake", prompt="", constraint=of_choices(["yes"]))
    found = run_batch(session, frame, "{{row[('say', 'a')]}}", request, progress=False)
    assert found[("infer_value", "")].tolist() == ["yes"]


def test_a_metric_judges_the_value() -> None:
    """An instance of the notebook's own type, a label, or the text where there is no constraint."""
    frame = pandas.DataFrame({
        "infer_text": ['{"name": "Ada", "n": 1}', "no", pandas.NA],
        "infer_value_error": [None, "not valid", None], "infer_value": ["yes", None, None],
    })  # fmt: skip
    person, nothing, refused = judged_values(of_returns(Person), frame, "infer_")
    assert (person, nothing, refused) == (Person(name="Ada", n=1), None, None)
    plain = of_returns(json.loads(of_returns(Person).source))
    assert judged_values(plain, frame, "infer_")[0] == {"name": "Ada", "n": 1}
    assert judged_values(of_choices(["yes"]), frame, "infer_").tolist()[0] == "yes"
    assert judged_values(of_choices(YesNo), frame, "infer_").tolist() == [YesNo.YES, None, None]
    assert judged_values(None, frame, "infer_")[1] == "no"


def test_a_damaged_value_of_the_log_is_missing() -> None:
    """What is no JSON there stops no batch."""
    found = {"text": ["yes"], "value": ['"ye'], "value_error": [None]}
    assert plain_values(of_choices(["yes"]), found) == ([None], ["the log has no JSON there"])


# Probabilities --------------------------------------------------------------------------


def test_each_choice_has_a_column_of_its_probability() -> None:
    """In the order of the choices; a row that failed, or that is damaged, has none."""
    scores = json.dumps(
        [{"choice": "yes", "probability": 0.25}, {"choice": "no", "probability": 0.75}]
    )
    found = choice_probabilities(of_choices(["no", "yes"]), [scores, None, "[1]", "{"])
    assert list(found) == ["p_no", "p_yes"]
    assert found["p_no"].tolist()[0] == 0.75
    assert found["p_yes"].isna().tolist() == [False, True, True, True]
    assert str(found["p_yes"].dtype) == "float64"


def test_columns_of_probabilities_that_are_taken_are_refused(session: FakeSession) -> None:
    """Before anything runs."""
    frame = pandas.DataFrame({"say": ["x"], "infer_p_no": [1]})
    request = Request(model="fake", prompt="", constraint=of_choices(["no"]), probabilities=True)
    with pytest.raises(InvalidInput, match="has a column infer_p_no already"):
        run_batch(session, frame, "{{say}}", request, progress=False)
