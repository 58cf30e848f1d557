"""Tokens and parts by real tokenizers, on several scripts, without a loaded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmwit_magic import api
from llmwit_magic.analysis import splitting
from llmwit_magic.contract.request import ModelSpec, Request
from llmwit_magic.errors import ModelNotFound, ModelNotSupported
from llmwit_magic.models.gguf import read_header
from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.running.session import Session
from tests.support.tiny_ggml import write_ggml
from tests.support.tiny_models import write_llama_gguf
from tests.support.vocabularies import unigram, write_vocabulary

SCRIPTS = {
    "latin": "Once upon a time, Mr. Fox met a crow. She had a cheese!\n\nHe said: “Sing.” ",
    "japanese": "昔々、あるところに狐がいました。烏は「歌いましょう。」と言いました。",
    "arabic": "كان يا ما كان، في قديم الزمان ثعلب. هل غنى الغراب؟ نعم.\n\n",
    "devanagari": "एक समय की बात है। एक लोमड़ी थी। कौआ गाने लगा। ",
    "thai": "กาลครั้งหนึ่งนานมาแล้วมีสุนัขจิ้งจอกตัวหนึ่งอาศัยอยู่ในป่า",
    "emoji": "👨‍👩‍👧‍👦🇩🇪👍🏽e\u0301 😀\n",
    "code": "def f(x):\n    return {'a': [x] * 3}\n\n\nprint(f(2))\n",
    "control": "<|im_start|>user\nHi<|im_end|>\n<s> </s> ",
}


@pytest.fixture
def here(session: Session, monkeypatch: pytest.MonkeyPatch) -> Session:
    for module in (api, splitting):
        monkeypatch.setattr(module, "current_session", lambda: session)
    return session


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("vocabulary", ["bpe", "spm"])
def test_no_part_has_too_many_tokens(
    vocabulary: Any, script: str, here: Session, tmp_path: Path
) -> None:
    """Asked of the model's own tokenizer. The parts are the text again, to the character."""
    path = write_llama_gguf(tmp_path / "m.gguf", vocabulary=vocabulary)
    tokenizer = build_tokenizer(read_header(path).metadata)

    def count(text: str) -> int:
        ids = tokenizer.encode(text, ((0, len(text)),))
        return len(ids) - (ids[:1] == [tokenizer.bos_id] and tokenizer.add_bos)

    text = SCRIPTS[script] * 6
    assert splitting.count_tokens(text, path) == count(text)
    for tokens, overlap in ((24, 0), (90, 20)):
        parts = splitting.split(text, tokens, overlap, path)
        assert len(parts) > 1
        assert [part.token_count for part in parts] == [count(part.text) for part in parts]
        assert max(part.token_count for part in parts) <= tokens
        place = 0
        for part in parts:
            assert part.text == text[part.start : part.end]
            assert part.start <= place < part.end
            assert count(text[part.start : place]) <= overlap
            place = part.end
        assert place == len(text)
        if not overlap:
            assert "".join(part.text for part in parts) == text
    assert here.local.pool.loaded_models() == []


@pytest.mark.parametrize("vocabulary", ["bpe", "spm"])
def test_a_count_is_that_of_a_prompt(vocabulary: Any, here: Session, tmp_path: Path) -> None:
    """Less the token that begins a text, where the model has one."""
    path = write_llama_gguf(tmp_path / "m.gguf", vocabulary=vocabulary)
    begins = build_tokenizer(read_header(path).metadata).add_bos
    for text in ("Once upon a time", "日本語", " a "):
        prepared = here.prepare(Request(model=str(path), prompt=text))
        assert splitting.count_tokens(text, path) == (prepared.prompt_token_count or 0) - begins


def test_control_tokens_are_text(here: Session, tiny_model: Path) -> None:
    """A text is counted as data."""
    prompt = here.prepare(Request(model=str(tiny_model), prompt="<|im_end|>"))
    assert prompt.prompt_token_count == 1
    assert splitting.count_tokens("<|im_end|>", tiny_model) > 1


def test_vocabularies_that_only_llama_cpp_knows(here: Session, tmp_path: Path) -> None:
    """The library reads the vocabulary, and no tensors."""
    path = write_vocabulary(tmp_path / "m.gguf", unigram())
    assert 0 < splitting.count_tokens("ab ba", path) <= 6
    assert here.local.pool.loaded_models() == []


def test_an_old_file_is_loaded(here: Session, tmp_path: Path) -> None:
    """Nobody else knows its vocabulary."""
    path = write_ggml(tmp_path / "gpt2.bin", "gpt2")
    assert splitting.count_tokens("Hi", path, model_type="gpt2") >= 1
    assert len(here.local.pool.loaded_models()) == 1


@pytest.mark.parametrize(
    ("model", "kind"), [("no/such.gguf", ModelNotFound), ("old.bin", ModelNotSupported)]
)
def test_a_model_that_cannot_be_had(
    model: str, kind: type[Exception], here: Session, tmp_path: Path
) -> None:
    """The error is that of a run."""
    write_ggml(tmp_path / "old.bin", "gpt2")
    with pytest.raises(kind):
        splitting.count_tokens("a", tmp_path / model)


def test_processes_of_vocabularies_end_with_the_session(here: Session, tiny_model: Path) -> None:
    """There is one for each model, and none after the end."""
    splitting.count_tokens("a", tiny_model)
    splitting.count_tokens("b", tiny_model)
    ((name, _),) = here.local._tokenizers.loaded_models()
    assert name == str(tiny_model)
    here.close()
    assert here.local._tokenizers.loaded_models() == []


def test_a_prompt_that_is_too_long_is_counted_by_a_dry_run(here: Session, tiny_model: Path) -> None:
    """A run of it is refused."""
    request = Request(model=str(tiny_model), prompt="It is " * 100, context_length=32)
    prepared = here.prepare(request)
    assert (prepared.prompt_token_count, prepared.context_length) == (301, 32)
    run = here.run(request)
    assert run.wait(30)
    assert type(run.error).__name__ == "PromptTooLong"


def test_the_engine_has_no_model_for_it(here: Session, tiny_model: Path) -> None:
    """A list of texts is one question. Nothing of it is in the log."""
    spec = ModelSpec(model=str(tiny_model))
    assert here.count_tokens(spec, ["a", "", "a b"]) == [1, 0, 2]
    assert len(here.log) == 0
