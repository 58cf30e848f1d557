"""What a component imports is linked by its types, and threads and forks keep out of each other."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from wasmtime.component import FuncType, ResourceType, Variant

from llmwit_magic import Component
from llmwit_magic.components import first_interface
from llmwit_magic.components.linking import SERVED, other_part
from llmwit_magic.components.sandbox import the_engine
from llmwit_magic.errors import ComponentFailed
from llmwit_magic.running.session import Session
from tests.support.apart import python_apart
from tests.support.wat_guests import RUNAWAYS, forwarder, runaway
from tests.support.wat_interfaces import (
    FIRST,
    PHARIA,
    PHARIA_0_3,
    SECOND,
    SPIN_2,
    Interface,
    wit_text,
)

REQUEST = {
    "model": "m", "prompt": {"text": "a"}, "params": None, "logprobs": "no", "echo": False,
}  # fmt: skip


def component(text: str, session: Session) -> Component:
    return Component(text.encode(), session=session)


def imported(
    interface: Interface, session: Session
) -> tuple[dict[str, FuncType], dict[str, ResourceType]]:
    """The functions and resources of an interface as a component imports them."""
    engine = the_engine().engine
    made = component(forwarder(interface), session)._guest._compiled
    kind: Any = made.type.imports(engine)[interface.name].ty
    items = {name: each.ty for name, each in kind.exports(engine).items()}
    return (
        {name: each for name, each in items.items() if isinstance(each, FuncType)},
        {name: each for name, each in items.items() if isinstance(each, ResourceType)},
    )


@pytest.mark.parametrize(
    ("interface", "place"), [(FIRST, 0), (SECOND, 1), (SPIN_2, 2), (PHARIA_0_3, 3)]
)
def test_all_served_functions_have_the_types_of_their_wit(
    session: Session, interface: Interface, place: int
) -> None:
    """What is served is what the WIT of each interface says, function by function."""
    _, functions, types, _ = SERVED[place]
    assert functions.keys() == types.keys()
    found, resources = imported(interface, session)
    assert {name: other_part(found[name], kind, resources) for name, kind in types.items()} == (
        dict.fromkeys(types, "")
    )


@pytest.mark.parametrize(
    ("interface", "old", "new", "call", "said"),
    [
        (FIRST, "top-k: u32", "top-k: u64", ("infer", "m", "", None), "'params' of another type"),
        (FIRST, "record embeddings-usage {", "record embeddings-usage { more: u32,",
         ("generate-embeddings", "m", []), "a result of another type"),
        (FIRST, "texts: list<string>)", "texts: list<string>, more: u32)",
         ("generate-embeddings", "m", [], 1), "3 parameters"),
        (FIRST, "texts: list<string>) -> result<embeddings-result, error>",
         "texts: list<string>) -> string", ("generate-embeddings", "m", []), "a result of another"),
        (FIRST, "runtime-error(string)", "engine-error(string)",
         ("infer", "m", "", None), "a result of another type"),
        (SECOND, "-> result<inferencing-stream, error>", "-> result<token-info, error>",
         ("infer-stream", REQUEST), "a result of another type"),
    ],
)  # fmt: skip
def test_a_function_of_another_type_is_refused_by_name(
    session: Session, interface: Interface, old: str, new: str, call: tuple[Any, ...], said: str
) -> None:
    """A component may name an interface and mean other types by it. The part that differs is told."""
    text = wit_text(interface.name[-5:])
    assert old in text
    guest = component(forwarder(Interface(interface.name, text.replace(old, new))), session)
    with pytest.raises(ComponentFailed, match=f"component calls {call[0]} of .* with {said}"):
        guest.call(*call)
    assert len(session.log) == 0


def test_streams_of_two_kinds_are_not_mixed_up(session: Session) -> None:
    """A function that takes another resource of the same interface has another type."""
    more = "take: func(it: borrow<chat-stream>) -> string;\n    complete: func("
    wit = PHARIA.replace("complete: func(", more)
    functions, resources = imported(Interface(PHARIA_0_3.name, wit), session)
    take = functions["take"]
    assert other_part(take, (("borrow<chat-stream>",), "string"), resources) == ""
    assert "'it'" in other_part(take, (("borrow<completion-stream>",), "string"), resources)


def test_an_error_of_the_host_ends_its_own_guest_alone(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that cannot be handed over ends its guest in one line. No other guest gets it."""
    monkeypatch.setitem(
        cast(dict[str, Any], first_interface.LLMWIT_0_1), "generate-embeddings",
        lambda call, model, texts: Variant("ok", 7),
    )  # fmt: skip
    # Equal components share what links them, while one of them lives. This one is like no other.
    bad = component(forwarder(FIRST, more="(core module)"), session)
    good = component(runaway(RUNAWAYS["trap"]), session)
    found: dict[str, set[str]] = {"bad": set(), "good": set()}

    def call(guest: Component, name: str, *arguments: Any) -> None:
        for _ in range(20):
            try:
                guest.call(*arguments)
            except BaseException as error:
                found[name].add(f"{type(error).__name__}: {error}")

    threads = [
        *(threading.Thread(target=call, args=(good, "good", "go")) for _ in range(2)),
        threading.Thread(target=call, args=(bad, "bad", "generate-embeddings", "m", [])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found["bad"]) == len(found["good"]) == 1
    assert (
        found["bad"].pop().startswith("ComponentFailed: component has trapped: unexpected ValueE")
    )
    assert "has given up (unreachable)" in found["good"].pop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_forked_process_makes_components(tmp_path: Path) -> None:
    """It makes and calls its own, although another thread of its parent held the locks, and although
    wasmtime has compiled before in threads that are not forked."""
    code = '''
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks where threads are
from llmwit_magic import Component
from llmwit_magic.components import sandbox, wasmtime_repairs

TEXT = """(component (core module $main (func (export "go") (result i32) (i32.const %d)))
  (core instance $main (instantiate $main))
  (func (export "go") (result u32) (canon lift (core func $main "go"))))"""

def made(number):
    return Component((TEXT % number).encode()).call("go")

assert made(1) == 1
held, over = threading.Event(), threading.Event()

def hold():
    with wasmtime_repairs.LIBRARY_LOCK, sandbox._engine_lock:
        held.set()
        over.wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
if (pid := os.fork()) == 0:
    os._exit(made(2) + made(1))
over.set()
for _ in range(300):
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        break
    time.sleep(0.1)
else:
    os.kill(pid, 9)
    sys.exit("the forked process hangs")
print("SAID", [os.waitstatus_to_exitcode(status), made(2)])
'''
    assert python_apart(code, env={"XDG_CACHE_HOME": str(tmp_path)}) == [3, 2]
