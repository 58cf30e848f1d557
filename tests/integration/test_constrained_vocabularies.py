"""Answers with a constraint over each kind of vocabulary, those of libraries included."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.backends.llamacpp.llama_sources import source
from llmwit_magic.running.session import Session
from tests.support.tiny_architectures import ARCHITECTURES, write
from tests.support.tiny_ggml import write_ggml
from tests.support.tiny_models import write_falcon_gguf, write_llama_gguf
from tests.support.vocabularies import gemma4, plamo2, rwkv, unigram

OURS: dict[str, Callable[[Path], Path]] = {
    "bpe": write_llama_gguf,
    "spm": lambda path: write_llama_gguf(path, vocabulary="spm"),
    "falcon": write_falcon_gguf,
}
OLD = ("gpt2", "gptneox", "replit")
LIBRARY_S: dict[str, Callable[[], dict[str, Any]]] = {
    "unigram": unigram, "rwkv": rwkv, "plamo2": plamo2, "gemma4": gemma4
}  # fmt: skip


def check(session: Session, model: Path, pattern: str = "a(b|a){2,3}a?", **options: Any) -> None:
    """Answers at a high temperature, some of them complete."""
    complete = 0
    for seed in range(10):
        run = session.run(
            Request(
                model=str(model),
                prompt="a",
                params=InferencingParams(max_tokens=6, seed=seed, temperature=2),
                constraint=Constraint(kind="regex", source=pattern),
                top_logprobs=1,
                threads=1,
                **options,
            )
        )
        assert run.wait(50)
        assert run.error is None
        result = run.result
        if result.finish_reason == "length":
            continue
        complete += 1
        assert re.fullmatch(pattern, result.text)
        for token in result.tokens or ():
            assert token.masked_logprob is not None
            assert token.logprob <= token.masked_logprob <= 0
    assert complete


@pytest.mark.parametrize("name", OURS)
def test_vocabularies_of_ours(session: Session, tmp_path: Path, name: str) -> None:
    check(session, OURS[name](tmp_path / "model.gguf"))


@pytest.mark.parametrize("model_type", OLD)
def test_old_files(session: Session, tmp_path: Path, model_type: str) -> None:
    """The library that has loaded the file answers for its vocabulary."""
    path = write_ggml(tmp_path / "model.bin", model_type)
    check(session, path, model_type=model_type)


@pytest.mark.skipif(bool(source().problem or source().bindings), reason="needs the extra")
@pytest.mark.parametrize("name", LIBRARY_S)
def test_vocabularies_that_only_llama_cpp_knows(
    session: Session, tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / "model.gguf", ARCHITECTURES["qwen3"], vocabulary=LIBRARY_S[name]())
    # Unigram's vocabulary has no tokens for bytes.
    pattern = "(hello|1|2|l){1,2} ?" if name == "unigram" else "a(b|a){2,3}a?"
    check(session, path, pattern, engine="llama.cpp")
