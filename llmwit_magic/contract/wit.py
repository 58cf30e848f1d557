"""The contract: the records of `wit/llm.wit` as frozen values.

Every name in the WIT file has its counterpart here; `tests/unit/test_wit_file.py` compares them
field by field, and `tests/unit/test_wit_second_version.py` those of `wit/0.2.0/llm.wit`. What the WIT does not have, such as the seed, timings and tokens, stands below a
comment (`Ours`) in the class, or in a class of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from ..errors import InvalidInput
from .record import F32, REAL, U32, Record, Seed, Setting, real, shown, strings
from .scores import ChoiceProbabilities, Score
from .tokens import TokenAlternative as TokenAlternative
from .tokens import TokenInfo as TokenInfo

LARGEST_DRAWN_SEED = 2**31 - 1
"""A seed that is drawn is no greater, so that every server takes it."""
NO_PENALTY = 1.0
"""The repeat penalty that changes nothing."""


class InferencingParams(Record):
    """How each token is chosen, and when the text ends.

    The steps have the order of Spin's host and of Hugging Face: repeat penalty, temperature,
    top-k, softmax, top-p, draw. The defaults are Spin's.
    """

    max_tokens: Annotated[
        U32 | None,
        Setting("a whole number ≥ 0, or none", "N", sweeps=True, slider=(0, 1024, 1)),
    ] = Field(
        default=100,
        description="at most this many tokens; none: until end of text, a stop or a full context",
    )
    repeat_penalty: Annotated[
        Annotated[F32, Field(gt=0), REAL],
        Setting("a finite number > 0", "R", sweeps=True, slider=(0.5, 2, 0.05)),
    ] = Field(
        default=1.1,
        description="above 1 makes recent tokens less likely, which makes labels and JSON less "
        "accurate; 1 switches it off, as it is where the temperature is 0 and no penalty is given",
    )
    repeat_penalty_last_n_token_count: Annotated[
        U32,
        Setting(
            "a whole number ≥ 0",
            "N",
            flags=("--repeat-penalty-last-n", "--repeat-penalty-last-n-token-count"),
            sweeps=True,
            slider=(0, 512, 1),
        ),
    ] = Field(
        default=64,
        description="how many of the last tokens the penalty looks at; 0 switches it off",
    )
    stop: Annotated[
        tuple[Annotated[str, Field(strict=True, min_length=1)], ...],
        Setting("non-empty text, or a list of such", "TEXT", escapes=True),
        BeforeValidator(strings),
    ] = Field(
        default=(),
        description="end before this text would appear; may be given several times",
    )
    temperature: Annotated[
        Annotated[F32, Field(ge=0), REAL],
        Setting("a finite number ≥ 0; 0 is greedy", "T", sweeps=True, slider=(0, 2, 0.05)),
    ] = Field(
        default=0.8,
        description="how random the choice is; 0 always takes the likeliest token (after a repeat "
        "penalty, if one is given)",
    )
    top_k: Annotated[
        U32,
        Setting("a whole number ≥ 0; 0 switches it off", "K", sweeps=True, slider=(0, 200, 1)),
    ] = Field(
        default=40,
        description="choose among this many likeliest tokens; 0 allows all",
    )
    top_p: Annotated[
        Annotated[F32, Field(gt=0, le=1), REAL],
        Setting("a number with 0 < p ≤ 1", "P", sweeps=True, slider=(0.01, 1, 0.01)),
    ] = Field(
        default=0.9,
        description="choose among the likeliest tokens that reach this probability; 1 allows all",
    )
    # Ours: the WIT has no seed.
    seed: Annotated[
        Seed | None,
        Setting("a whole number from 0 to 2⁶³−1, or none", "S", sweeps=True, slider=(0, 9999, 1)),
    ] = Field(
        default=None,
        description="the same seed gives the same text; without one it is drawn, and recorded",
    )

    @model_validator(mode="before")
    @classmethod
    def _greedy_is_greedy(cls, values: Any) -> Any:
        """Switch the repeat penalty off at temperature 0, unless one is given: without a penalty,
        the likeliest token is taken."""
        if isinstance(values, Mapping) and "repeat_penalty" not in values:
            temperature = real(values.get("temperature"))
            if isinstance(temperature, float) and temperature == 0:
                return {**values, "repeat_penalty": NO_PENALTY}
        return values


Ending = Literal["ok", "interrupted", "error"]
"""The status of a run that has ended."""
RunStatus = Literal["running", Ending]
LoggedStatus = Literal[RunStatus, "lost"]
"""The status of a run in the log. A run is lost if it was running when its kernel ended."""
STATUSES: tuple[str, ...] = get_args(LoggedStatus)
RunKind = Literal["text", "score", "embedding"]
"""What a run makes: text, the score of a text, or vectors of texts."""


class FinishReason(StrEnum):
    """Why the text ends where it does. An interrupted or failed run has none."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"


