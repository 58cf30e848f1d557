"""Which device a run gets, and why, on simulated machines."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmwit_magic.engines.backends.ctransformers import builds, devices, loading
from llmwit_magic.engines.backends.ctransformers.builds import Platform, has_cuda, library_file
from llmwit_magic.engines.backends.ctransformers.devices import (
    find_gpu,
    kv_cache_bytes,
    offload_order,
    scratch_bytes,
)
from llmwit_magic.engines.backends.offloading import Gpu, layer_sizes
from llmwit_magic.errors import DeviceUnavailable
from llmwit_magic.models.gguf import read_header
from tests.support.tiny_models import write_falcon_gguf, write_llama_gguf

missing_cuda_packages, driver_problem = devices._missing_cuda_packages, devices._driver_problem


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with everything that CUDA needs."""
    monkeypatch.setattr(devices, "here", lambda: Platform("linux", "x86_64", (2, 36)))
    monkeypatch.setattr(devices, "local_build", lambda: None)
    monkeypatch.setattr(devices, "library_file", lambda name: Path(name))
    monkeypatch.setattr(devices, "processor_features", lambda: {"avx", "avx2", "fma", "f16c"})
    monkeypatch.setattr(devices, "_missing_cuda_packages", list)
    monkeypatch.setattr(devices, "_driver_problem", lambda: None)
    monkeypatch.setattr(devices, "_device_memory", lambda: ("cuda:0 Test", 8 * 1024**3))
    return monkeypatch


class Driver:
    """The driver's library, with these codes and this number of devices."""

    def __init__(self, init: int = 0, code: int = 0, count: int = 1) -> None:
        self.init, self.code, self.count = init, code, count

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self.init

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return self.code


def with_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver | None) -> list[str]:
    """The names of the libraries that are asked for. Only the driver may be there."""
    asked: list[str] = []

    def load(name: str) -> Driver:
        asked.append(name)
        if driver is None or "cuda." not in name:
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    return asked


def test_usable_gpu(linux: pytest.MonkeyPatch) -> None:
    """Where nothing is missing, the GPU is found, with its free memory."""
    assert find_gpu() == Gpu("cuda:0 Test", 8 * 1024**3)


def test_platform_without_a_cuda_library(linux: pytest.MonkeyPatch) -> None:
    """ctransformers has no CUDA library for some platforms."""
    linux.setattr(devices, "library_file", lambda name: None)
    assert find_gpu() == "ctransformers has no CUDA library for this platform"


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_processor_without_avx2(system: str, linux: pytest.MonkeyPatch) -> None:
    """The CUDA library also computes on the processor, with AVX2.

    An old Windows cannot tell of AVX2.
    """
    linux.setattr(devices, "here", lambda: Platform(system, "x86_64", (2, 36)))
    linux.setattr(devices, "processor_features", lambda: {"avx", "f16c"})
    refusal = "ctransformers' CUDA library needs a processor with AVX2, FMA and F16C"
    expected = refusal if system == "linux" else Gpu("cuda:0 Test", 8 * 1024**3)
    assert find_gpu() == expected


