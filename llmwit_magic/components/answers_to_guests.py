"""What a guest gets: results, tokens and errors as values of the component model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import wasmtime
from wasmtime.component import Record, Variant

from ..contract.record import real
from ..contract.tokens import TokenAlternative, TokenInfo
from ..contract.wit import FinishReason, InferencingUsage
from ..errors import ComponentFailed, InferenceError, InvalidInput, ModelNotSupported
from .guest_call import GuestCall

HostFunction = Callable[..., Any]


def record(**fields: Any) -> Record:
    """A record of the component model; `_` in a name stands for `-`."""
    made = Record()
    for name, value in fields.items():
        setattr(made, name.replace("_", "-"), value)
    return made


def field(value: Record, name: str) -> Any:
    """The field of a record of the component model; `_` in the name stands for `-`."""
    return getattr(value, name.replace("_", "-"))


def f32(number: float) -> float:
    """A 32-bit number as a person writes it: 1.1, and not 1.100000023841858."""
    import numpy

    rounded: float = real(numpy.float32(number))
    return rounded


def word(reason: FinishReason | None) -> str:
    """A finish reason in the words of a WIT. A run that has ended well has one."""
    assert reason is not None
    return reason.value.replace("_", "-")


def usage(used: InferencingUsage, *names: str) -> Record:
    """The counts of those names. A server may not say one; it is 0 then."""
    return record(**{name: getattr(used, name) or 0 for name in names})


ALL_COUNTS = ("prompt_token_count", "generated_token_count", "cached_token_count")


def tokens(found: Iterable[TokenInfo]) -> list[Record]:
    """Tokens with their log-probabilities, as `llmwit:llm@0.2.0` has them."""
    return [
        record(
            id=token.id, bytes=token.bytes, logprob=token.logprob, rank=token.rank,
            top=[_alternative(other) for other in token.top],
        )
        for token in found
    ]  # fmt: skip


def _alternative(token: TokenAlternative) -> Record:
    return record(id=token.id, bytes=token.bytes, logprob=token.logprob)


def error_value(call: GuestCall, error: InferenceError, model: str) -> Variant:
    """An error as the variant that Spin's interface and ours have."""
    if isinstance(error, ModelNotSupported):
        return Variant("model-not-supported")
    case = "invalid-input" if isinstance(error, InvalidInput) else "runtime-error"
    return Variant(case, call.told(error, model))


def guarded(call_of: Callable[[], GuestCall], work: Callable[..., Any]) -> HostFunction:
    """A host function. `work` gets the store, the call and the guest's values.

    wasmtime passes on no exception but its own, and another one may end the process. So any other
    one ends the guest, and is raised where the component was called.
    """

    def carry_out(store: Any, *values: Any) -> Any:
        call = call_of()
        try:
            call.check()
            return work(store, call, *values)
        except wasmtime.WasmtimeError:
            raise
        except InferenceError as error:
            raise call.refuse(error) from None
        except BaseException as error:
            unexpected = ComponentFailed(f"unexpected {type(error).__name__}: {error}")
            unexpected.__cause__ = error
            raise call.refuse(unexpected) from None

    return carry_out