class FinishDetail(StrEnum):
    """What exactly ended the text; each detail but `UNKNOWN` belongs to one `FinishReason`."""

    EOS = "eos"
    STOP_SEQUENCE = "stop_sequence"
    MAX_TOKENS = "max_tokens"
    CONTEXT_FULL = "context_full"
    CONTENT_FILTER = "content_filter"
    CONSTRAINT = "constraint"
    """Nothing can follow: the answer is complete by its constraint."""
    SCORED = "scored"
    """All of a given text, or of the choices, has its log-probability; nothing was generated."""
    UNKNOWN = "unknown"
    """A server does not say it. The reason is `STOP`, or `LENGTH` where the server says that."""

    @property
    def reason(self) -> FinishReason:
        return _REASONS[self]


_REASONS = {
    FinishDetail.EOS: FinishReason.STOP,
    FinishDetail.STOP_SEQUENCE: FinishReason.STOP,
    FinishDetail.MAX_TOKENS: FinishReason.LENGTH,
    FinishDetail.CONTEXT_FULL: FinishReason.LENGTH,
    FinishDetail.CONTENT_FILTER: FinishReason.CONTENT_FILTER,
    FinishDetail.CONSTRAINT: FinishReason.STOP,
    FinishDetail.SCORED: FinishReason.STOP,
    FinishDetail.UNKNOWN: FinishReason.STOP,
}


class InferencingUsage(Record):
    """The tokens that a run used. A count is exact, or None where the engine cannot know it.

    The end-of-text token does not count as generated.
    """

    prompt_token_count: U32 | None = 0
    generated_token_count: U32 | None = 0
    cached_token_count: U32 | None = 0
    # Ours.
    reasoning_token_count: U32 | None = Field(
        default=0,
        description="generated tokens that are not of the answer: the reasoning, and the marks "
        "around both",
    )


class ModelInfo(Record):
    """The model that answered. A field is None where the engine cannot know it."""

    name: str
    path: str | None = None
    sha256: str | None = None
    architecture: str | None = None
    quantisation: str | None = None
    engine: str | None = Field(
        default=None,
        description="what runs the model: ctransformers, llama.cpp, or the kind of the server",
    )
    tokenizer: str | None = Field(
        default=None,
        description="whose tokenizer finds the token ids: llmwit-magic or the engine's",
    )


class DeviceInfo(Record):
    """Where the model ran: what was asked for, what was done, and the memory that it took."""

    name: str = "cpu"
    library: str = Field(
        default="", description="build of the engine's library, or its version where it has one"
    )
    threads: int | None = 0
    requested_gpu_layers: int | Literal["auto"] = "auto"
    gpu_layers: int | None = 0
    memory_bytes: int | None = Field(
        default=None, description="device memory taken, as the driver or the library says"
    )
    reason: str = Field("", description="why this device, in words")
    exact: bool = Field(default=True, description="whether the same seed gives the same text again")

    @property
    def is_server(self) -> bool:
        """Whether it is a server: that one does not say what runs on its GPU."""
        return self.gpu_layers is None


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


