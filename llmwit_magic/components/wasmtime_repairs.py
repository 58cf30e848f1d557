"""What wasmtime's Python part shares between threads or takes for another value, put right.

It is written for one thread. Importing this module replaces the parts that several guests at a time,
or a forked process, need in another form.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import wasmtime
import wasmtime.component

from ..base.forked_lock import ForkedLock
from ..errors import InvalidInput

LIBRARY_LOCK = ForkedLock()
"""wasmtime's Python part numbers callbacks in lists that several threads must not change at once."""


class _PerThread:
    """A set for each thread, in the place of one that wasmtime's conversions share."""

    def __init__(self) -> None:
        self._local = threading.local()

    def clear(self) -> None:
        self._local.found = set()

    def add(self, item: type) -> None:
        self._local.found.add(item)

    def __iter__(self) -> Iterator[type]:
        return iter(self._local.found)


def _needs_its_case(kind: Any) -> bool:
    """Whether a value needs the name of its case, since a value of one case may pass for another's.

    wasmtime compares classes by name alone. But a bool is an int for `isinstance`, and an option
    within a variant takes each `object`. So classes are compared with those that they come from.
    """
    seen: set[type] = set()
    for _, inner in kind._cases():
        classes: set[type] = set()
        if inner is None:
            classes.add(type(None))  # this case takes None only
        else:
            inner.add_classes(classes)
        if any(issubclass(a, b) or issubclass(b, a) for a in classes for b in seen):
            return True
        seen |= classes
    return False


_linker: Any = wasmtime.component._linker
_types: Any = wasmtime.component._types
try:
    _caught = _linker.catch_exceptions
    _types.VariantLikeType._tagged, _types.case_test_cache  # noqa: B018
except AttributeError:
    raise InvalidInput(
        "this version of wasmtime is not known to llmwit-magic: pip install wasmtime==50.0.1"
    ) from None


def _ended(store: Any, work: Callable[[Any], None]) -> Any:
    """Carry out a host function, whose unexpected error ends its own guest.

    wasmtime keeps such an error for the next guest that fails, in whatever thread that is. It keeps
    none of its own.
    """

    def carry_out(context: Any) -> None:
        try:
            work(context)
        except wasmtime.WasmtimeError:
            raise
        except BaseException as error:
            said = f"unexpected {type(error).__name__}: {error}"
            said = said.encode(errors="backslashreplace").decode()
            raise wasmtime.WasmtimeError(said) from None

    return _caught(store, carry_out)


_types.case_test_cache = _PerThread()
_types.VariantLikeType._tagged = _needs_its_case
_linker.catch_exceptions = _ended
