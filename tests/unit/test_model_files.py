"""A file that was found: the backend that runs it, its hash, and its changes."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.events import Progress
from llmwit_magic.engines.backends.ctransformers.backend import OLD_FORMATS
from llmwit_magic.engines.local.model_files import resolve
from llmwit_magic.errors import InferenceError, InvalidInput, ModelNotSupported
from tests.support.found import find, model, no_network, refusal
from tests.support.tiny_ggml import write_ggml
from tests.support.tiny_models import write_llama_gguf

__all__ = ["model", "no_network"]


@pytest.mark.parametrize("kind", OLD_FORMATS)
def test_old_files(kind: Any, tmp_path: Path) -> None:
    """An old file runs with --model-type. Without it, the refusal lists the possible types."""
    path = write_ggml(tmp_path / "old.bin", kind)
    found = find(str(path), kind)
    assert found.source == found.file == path
    assert (found.backend, found.info.architecture) == ("ctransformers", kind)
    message = refusal(str(path), ModelNotSupported)
    assert message.startswith("old.bin is an old GGML file")
    assert "--model-type" in message
    for name in OLD_FORMATS:
        assert re.search(rf"\b{name}\b", message)


@pytest.mark.parametrize("kind", ["", "gpt-2", "LLAMA", "x"])
def test_wrong_model_type(kind: str, tmp_path: Path) -> None:
    """An unknown --model-type is refused, and the message lists the known ones."""
    path = write_ggml(tmp_path / "old.bin", "gpt2")
    message = refusal(str(path), InvalidInput, kind)
    assert f"model_type: {kind!r} is not valid" in message
    assert "gptneox" in message


def test_file_that_goes_away(model: Path) -> None:
    """A file that vanishes while it is looked at is refused in one line."""

    def vanish(progress: Progress) -> None:
        model.unlink(missing_ok=True)

    adapted = write_llama_gguf(model)
    with pytest.raises(InferenceError, match=r"tiny\.gguf"):
        resolve(str(adapted), None, {}, vanish)


def test_changed_source(model: Path) -> None:
    """A model is unchanged until its file is touched or removed. Its hash is that of the bytes."""
    found = find(str(model))
    assert found.unchanged()
    os.utime(model, ns=(1, 1))
    assert not found.unchanged()
    again = find(str(model))
    assert again.info.sha256 == found.info.sha256
    model.unlink()
    assert not again.unchanged()


def test_hash_is_remembered(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unchanged file is hashed once. A changed one is hashed again."""
    first = find(str(model)).info.sha256
    reports: list[Progress] = []
    resolve(str(model), None, {}, reports.append)
    assert not [report for report in reports if "hashing" in report.note]
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    assert find(str(model)).info.sha256 != first


def test_hash_is_that_of_the_bytes(model: Path) -> None:
    """A changed file is hashed again, even if its size is the same and its mtime was set back."""
    first, before = find(str(model)), model.stat()
    with model.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert model.stat().st_size == before.st_size
    assert not first.unchanged()
    assert find(str(model)).info.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert find(str(model)).info.sha256 != first.info.sha256
