"""A real model of llama.cpp's that cannot go back in what it has evaluated."""

from __future__ import annotations

from typing import Any

import pytest

from llmwit_magic.engines.backends.llamacpp.llama_sources import unavailable
from tests.support.apart import python_apart
from tests.support.tiny_mamba import write_mamba_gguf

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=f"llama.cpp: {unavailable()}")

FACTS = """
import json, sys
from pathlib import Path
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.llamacpp.llama_loading import load

path = Path(sys.argv[1])
prompt = [7 * number % 500 + 3 for number in range(100)]
other = prompt[::-1]

def fresh():
    return load(path, path, ModelSpec(model="m", gpu_layers=0), 1)

def evaluate(model, tokens, threads=lambda: 1):
    told, shared = [], model.evaluator.shared_prefix(tokens)
    done = model.evaluator.evaluate_prompt(tokens, threads, lambda n: told.append(n) or True)
    return {"done": done, "shared": shared, "told": told,
            "logits": model.evaluator.logits.tobytes().hex() if done else None}

said = {"fresh": evaluate(fresh(), prompt)}
model = fresh()
evaluate(model, prompt[:64])
said["longer"] = evaluate(model, prompt)
said["again"] = evaluate(model, prompt)
said["other"] = evaluate(model, other)

asked = []
def threads():
    asked.append(1)
    model.interrupt(len(asked) == 3)
    return 1

said["aborted"] = evaluate(model, prompt, threads)
model.interrupt(False)
said["after abort"] = evaluate(model, prompt)
print("SAID", json.dumps(said))
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each evaluation shared, told of its progress and computed."""
    return python_apart(FACTS, write_mamba_gguf(tmp_path_factory.mktemp("models") / "mamba.gguf"))


ALL = [32, 64, 96, 100]


def test_it_goes_on_from_its_end(facts: Any) -> None:
    """A prompt that continues whole blocks shares them, with the logits of a fresh context."""
    assert facts["fresh"]["told"] == ALL
    assert (facts["longer"]["shared"], facts["longer"]["told"]) == (64, [96, 100])
    assert facts["longer"]["logits"] == facts["fresh"]["logits"]


def test_it_starts_over_elsewhere(facts: Any) -> None:
    """The same prompt again, and another one, are evaluated from the start."""
    for name in ("again", "other"):
        assert (facts[name]["shared"], facts[name]["told"]) == (0, ALL), name
    assert facts["again"]["logits"] == facts["fresh"]["logits"]
    assert facts["other"]["logits"] != facts["fresh"]["logits"]


def test_it_starts_over_after_an_abort(facts: Any) -> None:
    """Nothing of what was interrupted is left in its state."""
    assert facts["aborted"]["done"] is False
    assert facts["aborted"]["told"] == [32, 64]
    after = facts["after abort"]
    assert (after["shared"], after["told"]) == (0, ALL)
    assert after["logits"] == facts["fresh"]["logits"]
