"""Which models stay in memory, and who shares one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.contract.wit import ModelInfo
from llmwit_magic.engines.local.model_files import LocalModel
from llmwit_magic.engines.local.model_process import ModelProcess
from llmwit_magic.engines.local.pool import Pool
from llmwit_magic.engines.local.wire import Failed, Load, Started
from llmwit_magic.errors import InvalidInput, ModelNotSupported
from tests.support.fake_child import FakeChild


class Children:
    """The children that a pool has started."""

    def __init__(self) -> None:
        self.all: list[FakeChild] = []

    def __call__(self) -> Any:
        self.all.append(FakeChild())
        return self.all[-1]

    @property
    def alive(self) -> list[bool]:
        return [child.alive for child in self.all]


@pytest.fixture
def children() -> Children:
    return Children()


@pytest.fixture
def pool(children: Children) -> Iterator[Pool]:
    pool = Pool(children)
    yield pool
    pool.close()


def model(name: str, path: str | None = None, state: int = 1) -> LocalModel:
    file = Path(path or f"/{name}.gguf")
    return LocalModel(ModelInfo(name=name), file, file, "fake", ((state,), (state,)))


def test_another_library_is_another_model(pool: Pool, children: Children) -> None:
    """Two libraries do not share a loaded model, and each child is told its own."""
    found = [replace(model("a"), environment=(("LIBRARY", name),)) for name in ("one", "two")]
    for each in (*found, found[0]):
        with lent(pool, each):
            pass
    loads = [load for child in children.all for load in child.told(Load)]
    assert [load.environment for load in loads] == [{"LIBRARY": "one"}, {"LIBRARY": "two"}]


@contextmanager
def lent(
    pool: Pool, found: LocalModel, start_ahead: bool = False, **spec: Any
) -> Iterator[ModelProcess]:
    with pool.lease(
        ModelSpec(model=found.info.name, **spec), lambda: found, lambda event: None,
        threading.Event(), start_ahead=start_ahead,
    ) as process:  # fmt: skip
        yield process


def used(pool: Pool, found: LocalModel, **spec: Any) -> int | None:
    with lent(pool, found, **spec) as process:
        return process.pid


def test_a_model_stays_loaded(pool: Pool, children: Children) -> None:
    """The second user finds the loaded model.

    The child is told what to load, and how many prompts to keep.
    """
    pool.kept_prompts = 7
    assert used(pool, model("a")) == used(pool, model("a"))
    (child,) = children.all
    (load,) = child.told(Load)
    assert (load.source, load.backend, load.kept_prompts) == ("/a.gguf", "fake", 7)
    assert load.spec == ModelSpec(model="a")


@pytest.mark.parametrize(
    ("others", "shared"),
    [
        ({}, True),
        ({"accept": ("file",)}, False),
        ({"context_length": 8}, False),
        ({"gpu_layers": 1}, False),
        ({"model_type": "gpt2"}, False),
    ],
)
def test_settings_of_loading_tell_models_apart(
    others: dict[str, Any], shared: bool, pool: Pool, children: Children
) -> None:
    """A model with another context is another model in memory."""
    used(pool, model("a"))
    used(pool, model("a"), **others)
    assert len(children.all) == (1 if shared else 2)


@pytest.mark.parametrize("always", [True, False])
def test_exact_and_other_requests_share_what_is_loaded_in_one_way(
    always: bool, pool: Pool, children: Children
) -> None:
    """As ctransformers loads a model. For llama.cpp, the two have contexts of their own."""
    found = replace(model("a"), always_exact=always)
    used(pool, found, exact=False)
    used(pool, found)
    assert len(children.all) == (1 if always else 2)


def test_two_names_of_one_file_share_it(pool: Pool, children: Children) -> None:
    """Models are shared by their file, not by their name.

    A file in another state is another file.
    """
    used(pool, model("a", "/m.gguf"))
    used(pool, model("alias", "/m.gguf"))
    assert len(children.all) == 1
    used(pool, model("a", "/m.gguf", state=2))
    assert len(children.all) == 2


def test_the_longest_unused_models_go(pool: Pool, children: Children) -> None:
    """Beyond the limit, the models that were used before all others are ended."""
    for name in ("a", "b", "a", "c"):
        used(pool, model(name))
    assert children.alive == [True, False, True]
    assert [name for name, _ in pool.loaded_models()] == ["a", "c"]


def test_a_model_in_use_stays(pool: Pool, children: Children) -> None:
    """A model in use is not ended by the limit. The first one that nobody uses any more is."""
    pool.max_loaded_models = 1
    with lent(pool, model("a")):
        with lent(pool, model("b")):
            assert children.alive == [True, True]
        assert children.alive == [True, False]
    assert children.alive == [True, False]


def test_a_child_starts_while_the_file_is_looked_for(pool: Pool, children: Children) -> None:
    """A model that was never seen gets the child. A model that is loaded does not need one."""
    with lent(pool, model("a"), start_ahead=True) as process:
        assert process.pid == children.all[0].pid
    with lent(pool, model("a"), start_ahead=True) as process:
        assert process.pid == children.all[0].pid
    assert children.alive == [True, False]


def test_a_child_that_stands_by_is_taken_first(pool: Pool, children: Children) -> None:
    """A child that stands by was started for the first run, so that run gets it."""
    ahead: Any = FakeChild()
    pool.stand_by(ahead)
    assert used(pool, model("a"), start_ahead=True) == ahead.pid
    assert children.all == []


def test_a_file_that_is_not_found_leaves_nothing(pool: Pool, children: Children) -> None:
    """The child that was started in advance is ended."""

    def missing() -> LocalModel:
        raise ModelNotSupported("no")

    with pytest.raises(ModelNotSupported), pool.lease(
        ModelSpec(model="a"), missing, lambda event: None, threading.Event(), start_ahead=True
    ):  # fmt: skip
        pass
    assert children.alive == [False]
    assert pool.loaded_models() == []


def test_a_model_that_cannot_be_loaded_is_forgotten(children: Children) -> None:
    """The next run tries to load it again."""
    refusing: Any = lambda: FakeChild(lambda command: (Started(), Failed("EngineFailed", "no")))  # noqa: E731
    pool = Pool(refusing)
    for _ in range(2):
        with pytest.raises(Exception, match="no"):
            used(pool, model("a"))
    assert pool._places == {}


def test_unload_gives_the_memory_back(pool: Pool, children: Children) -> None:
    """One model by its name, or all models. The names of those that were in memory come back."""
    for name in ("a", "b"):
        used(pool, model(name))
    assert pool.unload("nobody") == []
    assert pool.unload("a") == ["a"]
    assert children.alive == [False, True]
    ahead: Any = FakeChild()
    pool.stand_by(ahead)
    assert pool.unload() == ["b"]
    assert (children.alive, ahead.alive) == ([False, False], False)


def test_unused_models_go_after_a_time(pool: Pool, children: Children) -> None:
    """A model in use is never ended. An invalid time is refused and changes nothing."""
    with pytest.raises(InvalidInput, match="idle_unload_minutes: -1"):
        pool.idle_unload_minutes = -1
    assert pool.idle_unload_minutes is None
    pool.idle_unload_minutes = 0.05 / 60
    with ExitStack() as stack:
        stack.enter_context(lent(pool, model("a")))
        used(pool, model("b"))
        deadline = time.monotonic() + 5
        while children.all[1].alive and time.monotonic() < deadline:
            time.sleep(0.01)
        assert children.alive == [True, False]
    while children.all[0].alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children.alive == [False, False]
