"""Which backend takes a file, and what the local engine does with a name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.engine import Texts
from llmwit_magic.contract.events import Event, Vectors
from llmwit_magic.contract.request import ModelSpec, Request
from llmwit_magic.engines.backends.registry import BACKENDS, backend_named
from llmwit_magic.engines.local.local_engine import LocalEngine
from llmwit_magic.engines.local.model_files import resolve
from llmwit_magic.engines.local.pool import Pool
from llmwit_magic.engines.local.wire import Load
from llmwit_magic.errors import EngineFailed, InvalidInput, ModelNotSupported
from tests.support.fake import end, prepared
from tests.support.fake_child import FakeChild, carried_out
from tests.support.fake_model import FakeBackend
from tests.support.tiny_ggml import write_ggml
from tests.support.tiny_models import write_llama_gguf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_llama_gguf(tmp_path / "tiny.gguf")


def named(name: str, **how: Any) -> FakeBackend:
    backend = FakeBackend(**how)
    backend.name = name
    return backend


def found(path: Path, *backends: FakeBackend, model_type: str | None = None) -> str:
    return resolve(str(path), model_type, {}, lambda progress: None, backends).backend


def test_the_first_backend_without_an_objection_takes_a_file(model: Path) -> None:
    """Backends are asked in their order."""
    assert found(model, named("one"), named("two")) == "one"
    assert found(model, named("one", objection="too new"), named("two")) == "two"


def test_all_objections_are_told(model: Path) -> None:
    """Where no backend takes the file, the error has the objection of each."""
    with pytest.raises(ModelNotSupported, match=r"^tiny\.gguf: too new; too old$"):
        found(model, named("one", objection="too new"), named("two", objection="too old"))


def test_old_files_go_by_their_type(tmp_path: Path) -> None:
    """The backend that knows the type takes an old file. The error names all types."""
    path = write_ggml(tmp_path / "old.bin", "gpt2")
    other = named("two")
    other.old_formats = ("gpt2",)
    assert found(path, named("one"), other, model_type="gpt2") == "two"
    with pytest.raises(InvalidInput, match="must be one of fake1, fake2, gpt2"):
        found(path, named("one"), other, model_type="gpt3")
    with pytest.raises(ModelNotSupported, match="give --model-type, one of fake1, fake2"):
        found(path, named("one"))


def test_backends_have_names_of_their_own() -> None:
    """The child finds the backend that its kernel chose by its name."""
    assert [backend_named(backend.name) for backend in BACKENDS] == list(BACKENDS)


def engine_of(
    backends: Sequence[FakeBackend], *answers: Any
) -> tuple[LocalEngine, list[FakeChild]]:
    children: list[FakeChild] = []

    def start() -> Any:
        script = lambda command: carried_out(*(() if isinstance(command, Load) else answers))  # noqa: E731
        children.append(FakeChild(script))
        return children[-1]

    return LocalEngine(backends, Pool(start)), children


def test_a_request_goes_to_a_child_that_loads_it(model: Path) -> None:
    """The child gets the checked file, its hash and the backend. An alias counts as its path."""
    request = Request(model="tiny", prompt="p", context_length=8)
    engine, children = engine_of([named("one")], prepared(request), end(0))
    engine.aliases = {"tiny": str(model)}
    events: list[Any] = []
    engine.run(request, events.append, threading.Event())
    assert events[-2:] == [prepared(request), end(0)]
    (load,) = [load for child in children for load in child.told(Load)]
    assert (load.backend, load.source, load.file) == ("one", str(model), str(model))
    assert load.spec == request.spec
    info = engine.find(request.spec, lambda event: None, threading.Event())
    assert load.info == info
    assert (info.name, info.path, info.architecture) == ("tiny", str(model), "llama")
    assert len(info.sha256 or "") == 64


def test_prepare_and_embeddings_take_the_same_way(model: Path) -> None:
    """The child that has the model does both."""
    request = Request(model=str(model), prompt="p")
    vectors = Vectors(bytes(8), 2, 3)
    engine, children = engine_of([named("one")], prepared(request), vectors)
    assert engine.prepare(request, lambda event: None, threading.Event()) == prepared(request)
    events: list[Event] = []
    engine.embed(request, Texts(("a",), (1,)), events.append, threading.Event())
    assert vectors in events
    assert len([child for child in children if child.alive]) == 1


def test_nothing_is_looked_for_where_no_backend_can_run() -> None:
    """The error tells the problems of all backends. It is raised only where none can run."""
    broken = [named("one", unavailable="no library"), named("two", unavailable="no AVX")]
    spec = ModelSpec(model="nobody/nothing")
    engine, _ = engine_of(broken)
    with pytest.raises(EngineFailed, match=r"^no library; no AVX$"):
        engine.find(spec, lambda event: None, threading.Event())


def test_a_backend_that_cannot_run_is_passed_over(model: Path) -> None:
    engine, children = engine_of([named("one", unavailable="no library"), named("two")], end(0))
    engine.run(Request(model=str(model), prompt="p"), lambda event: None, threading.Event())
    assert [load.backend for child in children for load in child.told(Load)] == ["two"]
