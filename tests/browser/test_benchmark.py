"""The benchmark that needs a browser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(200)
@pytest.mark.usefixtures("default_model_loaded")
def test_the_browser_part_measures(tmp_path: Path) -> None:
    """It measures each way once, in a JupyterLab and a browser of its own."""
    target = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "browser", "--tiny", "--json", str(target)],
        cwd=ROOT, capture_output=True, text=True, timeout=190,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(target.read_text(encoding="utf-8"))["figures"]
    assert all(paces for paces in figures["decode in JupyterLab, tokens/s"].values())
