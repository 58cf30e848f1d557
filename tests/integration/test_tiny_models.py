"""The tiny model files that the other tests stand on, held against the real ctransformers.

Native code that dislikes a file can end the process, so it runs in processes apart.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from tests.support.tiny_ggml import MODEL_TYPES, write_ggml, write_gpt2_ggml
from tests.support.tiny_models import (
    CHATML,
    CHATML_TOKENS,
    bpe_vocabulary,
    spm_vocabulary,
    token_bytes,
    write_falcon_gguf,
    write_llama_gguf,
)

pytestmark = pytest.mark.timeout(10)

#: For each job (path, model type, tokens) on stdin: evaluates the tokens, then three times the best
#: one, and prints what it saw.
EVALUATE = """
import hashlib, json, math, sys
from pathlib import Path
from ctransformers.llm import LLM, Config

flags = Path("/proc/cpuinfo")
lib = "avx2" if flags.exists() and " avx2 " in flags.read_text() else "basic"
for job in sys.stdin:
    path, model_type, tokens = json.loads(job)
    llm = LLM(path, model_type, config=Config(context_length=64, threads=1), lib=lib)
    llm.eval(tokens, threads=1)
    logits, best = [], []
    for _ in range(3):
        values = list(llm.logits)
        newest = values[-llm.vocab_size:]
        logits += newest
        best.append(max(range(len(newest)), key=newest.__getitem__))
        llm.eval(best[-1:], threads=1)
    print("SEEN", json.dumps({
        "vocab_size": llm.vocab_size,
        "eos": llm.eos_token_id,
        "logits_size": len(values),
        "finite": all(map(math.isfinite, logits)),
        "nan": all(map(math.isnan, logits)),
        "spread": max(logits) - min(logits),
        "best": best,
        "text": llm.detokenize(best, decode=False).hex(),
        "logits": hashlib.sha256(repr(logits).encode()).hexdigest(),
    }), flush=True)
