"""Which GPU llama.cpp puts layers on, and why none, on simulated machines."""

from __future__ import annotations

import ctypes.util
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmwit_magic.engines.backends.llamacpp import llama_devices
from llmwit_magic.engines.backends.llamacpp.llama_backend import LlamaCpp
from llmwit_magic.engines.backends.llamacpp.llama_devices import choose_device, devices, shows_gpu
from llmwit_magic.engines.backends.llamacpp.llama_h import GPU, INTEGRATED_GPU
from llmwit_magic.errors import DeviceUnavailable

PROCESSOR = 0
Device = tuple[str, str, int, int, int]
"""Name, description, type, free bytes and all bytes."""
CPU: Device = ("CPU", "AMD EPYC", PROCESSOR, 10, 20)
LARGE: Device = ("Vulkan0", "NVIDIA GeForce RTX 3060", GPU, 10, 12)
SECOND: Device = ("Vulkan1", "AMD Radeon RX 6600", GPU, 7, 8)
SHARED: Device = ("Vulkan2", "Intel UHD Graphics 770", INTEGRATED_GPU, 5, 6)
SOFTWARE: Device = ("Vulkan3", "llvmpipe (LLVM 15.0.6, 256 bits)", GPU, 2, 2)


@dataclass(eq=False)
class FakeLibrary:
    """A library whose code for GPUs brings these devices when it is loaded."""

    brings: list[Device]
    there: list[Device] = field(default_factory=lambda: [CPU])
    loads: bool = True
    loaded: list[str] = field(default_factory=list)

    def find(self, name: str) -> Path | None:
        raise NotImplementedError

    def load_code(self, path: Path) -> bool:
        self.loaded.append(path.name)
        self.there += self.brings if self.loads else []
        return self.loads

    def llama_supports_gpu_offload(self) -> bool:
        return any(kind for _, _, kind, *_ in self.there)

    def forget_words(self) -> None:
        pass

    def last_words(self) -> str:
        return "failed to load /x/libggml-vulkan.so: libvulkan.so.1: cannot open the file"

    @property
    def ggml(self) -> SimpleNamespace:
        def memory(number: int, free: Any, total: Any) -> None:
            free._obj.value, total._obj.value = self.there[number][3:]

        return SimpleNamespace(
            ggml_backend_dev_count=lambda: len(self.there),
            ggml_backend_dev_get=lambda number: number,
            ggml_backend_dev_name=lambda number: self.there[number][0].encode(),
            ggml_backend_dev_description=lambda number: self.there[number][1].encode(),
            ggml_backend_dev_type=lambda number: self.there[number][2],
            ggml_backend_dev_memory=memory,
        )


