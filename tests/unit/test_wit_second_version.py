"""`wit/0.2.0/llm.wit` and the Python records agree, by the bindings that componentize-py makes."""

import inspect
import re
import types
import typing
from typing import Any

import pytest

from llmwit_magic.contract import messages, wit
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.tokens import TokenAlternative, TokenInfo
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import InvalidInput
from tests.support.wit_bindings import WIT, bindings_of, parts, records_of, shape, wit_fields

FOLDER = WIT / "0.2.0"
TEXT = (FOLDER / "llm.wit").read_text(encoding="utf-8")
SAME: dict[str, Any] = {
    "InferencingParams": wit.InferencingParams, "InferencingUsage": wit.InferencingUsage,
    "InferencingResult": wit.InferencingResult, "EmbeddingsUsage": wit.EmbeddingsUsage,
    "EmbeddingsResult": wit.EmbeddingsResult, "TokenAlternative": TokenAlternative,
    "TokenInfo": TokenInfo, "Message": messages.Message,
}  # fmt: skip
"""The records that are Python's, field by field."""
OTHERS = {
    "InferencingRequest": ["model", "prompt", "params", "json_schema", "logprobs", "echo"],
    "TextChunk": ["text", "reasoning", "tokens"],
    "TextEnd": ["finish_reason", "usage", "seed"],
}
"""The records that Python has in another form: a `Request`, a `Chunk` and an `End`."""
CASES = {
    "Prompt": ["Text", "Chat"], "Logprobs": ["No", "Sampled", "Top"],
    "StreamEvent": ["Chunk", "End"],
    "Error": ["ModelNotSupported", "RuntimeError", "InvalidInput"],
}  # fmt: skip
ELSEWHERE = {("InferencingResult", "seed")}
"""Python has it at another place: in the result's params."""


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> typing.Iterator[types.ModuleType]:
    """The module that componentize-py generates for the interface."""
    with bindings_of(FOLDER, tmp_path_factory.mktemp("bindings")) as llm:
        yield llm


def test_every_record_and_case_is_looked_at(bindings: types.ModuleType) -> None:
    """The tables above have all records of the file, and all cases of its variants."""
    cases = [f"{name}_{case}" for name, members in CASES.items() for case in members]
    assert sorted(records_of(bindings)) == sorted([*SAME, *OTHERS, *cases])
    for name, fields in OTHERS.items():
        assert list(wit_fields(getattr(bindings, name))) == fields


@pytest.mark.parametrize("name", SAME)
def test_fields_have_python_s_names_and_types(bindings: types.ModuleType, name: str) -> None:
    """A field of the WIT is a field of Python's record, and of its type."""
    python = typing.get_type_hints(SAME[name])
    for field, annotation in wit_fields(getattr(bindings, name)).items():
        if (name, field) in ELSEWHERE:
            continue
        if field == "role":
            assert tuple(case.name.lower() for case in bindings.Role) == messages.ROLES
        else:
            assert shape(python[field]) == shape(annotation), field


def test_all_params_are_there_in_python_s_order(bindings: types.ModuleType) -> None:
    """The WIT has every field of `InferencingParams`, each of them optional but the stops."""
    fields = wit_fields(bindings.InferencingParams)
    assert list(fields) == list(InferencingParams.model_fields)
    assert [name for name in fields if not parts(fields[name])[1]] == ["stop"]


def test_the_file_says_each_default() -> None:
    """What the file says of a missing value is what Python has as the default."""
    record = TEXT[TEXT.index("record inferencing-params") : TEXT.index("variant logprobs")]
    said = {}
    for words, name in re.findall(r"((?:\s+///[^\n]*)+)\s+([a-z0-9-]+): option<", record):
        text = " ".join(line.strip().lstrip("/ ") for line in words.splitlines())
        if found := re.search(r"None is (\d[\d.]*\d|\d+)", text):
            said[name.replace("-", "_")] = float(found[1])
    numbers = {
        name: field.default for name, field in InferencingParams.model_fields.items()
        if name not in ("max_tokens", "stop", "seed")
    }  # fmt: skip
    assert said == numbers
    assert f"the limit is {InferencingParams().max_tokens}." in " ".join(record.split()).replace(
        "/// ", ""
    )


def test_finish_reasons_and_errors_are_those_of_the_first_version(
    bindings: types.ModuleType,
) -> None:
    """Finish reasons and errors have the cases of 0.1.0, in the same order."""
    assert [case.name for case in bindings.FinishReason] == [each.name for each in wit.FinishReason]
    first = (WIT / "llm.wit").read_text(encoding="utf-8")
    for text in (first, TEXT):
        cases = re.sub(r"///.*", "", text[text.index("variant error") :].split("}")[0])
        assert re.findall(r"^\s+([a-z-]+)(?:\(string\))?,", cases, re.MULTILINE) == [
            "model-not-supported", "runtime-error", "invalid-input",
        ]  # fmt: skip


def test_the_functions_are_all_there(bindings: types.ModuleType) -> None:
    """The interface has four functions, and a stream with one method."""
    found = {
        name: list(inspect.signature(value).parameters)
        for name, value in vars(bindings).items()
        if inspect.isfunction(value) and value.__module__ == bindings.__name__
    }
    assert found == {
        "infer": ["request"], "infer_many": ["requests"], "infer_stream": ["request"],
        "generate_embeddings": ["model", "texts"],
    }  # fmt: skip
    methods = [name for name in vars(bindings.InferencingStream) if not name.startswith("_")]
    assert methods == ["next"]


def test_a_request_takes_what_the_file_allows(bindings: types.ModuleType) -> None:
    """Python has the fields to which `json-schema`, `logprobs` and the prompt lead, and the same
    greatest number of likeliest tokens."""
    assert {"model", "prompt", "params", "constraint", "top_logprobs"} <= set(Request.model_fields)
    assert wit_fields(bindings.Logprobs_Top) == {"value": int}
    assert "at most 100." in TEXT
    assert Request(model="m", prompt="", top_logprobs=100).top_logprobs == 100
    with pytest.raises(InvalidInput, match="from 0 to 100"):
        Request(model="m", prompt="", top_logprobs=101)
