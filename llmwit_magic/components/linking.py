"""What a component imports, and what it gets: our interfaces, WASI, or a refusal."""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from wasmtime import component
from wasmtime.component import ComponentInstanceType, FuncType, ResourceAny, ResourceType

from ..errors import ComponentFailed, InvalidInput
from . import first_interface, pharia_interface, second_interface, served_types
from .answers_to_guests import HostFunction, guarded
from .guest_call import GuestCall
from .guest_values import type_name
from .sandbox import Engine
from .wasmtime_repairs import LIBRARY_LOCK

Functions = Mapping[str, Callable[..., Any]]

SERVED: tuple[tuple[str, Functions, served_types.Types, Mapping[str, int]], ...] = (
    (r"llmwit:llm/llm@0\.1\.\d+", first_interface.LLMWIT_0_1, served_types.LLMWIT_0_1, {}),
    (
        r"llmwit:llm/llm@0\.2\.\d+",
        second_interface.LLMWIT_0_2,
        served_types.LLMWIT_0_2,
        second_interface.RESOURCES,
    ),
    (r"fermyon:spin/llm(@2\.0\.\d+)?", first_interface.SPIN, served_types.SPIN, {}),
    (
        r"pharia:skill/inference@0\.3\.\d+",
        pharia_interface.PHARIA,
        served_types.PHARIA,
        pharia_interface.RESOURCES,
    ),
)
"""The names of the interfaces that are served, as expressions, with their functions, the types of
these, and the numbers of their resources' types."""
WASI = r"wasi:(cli|clocks|filesystem|io|random|sockets)/.*@0\.2\.\d+"
ABSENT_TYPE = 99
"""The number of the one type of all resources of interfaces that are not served."""

_current = threading.local()
"""The call whose guest runs in this thread."""


class _Kept:
    """A linker, which is freed with the component that it is for."""

    def __init__(self, linker: component.Linker) -> None:
        self.linker = linker

    def __del__(self) -> None:
        with LIBRARY_LOCK:
            self.linker.close()


_linkers: weakref.WeakKeyDictionary[component.Component, _Kept] = weakref.WeakKeyDictionary()


def the_call() -> GuestCall:
    """The call whose guest runs in this thread."""
    call: GuestCall = _current.call
    return call


def enter(call: GuestCall) -> None:
    """Let the host functions of this thread work for that call."""
    _current.call = call


def linker_of(engine: Engine, compiled: component.Component) -> component.Linker:
    """What links the component to its imports. It is made once and then kept with the component.

    An interface that is not served refuses each call by name. Raises `InvalidInput` for an import
    that is neither an interface nor a function.
    """
    with LIBRARY_LOCK:
        if compiled not in _linkers:
            linker = component.Linker(engine.engine)
            imports = {name: item.ty for name, item in compiled.type.imports(engine.engine).items()}
            ours = _not_of_wasi(engine, imports)
            if ours != imports.keys():
                linker.add_wasip2()
                linker.allow_shadowing = True
            for name in ours:
                _define(linker, engine, name, imports[name])
            _linkers[compiled] = _Kept(linker)
        return _linkers[compiled].linker


def _not_of_wasi(engine: Engine, imports: Mapping[str, Any]) -> list[str]:
    """The imports that wasmtime's WASI does not give, in their order.

    An interface that is not served may have a resource in common with one of WASI, as `wasi:http`
    has streams. A resource has one type everywhere, so that interface of WASI is refused too.
    """
    resources = {name: _resources(engine, kind) for name, kind in imports.items()}
    ours = [name for name in imports if not re.fullmatch(WASI, name)]
    for name in ours:  # which grows
        ours += [
            other for other in imports
            if other not in ours and any(each in resources[name] for each in resources[other])
        ]  # fmt: skip
    return [name for name in imports if name in ours]


def _resources(engine: Engine, kind: Any) -> list[ResourceType]:
    if not isinstance(kind, ComponentInstanceType):
        return []
    kinds = (item.ty for item in kind.exports(engine.engine).values())
    return [each for each in kinds if isinstance(each, ResourceType)]


def _define(linker: component.Linker, engine: Engine, name: str, kind: Any) -> None:
    if isinstance(kind, FuncType):
        with linker.root() as root:
            root.add_func(name, _refusal("the world", name))
        return
    if not isinstance(kind, ComponentInstanceType):
        raise InvalidInput(f"the component imports {name}, which is no interface: rebuild it")
    served = next((each for each in SERVED if re.fullmatch(each[0], name)), None)
    functions, types, numbers = served[1:] if served else ({}, {}, {})
    items = {item: extern.ty for item, extern in kind.exports(engine.engine).items()}
    resources = {item: each for item, each in items.items() if isinstance(each, ResourceType)}
    with linker.root() as root, root.add_instance(name) as instance:
        for item, wanted in items.items():
            if isinstance(wanted, ResourceType):
                _add_resource(instance, item, numbers.get(item, ABSENT_TYPE))
            elif isinstance(wanted, FuncType):
                work = functions.get(item)
                if work is None:
                    instance.add_func(item, _refusal(name, item))
                elif part := other_part(wanted, types[item], resources):
                    instance.add_func(item, _refusal(name, item, part))
                else:
                    instance.add_func(item, guarded(the_call, _with_numbers(work)))


def other_part(
    wanted: FuncType, served: tuple[tuple[str, ...], str], resources: Mapping[str, ResourceType]
) -> str:
    """The part of a function whose type is not the one that is served; "" where all are."""
    params = [(name, type_name(kind, resources)) for name, kind in wanted.params]
    if len(params) != len(served[0]):
        return f"{len(params)} parameters"
    for (name, found), kind in zip(params, served[0], strict=True):
        if found != kind:
            return f"'{name}' of another type"
    result = wanted.result
    found = "" if result is None else type_name(result, resources)
    return "" if found == served[1] else "a result of another type"


def _with_numbers(work: Callable[..., Any]) -> HostFunction:
    """A host function that gets a stream as its number."""

    def carry_out(store: Any, call: GuestCall, *values: Any) -> Any:
        return work(call, *(_number(store, value) for value in values))

    return carry_out


def _number(store: Any, value: Any) -> Any:
    if not isinstance(value, ResourceAny):
        return value
    return value.to_host(store).rep


def _add_resource(instance: component.LinkerInstance, name: str, number: int) -> None:
    def dropped(store: Any, call: GuestCall, rep: int) -> None:
        if number != ABSENT_TYPE:
            call.drop(rep)

    instance.add_resource(name, ResourceType.host(number), guarded(the_call, dropped))


def _refusal(interface: str, function: str, part: str = "") -> HostFunction:
    """A host function that ends the guest: it is not served, or not with that part of its type."""
    why = (
        f" with {part}: build it with the WIT of that interface" if part
        else ", which is not served here: docs/wit.md lists what is"
    )  # fmt: skip

    def refuse(call: GuestCall, *values: Any) -> None:
        raise ComponentFailed(f"{call.granted.name} calls {function} of {interface}{why}")

    return guarded(the_call, partial(_without_store, refuse))


def _without_store(work: Callable[..., Any], store: Any, call: GuestCall, *values: Any) -> Any:
    return work(call, *values)
