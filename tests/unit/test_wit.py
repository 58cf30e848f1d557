"""The contract's values: their defaults, ranges and messages, and JSON there and back."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmwit_magic import errors
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import (
    DeviceInfo,
    EmbeddingsResult,
    EmbeddingsUsage,
    FinishDetail,
    FinishReason,
    InferencingParams,
    InferencingResult,
    InferencingUsage,
    ModelInfo,
    Timings,
    TokenAlternative,
    TokenInfo,
    params_from,
)
from llmwit_magic.errors import InferenceError, InvalidInput, error_named

U32_MAX = 2**32 - 1
F32_MAX = 3.4028234663852886e38

DEFAULTS = {
    "max_tokens": 100,
    "repeat_penalty": 1.1,
    "repeat_penalty_last_n_token_count": 64,
    "stop": (),
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "seed": None,
}
VALID = {
    "max_tokens": [None, 0, 1, 100, U32_MAX],
    "repeat_penalty": [1e-6, 1, 1.1, 100, F32_MAX],
    "repeat_penalty_last_n_token_count": [0, 1, U32_MAX],
    "stop": [(), ("a",), ("\n\n", "日本", " ")],
    "temperature": [0, 0.0, 1e-6, 1, 2.5, F32_MAX],
    "top_k": [0, 1, 40, U32_MAX],
    "top_p": [1e-9, 0.5, 1, 1.0],
    "seed": [None, 0, 1, 2**63 - 1],
}
NOT_WHOLE = [-1, 2**32, 1.0, 1.5, math.nan, math.inf, "5", "", True, b"5", [], {}, 10**5000]
NOT_REAL = [-0.1, math.nan, math.inf, -math.inf, "0.5", True, False, None, b"1", [], 1j, 10**400]
INVALID = {
    "max_tokens": NOT_WHOLE,
    "repeat_penalty": [*NOT_REAL, 0, -1, 1e39],
    "repeat_penalty_last_n_token_count": [*NOT_WHOLE, None],
    "stop": ["", ["a", ""], None, 5, [5], [None], b"a", [b"a"], ["\ud800"], {"a": "b"}],
    "temperature": [*NOT_REAL, -1, 1e39],
    "top_k": [*NOT_WHOLE, None],
    "top_p": [*NOT_REAL, 0, 1.0000001, 2],
    "seed": [-1, 2**63, 1.0, "1", True, [], 10**5000],
}
RANGES = {
    "max_tokens": "a whole number ≥ 0, or none",
    "repeat_penalty": "a finite number > 0",
    "repeat_penalty_last_n_token_count": "a whole number ≥ 0",
    "stop": "non-empty text, or a list of such",
    "temperature": "a finite number ≥ 0; 0 is greedy",
    "top_k": "a whole number ≥ 0; 0 switches it off",
    "top_p": "a number with 0 < p ≤ 1",
    "seed": "a whole number from 0 to 2⁶³−1, or none",
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}-{type(value).__name__}-{n}")
        for name, values in table.items()
        for n, value in enumerate(values)
    ]


def message(caught: pytest.ExceptionInfo[Exception]) -> str:
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_the_defaults_are_spin_s() -> None:
    """Without arguments every field has the default of the table, in the table's order."""
    assert InferencingParams().model_dump() == DEFAULTS
    assert list(InferencingParams.model_fields) == list(DEFAULTS)


@pytest.mark.parametrize(("name", "value"), cases(VALID))
def test_values_in_range_are_taken_as_they_are(name: str, value: Any) -> None:
    """The ends of each range belong to it, and no value is changed."""
    assert getattr(InferencingParams(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), cases(INVALID))
def test_values_out_of_range_are_refused_in_one_line(name: str, value: Any) -> None:
    """The line names the field, the value (cut when it is long) and the range."""
    with pytest.raises(InvalidInput) as caught:
        InferencingParams(**{name: value})
    text = message(caught)
    assert text.startswith(f"{name}: ")
    assert text.endswith(f" is not valid: it must be {RANGES[name]}")
    assert len(text) < 200
    wrong = next(iter(v for v in value if v != "a"), value) if isinstance(value, list) else value
    if not isinstance(wrong, int) or abs(wrong) < 10**60:
        assert repr(wrong) in text


