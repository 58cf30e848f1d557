"""Models of each architecture by llama.cpp, beside the same models computed by numpy."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmwit_magic.engines.backends.llamacpp.llama_sources import unavailable
from tests.support import numpy_model
from tests.support.apart import ROOT, python_apart
from tests.support.library_ids import compare_with_library
from tests.support.numpy_model import NumpyModel
from tests.support.tiny_architectures import ARCHITECTURES, write

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=f"llama.cpp: {unavailable()}")

PROMPT, POSITIONS = 70, 101
"""Tokens of the prompt, and all tokens; each one after the prompt is evaluated alone."""
IDS = [int(token) for token in np.random.default_rng(1).integers(3, 600, PROMPT + POSITIONS - 1)]
MOST = 1e-3 if platform.machine() in ("x86_64", "AMD64") else 1e-2
"""The largest difference of logits in F32. Arm's processors add float16 in float16; not tried there."""
QUANTISED = ("Q8_0", "Q4_0", "Q4_K")

# Run apart, since the library would stay loaded. Of each file: the logits after the prompt and after
# each further token, and the ids, which go on with the likeliest tokens where `generated` says so.
EVALUATE = """
import json, sys
from pathlib import Path
import numpy as np
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.llamacpp.llama_loading import load

folder, prompt, generated, given = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
said = {}
for path in sorted(folder.glob("*.gguf")):
    evaluator = load(path, path, ModelSpec(model="m"), 1).evaluator
    ids = list(given)
    assert evaluator.evaluate_prompt(ids[:prompt], lambda: 1, lambda done: True)
    rows = [evaluator.logits.copy()]
    for place in range(prompt, len(ids)):
        if place >= len(ids) - generated:
            ids[place] = int(rows[-1].argmax())
        evaluator.evaluate_next(ids[place], 1)
        rows.append(evaluator.logits.copy())
    np.save(path.with_suffix(".npy"), np.stack(rows))
    said[path.stem] = ids
print("SAID", json.dumps(said))
"""


class Seen:
    """What the library computed of the files of a folder."""

    def __init__(self, folder: Path, generated: int) -> None:
        self.files = [folder / f"{name}.gguf" for name in ARCHITECTURES]
        self._folder = folder
        self._ids = python_apart(EVALUATE, folder, PROMPT, generated, IDS)

    def logits(self, name: str) -> NDArray[np.float32]:
        """Shape (`POSITIONS`, vocabulary)."""
        return np.load(self._folder / f"{name}.npy")  # type: ignore[no-any-return]

    def expected(self, name: str) -> NDArray[Any]:
        """The same by numpy."""
        model = NumpyModel(self._folder / f"{name}.gguf")
        return model.logits(self._ids[name])[PROMPT - 1 :]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """All models in F32; the last tokens of each are generated."""
    folder = tmp_path_factory.mktemp("F32")
    for name, architecture in ARCHITECTURES.items():
        write(folder / f"{name}.gguf", architecture)
    return Seen(folder, generated=20)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits(name: str, exact: Seen) -> None:
    """Within a thousandth, for logits from about -4 to 4."""
    logits, expected = exact.logits(name), exact.expected(name)
    difference = float(np.abs(logits - expected).max())
    print(f"{name}: {difference:.1e} of logits up to {np.abs(logits).max():.1f}")
    assert difference <= MOST
    assert 0.4 < logits.std() < 1.5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_another_rule_would_be_seen(
    name: str, exact: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions that are turned in the way of other architectures give other logits."""
    others = frozenset(each.name for each in ARCHITECTURES.values()) - numpy_model.HALVES
    monkeypatch.setattr(numpy_model, "HALVES", others)
    assert np.abs(exact.logits(name) - exact.expected(name)).max() > 0.02


def test_token_ids(exact: Seen) -> None:
    """Of each model's vocabulary they are the library's, over 626 texts in a dozen scripts."""
    for name, found in compare_with_library(exact.files).items():
        assert found == ["llmwit-magic", [], [], []], name


@pytest.fixture(scope="module", params=QUANTISED)
def quantised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """All models with their matrices in one type."""
    folder = tmp_path_factory.mktemp(request.param)
    for name, architecture in ARCHITECTURES.items():
        write(folder / f"{name}.gguf", architecture, request.param)
    return Seen(folder, generated=0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_best_token_of_quantised_models(name: str, quantised: Seen) -> None:
    """It is that of the same weights in floating point at 90 of 100 positions and more.

    The engine rounds what a matrix is multiplied with, too. Random models are not sure of
    themselves: of 600 tokens the best one is ahead by a quarter of the logits' spread on average.
    """
    best, expected = quantised.logits(name).argmax(1), quantised.expected(name).argmax(1)
    same = float(np.mean(best == expected))
    print(f"{name}: {same:.0%}")
    assert same >= 0.9
    assert len(set(best)) > 10


def test_the_page_names_what_was_tried() -> None:
    """`docs/engines.md` has a line for each of these models by llama.cpp."""
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    lines = page.partition("## Architectures that were tried")[2].partition("## ")[0].splitlines()
    named = [line[2:].partition(" |")[0].partition(" (")[0] for line in lines
             if "| llama.cpp |" in line]  # fmt: skip
    assert [name for name in named if name != "mamba"] == list(ARCHITECTURES)
