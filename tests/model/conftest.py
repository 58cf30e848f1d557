"""Kernels with the extension loaded and the default model at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kernel import Kernel, running_kernel


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite3"


@pytest.fixture
def kernel(default_model_loaded: Path, log_path: Path) -> Iterator[Kernel]:
    with running_kernel() as kernel:
        reply = kernel.run(
            f"%load_ext llmwit_magic\n%config InferMagics.log_path = '{log_path}'\n"
            "%config InferMagics.view = 'html'"
        )
        assert reply.status == "ok", reply.error
        yield kernel
