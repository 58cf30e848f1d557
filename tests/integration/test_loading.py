"""Models of every kind, opened by `engines.loading.load` and evaluated by the real ctransformers.

Native code can end the process, so it runs in processes apart.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.ctransformers import loading
from llmwit_magic.engines.backends.ctransformers.devices import kv_cache_bytes, scratch_bytes
from llmwit_magic.engines.backends.ctransformers.evaluator import CTransformersEvaluator
from llmwit_magic.engines.backends.ctransformers.loading import choose_context
from llmwit_magic.engines.local.model_files import resolve
from llmwit_magic.engines.threads import usable_cores
from llmwit_magic.errors import (
    DeviceUnavailable,
    EngineFailed,
    InvalidInput,
    ModelDamaged,
    OutOfMemory,
    PromptTooLong,
)
from llmwit_magic.models.gguf import Header, read_header
from tests.support.tiny_ggml import MODEL_TYPES, write_ggml
from tests.support.tiny_models import write_falcon_gguf, write_llama_gguf

pytestmark = pytest.mark.timeout(60)

#: Opens each model named on stdin, evaluates a prompt after several histories and prints what it
#: saw.
EVALUATE = """
import hashlib, itertools, json, sys
import numpy as np
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.ctransformers.evaluator import CTransformersEvaluator
from llmwit_magic.engines.backends.ctransformers.loading import load
from llmwit_magic.engines.local.model_files import resolve

def open_model(length=200):
    spec = ModelSpec(model="m", model_type=model_type, context_length=length)
    return load(found.source, found.file, spec, 1)

def evaluate(model, tokens, threads=lambda: 1, stop_at=None):
    steps = []
    def progress(done):
        steps.append(done)
        return stop_at is None or done < stop_at
    return model.evaluate_prompt(tokens, threads, progress), steps

def after(history):
    model = open_model().evaluator
    history(model)
    evaluate(model, prompt)
    return hashlib.sha256(model.logits.tobytes()).hexdigest()

def generate(model):
    evaluate(model, prompt[:50])
    for token in prompt[50:85]:
        model.evaluate_next(token, 1)

def in_one_call():
    model = open_model().evaluator
    model._evaluate(prompt, 1)
    return hashlib.sha256(model.logits.tobytes()).hexdigest()

for line in sys.stdin:
    path, model_type, two = json.loads(line)
    found = resolve(path, model_type, {}, lambda progress: None)
    loaded = open_model()
    model = loaded.evaluator
    count = model.vocabulary_size
    prompt = [(7 * index + 3) % count for index in range(90)]
    other = [(index + 1) % count for index in prompt]
    whole, steps = evaluate(model, prompt)
    logits = model.logits.copy()
    again, again_steps = evaluate(model, prompt)
    stopped, stopped_steps = evaluate(open_model().evaluator, prompt, stop_at=64)
    prints = {
        "fresh": after(lambda model: None),
        "in one call": in_one_call(),
        "repeated": after(lambda model: evaluate(model, prompt)),
        "cut short": after(lambda model: evaluate(model, prompt[:41])),
        "longer": after(lambda model: evaluate(model, prompt + other)),
        "common beginning": after(lambda model: evaluate(model, prompt[:45] + other)),
        "other prompt": after(lambda model: evaluate(model, other)),
        "cancelled": after(lambda model: evaluate(model, prompt, stop_at=32)),
        "generated": after(generate),
        "generated beyond": after(lambda model: [evaluate(model, prompt),
                                                 model.evaluate_next(5, 1)]),
        "two threads": after(lambda model: evaluate(model, prompt[:64], lambda: 1 + two)),
        "changing threads": after(
            lambda model: evaluate(model, prompt, itertools.cycle([1, 1 + two]).__next__)),
    }
    failures = {}
    for name, call in {
        "token": lambda: model.evaluate_next(count, 1),
        "negative": lambda: model.evaluate_next(-1, 1),
        "threads": lambda: model.evaluate_next(1, 10_000),
        "none": lambda: model.evaluate_next(1, 0),
        "long": lambda: evaluate(model, [1] * 201),
        "full": lambda: [model.evaluate_next(1, 1) for _ in range(111)],
        "context": lambda: open_model(300 if model_type in ("llama", "falcon") else 257),
    }.items():
        try:
            call()
        except Exception as error:
            failures[name] = type(error).__name__
    print("SEEN", json.dumps({
        "vocabulary": (count, len(loaded.tokenizer), logits.shape[0]),
        "context": model.context_length,
        "finite": bool(np.isfinite(logits).all()),
        "spread": float(np.ptp(logits)),
        "steps": (whole, steps, again, again_steps, stopped, stopped_steps),
        "prints": prints,
        "other": after(lambda model: prompt.__setitem__(-1, prompt[-1] - 1)),
        "failures": failures,
        "device": [loaded.device.name, loaded.device.gpu_layers, bool(loaded.device.reason)],
        "header": loaded.header is not None,
    }), flush=True)