@pytest.fixture(autouse=True)
def code(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The files of code for GPUs: Vulkan's, on a machine that shows a GPU."""
    files = {"ggml-vulkan": Path("libggml-vulkan.so")}
    monkeypatch.setattr(FakeLibrary, "find", lambda self, name: files.get(name))
    monkeypatch.setattr(llama_devices, "shows_gpu", lambda: True)
    return files


def chosen(library: Any, layers: int | str = 3, named: str | None = None) -> str:
    found = choose_device(library, layers, named)
    return found if isinstance(found, str) else found.name


def test_what_is_known_of_devices() -> None:
    """Processors are none. A GPU has a name, a description and free memory."""
    large, shared = devices(FakeLibrary([], there=[CPU, LARGE, SHARED]))  # type: ignore[arg-type]
    assert (large.address, large.name, large.free_bytes) == (1, "Vulkan0", 10)
    assert (large.integrated, shared.integrated) == (False, True)
    assert large.gpu.name == "Vulkan0 NVIDIA GeForce RTX 3060"


def test_memory_that_is_not_known() -> None:
    """A device that tells of no memory at all is not taken for a full one."""
    library: Any = FakeLibrary([], there=[("X", "x", GPU, 0, 0), ("Y", "y", GPU, 0, 5)])
    assert [each.free_bytes for each in devices(library)] == [None, 0]


@pytest.mark.parametrize(
    ("there", "by_number", "by_auto"),
    [
        ([LARGE, SECOND], "Vulkan0", "Vulkan0"),
        ([SOFTWARE, SHARED, SECOND], "Vulkan1", "Vulkan1"),
        ([SOFTWARE, SHARED], "Vulkan2", "Vulkan2 Intel UHD Graphics 770 is integrated: a number"),
        ([SOFTWARE], "Vulkan3", "Vulkan3 llvmpipe (LLVM 15.0.6, 256 bits) is in software: a nu"),
        ([], "llama.cpp finds no GPU that it can use", "llama.cpp finds no GPU that it can use"),
    ],
)
def test_the_device_without_a_name(there: list[Device], by_number: str, by_auto: str) -> None:
    """The first GPU with memory of its own; others only where a number of layers is given."""
    assert chosen(FakeLibrary(there)) == by_number
    assert chosen(FakeLibrary(there), "auto").startswith(by_auto)


@pytest.mark.parametrize(
    ("named", "name"),
    [
        ("Vulkan1", "Vulkan1"), ("vulkan3", "Vulkan3"), ("rtx 3060", "Vulkan0"),
        ("llvmpipe", "Vulkan3"), ("Radeon", "Vulkan1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("layers", [2, "auto"])
def test_a_device_by_its_name(layers: int | str, named: str, name: str) -> None:
    """A name in any case, or a part of one description; also one that `auto` would not take."""
    assert chosen(FakeLibrary([LARGE, SECOND, SHARED, SOFTWARE]), layers, named) == name


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("Vulkan9", "device 'Vulkan9' is none of the devices: give one of Vulkan0 (NVIDIA "
         "GeForce RTX 3060), Vulkan1 (AMD Radeon RX 6600)"),
        ("r", "device 'r' fits several devices: give one of Vulkan0 (NVIDIA GeForce RTX 3060), "
         "Vulkan1 (AMD Radeon RX 6600)"),
    ],
)  # fmt: skip
def test_a_name_that_leads_to_none(named: str, message: str) -> None:
    """The message lists the devices that it could be."""
    with pytest.raises(DeviceUnavailable) as caught:
        chosen(FakeLibrary([LARGE, SECOND]), "auto", named)
    assert str(caught.value) == message


def test_no_device_at_all_is_an_error_for_a_name() -> None:
    """What was named is not replaced by the processor."""
    with pytest.raises(DeviceUnavailable, match=r"^device 'x' was asked for, but llama\.cpp finds"):
        chosen(FakeLibrary([]), "auto", "x")


def test_nothing_is_loaded_where_nothing_shows_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading Vulkan takes time. A number of layers or a name loads it all the same."""
    monkeypatch.setattr(llama_devices, "shows_gpu", lambda: False)
    library = FakeLibrary([LARGE])
    assert chosen(library, "auto") == "this machine shows no GPU"
    assert library.loaded == []
    assert chosen(library, 3) == "Vulkan0"
    assert chosen(FakeLibrary([LARGE]), "auto", "nvidia") == "Vulkan0"


def test_code_that_is_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that has its GPU already needs no other file, and no look at the machine."""
    monkeypatch.setattr(llama_devices, "shows_gpu", lambda: False)
    library = FakeLibrary([SECOND], there=[CPU, LARGE])
    assert chosen(library, "auto") == "Vulkan0"
    assert library.loaded == []


def test_no_code_for_gpus(code: dict[str, Path]) -> None:
    """The reason names what is missing."""
    code.clear()
    assert chosen(FakeLibrary([])) == "llama.cpp's library has no code for GPUs"


def test_code_that_does_not_load() -> None:
    """The reason has the file and what the library logged of it."""
    assert chosen(FakeLibrary([LARGE], loads=False)) == (
        "llama.cpp could not load libggml-vulkan.so, which needs a driver for a GPU "
        "(libvulkan.so.1: cannot open the file)"
    )


def test_all_code_is_loaded_once(code: dict[str, Path]) -> None:
    """CUDA comes before Vulkan, which may know the same GPU."""
    code["ggml-cuda"] = Path("libggml-cuda.so")
    library = FakeLibrary([LARGE])
    for _ in range(2):
        chosen(library)
    assert library.loaded == ["libggml-cuda.so", "libggml-vulkan.so"]


@pytest.mark.parametrize(
    ("names", "shows"),
    [
        ([], False), (["nvidiactl", "dri/card0"], False), (["dri/renderD128"], True),
        (["nvidia0"], True), (["kfd"], True), (["dxg"], True),
    ],
)  # fmt: skip
def test_a_linux_that_shows_a_gpu(
    names: list[str], shows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver makes a file for each GPU."""
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(llama_devices, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(llama_devices, "Path", lambda path: tmp_path)
    assert shows_gpu() is shows


@pytest.mark.parametrize(("there", "shows"), [("", False), ("vulkan-1", True), ("nvcuda", True)])
def test_a_windows_that_shows_a_gpu(
    there: str, shows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver for a GPU brings Vulkan's loader or CUDA's."""
    monkeypatch.setattr(llama_devices, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(
        ctypes.util, "find_library", lambda name: f"C:\\{name}.dll" if name == there else None
    )
    assert shows_gpu() is shows


def test_a_mac_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one that the library runs on has Metal."""
    monkeypatch.setattr(llama_devices, "sys", SimpleNamespace(platform="darwin"))
    assert shows_gpu() is True


def test_the_child_sees_the_devices_that_the_notebook_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The child may be older than the variable."""
    for name in ("GGML_VK_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    before = LlamaCpp().environment()
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "1")
    assert LlamaCpp().environment() == {**before, "GGML_VK_VISIBLE_DEVICES": "1"}
