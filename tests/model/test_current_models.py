"""A real model of today by llama.cpp: gemma-3-270M, which ctransformers cannot run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from examples.fetch_gemma import fetch_gemma
from llmwit_magic import api
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, InferencingResult
from llmwit_magic.errors import EngineDied, ModelNotSupported
from llmwit_magic.running.replay import replay_request
from llmwit_magic.running.session import Session
from llmwit_magic.views.text import status_parts
from tests.support.apart import python_apart
from tests.support.kernel import Kernel
from tests.support.library_ids import compare_with_library
from tests.support.numpy_model import NumpyModel

pytestmark = pytest.mark.timeout(300)
CAPITAL = "The capital of France is"


@pytest.fixture(scope="module")
def gemma() -> Path:
    return fetch_gemma()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    session = Session(tmp_path_factory.mktemp("log") / "runs.sqlite3")
    yield session
    session.close()


def run(
    session: Session, gemma: Path, prompt: str = CAPITAL, params: Any = None, **options: Any
) -> InferencingResult:
    params = {"temperature": 0, "max_tokens": 12} | (params or {})
    found = session.run(Request(model=str(gemma), prompt=prompt, params=params, **options))
    assert found.wait(120)
    found.raise_failure()
    return found.result


def test_a_cell_runs_it(kernel: Kernel, gemma: Path) -> None:
    """The engine is chosen by the file, and stands under the answer and in the log."""
    reply = kernel.run(f"%%infer -m '{gemma}' --temperature 0 --max-tokens 8\n{CAPITAL}")
    assert reply.status == "ok", reply.error
    assert reply.text.startswith(" the capital of the country of France")
    assert "llama.cpp on cpu" in reply.text
    told = kernel.run("from llmwit_magic import runs\n"
                      "print(runs[-1].row['engine'], _infer.model.architecture)")  # fmt: skip
    assert told.stdout.split() == ["llama.cpp", "gemma3"], told.error


def test_how_answers_end(session: Session, gemma: Path) -> None:
    """By a stop sequence, the limit of tokens, a filter, and the model's own end of text."""
    stopped = run(session, gemma, params={"stop": "country", "max_tokens": None})
    assert (stopped.text, stopped.finish_detail) == (" the capital of the ", "stop_sequence")
    assert run(session, gemma, params={"max_tokens": 3}).finish_detail == "max_tokens"
    filtered = run(session, gemma, content_filters=("country",))
    assert (filtered.text, filtered.finish_detail) == (" the capital of the ", "content_filter")
    ended = run(session, gemma, "The end.<eos>", {"max_tokens": 400, "temperature": 0})
    assert ended.finish_detail in (FinishDetail.EOS, FinishDetail.MAX_TOKENS)


def test_a_seed_repeats_its_text(session: Session, gemma: Path, tmp_path: Path) -> None:
    """In the same process, in another one, with other threads, and after other prompts."""
    params = {"temperature": 1.1, "seed": 7, "max_tokens": 40}
    first = run(session, gemma, params=params, threads=1)
    assert first.text != run(session, gemma, params=params | {"seed": 8}).text
    run(session, gemma, "Something else altogether, and at some length. " * 9)
    assert run(session, gemma, params=params).text == first.text
    other = Session(tmp_path / "other.sqlite3")
    assert run(other, gemma, params=params, threads=1).text == first.text
    other.close()


def test_a_replay_is_identical(session: Session, gemma: Path) -> None:
    """And another engine is refused by name before it is asked to read the file."""
    first = run(session, gemma, params={"temperature": 0.9, "max_tokens": 20})
    original = session.log[first.run_id or 0]
    request, notice = replay_request(session, original, {})
    again = session.run(request)
    assert again.wait(60)
    assert (again.result.text, notice) == (first.text, "")
    with pytest.raises(ModelNotSupported, match="architecture 'gemma3': ctransformers runs llama"):
        replay_request(session, original, {"engine": "ctransformers"})


def test_log_probabilities_are_the_model_s(session: Session, gemma: Path) -> None:
    """The greedy token is the likeliest, and the alternatives are in order."""
    result = run(session, gemma, params={"max_tokens": 5}, top_logprobs=5)
    assert result.tokens is not None
    for token in result.tokens:
        assert token.rank == 0
        values = [other.logprob for other in token.top]
        assert values == sorted(values, reverse=True)
        assert math.isclose(values[0], token.logprob)
        assert sum(map(math.exp, values)) <= 1 + 1e-6


