"""GPUs for the tests: what this machine has, or Mesa's Vulkan in software.

Each test runs once for each kind of GPU that is here. `test_kinds.py` says why others are not.

python -m pytest tests/gpu      also on a machine without the network, with wheels carried to it
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.engines.backends.llamacpp.llama_sources import unavailable
from llmwit_magic.running.session import Session
from tests.support.apart import python_apart
from tests.support.tiny_models import write_llama_gguf

VISIBLE = "GGML_VK_VISIBLE_DEVICES"
KINDS = {"Vulkan": ("vulkan",), "Metal": ("mtl", "metal"), "CUDA": ("cuda",)}
"""What the names of a kind's devices begin with."""
PROMPT = "Once upon a time there was a small robot that lived in a house near the sea. " * 2

FOUND = """
import json
from llmwit_magic.engines.backends.llamacpp.llama_devices import choose_device, devices
from llmwit_magic.engines.backends.llamacpp.llama_library import library

reason = choose_device(library(), 1, None)  # loads the code for GPUs
print("SAID", json.dumps({
    "devices": [[each.name, each.description, each.free_bytes] for each in devices(library())],
    "reason": reason if isinstance(reason, str) else "",
}))
"""
CTRANSFORMERS = """
import json
from llmwit_magic.engines.backends.ctransformers.devices import find_gpu

found = find_gpu()
print("SAID", json.dumps([found, ""] if isinstance(found, str) else ["", found.name]))
"""


@dataclass(frozen=True)
class Place:
    """A GPU, by the engine that uses it."""

    engine: str
    name: str
    description: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    """What makes the library take it."""
    real: bool = True
    """Whether it is no processor."""

    def __str__(self) -> str:
        return f"{self.engine}-{self.name}"

    @property
    def device(self) -> dict[str, str]:
        """The field of a request that asks for it."""
        return {"device": self.name} if self.engine == "llama.cpp" else {}


@cache
def found_by_llama_cpp() -> tuple[dict[str, str], dict[str, Any]]:
    """The environment in which llama.cpp finds the most GPUs, and what it finds there."""
    said = python_apart(FOUND)
    if said["devices"] or VISIBLE in os.environ:
        return {}, said
    # Without this variable the library takes no Vulkan device that is a processor.
    environment = {VISIBLE: "0"}
    return environment, python_apart(FOUND, env=environment)


@cache
def place_for(engine: str, kind: str) -> Place | str:
    """A GPU of that kind, or why there is none."""
    if engine == "ctransformers":
        reason, name = python_apart(CTRANSFORMERS)
        return reason or Place(engine, name)
    if unavailable():
        return f"llama.cpp: {unavailable()}"
    environment, said = found_by_llama_cpp()
    for name, description, _ in said["devices"]:
        if name.lower().startswith(KINDS[kind]):
            return Place(engine, name, description, environment, "llvmpipe" not in description)
    others = ", ".join(name for name, *_ in said["devices"])
    return said["reason"] or f"llama.cpp's library finds no {kind} device, only {others}"


LLAMA_CPP = [("llama.cpp", kind) for kind in KINDS]
ALL = [("ctransformers", "CUDA"), *LLAMA_CPP]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`gpu` is each GPU that llama.cpp uses, `any_gpu` each one that either engine uses.

    `kind` is each of all kinds, also one that is not here.
    """
    for name, kinds in (("gpu", LLAMA_CPP), ("any_gpu", ALL)):
        if name in metafunc.fixturenames:
            places = [place for kind in kinds if isinstance(place := place_for(*kind), Place)]
            metafunc.parametrize(name, places, ids=str, indirect=True)
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", ALL, ids="-".join)


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A GPU, which the engines of the test can see."""
    place: Place = request.param
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    return place


any_gpu = gpu


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two repeating layers and an output."""
    folder = tmp_path_factory.mktemp("models")
    return write_llama_gguf(folder / "tiny.gguf", context_length=4096)


@pytest.fixture
def ask(session: Session, model: Path) -> Callable[..., InferencingResult]:
    """Runs a request on a GPU to its end."""

    def ask(
        place: Place, layers: int | str = "auto", prompt: str = PROMPT, session: Session = session,
        **options: Any,
    ) -> InferencingResult:  # fmt: skip
        params = {"max_tokens": 8, "seed": 3} | options.pop("params", {})
        options = {"model": str(model)} | place.device | options
        run = session.run(
            Request(prompt=prompt, params=params, engine=place.engine, gpu_layers=layers, **options)
        )
        assert run.wait(250)
        run.raise_failure()
        return run.result

    return ask
