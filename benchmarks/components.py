"""What a WebAssembly component costs beside Python: to load, to instantiate, and for each request."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from llmwit_magic import Component, InferencingParams, Request
from llmwit_magic.contract.request import DEFAULT_MODEL
from llmwit_magic.running.session import Session, current_session
from tests.support.python_guest import python_guest

from .compare import Figures, Say, Size

PARAMS = InferencingParams(
    max_tokens=1, repeat_penalty=1, repeat_penalty_last_n_token_count=0, temperature=0, top_k=0,
    top_p=1,
)  # fmt: skip
REQUESTS = 20
"""Requests of one call, over which the cost of one is measured."""


def components(size: Size, say: Say) -> Figures:
    """Milliseconds to load a component of Python, to instantiate it, and for a request of one token,
    by the component and by Python in turn."""
    say("components: building one (10 s)")
    path = python_guest()
    say("components: compiling it (10 s)")
    session = current_session()
    guest = Component(path, session=session)
    figures: Figures = {
        "component: load the compiled form, ms": {"component": []},
        "component: instantiate and call, ms": {"component": []},
        "component: a request of one token, ms": {"component": [], "Python": []},
    }
    guest.call("ask", DEFAULT_MODEL, ["Once"])  # the model is loaded
    count = 2 if size.rounds == 1 else REQUESTS
    for number in range(size.rounds):
        say(f"components, round {number + 1} of {size.rounds}")
        del guest
        gc.collect()  # it is in memory as long as anything refers to it
        began = time.perf_counter()
        guest = Component(path, session=session)
        loaded = time.perf_counter() - began
        guest.call("nothing")
        figures["component: load the compiled form, ms"]["component"].append(1000 * loaded)
        figures["component: instantiate and call, ms"]["component"].append(
            _milliseconds(lambda guest=guest: guest.call("nothing"), count) / count  # type: ignore[misc]
        )
        prompts = [f"{number} {place} Once upon a time" for place in range(count)]
        by_way = figures["component: a request of one token, ms"]
        nothing = figures["component: instantiate and call, ms"]["component"][-1]
        # The second time, the prompt is evaluated, and what is left is mostly overhead.
        for prompt in prompts:
            _ask(session, prompt)
            by_component = _milliseconds(
                lambda p=prompt, guest=guest: guest.call("ask", DEFAULT_MODEL, [p] * 5)  # type: ignore[misc]
            )
            by_way["component"].append((by_component - nothing) / 5)
            by_python = _milliseconds(lambda p=prompt: _ask(session, p), 5)  # type: ignore[misc]
            by_way["Python"].append(by_python / 5)
    return figures


def _ask(session: Session, prompt: str) -> None:
    run = session.run(Request(model=DEFAULT_MODEL, prompt=prompt, params=PARAMS))
    run.wait()
    run.raise_failure()


def _milliseconds(work: Callable[[], object], count: int = 1) -> float:
    began = time.perf_counter()
    for _ in range(count):
        work()
    return 1000 * (time.perf_counter() - began)
