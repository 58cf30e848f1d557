"""What a WebAssembly component costs beside Python: to load, to instantiate, and for each request."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from llmwit_magic import Component, InferencingParams, Request
from llmwit_magic.contract.request import DEFAULT_MODEL
from llmwit_magic.running.session import Session, current_session

from .compare import Figures, Say, Size

WIT = Path(__file__).parents[1] / "wit" / "llm.wit"
WORLD = """package benchmarks:guest;

world guest {
    import llmwit:llm/llm@0.1.0;
    export nothing: func();
    export ask: func(model: string, prompts: list<string>);
}
"""
APP = """import wit_world
from wit_world.imports import llm

PARAMS = llm.InferencingParams(
    max_tokens=1, repeat_penalty=1.0, repeat_penalty_last_n_token_count=0, stop=[],
    temperature=0.0, top_k=0, top_p=1.0,
)

class WitWorld(wit_world.WitWorld):
    def nothing(self):
        pass

    def ask(self, model, prompts):
        for prompt in prompts:
            llm.infer(model, prompt, PARAMS)
"""
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
    with tempfile.TemporaryDirectory() as folder:
        path = _built(Path(folder))
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


def _built(folder: Path) -> Path:
    """A component of Python, built by componentize-py."""
    (folder / "wit" / "deps" / "llm").mkdir(parents=True)
    (folder / "wit" / "world.wit").write_text(WORLD, encoding="utf-8")
    shutil.copy(WIT, folder / "wit" / "deps" / "llm")
    (folder / "app.py").write_text(APP, encoding="utf-8")
    code = "import sys; from componentize_py import script; sys.exit(script())"
    subprocess.run(
        [sys.executable, "-c", code, "-d", "wit", "-w", "guest", "componentize", "app",
         "-o", "guest.wasm"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "guest.wasm"
