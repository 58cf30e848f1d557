"""Logits are the same to the bit as in a fresh context, by both local engines.

The property is tried over prompts that begin like earlier ones and go on in other ways, over
numbers of threads, kept prompts, and the borders of blocks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmwit_magic.engines.threads import usable_cores
from tests.support.tiny_models import write_llama_gguf

# Run apart, since the libraries print and would stay loaded.
PROGRAM = """
import hashlib, json, random, sys
from pathlib import Path
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.registry import backend_named
from llmwit_magic.engines.local.model_files import resolve

engine, path, trials, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
chance = random.Random(1)
backend = backend_named(engine)
found = resolve(path, None, {}, lambda progress: None, [backend])

def fresh():
    return backend.open(found.source, found.file, ModelSpec(model="m", context_length=200, gpu_layers=0), 3)

def digests(loaded, tokens, cut):
    # The logits after the prompt and after each further token.
    evaluator = loaded.contexts.best_for(tokens[:cut])
    number = lambda: chance.choice(threads)
    assert evaluator.evaluate_prompt(tokens[:cut], number, lambda done: True)
    seen = [hashlib.sha256(evaluator.logits.tobytes()).hexdigest()]
    for token in tokens[cut:]:
        evaluator.evaluate_next(token, number())
        seen.append(hashlib.sha256(evaluator.logits.tobytes()).hexdigest())
    return seen

used = fresh()
size = len(used.tokenizer)
text = [chance.randrange(size) for _ in range(190)]
known, reused, within, wrong = {}, 0, 0, []
for trial in range(trials):
    kept, shift = chance.choice([200, chance.randrange(190)]), chance.randrange(4)
    cut = chance.choice([1, 31, 32, 33, 63, 64, 65, 96, chance.randrange(1, 180)])
    tokens = (text[:kept] + [(token + shift) % size for token in text[kept:]])[: cut + 3]
    if trial % 5 == 4:  # the prompt before once more, so that all but its last token is known
        tokens, cut = before
    before = tokens, cut
    shared = used.contexts.best_for(tokens[:cut]).shared_prefix(tokens[:cut])
    reused += shared > 0
    within += shared % 32 > 0
    seen = digests(used, tokens, cut)
    key = (tuple(tokens), cut)
    if key not in known:
        alone = fresh()
        known[key] = digests(alone, tokens, cut)
        if engine == "llama.cpp":
            for context in {evaluator._context for evaluator in alone.contexts.evaluators}:
                context.library.llama_free(context.context)
    if seen != known[key]:
        wrong.append([cut, shared])
print("SEEN", json.dumps([reused, within, wrong]))
"""


@pytest.mark.parametrize("engine", ["ctransformers", "llama.cpp"])
@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q8_0", "Q4_K", "Q6_K"])
def test_logits_are_the_same_to_the_bit(engine: str, kind: str, tmp_path: Path) -> None:
    """Whatever was evaluated before, with any number of threads, and from any start."""
    size = {"embedding": 256, "feed_forward": 256} if kind.endswith("_K") else {}
    path = write_llama_gguf(tmp_path / "m.gguf", tensor_type=kind, context_length=512, **size)
    threads = list(range(1, min(2, usable_cores()) + 1))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, engine, str(path), "60", json.dumps(threads)],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert "SEEN" in done.stdout, done.stderr[-2000:]
    reused, within, wrong = json.loads(done.stdout.split("SEEN ")[1])
    print(f"{reused} of 60 prompts reused something, {within} of them within a block")
    assert not wrong
    assert reused > 20
