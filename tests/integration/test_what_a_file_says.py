"""What a model file says of its end of text and of tokens that it has not counts when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, InferencingParams, InferencingResult
from llmwit_magic.errors import ModelNotSupported
from llmwit_magic.running.session import Session
from tests.support.tiny_models import (
    QUESTION,
    bpe_vocabulary,
    spm_vocabulary,
    write_llama_gguf,
)

GREEDY = InferencingParams(temperature=0, repeat_penalty=1, max_tokens=3)


def answer(session: Session, path: Path, prompt: str) -> InferencingResult:
    run = session.run(Request(model=str(path), prompt=prompt, params=GREEDY))
    assert run.wait(50)
    run.raise_failure()
    return run.result


def test_each_listed_id_ends_the_text(session: Session, tmp_path: Path) -> None:
    """A model with several ends of text ends at any of them."""
    made: dict[str, Any] = {
        "weights": "successor", "tied": False, "answer": ("one", "two", "three"),
    }  # fmt: skip
    path = write_llama_gguf(tmp_path / "one.gguf", **made)
    assert answer(session, path, QUESTION).text == "onetwothree"
    third = len(bpe_vocabulary().tokens) + 3
    listed: dict[str, Any] = {"tokenizer.ggml.eos_token_ids": [2, third, 5000]}
    path = write_llama_gguf(tmp_path / "several.gguf", extra_metadata=listed, **made)
    result = answer(session, path, QUESTION)
    assert (result.text, result.finish_detail) == ("onetwo", FinishDetail.EOS)


def test_each_listed_id_ends_the_text_of_sentencepiece(session: Session, tmp_path: Path) -> None:
    """So it is with the other kind of vocabulary."""
    words = spm_vocabulary().tokens
    asked = words.index("▁the")
    for ids, detail in (([2], FinishDetail.MAX_TOKENS), ([2, asked + 2], FinishDetail.EOS)):
        path = write_llama_gguf(
            tmp_path / f"{len(ids)}.gguf", vocabulary="spm", weights="successor",
            extra_metadata={"tokenizer.ggml.eos_token_ids": ids},
        )  # fmt: skip
        result = answer(session, path, "the")
        assert result.finish_detail is detail
    assert result.usage.generated_token_count == 1


@pytest.mark.parametrize("vocabulary", ["bpe", "spm"])
@pytest.mark.parametrize("value", [600, 2**32 - 1])
def test_ids_outside_the_vocabulary_are_none(
    value: int, vocabulary: Literal["bpe", "spm"], session: Session, tmp_path: Path
) -> None:
    """A model whose padding or end of text is beyond its tokens answers as one without."""
    plain = answer(session, write_llama_gguf(tmp_path / "m.gguf", vocabulary=vocabulary), "a")
    for name in ("padding", "unknown", "seperator"):
        extra = {f"tokenizer.ggml.{name}_token_id": value}
        path = write_llama_gguf(
            tmp_path / f"{name}.gguf", vocabulary=vocabulary, extra_metadata=extra
        )
        assert answer(session, path, "a").text == plain.text


def test_merges_without_a_space_are_refused_by_name(session: Session, tmp_path: Path) -> None:
    """They would be left out without a word, and the text be cut otherwise."""
    merges = [*bpe_vocabulary().merges[:7], "nospace", *bpe_vocabulary().merges[8:]]
    path = write_llama_gguf(tmp_path / "m.gguf", extra_metadata={"tokenizer.ggml.merges": merges})
    with pytest.raises(ModelNotSupported, match=r"^m\.gguf: merge 7 of the vocabulary, 'nospace'"):
        answer(session, path, "a")