"""

WRITERS: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    "llama-spm": (write_llama_gguf, {"vocabulary": "spm"}),
    "llama-spm-F16": (write_llama_gguf, {"vocabulary": "spm", "tensor_type": "F16"}),
    "llama-spm-Q8_0": (write_llama_gguf, {"vocabulary": "spm", "tensor_type": "Q8_0"}),
    "falcon": (write_falcon_gguf, {}),
    "falcon-40b": (write_falcon_gguf, {"kv_heads": 2, "parallel_norm": True}),
    **{f"ggml-{kind}": (write_ggml, {"model_type": kind}) for kind in MODEL_TYPES},
}

#: All but those with tied embeddings.
UNTIED = [name for name in WRITERS if name not in ("ggml-mpt", "ggml-replit")]


Job = tuple[Path, str | None, tuple[int, ...]]


def write(name: str, directory: Path, **options: object) -> Job:
    """Write the file; the job to evaluate three tokens with it."""
    writer, fixed = WRITERS[name]
    path = writer(directory / f"{name}.bin", **fixed, **options)
    return path, fixed.get("model_type"), (5, 200, 17)


def evaluate(*jobs: Job) -> list[Any]:
    """What one process running `EVALUATE` saw, up to the job that ended it."""
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE],
        input="".join(json.dumps((str(path), *rest)) + "\n" for path, *rest in jobs),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=9,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    return [json.loads(line.removeprefix("SEEN ")) for line in lines]


def evaluate_each(names: Iterable[str], directory: Path, **options: object) -> dict[str, Any]:
    """By name of the writer, what one process saw; a job that ends it leaves out the later ones."""
    seen = evaluate(*(write(name, directory, **options) for name in names))
    return dict(zip(names, seen, strict=False))


@pytest.fixture(scope="module")
def seen_twice(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return [evaluate_each(WRITERS, tmp_path_factory.mktemp("random")) for _ in range(2)]


@pytest.fixture(scope="module")
def successors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluate_each(UNTIED, tmp_path_factory.mktemp("successor"), weights="successor")


@pytest.mark.parametrize("name", WRITERS)
def test_evaluates_the_same_in_every_process(name: str, seen_twice: list[dict[str, Any]]) -> None:
    """The file loads as it is, and its logits are finite, not flat and the same to the bit."""
    seen, again = (process[name] for process in seen_twice)
    assert seen["finite"]
    assert 8 < seen["spread"] < 30
    assert seen["logits_size"] % seen["vocab_size"] == 0
    assert again == seen


@pytest.mark.parametrize("name", UNTIED)
def test_successor_weights_count_upwards(name: str, successors: dict[str, Any]) -> None:
    """With the weights "successor", the best token after token i is i + 1."""
    assert successors[name]["best"] == [18, 19, 20]


def test_successor_weights_begin_again(tmp_path: Path) -> None:
    """After the last token of the vocabulary comes the first one."""
    last = len(spm_vocabulary().tokens) - 1
    path, *_ = write("llama-spm", tmp_path, weights="successor")
    (seen,) = evaluate((path, None, (1, last)))
    assert seen["best"] == [0, 1, 2]


def test_other_weights(tmp_path: Path) -> None:
    """With "zero" all logits are equal, and with "nan" none of them is a number."""
    seen_zero = evaluate_each(WRITERS, tmp_path, weights="zero")
    assert seen_zero.keys() == WRITERS.keys()
    for seen in seen_zero.values():
        assert (seen["finite"], seen["spread"]) == (True, 0)
    seen_nan = evaluate_each(WRITERS, tmp_path, weights="nan")
    assert {name: seen["nan"] for name, seen in seen_nan.items()} == dict.fromkeys(WRITERS, True)


@pytest.mark.parametrize("tied", [True, False])
def test_bpe_needs_adapting(tied: bool, tmp_path: Path) -> None:
    """A llama file with a byte-level vocabulary does not load, tied embeddings or not."""
    path = write_llama_gguf(tmp_path / "model.gguf", tied=tied)
    assert evaluate((path, None, (5,))) == []


@pytest.mark.parametrize("missing", ["tokenizer.ggml.scores", "output.weight"])
def test_dropping_makes_a_file_unloadable(missing: str, tmp_path: Path) -> None:
    """What is dropped is not in the file, and ctransformers misses it."""
    job = write("llama-spm", tmp_path, drop=[missing])
    reader = GGUFReader(job[0])
    assert missing not in [*reader.fields, *(tensor.name for tensor in reader.tensors)]
    assert evaluate(job) == []


def test_dropping_what_is_not_there(tmp_path: Path) -> None:
    """A misspelt name in `drop` is an error, not a test that passes for nothing."""
    with pytest.raises(ValueError, match="nothing to drop"):
        write_llama_gguf(tmp_path / "model.gguf", drop=["tokenizer.scores"])


def test_bpe_file_is_like_smollm2(tmp_path: Path) -> None:
    """Metadata and tensors are those of a converted SmolLM2: no scores, no output.weight."""
    reader = GGUFReader(write_llama_gguf(tmp_path / "model.gguf"))
    value = {key: field.contents() for key, field in reader.fields.items()}
    assert value["GGUF.version"] == 3
    assert value["tokenizer.ggml.model"] == "gpt2"
    assert value["tokenizer.ggml.pre"] == "smollm"
    assert value["tokenizer.ggml.tokens"][:3] == list(CHATML_TOKENS)
    assert value["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert value["tokenizer.ggml.eos_token_id"] == 2
    assert value["tokenizer.chat_template"] == CHATML
    assert "tokenizer.ggml.scores" not in value
    assert "output.weight" not in [tensor.name for tensor in reader.tensors]


def test_extra_metadata(tmp_path: Path) -> None:
    """Extra keys replace those there are, and add others."""
    extra = {"llama.attention.head_count": 0, "tokenizer.ggml.pre": "other", "a.list": [1, 2]}
    reader = GGUFReader(write_llama_gguf(tmp_path / "model.gguf", extra_metadata=extra))
    assert {key: reader.fields[key].contents() for key in extra} == extra


def test_bpe_vocabulary_covers_every_byte() -> None:
    """The byte-level vocabulary has all 256 bytes, no token twice, and a token for each merge."""
    words = bpe_vocabulary()
    learnt = words.tokens[len(CHATML_TOKENS) :]
    assert len(set(words.tokens)) == len(words.tokens)
    assert {token_bytes(token) for token in learnt[:256]} == {bytes([b]) for b in range(256)}
    assert [merge.replace(" ", "") for merge in words.merges] == list(learnt[256:])


def test_spm_vocabulary_is_like_llama() -> None:
    """Token 3 + b is the byte b, and a piece's score is its negative rank."""
    words = spm_vocabulary()
    assert words.tokens[:3] == ("<unk>", "<s>", "</s>")
    assert words.tokens[3 + 0x0A] == "<0x0A>"
    assert words.scores[259:262] == (0, -1, -2)
    assert words.types[:4] == (2, 3, 3, 6)
    assert words.types[259] == 1


def test_files_are_reproducible(tmp_path: Path) -> None:
    """The same arguments write the same bytes, in another process too; another seed does not."""
    write_llama_gguf(tmp_path / "here.gguf")
    write_llama_gguf(tmp_path / "other.gguf", seed=1)
    code = "import sys; from tests.support.tiny_models import *; write_llama_gguf(sys.argv[1])"
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there.gguf")], cwd=root, check=True, timeout=9
    )
    here, there, other = (
        hashlib.sha256((tmp_path / f"{name}.gguf").read_bytes()).digest()
        for name in ("here", "there", "other")
    )
    assert here == there != other


def test_gpt2_vocabulary_can_be_chosen(tmp_path: Path) -> None:
    """The tokens given are the model's: its text comes back from their bytes."""
    vocab = [b"<|endoftext|>", *(b"<%d>" % index for index in range(1, 40))]
    path = write_gpt2_ggml(tmp_path / "model.bin", vocab=vocab, weights="successor")
    (seen,) = evaluate((path, "gpt2", (3, 7)))
    assert (seen["vocab_size"], seen["eos"]) == (40, 0)
    assert bytes.fromhex(seen["text"]) == b"<8><9><10>"