def test_cuda_built_from_source(linux: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A library that needs NVIDIA's is for a GPU.

    The packages that the wheel needs do not count.
    """
    local = tmp_path / "libctransformers.so"
    linux.setattr(devices, "local_build", lambda: local)
    linux.setattr(devices, "_missing_cuda_packages", lambda: ["nvidia-cublas-cu12"])
    linux.setattr(devices, "here", lambda: Platform("linux", "aarch64", (2, 36)))
    for needed in (b"libcublas.so.13", b"cublas64_12.dll"):
        local.write_bytes(b"\x7fELF..\0libm.so.6\0" + needed + b"\0")
        assert find_gpu() == Gpu("cuda:0 Test", 8 * 1024**3)
    local.write_bytes(b"\x7fELF..\0libm.so.6\0")
    expected = "the ctransformers that was built here has no CUDA; with CT_CUBLAS=1 it has"
    assert find_gpu() == expected


def test_cuda_built_from_source_without_a_device(linux: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such a library would end the process while it loads, even for the CPU.

    So it is not loaded.
    """
    local = tmp_path / "libctransformers.so"
    local.write_bytes(b"\x7fELF..\0libcublas.so.12\0")
    linux.setattr(devices, "_driver_problem", lambda: "there is no NVIDIA driver (x)")
    assert devices.local_problem() == ""
    linux.setattr(devices, "local_build", lambda: local)
    said = devices.local_problem()
    assert said.startswith(
        "the ctransformers that was built here is for CUDA, and there is no NVIDIA driver (x): "
    )
    with pytest.raises(DeviceUnavailable) as caught:
        loading._open(Path("m.gguf"), None, 0, 0)
    assert str(caught.value) == said
    local.write_bytes(b"\x7fELF..\0")
    assert devices.local_problem() == ""


def test_cuda_of_the_wheel() -> None:
    """The wheel's CUDA library is found and has the names that `has_cuda` looks for.

    Others have not.
    """
    if sys.platform == "linux" and (path := library_file("cuda")):
        assert has_cuda(path)
        assert not has_cuda(path.parents[1] / "basic" / path.name)


@pytest.mark.parametrize(
    "missing",
    [
        ["nvidia-cuda-runtime-cu12"],
        ["nvidia-cublas-cu12"],
        ["nvidia-cuda-runtime-cu12", "nvidia-cublas-cu12"],
    ],
)
def test_missing_packages(missing: list[str], tmp_path: Path, linux: pytest.MonkeyPatch) -> None:
    """Each package whose library is missing is named, and the line says what to install."""
    places = {
        "nvidia-cuda-runtime-cu12": "cuda_runtime/lib/libcudart.so.12",
        "nvidia-cublas-cu12": "cublas/lib/libcublas.so.12",
    }
    for package, place in places.items():
        if package not in missing:
            (tmp_path / place).parent.mkdir(parents=True)
            (tmp_path / place).touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    linux.setattr(devices, "_missing_cuda_packages", missing_cuda_packages)
    linux.setattr(devices.importlib.util, "find_spec", lambda name: spec)
    asked = with_driver(linux, Driver())
    found = find_gpu()
    assert isinstance(found, str)
    assert f"the CUDA runtime is missing ({', '.join(missing)})" in found
    assert 'pip install "llmwit-magic[gpu]"' in found
    assert asked == [Path(places[package]).name for package in missing]


def test_runtime_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that the system's own loader finds are as good as those of the packages."""
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert devices._missing_cuda_packages() == []


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (None, "no NVIDIA driver (libcuda.so.1 cannot be loaded)"),
        (Driver(init=100), "no usable device (cuInit says 100)"),
        (Driver(init=999, count=3), "no usable device (cuInit says 999)"),
        (Driver(count=0), "reports 0 devices (code 0)"),
        (Driver(code=3, count=0), "reports 0 devices (code 3)"),
        (Driver(code=3, count=1), "reports 1 devices (code 3)"),
    ],
)
def test_driver_problems(driver: Driver | None, reason: str, linux: pytest.MonkeyPatch) -> None:
    """The reason is a missing driver, the driver's code, or a count of no devices."""
    linux.setattr(devices, "_driver_problem", driver_problem)
    with_driver(linux, driver)
    found = find_gpu()
    assert isinstance(found, str)
    assert reason in found


def test_driver_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's library has another name on Windows."""
    monkeypatch.setattr(devices, "sys", SimpleNamespace(platform="win32"))
    asked = with_driver(monkeypatch, None)
    assert "nvcuda.dll" in str(devices._driver_problem())
    assert asked == ["nvcuda.dll"]


