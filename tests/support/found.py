"""Models found by their name, with an empty cache and without a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from llmwit_magic.engines.local.model_files import LocalModel, resolve
from llmwit_magic.errors import InferenceError, ModelNotFound
from llmwit_magic.models import catalog
from tests.support.tiny_models import write_llama_gguf


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch fails the test, the cache is new, and the working directory is empty."""

    def fetched(*arguments: object) -> Path:
        raise AssertionError(f"went to the network for {arguments[:-1]}")

    monkeypatch.setattr(catalog, "fetch_from_hub", fetched)
    monkeypatch.setattr(catalog, "fetch_default", fetched)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return write_llama_gguf(tmp_path / "models" / "tiny.gguf", vocabulary="spm")


def find(
    name: str, model_type: str | None = None, aliases: Mapping[str, str] | None = None
) -> LocalModel:
    return resolve(name, model_type, aliases or {}, lambda progress: None)


def refusal(
    name: str,
    expected: type[InferenceError] = ModelNotFound,
    model_type: str | None = None,
    aliases: Mapping[str, str] | None = None,
) -> str:
    """The message of the refusal, which is one line."""
    with pytest.raises(InferenceError) as caught:
        find(name, model_type, aliases)
    assert type(caught.value) is expected
    assert str(caught.value).isprintable()
    return str(caught.value)