def test_a_field_that_does_not_exist_is_refused() -> None:
    """The message names the field that is meant, or lists those that exist."""
    with pytest.raises(InvalidInput) as caught:
        InferencingParams(temprature=1)  # type: ignore[call-arg]
    missing = "InferencingParams has no field"
    assert message(caught) == f"{missing} 'temprature': did you mean temperature?"
    with pytest.raises(InvalidInput) as caught:
        InferencingParams(heat=1)  # type: ignore[call-arg]
    assert message(caught).startswith(f"{missing} 'heat': it has max_tokens, ")
    assert all(name in message(caught) for name in DEFAULTS)


def test_a_field_that_is_missing_is_named() -> None:
    """Where a field has no default, the message says that it is needed."""
    with pytest.raises(InvalidInput, match="Request needs 'prompt'"):
        Request(model="m")  # type: ignore[call-arg]


def test_what_is_no_record_at_all_is_refused() -> None:
    """A text in the place of params is refused with the name of the record."""
    with pytest.raises(InvalidInput) as caught:
        Request(model="m", prompt="", params="hot")  # type: ignore[arg-type]
    assert message(caught).startswith("InferencingParams: 'hot' is not valid")


def test_a_message_of_the_library_is_a_sentence() -> None:
    """A field without a range in words still has a message that a person can read."""
    with pytest.raises(InvalidInput) as caught:
        Request(model=5, prompt="")  # type: ignore[arg-type]
    assert message(caught) == "model: 5 is not valid: input should be a valid string"


class Multiline:
    def __repr__(self) -> str:
        return "first line\nsecond line"


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize(
    "value",
    [Multiline(), Unprintable(), np.eye(3), np.array([0.5, 0.7]), np.arange(2), Decimal("sNaN")],
    ids=["lines", "unprintable", "matrix", "floats", "integers", "decimal"],
)
def test_strange_objects_are_refused_in_one_line(name: str, value: Any) -> None:
    """Arrays, and objects whose `repr` has lines or fails, raise `InvalidInput` too."""
    with pytest.raises(InvalidInput) as caught:
        InferencingParams(**{name: value})
    assert message(caught).startswith(f"{name}: ")


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint8, np.uint64])
def test_numpy_integers_are_integers(kind: type) -> None:
    """Zero-dimensional arrays are integers too. The record keeps a plain int."""
    for value in (kind(7), np.array(7, dtype=kind)):
        params = InferencingParams(max_tokens=value, top_k=value, seed=value, temperature=value)
        assert (params.max_tokens, params.top_k, params.seed) == (7, 7, 7)
        assert {type(params.max_tokens), type(params.top_k), type(params.seed)} == {int}
        assert type(params.temperature) is float


@pytest.mark.parametrize(
    "kind", [np.float16, np.float32, np.float64, np.longdouble, np.array, Fraction, Decimal]
)
def test_real_numbers_of_other_libraries_are_floats(kind: Any) -> None:
    """The record keeps a plain float."""
    value = kind(0.5)
    params = InferencingParams(temperature=value, top_p=value, repeat_penalty=value)
    assert (params.temperature, params.top_p, params.repeat_penalty) == (0.5, 0.5, 0.5)
    assert type(params.temperature) is type(params.top_p) is float


@pytest.mark.parametrize("value", [np.True_, np.str_("1"), np.float64(1), np.bytes_(b"1")])
@pytest.mark.parametrize("name", ["max_tokens", "top_k", "seed"])
def test_numpy_s_other_scalars_are_no_integers(name: str, value: Any) -> None:
    """Booleans, texts and floats are refused, of whatever library they are."""
    with pytest.raises(InvalidInput):
        InferencingParams(**{name: value})


@pytest.mark.parametrize("value", [np.True_, np.str_("1"), np.bytes_(b"1"), np.complex64(1)])
@pytest.mark.parametrize("name", ["temperature", "top_p", "repeat_penalty"])
def test_numpy_s_other_scalars_are_no_reals(name: str, value: Any) -> None:
    """Booleans, texts and complex numbers are refused, of whatever library they are."""
    with pytest.raises(InvalidInput):
        InferencingParams(**{name: value})


def test_a_plain_string_is_one_stop_sequence() -> None:
    """A string is not read as a list of its letters. A list becomes a tuple."""
    assert InferencingParams(stop="ab").stop == ("ab",)  # type: ignore[arg-type]
    assert InferencingParams(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]


