"""Packages that a kernel has by its `sys.path` alone: its children have them too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from llmwit_magic.base import children
from llmwit_magic.running import shared_settings as settings

ROOT = Path(__file__).parents[2]
KERNEL = """
import json, os, sys
model, notebook, *folders = sys.argv[1:]
sys.path += folders
import numpy, random, tempfile
from llmwit_magic import infer
os.chdir(notebook)
sys.path[:0] = [notebook]
print(json.dumps(infer(model, "Once", {"max_tokens": 2, "temperature": 0}).text))
"""


@pytest.mark.timeout(120)
def test_an_engine_finds_what_its_kernel_has_found(tiny_model: Path, tmp_path: Path) -> None:
    """In a Python that has none of the packages, as after `%pip install --target`.

    Files beside the notebook are not taken for modules, whether of Python or of packages.
    """
    for name in ("random", "numpy", "queue", "tokenizers"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')")
    environment = {name: text for name, text in os.environ.items() if name != settings.VARIABLE}
    venv.create(tmp_path / "bare")
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    folders = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    done = subprocess.run(
        [python, "-c", KERNEL, str(tiny_model), str(tmp_path), str(ROOT), *folders],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
        env=environment | {"XDG_DATA_HOME": str(tmp_path / "data")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])


def test_where_children_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last of all where the kernel looks, but not in its current folder; for text alone."""
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "Jörg's 'other'"
    monkeypatch.setattr(
        sys, "path", ["", ".", str(tmp_path), f"{tmp_path}/", "lib", str(other), other, b"x"]
    )
    code = (
        "import os, sys; own = list(sys.path)"
        + children.beginning()
        + ("print(ascii([sys.path[: len(own)] == own, sys.path[len(own) :]]))")
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == ascii([True, [str(tmp_path / "lib"), str(other)]]), done.stderr