"""

KINDS: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    "llama-bpe": (write_llama_gguf, {}),
    "llama-spm": (write_llama_gguf, {"vocabulary": "spm"}),
    "llama-spm-Q8_0": (write_llama_gguf, {"vocabulary": "spm", "tensor_type": "Q8_0"}),
    "falcon": (write_falcon_gguf, {}),
    "falcon-40b": (write_falcon_gguf, {"kv_heads": 2, "parallel_norm": True}),
    **{f"ggml-{kind}": (write_ggml, {"model_type": kind}) for kind in MODEL_TYPES},
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By kind, what one process saw; a kind that ends it leaves out the later ones."""
    folder = tmp_path_factory.mktemp("models")
    jobs = []
    for name, (write, options) in KINDS.items():
        path = write(folder / f"{name}.bin", **options)
        jobs.append((str(path), options.get("model_type"), usable_cores() > 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        done = subprocess.run(
            [sys.executable, "-c", EVALUATE],
            input="".join(json.dumps(job) + "\n" for job in jobs),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=50,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    assert lines, done.stderr
    return dict(zip(KINDS, (json.loads(line[5:]) for line in lines), strict=False))


@pytest.mark.parametrize("kind", KINDS)
def test_loads_and_evaluates(kind: str, seen: dict[str, Any]) -> None:
    """The logits are one for each token of the vocabulary, finite and not flat; the CPU is used."""
    model = seen[kind]
    assert len(set(model["vocabulary"])) == 1
    assert model["context"] == 200
    assert model["finite"]
    assert 5 < model["spread"] < 40
    assert model["device"] == ["cpu", 0, True]
    assert model["header"] == (not kind.startswith("ggml"))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_same_to_the_bit(kind: str, seen: dict[str, Any]) -> None:
    """A prompt's logits are those of one call whatever the model has evaluated before it."""
    prints = seen[kind]["prints"]
    assert {name: hash for name, hash in prints.items() if hash != prints["in one call"]} == {}
    assert seen[kind]["other"] != prints["in one call"]


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_go_by_blocks(kind: str, seen: dict[str, Any]) -> None:
    """Progress tells each block and may stop there; a repeated prompt costs its last block at most.

    Old falcon files are evaluated from the beginning: ctransformers cannot take their tokens back.
    """
    whole, steps, again, again_steps, stopped, stopped_steps = seen[kind]["steps"]
    assert (whole, steps) == (True, [32, 64, 90])
    assert (again, again_steps) == (True, steps if kind == "ggml-falcon" else [90])
    assert (stopped, stopped_steps) == (False, [32, 64])


@pytest.mark.parametrize("kind", KINDS)
def test_misuse_is_an_error(kind: str, seen: dict[str, Any]) -> None:
    """What would end the process natively, or be ignored there, raises instead."""
    failures = dict(seen[kind]["failures"])
    if kind in ("ggml-llama", "ggml-falcon"):
        failures.pop("context", None)  # these files do not tell a length
    else:
        assert failures.pop("context") == InvalidInput.__name__
    assert failures == {
        "token": EngineFailed.__name__,
        "negative": EngineFailed.__name__,
        "threads": InvalidInput.__name__,
        "none": InvalidInput.__name__,
        "long": PromptTooLong.__name__,
        "full": EngineFailed.__name__,
    }


@pytest.fixture
def header(tmp_path: Path) -> Header:
    return read_header(write_llama_gguf(tmp_path / "tiny.gguf", context_length=2048))


def free(monkeypatch: pytest.MonkeyPatch, amount: float) -> None:
    memory = SimpleNamespace(available=amount)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def needed(header: Header, tokens: int) -> int:
    return kv_cache_bytes(header, tokens) + scratch_bytes(header, tokens)


def test_context_is_the_trained_one(header: Header, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it is what the model was trained with, at most 8192."""
    free(monkeypatch, 1e12)
    assert choose_context(header, None) == 2048
    longer = dict(header.metadata) | {"llama.context_length": 131072}
    object.__setattr__(header, "metadata", longer)
    assert choose_context(header, None) == 8192
    assert choose_context(header, 100_000) == 100_000


@pytest.mark.parametrize("asked", [1, 64, 2047, 2048])
def test_context_as_asked(asked: int, header: Header) -> None:
    """Any length up to the trained one is taken."""
    assert choose_context(header, asked) == asked


def test_context_too_long(header: Header) -> None:
    """A longer one than the trained one is refused with that."""
    with pytest.raises(
        InvalidInput, match=r"2049 is not valid: the model was trained with 2048 \(--accept"
    ):
        choose_context(header, 2049)


def test_context_that_memory_allows(header: Header, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is halved until it takes at most its share of the free memory."""
    free(monkeypatch, needed(header, 1024) / 0.8 + 100)
    assert choose_context(header, None) == 1024
    free(monkeypatch, needed(header, 1024) / 0.8 - 100)
    assert choose_context(header, None) == 512
    free(monkeypatch, 1)
    assert choose_context(header, None) == 64


def test_context_beyond_memory(header: Header, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was asked for and does not fit is refused with one that does."""
    free(monkeypatch, needed(header, 2048) - 1)
    with pytest.raises(OutOfMemory, match=r"2048 tokens needs .*--context-length (\d+)") as caught:
        choose_context(header, 2048)
    fitting = int(str(caught.value).split("--context-length ")[1].split()[0])
    assert choose_context(header, fitting) == fitting
    free(monkeypatch, needed(header, 2048))
    assert choose_context(header, 2048) == 2048


def test_gpu_layers_of_old_files(tmp_path: Path) -> None:
    """They cannot be had, and are refused before anything is loaded."""
    path = write_ggml(tmp_path / "old.bin", "gpt2")
    spec = ModelSpec(model="m", model_type="gpt2", gpu_layers=1)
    with pytest.raises(DeviceUnavailable, match="old GGML files run on the CPU"):
        loading.load(path, path, spec, 1)


def test_an_old_file_beyond_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are read and not mapped: it is refused before, with the numbers."""
    path = write_ggml(tmp_path / "old.bin", "gpt2")
    free(monkeypatch, path.stat().st_size - 1)
    with pytest.raises(OutOfMemory, match=r"old\.bin needs \d\.\d GB and .* try a smaller model"):
        loading.load(path, path, ModelSpec(model="m", model_type="gpt2"), 1)


def test_file_that_the_library_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal of the library, or a file that went away, is one line with the file's name."""
    path = write_llama_gguf(tmp_path / "tiny.gguf", vocabulary="spm")

    def fail(self: object, *arguments: object, **options: object) -> None:
        raise RuntimeError("Failed to create LLM")

    monkeypatch.setattr(CTransformersEvaluator, "__init__", fail)
    with pytest.raises(EngineFailed, match=r"could not load tiny\.gguf: Failed to create LLM"):
        loading.load(path, path, ModelSpec(model="m", gpu_layers=0), 1)


def test_embedding_and_native_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GGUF gives an embedding of its width; an old file reads and writes its own vocabulary."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from llmwit_magic.contract.request import ModelSpec\n"
        "from llmwit_magic.engines.backends.ctransformers.loading import load\n"
        "from llmwit_magic.errors import InvalidInput\n"
        "def open_model(path, kind):\n"
        "    spec = ModelSpec(model='m', model_type=kind)\n"
        "    return load(Path(path), Path(path), spec, 1).evaluator\n"
        "new, old = open_model(sys.argv[1], None), open_model(sys.argv[2], 'gpt2')\n"
        "for model in new, old:\n"
        "    model.evaluate_prompt([1, 2, 3], lambda: 1, lambda done: True)\n"
        "texts = ['Hello world', 'é日😀', '', ' ' * 500]\n"
        "back = [b''.join(map(old.token_bytes_natively, old.encode_natively(text))).decode()\n"
        "        for text in texts]\n"
        "errors = []\n"
        "for call in (lambda: old.encode_natively('a\\0b'), lambda: old.embedding):\n"
        "    try:\n"
        "        call()\n"
        "    except InvalidInput as error:\n"
        "        errors.append(str(error))\n"
        "print('SEEN', json.dumps([len(new.embedding), back == texts, old.native_end_id,\n"
        "      new.context_length, errors]))\n"
    )
    spm = write_llama_gguf(tmp_path / "tiny.gguf", vocabulary="spm")
    gpt2 = write_ggml(tmp_path / "old.bin", "gpt2")
    done = subprocess.run(
        [sys.executable, "-c", code, spm, gpt2], capture_output=True, text=True, timeout=30
    )
    assert "SEEN" in done.stdout, done.stderr
    width, same, end, context, errors = json.loads(done.stdout.split("SEEN ")[1])
    assert (width, same, end, context) == (64, True, 0, 256)
    assert len(errors) == 2
    assert "position 1" in errors[0]


def test_source_that_was_damaged_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before native code sees it, a damaged file is refused by the name of the source."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_llama_gguf(tmp_path / "tiny.gguf")
    found = resolve(str(path), None, {}, lambda progress: None)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelDamaged, match=r"tiny\.gguf: .* beyond the end"):
        loading.load(found.source, found.file, ModelSpec(model="m", gpu_layers=0), 1)
