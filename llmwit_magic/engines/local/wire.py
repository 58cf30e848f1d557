"""All messages that cross the pipe between a kernel and the child that runs its model.

A message is one line of JSON: `{"kind": …, "value": {…}}`, the name of its class and its fields,
without those that have their default.
The kernel sends commands. The child does not answer `Cancel`, `Verdict` and `Exit`. It answers
every other command with `Started`, then with any number of other answers, and at last with `Done`,
`Failed` or `Broken`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from ...contract.events import Chunk, End, Prepared, Progress, Vectors
from ...contract.record import Record, lists
from ...contract.request import ModelSpec, Request
from ...contract.scores import ChoiceProbabilities
from ...contract.wit import (
    DeviceInfo,
    FinishDetail,
    FinishReason,
    InferencingParams,
    InferencingUsage,
    ModelInfo,
    TokenInfo,
)

# Commands, from the kernel -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """Load a model. It is the first command, and comes once."""

    info: ModelInfo
    backend: str
    source: str
    """The model file, from which the vocabulary is read."""
    file: str
    """The file that the backend loads: the model file, or its adapted form."""
    spec: ModelSpec
    kept_prompts: int
    environment: dict[str, str]
    """The variables that backends read, as the kernel has them now. The child may be older."""
    tokenizer_only: bool = False
    """Whether only the vocabulary is loaded. The child then counts tokens, and nothing else."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Tell what `Run` would begin with. The answer is `Prepared`."""

    request: Request


@dataclass(frozen=True, slots=True)
class Run:
    """Carry out the request. The answers are a run's events, and `Judge`."""

    request: Request
    """Its content filters are the patterns alone."""
    function_count: int
    """How many content filters are functions of the kernel. The child asks for their verdicts."""


@dataclass(frozen=True, slots=True)
class Embed:
    """Make a vector of each text. The answers are `Prepared`, `Vectors` and `End`."""

    request: Request
    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    truncate: bool


@dataclass(frozen=True, slots=True)
class Count:
    """Count the tokens of each text, in which no control token is recognised.

    The answer is `Counts`.
    """

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the command that is being carried out."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to `Judge`: where the filter cuts the text, or None for nowhere."""

    cut: int | None


@dataclass(frozen=True, slots=True)
class Exit:
    """End the child."""


# Answers, from the child -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The child has taken up the command. A death from here on is the death of this command."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A chat template begins to run, or has ended. Only the kernel can end one that does not."""

    running: bool


@dataclass(frozen=True, slots=True)
class Constraining:
    """A constraint begins to be prepared, or is ready. Only the kernel can end one that is not."""

    running: bool


@dataclass(frozen=True, slots=True)
class Judge:
    """The question to a content filter that is a function of the kernel: where to cut this text."""

    filter: int
    """Which of the functions is asked, from 0 on."""
    text: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tokens each text has. A cancellation leaves out some."""

    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The command is carried out."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The command failed with an `InferenceError` of that class. The child can go on."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The command raised an unexpected exception. The state of the child is unknown."""

    said: str


Command = Load | Prepare | Run | Embed | Count | Cancel | Verdict | Exit
Answer = (
    Started
    | Rendering
    | Constraining
    | Judge
    | Progress
    | Prepared
    | Chunk
    | End
    | Vectors
    | Counts
    | Done
    | Failed
    | Broken
)
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (*get_args(Command), *get_args(Answer))
}


def _tokens(tokens: Any) -> tuple[TokenInfo, ...]:
    return tuple(map(TokenInfo.model_validate, tokens))


# A field is made of what JSON has for it, where that is not the value itself.
_MAKERS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "Load": {"info": ModelInfo.model_validate, "spec": ModelSpec.model_validate},
    "Prepare": {"request": Request.model_validate},
    "Run": {"request": Request.model_validate},
    "Embed": {"request": Request.model_validate, "texts": tuple, "numbers": tuple},
    "Prepared": {
        "params": InferencingParams.model_validate, "model": ModelInfo.model_validate,
        "device": DeviceInfo.model_validate, "data_spans": lists, "notices": tuple,
        "not_honoured": tuple,
    },
    "Chunk": {"tokens": _tokens, "prompt_tokens": _tokens},
    "Count": {"texts": tuple},
    "Counts": {"counts": tuple},
    "Vectors": {"data": base64.b64decode},
    "End": {
        "finish_detail": lambda detail: detail and FinishDetail(detail),
        "finish_reason": lambda reason: reason and FinishReason(reason),
        "usage": InferencingUsage.model_validate, "notices": tuple, "not_honoured": tuple,
        "choices": lambda choices: choices and ChoiceProbabilities.model_validate(choices),
    },
}  # fmt: skip


# As lines --------------------------------------------------------------------------


def encoded(message: Command | Answer) -> bytes:
    """The message as one line of ASCII."""
    return _encode({"kind": type(message).__name__, "value": message}).encode() + b"\n"


def decoded(line: bytes) -> Any:
    """The message of a line.

    Raises `ValueError` for a line that is no message, and `KeyError`, `TypeError` or
    `InvalidInput` for one that is damaged.
    """
    message = json.loads(line)
    if not isinstance(message, dict) or message.keys() != {"kind", "value"}:
        raise ValueError("no message")
    kind, value = message["kind"], message["value"]
    if not isinstance(value, dict):
        raise TypeError(f"the value of {kind} is no mapping of its fields")
    makers = _MAKERS.get(kind, {})
    return _KINDS[kind](
        **{name: makers[name](item) if name in makers else item for name, item in value.items()}
    )


def _plain(value: Any) -> Any:
    """What the encoder can write, for what it does not know: messages, records, bytes, mappings."""
    if (fields := getattr(value, "__dataclass_fields__", None)) is not None:
        # A default is left out, since most of a chunk's fields have theirs.
        return {
            name: item for name, field in fields.items()
            if (item := getattr(value, name)) is not field.default
        }  # fmt: skip
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.model_dump(mode="json") if isinstance(value, Record) else dict(value)


_encode = json.JSONEncoder(separators=(",", ":"), default=_plain).encode
