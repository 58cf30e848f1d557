"""The extension loaded by the kernel's configuration, and by a program that runs a notebook."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.kernel import Kernel, running_kernel

PAGES = (
    "print(len(getattr(__import__('sys').modules.get('llmwit_magic.views.live'), '_pages', [])))"
)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    profile = tmp_path / "profile_default"
    profile.mkdir()
    (profile / "ipython_kernel_config.py").write_text(
        "c.InteractiveShellApp.extensions = ['llmwit_magic']\n"
        "c.InferMagics.log_path = ':memory:'\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    with running_kernel() as kernel:
        yield kernel


def test_saved_outputs_get_their_page(kernel: Kernel) -> None:
    """The widget of the page is there soon after the kernel's start, before any cell runs."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        time.sleep(0.3)
        if kernel.run(PAGES).stdout.strip() == "1":
            break
    assert kernel.run(PAGES).stdout.strip() == "1"


def test_an_idle_kernel_keeps_no_engine(kernel: Kernel, tiny_model: Path) -> None:
    """A kernel that has run no prompt has no child process. The first prompt starts one."""
    time.sleep(1)
    assert kernel.engines() == []
    reply = kernel.run(f"%%infer -m {tiny_model} --max-tokens 2\nOne two")
    assert reply.status == "ok", reply.error
    assert len(kernel.engines()) == 1


def test_an_executed_notebook_keeps_no_widgets(tiny_model: Path) -> None:
    """What nbclient stores holds no closed widgets, and no copy of our module."""
    cells = ["%load_ext llmwit_magic\n%config InferMagics.log_path = ':memory:'"]
    cells += [f"%%infer -m {tiny_model} --max-tokens 2\n{n}" for n in range(6)]
    cells += [
        f"%%infer -m {tiny_model} --max-tokens 2 --temperature 0,1\nn",
        "import time; time.sleep(.5)",
    ]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    NotebookClient(notebook, timeout=50, kernel_name="python3").execute()
    assert "widgets" not in notebook.metadata
    assert len(nbformat.writes(notebook)) < 30_000
    assert all(len(cell.outputs) == 1 for cell in notebook.cells[1:8])
