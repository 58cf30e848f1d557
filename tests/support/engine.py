"""The engine without its parent: native code evaluates token ids in a process of its own.

python -m tests.support.engine < {"source": …, "loaded": …, "what": …, …}
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def logits_of(loaded: Path, ids: Sequence[int] = (), **how: Any) -> NDArray[np.float32]:
    """The logits after each of the tokens, one evaluated after the other: shape (tokens, vocabulary).

    `how`: `prompts` (pairs of a prompt's ids and ids generated after it, one
    pair after the other; gives the logits after each prompt instead),
    `threads`, `context`, `model_type`.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "logits.npy"
        job = {"loaded": str(loaded), "ids": list(ids), "target": str(target)} | how
        subprocess.run(
            [sys.executable, "-m", "tests.support.engine"],
            input=json.dumps(job), text=True, check=True, timeout=280,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        values: NDArray[np.float32] = np.load(target)
    return values


def _main() -> None:
    from llmwit_magic.engines.backends.ctransformers.evaluator import CTransformersEvaluator

    job = json.load(sys.stdin)
    ids, threads = job["ids"], job.get("threads", 1)
    model = CTransformersEvaluator(
        job["loaded"], model_type=job.get("model_type"), context_length=job.get("context", 1024),
        gpu_layers=0,
    )  # fmt: skip
    rows = []
    for prompt, then in job.get("prompts", []):
        model.evaluate_prompt(prompt, lambda: threads, lambda done: True)
        rows.append(model.logits.copy())
        for token in then:
            model.evaluate_next(token, threads)
    for token in ids:
        model.evaluate_next(token, threads)
        rows.append(model.logits.copy())
    np.save(job["target"], np.array(rows))


if __name__ == "__main__":
    _main()
