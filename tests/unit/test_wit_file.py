"""`wit/llm.wit` and the Python records agree, by the bindings that componentize-py makes."""

import inspect
import types
import typing
from typing import Any

import pytest
from pydantic import BaseModel

from llmwit_magic import api, errors
from llmwit_magic.contract import wit
from llmwit_magic.errors import EngineFailed, InferenceError, InvalidInput, ModelNotSupported
from tests.support.wit_bindings import WIT, bindings_of, parts, records_of, shape, wit_fields

RECORDS = [
    "InferencingParams", "InferencingUsage", "InferencingResult", "EmbeddingsUsage",
    "EmbeddingsResult",
]  # fmt: skip

# What Python has beyond the WIT.
OURS = {
    "InferencingParams": ["seed"],
    "InferencingUsage": ["reasoning_token_count"],
    "InferencingResult": [
        "reasoning", "finish_detail", "stop_sequence", "params", "model", "device", "context_length", "timings",
        "tokens", "score", "choices", "prompt_tokens", "prompt", "chat", "notices", "not_honoured",
        "value", "value_error", "kind", "text_count", "status", "run_id", "log_problem",
        "preset", "conversation_id", "turn", "dropped_turns", "prompt_name", "metric_values",
    ],
}  # fmt: skip
# An interrupted or failed run has a result without a finish reason; the default model has no name;
# a prompt for the default model may stand alone.
OPTIONAL_IN_PYTHON_ONLY = {("InferencingResult", "finish_reason"), ("infer", "model"),
                           ("infer", "prompt"),
                           ("InferencingUsage", "prompt_token_count"),
                           ("InferencingUsage", "generated_token_count"),
                           ("InferencingUsage", "cached_token_count"),
                           ("generate_embeddings", "model")}  # fmt: skip
MORE_PARAMETERS = {"infer": ["options"], "generate_embeddings": ["truncate", "options"]}
ERRORS = {
    "ModelNotSupported": ModelNotSupported,
    "RuntimeError": EngineFailed,
    "InvalidInput": InvalidInput,
}
NOT_OF_A_RUN = {errors.LogError, errors.RunNotFound, errors.ComponentFailed}


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> typing.Iterator[types.ModuleType]:
    """The module that componentize-py generates for the interface."""
    with bindings_of(WIT, tmp_path_factory.mktemp("bindings")) as llm:
        yield llm


def python_fields(record: type[BaseModel]) -> dict[str, Any]:
    return typing.get_type_hints(record)


def test_the_records_are_the_same(bindings: types.ModuleType) -> None:
    """Every record of the WIT has its class, and this test looks at every record."""
    found = [name for name in records_of(bindings) if not name.startswith("Error_")]
    assert sorted(found) == sorted(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_fields_are_the_same_in_their_order(bindings: types.ModuleType, name: str) -> None:
    """The WIT's fields come first, under the same names. Ours follow; all are listed here."""
    wanted = list(wit_fields(getattr(bindings, name)))
    assert list(getattr(wit, name).model_fields) == wanted + OURS.get(name, [])


@pytest.mark.parametrize("name", RECORDS)
def test_fields_have_the_same_types(bindings: types.ModuleType, name: str) -> None:
    """Integer stands for integer, list for list, record for record, Optional for Optional."""
    python = python_fields(getattr(wit, name))
    for field, annotation in wit_fields(getattr(bindings, name)).items():
        assert shape(python[field]) == shape(annotation), field
        optional = (name, field) in OPTIONAL_IN_PYTHON_ONLY or parts(annotation)[1]
        assert parts(python[field])[1] == optional, field


def test_finish_reasons_are_the_same(bindings: types.ModuleType) -> None:
    """The cases are the same, in the same order. A value is the WIT's name with underscores."""
    cases = [case.name for case in bindings.FinishReason]
    assert [reason.name for reason in wit.FinishReason] == cases
    in_the_file = [case.lower() for case in cases]
    assert [reason.value for reason in wit.FinishReason] == in_the_file
    text = (WIT / "llm.wit").read_text(encoding="utf-8")
    assert all(f" {value.replace('_', '-')},\n" in text for value in in_the_file)


def test_the_errors_are_the_same(bindings: types.ModuleType) -> None:
    """Each case of the variant has its class, and the WIT's payload is the message."""
    cases = {case.__name__.removeprefix("Error_"): case for case in typing.get_args(bindings.Error)}
    assert sorted(cases) == sorted(ERRORS)
    for name, case in cases.items():
        payload = wit_fields(case)
        assert payload == ({} if name == "ModelNotSupported" else {"value": str})
        assert str(ERRORS[name]("why")) == "why"


def test_every_error_of_a_run_is_one_case_of_the_wit() -> None:
    """Each of our errors belongs to exactly one case of the variant."""
    ours = [
        value for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, InferenceError)
        and value is not InferenceError
    ]  # fmt: skip
    for cls in ours:
        count = sum(issubclass(cls, case) for case in ERRORS.values())
        assert count == (0 if cls in NOT_OF_A_RUN else 1), cls


@pytest.mark.parametrize("name", ["infer", "generate_embeddings"])
def test_functions_take_and_give_the_same(bindings: types.ModuleType, name: str) -> None:
    """Parameters agree in name, order and type, and results too. Our own ones are keywords."""
    theirs, ours = getattr(bindings, name), getattr(api, name)
    hints, our_hints = typing.get_type_hints(theirs), typing.get_type_hints(ours)
    parameters = inspect.signature(ours).parameters
    wanted = list(inspect.signature(theirs).parameters)
    assert list(parameters) == wanted + MORE_PARAMETERS[name]
    keywords = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    assert all(parameters[extra].kind in keywords for extra in MORE_PARAMETERS[name])
    for parameter in wanted:
        kind, optional = parts(hints[parameter])
        our_kind, our_optional = parts(our_hints[parameter])
        if typing.get_origin(kind) is list:
            assert typing.get_args(our_kind) == typing.get_args(kind)
        else:
            assert our_kind.__name__ == kind.__name__
        assert our_optional == (optional or (name, parameter) in OPTIONAL_IN_PYTHON_ONLY)
        if optional:
            assert parameters[parameter].default is None
    assert our_hints["return"].__name__ == hints["return"].__name__


def test_the_functions_are_all_there(bindings: types.ModuleType) -> None:
    """The interface has these two functions and no other."""
    found = [name for name, value in vars(bindings).items() if inspect.isfunction(value)
             and value.__module__ == bindings.__name__]  # fmt: skip
    assert sorted(found) == ["generate_embeddings", "infer"]


def test_the_wit_s_integers_are_bounded_as_u32(bindings: types.ModuleType) -> None:
    """Where the WIT has u32, Python refuses 2**32 and takes 2**32 - 1."""
    for name in RECORDS:
        for field, annotation in wit_fields(getattr(bindings, name)).items():
            if parts(annotation)[0] is int:
                schema = getattr(wit, name).model_json_schema()["properties"][field]
                schema = schema.get("anyOf", [schema])[0]
                assert (schema["minimum"], schema["maximum"]) == (0, 2**32 - 1), field
