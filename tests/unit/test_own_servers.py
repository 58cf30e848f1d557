"""Names and addresses of servers of our own, without any server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.contract.wit import ModelInfo
from llmwit_magic.engines.server import server_child
from llmwit_magic.engines.server.addresses import ServerConfig, address_of, configured
from llmwit_magic.engines.server.answers import Facts
from llmwit_magic.engines.server.dialects.llama_server import LlamaServer
from llmwit_magic.engines.server.own_servers import OwnServerSpec, _name_of, _settings
from llmwit_magic.engines.server.server_engine import _Known
from llmwit_magic.errors import DeviceUnavailable, InvalidInput, ModelNotFound
from llmwit_magic.models.parts import part_names
from tests.support.tiny_models import write_llama_gguf


@pytest.fixture
def servers(tmp_path: Path) -> dict[str, ServerConfig]:
    """Two servers of our own, and one of the user's."""
    (tmp_path / "key").write_text("the-key\n")
    own = {"url": "http://127.0.0.1:5/v1", "api_key_file": str(tmp_path / "key")}
    return configured(
        {"local::old": own, "lab": {"url": "http://lab/v1"},
         "local::org/new:x": own | {"url": "http://127.0.0.1:6/v1"}}
    )  # fmt: skip


def test_the_newest_one_has_no_name(servers: dict[str, ServerConfig]) -> None:
    """`local::` is the newest; each can be named, and its key comes from its file."""
    newest = address_of("local::", servers)
    assert (newest.given, newest.url, newest.key, newest.model) == (
        "local::org/new:x", "http://127.0.0.1:6/v1", "the-key", "",
    )  # fmt: skip
    assert address_of("local::old", servers).url == "http://127.0.0.1:5/v1"
    assert address_of("local::org/new:x", servers) == newest
    assert "the-key" not in repr(newest)


def test_the_hash_of_the_models_file_goes_along(servers: dict[str, ServerConfig]) -> None:
    """Its port changes with each start. A server of a user's may load another model."""
    url = "http://127.0.0.1:5/v1"
    known = configured({"local::old": {"url": url, "model_sha256": "0" * 64}})
    info = _Known(LlamaServer(), Facts("b1", "old")).info(address_of("local::", known))
    assert (info.sha256, info.path) == ("0" * 64, f"{url}#old")
    assert address_of("lab::m", servers).model_sha256 is None
    with pytest.raises(InvalidInput, match="'lab': 'model_sha256' is for servers of %infer_llama"):
        configured({"lab": {"url": url, "model_sha256": "0" * 64}})


def test_a_name_that_no_server_has(servers: dict[str, ServerConfig]) -> None:
    with pytest.raises(ModelNotFound, match=r"running: local::old, local::org/new:x"):
        address_of("local::other", servers)
    with pytest.raises(ModelNotFound, match="%infer_llama_server MODEL starts one"):
        address_of("local::", {})


def test_a_key_file_that_is_gone(servers: dict[str, ServerConfig], tmp_path: Path) -> None:
    (tmp_path / "key").unlink()
    with pytest.raises(InvalidInput, match=r"the file with the key of the server 'local::old'"):
        address_of("local::old", servers)


def test_the_name_is_taken() -> None:
    """A user's server cannot be called `local`."""
    with pytest.raises(InvalidInput, match="belongs to %infer_llama_server"):
        configured({"local": {"url": "http://lab/v1"}})


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("my model", "my model"),
        ("an/alias", "an/alias"),
        ("tiny.gguf", "tiny"),
        ("~/models/tiny.Q4.gguf", "tiny.Q4"),
        (r"C:\models\tiny.gguf", "tiny"),
        ("/folder/of/one/", "one"),
        ("owner/repo", "repo"),
        ("owner/repo:sub/file.gguf@main", "file"),
        ("/", "model"),
    ],
)
def test_a_server_is_called_after_its_model(model: str, name: str) -> None:
    assert _name_of(model, {"an/alias": "x", "my model": "y"}) == name


def test_the_memory_of_all_parts_of_a_model_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model in several files needs what it needs in one, but for the headers of the files."""
    wanted: list[int] = []

    def choose(trained: int, asked: Any, long: bool, needed: Any, share: float) -> int:
        wanted.append(needed(64))
        return 64

    monkeypatch.setattr("llmwit_magic.engines.backends.context_length.choose_length", choose)
    whole = write_llama_gguf(tmp_path / "whole.gguf")
    first = write_llama_gguf(tmp_path / "m.gguf", tensors_per_part=8)
    parts = [tmp_path / name for name in part_names(first.name)]
    for path in (whole, first):
        _settings(ModelInfo(name="m", path=str(path)), ModelSpec(model="m"), OwnServerSpec())
    sizes = [sum(path.stat().st_size for path in paths) for paths in ([whole], parts)]
    assert len(parts) == 3
    assert wanted[1] - wanted[0] == sizes[1] - sizes[0]


@pytest.mark.parametrize("values", [{"slots": 0}, {"slots": 257}, {"port": 0}, {"port": 70_000}])
def test_what_is_out_of_range(values: Any) -> None:
    (name,) = values
    with pytest.raises(InvalidInput, match=f"{name}: .* is not valid: it must be a whole number"):
        OwnServerSpec(**values)


@pytest.mark.parametrize(
    ("asked", "has_gpu", "layers"),
    [("auto", False, 0), ("auto", True, None), (0, False, 0), (0, True, 0), (7, True, 7)],
)
def test_layers_on_a_gpu(asked: Any, has_gpu: bool, layers: int | None) -> None:
    """Where there is a GPU, llama-server chooses; a number that cannot be had is an error."""
    assert server_child._layers({"gpu_layers": asked}, has_gpu) == layers
    with pytest.raises(DeviceUnavailable, match="7 GPU layers were asked for"):
        server_child._layers({"gpu_layers": 7}, False)


@pytest.mark.parametrize(
    ("line", "port"),
    [
        ("0.00.454.464 I srv  llama_server: listening on http://127.0.0.1:45299", "45299"),
        ("main: server is listening on http://127.0.0.1:8080 - starting the main loop", "8080"),
        ("main: HTTP server is listening, hostname: 127.0.0.1, port: 81, http threads: 3", "81"),
        ("listening on http://0.0.0.0:8080", None),
    ],
)
def test_the_port_stands_in_the_log(line: str, port: str | None) -> None:
    """As versions of llama-server have written it since 2024."""
    found = server_child._PORT.search(line.encode())
    assert (found and found[1].decode()) == port


@pytest.mark.parametrize(
    ("line", "is_device"),
    [
        ("Available devices:", False),
        ("  (none)", False),
        ("  CUDA0: NVIDIA H100 80GB HBM3 (81079 MiB, 80536 MiB free)", True),
        ("  Vulkan0: llvmpipe (LLVM 15.0.6, 256 bits) (24105 MiB, 24105 MiB free)", True),
    ],
)
def test_devices_of_a_program(line: str, is_device: bool) -> None:
    """As `llama-server --list-devices` writes them."""
    assert bool(server_child._DEVICE.match(line)) == is_device
