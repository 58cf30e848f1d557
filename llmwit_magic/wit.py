"""The contract: the records of `wit/llm.wit` as frozen values.

Every name in the WIT file has its counterpart here, checked field by field in
the tests. What the WIT does not have (the seed, timings, tokens …) stands
below its own line in each class. All values are validated when they are made;
a bad one raises `InvalidInput` with one line that names the field, the value
and the range.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    model_validator,
)

from .errors import InvalidInput

U32_MAX = 2**32 - 1
F32_MAX = 3.4028234663852886e38
SEED_MAX = 2**63 - 1
NO_PENALTY = 1.0
"""The repeat penalty that changes nothing."""


def _integer(value: Any) -> Any:
    """Whole numbers of any library (numpy's too) as int; nothing is rounded."""
    value = _scalar(value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def _real(value: Any) -> Any:
    """Real numbers of any library as float, and nothing that is merely like one.

    One of numpy's short ones is the number that it prints: 0.1, and not 0.10000000149011612.
    """
    dtype, short = getattr(value, "dtype", None), ("float16", "float32")
    if str(dtype) in short and getattr(value, "ndim", None) == 0:
        printed = float(str(value))
        value = printed if abs(printed) <= F32_MAX else float(value)
    value = _scalar(value)
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def _scalar(value: Any) -> Any:
    """A single value of numpy's kind as Python's own: its booleans are no numbers either."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def strings(value: Any) -> Any:
    """A plain string is a list of one."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def lists(value: Any) -> Any:
    """Lists in lists, as JSON has them, as tuples."""
    return tuple(map(lists, value)) if isinstance(value, list | tuple) else value


def _encodable(text: str, info: ValidationInfo) -> str:
    """Lone surrogates have no UTF-8 form: neither model nor log can take them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{info.field_name}: a lone surrogate, {text[error.start]!a}, stands at position "
            f"{error.start}: remove it"
        ) from None
    return text


def valid(text: str) -> dict[str, Any]:
    """The range in words: for error messages, help and the docs."""
    return {"valid": text}


# The validators stand last: the JSON schema knows only the ranges that come before them.
U32 = Annotated[int, Field(strict=True, ge=0, le=U32_MAX), BeforeValidator(_integer)]
Text = Annotated[str, AfterValidator(_encodable)]
Seed = Annotated[int, Field(strict=True, ge=0, le=SEED_MAX), BeforeValidator(_integer)]
F32 = Annotated[float, Field(strict=True, le=F32_MAX, allow_inf_nan=False)]
REAL = BeforeValidator(_real)


class Record(BaseModel):
    """A frozen value whose validation errors are one line of `InvalidInput`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        defer_build=True,  # a kernel and a child need but some of them
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="strings",  # JSON has no word for a log-probability of minus infinity
    )

    @model_validator(mode="wrap")
    @classmethod
    def _one_line(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise InvalidInput(cls._explain(error)) from None

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        first = error.errors(include_url=False)[0]
        shown = _shown(first["input"])
        if not first["loc"]:
            return f"{cls.__name__}: {shown} is not valid: it must be a mapping of its fields"
        name = str(first["loc"][0])
        field = cls.model_fields.get(name)
        if field is None:
            known = ", ".join(cls.model_fields)
            return f"{cls.__name__} has no field '{name}': it has {known}"
        if first["type"] == "missing":
            return f"{cls.__name__} needs '{name}'"
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        message = first["msg"][:1].lower() + first["msg"][1:]
        wanted = f"it must be {extra['valid']}" if "valid" in extra else message
        return f"{name}: {shown} is not valid: {wanted}"


def _shown(value: Any) -> str:
    try:
        text = " ".join(line.strip() for line in repr(value).splitlines())
    except Exception:  # anything may be passed in, also what cannot be shown
        text = f"this {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…"


class InferencingParams(Record):
    """How the next token is chosen and when to end.

    The order of the steps is that of Spin's host (and of Hugging Face): repeat
    penalty, temperature, top-k, softmax, top-p, draw. The defaults are Spin's.
    """

    max_tokens: U32 | None = Field(
        default=100,
        description="at most this many tokens; none: until end of text, a stop or a full context",
        json_schema_extra=valid("a whole number ≥ 0, or none"),
    )
    repeat_penalty: Annotated[F32, Field(gt=0), REAL] = Field(
        default=1.1,
        description="above 1 makes recent tokens less likely; 1 switches it off, as it is where "
        "the temperature is 0 and no penalty is given",
        json_schema_extra=valid("a finite number > 0"),
    )
    repeat_penalty_last_n_token_count: U32 = Field(
        default=64,
        description="how many of the last tokens the penalty looks at; 0 switches it off",
        json_schema_extra=valid("a whole number ≥ 0"),
    )
    stop: Annotated[
        tuple[Annotated[str, Field(strict=True, min_length=1)], ...], BeforeValidator(strings)
    ] = Field(
        default=(),
        description="end before this text would appear; may be given several times",
        json_schema_extra=valid("non-empty text, or a list of such"),
    )
    temperature: Annotated[F32, Field(ge=0), REAL] = Field(
        default=0.8,
        description="how random the choice is; 0 always takes the likeliest token (after a repeat "
        "penalty, if one is given)",
        json_schema_extra=valid("a finite number ≥ 0; 0 is greedy"),
    )
    top_k: U32 = Field(
        default=40,
        description="choose among this many likeliest tokens; 0 allows all",
        json_schema_extra=valid("a whole number ≥ 0; 0 switches it off"),
    )
    top_p: Annotated[F32, Field(gt=0, le=1), REAL] = Field(
        default=0.9,
        description="choose among the likeliest tokens that reach this probability; 1 allows all",
        json_schema_extra=valid("a number with 0 < p ≤ 1"),
    )
    # Ours: the WIT has no seed.
    seed: Seed | None = Field(
        default=None,
        description="the same seed gives the same text; without one it is drawn, and recorded",
        json_schema_extra=valid("a whole number from 0 to 2⁶³−1, or none"),
    )

    @model_validator(mode="before")
    @classmethod
    def _greedy_is_greedy(cls, values: Any) -> Any:
        """At temperature 0 the likeliest token is taken: a penalty must be asked for."""
        if isinstance(values, Mapping) and "repeat_penalty" not in values:
            temperature = _real(values.get("temperature"))
            if isinstance(temperature, float) and temperature == 0:
                return {**values, "repeat_penalty": NO_PENALTY}
        return values


Ending = Literal["ok", "interrupted", "error"]
"""How a run ended."""
RunStatus = Literal["running", Ending]
LoggedStatus = Literal[RunStatus, "lost"]
"""Of a run in the log: one that was running when its kernel went is lost."""
STATUSES: tuple[str, ...] = get_args(LoggedStatus)


class FinishReason(StrEnum):
    """Why the text ends where it does. An interrupted or failed run has none."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"


class FinishDetail(StrEnum):
    """What exactly ended the text."""

    EOS = "eos"
    STOP_SEQUENCE = "stop_sequence"
    MAX_TOKENS = "max_tokens"
    CONTEXT_FULL = "context_full"
    CONTENT_FILTER = "content_filter"

    @property
    def reason(self) -> FinishReason:
        return _REASONS[self]


_REASONS = {
    FinishDetail.EOS: FinishReason.STOP,
    FinishDetail.STOP_SEQUENCE: FinishReason.STOP,
    FinishDetail.MAX_TOKENS: FinishReason.LENGTH,
    FinishDetail.CONTEXT_FULL: FinishReason.LENGTH,
    FinishDetail.CONTENT_FILTER: FinishReason.CONTENT_FILTER,
}


class InferencingUsage(Record):
    """What a run used; all counts are exact."""

    prompt_token_count: U32 = 0
    generated_token_count: U32 = 0
    cached_token_count: U32 = 0


class ModelInfo(Record):
    """The model that answered."""

    name: str
    path: str
    sha256: str
    architecture: str
    quantisation: str


class DeviceInfo(Record):
    """Where the model ran: what was asked, what was done, what it took."""

    name: str = "cpu"
    library: str = ""
    threads: int = 0
    requested_gpu_layers: int | Literal["auto"] = "auto"
    gpu_layers: int = 0
    memory_bytes: int | None = Field(
        default=None, description="device memory taken, as the driver says"
    )
    reason: str = Field("", description="why this device, in words")


class Timings(Record):
    """Wall-clock durations in seconds; None where that part did not happen."""

    load: float | None = Field(default=None, description="fetch, check, adapt and load the model")
    prompt: float | None = Field(default=None, description="evaluate the prompt")
    first_token: float | None = Field(default=None, description="from the start to the first token")
    decode: float | None = Field(
        default=None, description="from the evaluated prompt to the last token"
    )
    total: float | None = Field(default=None, description="from the start to the end")
    tokens_per_second: float | None = Field(
        default=None, description="generated tokens after the first one, over decode"
    )


class TokenAlternative(Record):
    """A token that could have been chosen."""

    id: int
    bytes: bytes
    logprob: float


class TokenInfo(Record):
    """A generated token. Recorded are those whose text is wholly part of the result's.

    `logprob` is the natural logarithm of its probability in the model's own
    distribution (the softmax of the logits, before penalty, temperature, top-k
    and top-p); `rank` is its place there, 0 the likeliest.
    """

    id: int
    bytes: bytes
    logprob: float
    rank: int
    top: tuple[TokenAlternative, ...] = ()


class InferencingResult(Record):
    """The outcome of a run."""

    text: str
    finish_reason: FinishReason | None
    usage: InferencingUsage
    # Ours.
    finish_detail: FinishDetail | None = None
    stop_sequence: str | None = None
    params: InferencingParams = InferencingParams()
    model: ModelInfo | None = None
    device: DeviceInfo = DeviceInfo()
    context_length: int | None = None
    timings: Timings = Timings()
    tokens: tuple[TokenInfo, ...] | None = None
    prompt: str = ""
    notices: tuple[str, ...] = ()
    status: LoggedStatus = "ok"
    run_id: int | None = None
    log_problem: str | None = Field(None, description="why the run is not in the log, if it is not")

    def __str__(self) -> str:
        return self.text


class EmbeddingsUsage(Record):
    """What embeddings used."""

    prompt_token_count: U32


class EmbeddingsResult(Record):
    """One vector for each text, in their order; each has the model's embedding length."""

    embeddings: tuple[tuple[float, ...], ...]
    usage: EmbeddingsUsage


def params_from(values: Mapping[str, Any] | InferencingParams | None) -> InferencingParams:
    """Params from what a caller gave: params, a mapping of some of the fields, or nothing."""
    if isinstance(values, InferencingParams):
        return values
    if values is None:
        return InferencingParams()
    if isinstance(values, Mapping):
        return InferencingParams.model_validate(dict(values))
    raise InvalidInput(
        f"params: {_shown(values)} is not valid: it must be InferencingParams or a mapping"
    )
