"""A file that was found: the backend that runs it, its hash, and its changes."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.events import Progress
from llmwit_magic.engines.backends.ctransformers.backend import OLD_FORMATS, CTransformers
from llmwit_magic.engines.local.model_files import LocalModel, resolve
from llmwit_magic.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotSupported
from llmwit_magic.models.parts import part_names
from tests.support.fake_model import FakeBackend
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


# Models in several files --------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    first = write_llama_gguf(tmp_path / "m.gguf", tensors_per_part=8)
    return [tmp_path / name for name in part_names(first.name)]


def found_by_fake(path: Path) -> LocalModel:
    """The model as a backend that runs everything gets it."""
    return resolve(str(path), None, {}, lambda progress: None, [FakeBackend()])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_any_part_is_the_model(number: int, parts: list[Path]) -> None:
    """Its path is that of the first, its tensors are those of all, and a backend loads the first."""
    found, first = found_by_fake(parts[number]), found_by_fake(parts[0])
    assert (found.source, found.file, found.parts) == (parts[0], parts[0], tuple(parts))
    assert (found.info.path, found.info.quantisation) == (str(parts[0]), "F32")
    assert (found.info.sha256, found.state) == (first.info.sha256, first.state)


def test_the_hash_of_several_files(parts: list[Path]) -> None:
    """It is that of the list of their hashes: `sha256sum m-*.gguf | cut -c-64 | sha256sum`."""
    digests = [hashlib.sha256(part.read_bytes()).hexdigest() for part in parts]
    listed = "".join(f"{digest}\n" for digest in digests)
    first = found_by_fake(parts[0])
    assert first.info.sha256 == hashlib.sha256(listed.encode()).hexdigest()
    data = bytearray(parts[2].read_bytes())
    data[-1] ^= 1
    parts[2].write_bytes(data)
    assert found_by_fake(parts[0]).info.sha256 != first.info.sha256


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_change_of_any_part_is_noticed(number: int, parts: list[Path]) -> None:
    """The model is unchanged until one of its files is touched or removed."""
    found = found_by_fake(parts[0])
    assert found.unchanged()
    os.utime(parts[number], ns=(1, 1))
    assert not found.unchanged()
    again = found_by_fake(parts[0])
    assert again.unchanged()
    parts[number].unlink()
    assert not again.unchanged()


def test_ctransformers_loads_one_file(parts: list[Path]) -> None:
    """It refuses the model by name, and says what to do; `auto` takes the engine that runs it."""
    with pytest.raises(ModelNotSupported) as caught:
        resolve(str(parts[1]), None, {}, lambda progress: None, engine="ctransformers")
    assert str(caught.value) == (
        "m-00001-of-00003.gguf: a model in 3 files: ctransformers loads models of one file; "
        "merge them by 'llama-gguf-split --merge'"
    )
    both = [CTransformers(), FakeBackend()]
    assert resolve(str(parts[1]), None, {}, lambda progress: None, both).backend == "fake"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of POSIX")
def test_a_named_pipe_among_the_parts(parts: list[Path]) -> None:
    """Reading it would wait for its writer."""
    parts[1].unlink()
    os.mkfifo(parts[1])
    with pytest.raises(ModelNotFound, match=r"m-00002-of-00003\.gguf is a named pipe"):
        found_by_fake(parts[0])