LOGITS = """
import sys
from pathlib import Path
import numpy as np
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.llamacpp.llama_loading import load

path, text, count, out = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
model = load(path, path, ModelSpec(model="m", context_length=256), 1)
ids = model.tokenizer.encode(text.read_text(encoding="utf-8"))[:count]
assert model.evaluator.evaluate_prompt(ids[:1], lambda: 1, lambda done: True)
rows = [model.evaluator.logits.copy()]
for token in ids[1:]:
    model.evaluator.evaluate_next(token, 1)
    rows.append(model.evaluator.logits.copy())
np.savez(out, ids=ids, logits=np.stack(rows))
print("SAID 1")
"""


def test_it_computes_what_float32_does(gemma: Path, tmp_path: Path) -> None:
    """Of the dequantised weights, by numpy: the best token at 90% of 250 positions, the perplexity.

    Over 100 positions, the perplexity of one library may differ by 2% and by 0.3% over 600: the
    rounding of a processor's code falls this way or that.
    """
    python_apart(LOGITS, gemma, Path(__file__).parent / "text.txt", 251, tmp_path / "seen.npz")
    with np.load(tmp_path / "seen.npz") as seen:
        ids, logits = seen["ids"], seen["logits"]
    expected = NumpyModel(gemma, np.float32).logits(ids)
    same = float(np.mean(logits[:-1].argmax(1) == expected[:-1].argmax(1)))
    one, other = perplexity(logits, ids), perplexity(expected, ids)
    print(f"the same best token at {same:.0%}, perplexity {one:.2f} and {other:.2f}")
    assert same >= 0.9
    assert abs(one / other - 1) < 0.01


def perplexity(logits: Any, ids: Any) -> float:
    """Of the tokens after the first one."""
    values = logits[:-1].astype(np.float64)
    highest = values.max(axis=1)
    normaliser = highest + np.log(np.exp(values - highest[:, None]).sum(axis=1))
    return float(np.exp(-np.mean(values[np.arange(len(ids) - 1), ids[1:]] - normaliser)))


def test_its_token_ids_are_the_library_s(gemma: Path, default_model_source: Path) -> None:
    """And those of SmolLM2, over 626 texts in a dozen scripts; so are its tokens and its ends."""
    for name, found in compare_with_library([gemma, default_model_source]).items():
        assert found == ["llmwit-magic", [], [], []], name


def test_a_prompt_is_kept(session: Session, gemma: Path) -> None:
    """Going back to one of the last prompts evaluates less than a block of it again."""
    prompts = [f"Story {number}. " + "Once upon a time there was a robot. " * 12 for number in "AB"]
    for prompt in prompts:
        run(session, gemma, prompt, {"max_tokens": 2})
    result = run(session, gemma, prompts[0], {"max_tokens": 2})
    left = (result.usage.prompt_token_count or 0) - (result.usage.cached_token_count or 0)
    assert 1 <= left <= 32


def test_stop_in_a_long_prompt(session: Session, gemma: Path) -> None:
    """The evaluation that goes on is given up: nothing waits for its end."""
    prompt = "Once upon a time there was a small robot by the sea. " * 400
    running = session.run(
        Request(model=str(gemma), prompt=prompt, context_length=8192, params={"max_tokens": 5})
    )
    while running.prepared is None or not (running.progress and running.progress.done):
        time.sleep(0.01)
        assert not running.done, running.error
    began = time.monotonic()
    running.cancel()
    assert running.wait(10)
    print(f"stopped after {time.monotonic() - began:.2f} s")
    assert running.status == "interrupted"
    assert running.generated_token_count == 0
    assert run(session, gemma).text == " the capital of the country of France. It is the largest"


def test_a_killed_child_costs_a_run(session: Session, gemma: Path) -> None:
    """The next one has another, and the same text."""
    before = run(session, gemma).text
    running = session.run(Request(
        model=str(gemma), prompt=CAPITAL, params={"temperature": 0, "max_tokens": 2000}))  # fmt: skip
    while not running.generated_token_count:
        time.sleep(0.01)
    _, pid = session.local.pool.loaded_models()[-1]  # the one that was used last
    psutil.Process(pid).kill()
    assert running.wait(20)
    assert isinstance(running.error, EngineDied)
    assert run(session, gemma).text == before


def test_vectors(session: Session, gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the model is wide; alike texts are nearer to each other than to another one."""
    monkeypatch.setattr(api, "current_session", lambda: session)
    texts = ["The cat sleeps on the sofa.", "A cat is sleeping on a couch.", "def f(x): return 1"]
    found = api.generate_embeddings(gemma, texts)
    one, other, third = found.embeddings
    assert len(one) == 640

    def cosine(a: Any, b: Any) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    assert cosine(one, other) > cosine(one, third)
    assert api.generate_embeddings(gemma, texts[:1]).embeddings[0] == one


def test_the_status_line_names_the_engine(session: Session, gemma: Path) -> None:
    """A person sees which library answered."""
    assert "llama.cpp on cpu, 0 GPU layers (auto)" in status_parts(run(session, gemma))
