"""A component that is compiled and linked, and a call of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import wasmtime
from wasmtime.component import ComponentInstanceType, Func, FuncType, Instance

from ..errors import ComponentFailed, InferenceError, InvalidInput, one_line
from .compiled import compiled
from .grants import Limits
from .guest_call import GuestCall
from .guest_values import lowered, outcome, type_name
from .linking import enter, linker_of
from .sandbox import Printed, store, the_engine


class CompiledGuest:
    """A component that can be called. Each call is a new instance.

    `digest` is the SHA-256 of `source` in hexadecimal. Raises `InvalidInput` for what is no
    component, and `ComponentFailed` where it cannot be compiled.
    """

    def __init__(self, name: str, source: bytes, digest: str) -> None:
        self._name = name
        self._engine = the_engine()
        self._compiled = compiled(self._engine, source, digest)
        self.functions = _functions(self._engine.engine, self._compiled)
        """The types of its functions by their places."""
        self._linker = linker_of(self._engine, self._compiled)

    @property
    def pid(self) -> int:
        """The process that it can be called in."""
        return self._engine.pid

    def parameters(self, path: tuple[str, ...]) -> dict[str, str]:
        """The names of a function's parameters, each with its type in the words of WIT."""
        return {name: type_name(kind) for name, kind in self.functions[path].params}

    def call(
        self, call: GuestCall, path: tuple[str, ...], export: str, arguments: Sequence[Any],
        limits: Limits,
    ) -> Any:  # fmt: skip
        """What a function returns, in a new instance. A thread of the call's own does this.

        `path` says where the function is, and `export` its name for people.
        """
        out, err = Printed(call.printed.put), Printed(call.printed.put)
        enter(call)
        kind = self.functions[path]
        values = _arguments(kind.params, arguments, export)
        made = store(self._engine, limits.memory, limits.dirs, limits.env, out, err)
        try:
            with self._engine.ticking(call.why_not), made as its_store:
                instance = self._linker.instantiate(its_store, self._compiled)
                returned = _function(instance, its_store, path)(its_store, *values)
                value, error = outcome(returned, kind.result)
        except wasmtime.WasmtimeError as error:
            raise self._failed(call, error, err) from None
        if error is not None:
            failed = ComponentFailed(f"{self._name}: {export} returns an error: {error!r}")
            failed.value = error
            raise failed
        return value

    def _failed(
        self, call: GuestCall, error: wasmtime.WasmtimeError, err: Printed
    ) -> InferenceError:
        """The error of a guest that has ended early."""
        if call.error is not None:
            return call.error
        if call.is_late:
            return call.out_of_time()
        why = _cause(str(error))
        if isinstance(error, wasmtime.ExitTrap):
            why = err.last_line or f"it has ended itself, with exit status {error.code}"
        elif "unreachable" in why and err.last_line:
            why = err.last_line
        else:
            why = next((said for sign, said in _TRAPS.items() if sign in why), why)
        return ComponentFailed(f"{self._name} has trapped: {one_line(why)}")


_TRAPS = {
    "unreachable": "it has given up (unreachable), and has not printed why",
    "call stack exhausted": "its stack is full: it calls itself without an end",
    "memory minimum size": "it needs more memory than it may have: give it more with memory=",
}
"""What is said of a trap in the place of the words of wasmtime."""


def _cause(text: str) -> str:
    """The last line of what wasmtime says of a trap, which is the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [line for line in lines if not line.startswith("Caused by")]
    return re.sub(r"^\d+: ", "", found[-1] if found else text)


def _functions(engine: wasmtime.Engine, made: Any) -> dict[tuple[str, ...], FuncType]:
    """The types of a component's functions by their places."""
    found: dict[tuple[str, ...], FuncType] = {}
    for name, extern in made.type.exports(engine).items():
        kind = extern.ty
        if isinstance(kind, FuncType):
            found[name,] = kind
        elif isinstance(kind, ComponentInstanceType):
            for inner, item in kind.exports(engine).items():
                its_kind = item.ty
                # componentize-py exports its own start, which was carried out in the building.
                if isinstance(its_kind, FuncType) and (name, inner) != ("exports", "init"):
                    found[name, inner] = its_kind
    return found


def _function(instance: Instance, its_store: wasmtime.Store, path: tuple[str, ...]) -> Func:
    index = None
    for name in path:
        index = instance.get_export_index(its_store, name, index)
    assert index is not None
    function = instance.get_func(its_store, index)
    assert function is not None
    return function


def _arguments(
    kinds: Sequence[tuple[str, Any]], arguments: Sequence[Any], export: str
) -> list[Any]:
    """The values of a component for the arguments. Raises `InvalidInput`."""
    if len(arguments) != len(kinds):
        wanted = ", ".join(name for name, _ in kinds) or "nothing"
        raise InvalidInput(f"{export} takes {wanted}: {len(arguments)} arguments were given")
    return [
        lowered(value, kind, name) for value, (name, kind) in zip(arguments, kinds, strict=True)
    ]