def test_sound_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with a device is no problem."""
    with_driver(monkeypatch, Driver(count=2))
    assert devices._driver_problem() is None


NO_METAL = "ctransformers' wheel has no Metal; one that is built with CT_METAL=1 has"


@pytest.mark.parametrize(
    ("machine", "installed", "expected"),
    [
        ("x86_64", ["libctransformers.dylib", "ggml-metal.metal"], "Metal needs Apple silicon"),
        ("arm64", [], NO_METAL),
        ("arm64", ["libctransformers.dylib"], NO_METAL),
        ("arm64", ["ggml-metal.metal"], NO_METAL),
        ("arm64", ["libctransformers.dylib", "ggml-metal.metal"], Gpu("metal", None)),
    ],
)
def test_darwin(
    machine: str,
    installed: list[str],
    expected: Gpu | str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ctransformers built with Metal has a program for the GPU beside its library."""
    local = tmp_path / "lib" / "local"
    local.mkdir(parents=True)
    for name in installed:
        (local / name).touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(builds.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(builds, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(devices, "here", lambda: Platform("darwin", machine, (15, 1)))
    assert find_gpu() == expected


def nvml(**functions: Callable[..., Any]) -> SimpleNamespace:
    class NVMLError(Exception):
        pass

    defaults: dict[str, Any] = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda index: index,
        "nvmlDeviceGetName": lambda handle: "Test",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(free=1234),
    }
    return SimpleNamespace(**(defaults | functions))


def test_device_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory comes from nvidia-ml-py. It is unknown without it, and where it fails."""
    monkeypatch.setattr(devices, "_first_uuid", lambda: b"GPU-0")
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert devices._device_memory() == ("cuda:0 Test", 1234)
    assert devices.free_memory() == 1234
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlDeviceGetName=lambda handle: b"Old"))
    assert devices._device_memory() == ("cuda:0 Old", 1234)
    failing = nvml()

    def fail() -> None:
        raise failing.NVMLError("driver not loaded")

    failing.nvmlInit = fail
    monkeypatch.setitem(sys.modules, "pynvml", failing)
    assert devices._device_memory() == ("cuda:0", None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert devices._device_memory() == ("cuda:0", None)


@pytest.mark.skipif(sys.platform != "linux", reason="asks a Linux machine")
def test_this_machine() -> None:
    """The real check gives a device or a reason, and the process lives."""
    code = (
        "import json\n"
        "from llmwit_magic.engines.backends.ctransformers.devices import find_gpu, Gpu\n"
        "found = find_gpu()\n"
        "print(json.dumps([isinstance(found, Gpu), str(found)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    usable, text = json.loads(done.stdout)
    assert usable or ("CUDA" in text or "NVIDIA" in text)
    assert text.isprintable()


def test_sizes_of_a_falcon(tmp_path: Path) -> None:
    """A falcon has one key-value head of 16, or as many as heads where the number is missing."""
    header = read_header(write_falcon_gguf(tmp_path / "falcon.gguf"))
    assert kv_cache_bytes(header, 10) == 2 * (2 * 2 * 16) * 10
    metadata = dict(header.metadata)
    del metadata["falcon.attention.head_count_kv"]
    assert kv_cache_bytes(replace(header, metadata=metadata), 10) == 2 * (2 * 2 * 64) * 10


def test_scratch(tmp_path: Path) -> None:
    """Work buffers hold the scores of every head, and the feed-forward rows, and a rest.

    They are those of a batch of at most 512 tokens.
    """
    header = read_header(write_llama_gguf(tmp_path / "tiny.gguf"))
    rest = 32 * 1024**2
    assert scratch_bytes(header, 100) == 4 * 100 * (4 * 100 + 4 * 128) + rest
    assert scratch_bytes(header, 2048) == 4 * 512 * (4 * 2048 + 4 * 128) + rest


def test_the_order_of_offloading(tmp_path: Path) -> None:
    """ctransformers offloads the last repeating layer first, and the output last."""
    header = read_header(write_llama_gguf(tmp_path / "tiny.gguf", blocks=3))
    sizes, output = layer_sizes(header, kv_cache_bytes(header, 100))
    assert offload_order(header, 100) == [*reversed(sizes), output]