def test_values_are_frozen() -> None:
    """No field of a record can be set, and a set can hold params."""
    params = InferencingParams()
    for name in DEFAULTS:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(params, name, DEFAULTS[name])
    assert len({params, InferencingParams(), InferencingParams(top_k=1)}) == 2


def test_params_from_what_a_caller_has() -> None:
    """Params, a mapping of some fields and None are taken; all else is refused in one line."""
    params = InferencingParams(top_k=3)
    assert params_from(params) is params
    assert params_from({"top_k": 3}) == params
    assert params_from(None) == InferencingParams()
    for wrong in ("top_k", 5, [("top_k", 3)], {5: 3}, {"top_k": -1}, {"topk": 1}):
        with pytest.raises(InvalidInput) as caught:
            params_from(wrong)  # type: ignore[arg-type]
        message(caught)


params_strategy = st.builds(
    InferencingParams,
    max_tokens=st.none() | st.integers(0, U32_MAX),
    repeat_penalty=st.floats(1e-30, F32_MAX),
    repeat_penalty_last_n_token_count=st.integers(0, U32_MAX),
    stop=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=3),
    temperature=st.floats(0, F32_MAX),
    top_k=st.integers(0, U32_MAX),
    top_p=st.floats(1e-30, 1),
    seed=st.none() | st.integers(0, 2**63 - 1),
)
logprobs = st.floats(max_value=0, allow_nan=False)
tokens_strategy = st.lists(
    st.builds(
        TokenInfo,
        id=st.integers(0, U32_MAX),
        bytes=st.binary(max_size=5),
        logprob=logprobs,
        rank=st.integers(0, U32_MAX),
        top=st.lists(
            st.builds(TokenAlternative, id=st.just(1), bytes=st.binary(), logprob=logprobs),
            max_size=2,
        ),
    ),
    max_size=3,
)


@given(params_strategy)
@settings(max_examples=100)
def test_params_come_back_from_json(params: InferencingParams) -> None:
    """Params written as JSON and read back have the same values, to the last bit."""
    assert InferencingParams.model_validate_json(params.model_dump_json()) == params


@given(params_strategy, tokens_strategy, st.sampled_from([None, *FinishDetail]))
@settings(max_examples=100)
def test_results_come_back_from_json(
    params: InferencingParams, tokens: list[TokenInfo], detail: FinishDetail | None
) -> None:
    """So do tokens whose bytes are no UTF-8 or begin inside a character, and infinite logprobs."""
    result = InferencingResult(
        text="é",
        finish_reason=detail and detail.reason,
        finish_detail=detail,
        usage=InferencingUsage(prompt_token_count=1, generated_token_count=len(tokens)),
        params=params,
        model=ModelInfo(name="m", path="/m", sha256="0", architecture="llama", quantisation="Q4"),
        device=DeviceInfo(requested_gpu_layers=3),
        timings=Timings(total=0.5),
        tokens=tuple(tokens),
    )
    text = result.model_dump_json()
    assert InferencingResult.model_validate_json(text) == result
    assert "Infinity," not in text.replace('"-Infinity"', "")


def test_embeddings_come_back_from_json() -> None:
    """The vectors keep every bit."""
    result = EmbeddingsResult(
        embeddings=((0.1, -1e-30), (3.0, 4.0)), usage=EmbeddingsUsage(prompt_token_count=5)
    )
    assert EmbeddingsResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize(
    "record", [InferencingParams, InferencingResult, EmbeddingsResult, InferencingUsage]
)
def test_there_is_a_json_schema(record: type[InferencingParams]) -> None:
    """The schema has every field. Params have their ranges in it, in numbers and in words."""
    properties = record.model_json_schema()["properties"]
    assert list(properties) == list(record.model_fields)
    if record is InferencingParams:
        assert {name: properties[name]["valid"] for name in DEFAULTS} == RANGES
        assert all(properties[name]["description"] for name in DEFAULTS)
        ranges = {"type": "integer", "minimum": 0, "maximum": U32_MAX}
        assert properties["top_k"].items() >= ranges.items()
        assert properties["max_tokens"]["anyOf"] == [ranges, {"type": "null"}]
        assert properties["top_p"].items() >= {"exclusiveMinimum": 0, "maximum": 1}.items()
        assert properties["repeat_penalty"].items() >= {"exclusiveMinimum": 0}.items()
        assert properties["temperature"].items() >= {"minimum": 0, "maximum": F32_MAX}.items()


