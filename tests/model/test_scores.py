"""Scores with the default model: what was recorded, what each choice is alone, what a cell shows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.running.session import Session
from tests.support.apart import python_apart
from tests.support.kernel import Kernel
from tests.support.numpy_model import NumpyModel

pytestmark = pytest.mark.timeout(200)
MODEL = "smollm2-135m-instruct"
ENGINES = ("ctransformers", "llama.cpp")
CHOICES = [" yes", " no", " yes, of course", " maybe not"]
SUBJECTS = ["water", "the sun", "a cat", "iron", "a violin", "the moon", "bread", "snow", "a horse",
            "glass"]  # fmt: skip
QUESTIONS = ["Is {} heavy? Answer:", "Can {} float?\nAnswer:", "Q: Would you eat {}?\nA:",
             "They asked whether {} was cold, and the answer was",
             "Here is all that I know about {} after ten years of work: it is old, it is loved by "
             "many people, and nobody has ever asked whether it is blue. Is it?"]  # fmt: skip
PROMPTS = [question.format(subject) for question in QUESTIONS for subject in SUBJECTS]


def run(session: Session, prompt: str, **options: Any) -> InferencingResult:
    found = session.run(Request(model=MODEL, prompt=prompt, **options))
    assert found.wait(100)
    found.raise_failure()
    return found.result


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("prompt", ["The capital of France is", PROMPTS[-1] * 2])
def test_the_score_of_an_answer_is_what_was_recorded(
    session: Session, engine: str, prompt: str
) -> None:
    """To the last bit: ranks, alternatives and log-probabilities."""
    params = {"temperature": 0, "max_tokens": 40}
    answer = run(session, prompt, engine=engine, top_logprobs=2, params=params)
    run(session, "Another text.", engine=engine, params={"max_tokens": 2})
    scored = run(session, prompt, engine=engine, continuation=answer.text, top_logprobs=2)
    assert scored.text == answer.text
    assert scored.tokens == answer.tokens
    assert scored.score
    assert scored.score.logprob == math.fsum(token.logprob for token in answer.tokens or ())


# One thread: two take a second for each token beside a busy program.
ALONE = """
import json, sys
import numpy as np
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.registry import backend_named
from llmwit_magic.engines.local.model_files import resolve

engine, path, prompts, choices = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
backend = backend_named(engine)
found = resolve(path, None, {}, lambda progress: None, [backend])
model = backend.open(found.source, found.file, ModelSpec(model="m", gpu_layers=0), 1)
ends = sorted(model.tokenizer.end_ids)
rows = []
for prompt in prompts:
    row, before = [], model.tokenizer.encode(prompt)
    for choice in choices:
        total = 0.0
        assert model.evaluator.evaluate_prompt(before, lambda: 1, lambda done: True)
        for token in model.tokenizer.encode(choice):
            values = model.evaluator.logits.astype(np.float64)
            total += values[token] - np.logaddexp.reduce(values)
            model.evaluator.evaluate_next(token, 1)
        values = model.evaluator.logits.astype(np.float64)
        row.append(total + np.logaddexp.reduce(values[ends]) - np.logaddexp.reduce(values))
    rows.append(row)
print("SAID", json.dumps(rows))
"""


@pytest.mark.parametrize(("engine", "count"), [("ctransformers", 50), ("llama.cpp", 10)])
def test_choices_are_what_each_is_alone(
    session: Session, engine: str, count: int, default_model_source: Path
) -> None:
    """On 50 prompts, the probabilities are those of the engine's own logits, to 1e-6."""
    assert len(set(PROMPTS)) == 50
    prompts = PROMPTS[:: 50 // count]
    rows = python_apart(
        ALONE, engine, str(default_model_source), json.dumps(prompts), json.dumps(CHOICES)
    )
    constraint = Constraint(kind="choices", source=json.dumps(CHOICES))
    worst = 0.0
    for prompt, row in zip(prompts, rows, strict=True):
        found = run(session, prompt, engine=engine, constraint=constraint, probabilities=True)
        assert found.choices
        assert found.choices.end_of_text
        wanted = np.exp(np.array(row) - np.logaddexp.reduce(row))
        differences = np.abs(wanted - list(found.choices.probabilities.values()))
        worst = max(worst, float(differences.max()))
        assert math.fsum(found.choices.probabilities.values()) == pytest.approx(1, abs=1e-12)
    print(f"{engine}: largest difference in {count} prompts: {worst:.1e}")
    assert worst < 1e-6


def test_the_difference_from_float32(session: Session, default_model_source: Path) -> None:
    """An engine rounds its activations; numpy computes the same weights in float32."""
    model = NumpyModel(default_model_source, np.float32)
    constraint = Constraint(kind="choices", source=json.dumps([" yes", " no"]))
    differences: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for prompt in PROMPTS[::10]:
        values = model.logits(encoded(default_model_source, prompt))[-1]
        for engine in ENGINES:
            found = run(session, prompt, engine=engine, constraint=constraint, probabilities=True)
            assert found.choices
            yes, no = (each.tokens[0].id for each in found.choices.scores)
            wanted = 1 / (1 + math.exp(float(values[no] - values[yes])))
            differences[engine].append(abs(wanted - found.choices.probabilities[" yes"]))
    for engine, each in differences.items():
        mean = sum(each) / len(each)
        print(
            f"{engine}: {len(each)} probabilities beside float32: {max(each):.3f}, mean {mean:.3f}"
        )
    assert max(max(each) for each in differences.values()) < 0.15


def test_cells(kernel: Kernel) -> None:
    """A score, a continuation and choices, in a notebook's cells."""
    reply = kernel.run("%%infer --score\nThe capital of France is Paris, and the sea is cheese.")
    assert reply.status == "ok", reply.error
    assert "scored tokens · log-probability −" in reply.text
    reply = kernel.run("%%infer --continuation ' Paris' --top-logprobs 2\nThe capital of France is")
    assert reply.status == "ok", reply.error
    assert reply.text.startswith(" Paris\n── scored · 5 prompt")
    reply = kernel.run(
        "%%infer --choice ' London' --choice ' Paris' --probabilities\nThe capital of France is"
    )
    assert reply.status == "ok", reply.error
    assert [line.split()[0] for line in reply.text.splitlines()[1:3]] == ["␣Paris", "␣London"]
    told = kernel.run(
        "from llmwit_magic import choose, runs, score\n"
        "print(runs[-1].probabilities == _infer.probabilities, _infer.value, "
        "choose('The capital of France is', [' Paris', ' London']).text, "
        "score('The capital of France is', ' Paris').logprob == runs[2].logprob)"
    )
    assert told.stdout.split() == ["True", "Paris", "Paris", "True"], told.error


def encoded(path: Path, prompt: str) -> list[int]:
    from llmwit_magic.models.gguf import read_header
    from llmwit_magic.models.tokenizers.building import build_tokenizer

    return build_tokenizer(read_header(path).metadata).encode(prompt)
