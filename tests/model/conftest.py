"""Kernels with the extension loaded and the default model at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.kernel import Kernel, running_kernel


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite3"


@pytest.fixture
def new_kernel(default_model_loaded: Path, log_path: Path) -> Iterator[Callable[[], Kernel]]:
    """Starts kernels; all write one log."""
    with ExitStack() as stack:

        def start() -> Kernel:
            kernel = stack.enter_context(running_kernel())
            reply = kernel.run(
                f"%load_ext llmwit_magic\n%config InferMagics.log_path = '{log_path}'\n"
                "%config InferMagics.view = 'html'"
            )
            assert reply.status == "ok", reply.error
            return kernel

        yield start


@pytest.fixture
def kernel(new_kernel: Callable[[], Kernel]) -> Kernel:
    return new_kernel()