def test_a_result_shows_as_its_text() -> None:
    """`print(result)` prints what the model wrote."""
    result = InferencingResult(text="Paris", finish_reason=None, usage=InferencingUsage())
    assert f"{result}" == "Paris"


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("context_length", [None, 1, 8192], [0, -1, 1.5, "8", True]),
        ("gpu_layers", ["auto", 0, 99], [-1, "all", 1.5, True, None]),
        ("threads", ["auto", 1, 8], [0, -1, "all", 1.5, True, None]),
        ("top_logprobs", [None, 0, 100], [-1, 101, 1.5, "5", True]),
    ],
)
def test_the_ranges_of_a_request(field: str, good: list[Any], bad: list[Any]) -> None:
    """The fields that a request adds to the params are checked in the same way."""
    for value in good:
        assert getattr(Request(model="m", prompt="", **{field: value}), field) == value
    for value in bad:
        with pytest.raises(InvalidInput) as caught:
            Request(model="m", prompt="", **{field: value})
        assert message(caught).startswith(f"{field}: {value!r} is not valid: it must be a whole")


def all_errors() -> list[type[InferenceError]]:
    return [
        value for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, InferenceError)
    ]  # fmt: skip


@pytest.mark.parametrize("cls", all_errors())
def test_errors_cross_a_process_by_name(cls: type[InferenceError]) -> None:
    """The name gives the class back, with its message. IPython shows one line."""
    error = error_named(cls.__name__, "why")
    assert type(error) is cls
    assert str(error) == "why"
    assert error._render_traceback_() == [f"{cls.__name__}: why"]


def test_an_unknown_error_is_a_failed_engine() -> None:
    """An error of an unknown name becomes `EngineFailed`, and its message stays."""
    assert type(error_named("Exotic", "why")) is errors.EngineFailed


def test_the_drawing_of_the_errors_is_their_tree() -> None:
    """Each name at the top of errors.py stands below its own base class."""
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = line.lstrip(" │├└─").split(" ")[0]
        if name.isidentifier() and name in vars(errors):
            depth = (line.index(name) - 4) // 4
            path[depth:] = [name]
            drawn[name] = path[depth - 1] if depth else ""
    wanted = {cls.__name__: cls.__mro__[1].__name__ for cls in all_errors()}
    assert drawn == wanted | {"InferenceError": "", "Interrupted": "", "LogWarning": ""}


def test_finish_reasons_are_the_contract_s() -> None:
    """There are three, and JSON has them as text."""
    assert [reason.value for reason in FinishReason] == ["stop", "length", "content_filter"]


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, np.float32(0), np.int64(0)])
def test_temperature_0_has_no_penalty_unless_one_is_given(zero: Any) -> None:
    """The likeliest token is taken, and the params say so from the beginning."""
    assert InferencingParams(temperature=zero).repeat_penalty == 1
    assert InferencingParams.model_validate({"temperature": zero}).repeat_penalty == 1
    assert InferencingParams(temperature=zero, repeat_penalty=1.1).repeat_penalty == 1.1
    assert InferencingParams(temperature=0.1).repeat_penalty == 1.1
    assert InferencingParams().repeat_penalty == 1.1
    dumped = InferencingParams(temperature=zero, repeat_penalty=1.2).model_dump_json()
    assert InferencingParams.model_validate_json(dumped).repeat_penalty == 1.2


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("make", [lambda value: value, np.asarray])
def test_a_short_number_is_what_it_prints(kind: Any, make: Any) -> None:
    """numpy's float32 0.1 is 0.1 in params, log and forms, and not 0.10000000149011612."""
    params = InferencingParams(temperature=make(kind(0.1)), top_p=make(kind(0.9)))
    assert (params.temperature, params.top_p) == (0.1, 0.9)
    largest = np.finfo(np.float32).max
    assert InferencingParams(temperature=largest).temperature == F32_MAX
    for value in ("nan", "inf"):
        with pytest.raises(InvalidInput, match="temperature: "):
            InferencingParams(temperature=make(kind(value)))