class InferencingResult(Record):
    """The outcome of a run. `tokens` is None unless the request asked for log-probabilities.

    Where a given text was scored, it is `text`, and `score` has its log-probability. Where choices
    were, `choices` has their probabilities, and `text` is the most probable one.

    `value` is the answer as a value where the request had a constraint: the choice, the text, or
    what the JSON says. Where there is none, `value` is None and `value_error` says why.
    """

    text: str
    finish_reason: FinishReason | None
    usage: InferencingUsage
    # Ours.
    reasoning: str = Field(
        default="", description="what the model wrote before its answer, where it marks that"
    )
    finish_detail: FinishDetail | None = None
    stop_sequence: str | None = None
    params: InferencingParams = InferencingParams()
    model: ModelInfo | None = None
    device: DeviceInfo = DeviceInfo()
    context_length: int | None = None
    timings: Timings = Timings()
    tokens: tuple[TokenInfo, ...] | None = None
    score: Score | None = Field(default=None, description="the score of a text that was given")
    choices: ChoiceProbabilities | None = Field(
        default=None, description="the probabilities of choices, where they were asked for"
    )
    prompt_tokens: tuple[TokenInfo, ...] | None = Field(
        default=None,
        description="the tokens of the prompt, where a score asked for them: all but the first one, "
        "which follows nothing",
    )
    prompt: str = ""
    chat: bool = Field(
        default=False, description="whether the prompt was put into the model's chat template"
    )
    notices: tuple[str, ...] = ()
    not_honoured: tuple[str, ...] = Field(
        default=(), description="the settings that the engine could not honour"
    )
    value: Any = None
    value_error: str | None = None
    kind: RunKind = Field("text", description="what the run made: text, score or embedding")
    text_count: int | None = Field(
        default=None, description="of how many texts the run was to make vectors"
    )
    status: LoggedStatus = "ok"
    run_id: int | None = None
    log_problem: str | None = Field(None, description="why the run is not in the log, if it is not")
    preset: str | None = Field(None, description="the preset that settings were taken from")
    conversation_id: str | None = None
    turn: int | None = Field(None, description="number of the turn in its conversation, from 1 on")
    dropped_turns: int = Field(
        default=0, description="how many of the conversation's oldest turns were not sent"
    )
    prompt_name: str | None = Field(
        default=None, description="name of the prompt among those of its sweep"
    )
    metric_values: Mapping[str, float] = Field(
        default={}, description="numbers that judge the answer, by the names of the metrics"
    )

    def __str__(self) -> str:
        return self.text

    @property
    def probabilities(self) -> dict[str, float] | None:
        """The probability of each choice, where that was asked for."""
        return self.choices.probabilities if self.choices else None

    @property
    def logprob(self) -> float | None:
        """The log-probability of the text that was scored, in nats."""
        return self.score.logprob if self.score else None

    @property
    def perplexity(self) -> float | None:
        """The perplexity of the text that was scored; see `Score`."""
        return self.score.perplexity if self.score else None


class EmbeddingsUsage(Record):
    """The tokens that a call for embeddings used, all texts together."""

    prompt_token_count: U32


class EmbeddingsResult(Record):
    """One vector for each text, in the order of the texts. A vector has the model's embedding
    length."""

    embeddings: tuple[tuple[float, ...], ...]
    usage: EmbeddingsUsage


def params_from(values: Mapping[str, Any] | InferencingParams | None) -> InferencingParams:
    """Params from what a caller gave: params, a mapping of some of the fields, or None.

    Raises `InvalidInput` for anything else, and for a bad value.
    """
    if isinstance(values, InferencingParams):
        return values
    if values is None:
        return InferencingParams()
    if isinstance(values, Mapping):
        return InferencingParams.model_validate(dict(values))
    raise InvalidInput(
        f"params: {shown(values)} is not valid: it must be InferencingParams or a mapping"
    )
