"""Each benchmark runs, in a form that has next to nothing to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import PARTS
from benchmarks.report import OURS, details, summary, table

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(280)
@pytest.mark.usefixtures("default_model_loaded")
@pytest.mark.parametrize("part", [part for part in PARTS if part != "browser"])
def test_a_part_measures(part: str, tmp_path: Path) -> None:
    """It ends, prints its figures and keeps them with the facts of the machine."""
    target = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", part, "--tiny", "--json", str(target)],
        cwd=ROOT, capture_output=True, text=True, timeout=270,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(target.read_text(encoding="utf-8"))
    assert results["figures"]
    for name, by_way in results["figures"].items():
        assert name in done.stdout
        assert all(isinstance(value, float) for values in by_way.values() for value in values)
    assert results["machine"]["cores"] >= 1
    assert summary(results)
    assert details(results)


def test_an_unknown_part_is_named() -> None:
    """And those that there are."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "sped"],
        cwd=ROOT, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.returncode == 2
    assert "unknown: sped (there are: speed," in done.stderr


def test_ratios_are_of_medians() -> None:
    """Ours over theirs, and three digits of each figure."""
    text = table({"pace": {OURS: [1.0, 30.0, 2.0], "theirs": [4.0, 400.0, 0.5]}})
    assert "2  1 to 30" in text
    assert "ours is 0.50 ×" in text
