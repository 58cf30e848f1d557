"""Embeddings by a real engine over tiny models; llama.cpp itself is asked in tests/model."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmwit_magic import api
from llmwit_magic.analysis import embeddings
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import EmbeddingsResult, InferencingParams
from llmwit_magic.errors import (
    InferenceError,
    Interrupted,
    InvalidInput,
    ModelNotSupported,
    PromptTooLong,
)
from llmwit_magic.models.gguf import read_header
from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.running.session import Session
from tests.support.tiny_ggml import write_ggml
from tests.support.tiny_models import write_llama_gguf

LONG = "It is " * 200  # 601 tokens

Embed = Callable[..., EmbeddingsResult]


@pytest.fixture
def embed(session: Session, monkeypatch: pytest.MonkeyPatch) -> Embed:
    monkeypatch.setattr(api, "current_session", lambda: session)
    return api.generate_embeddings


@pytest.fixture
def asking(tmp_path: Path) -> Path:
    """A model whose file asks for eos after each text."""
    extra = {"tokenizer.ggml.add_eos_token": True}
    return write_llama_gguf(tmp_path / "asking.gguf", extra_metadata=extra)


def refused(embed: Embed, kind: type[InferenceError], *arguments: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        embed(*arguments, **options)
    assert type(caught.value) is kind
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_eos_counts_where_the_file_asks_for_it(
    embed: Embed, asking: Path, tiny_model: Path, session: Session
) -> None:
    """It is one more token of each text and makes another vector; a prompt never gets it."""
    plain, whole = embed(tiny_model, ["a", "a cat"]), embed(asking, ["a", "a cat"])
    assert whole.usage.prompt_token_count == plain.usage.prompt_token_count + 2
    assert not set(whole.embeddings) & set(plain.embeddings)
    assert embed(tiny_model, "a<|im_end|>").embeddings == whole.embeddings[:1]
    assert embed(asking, "a<|im_end|>").embeddings == whole.embeddings[:1]
    counts = [
        session.prepare(Request(model=str(path), prompt="a cat")).prompt_token_count
        for path in (asking, tiny_model)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("value", "name"), [(1, "mean"), (2, "cls"), (4, "rank"), (5, "unknown"), ("mean", "unknown")]
)
def test_other_poolings(value: Any, name: str, embed: Embed, tmp_path: Path) -> None:
    """A pooling that the engine cannot do is refused by its name, and what to do is said."""
    path = write_llama_gguf(tmp_path / "m.gguf", extra_metadata={"llama.pooling_type": value})
    message = refused(embed, ModelNotSupported, path, "a")
    assert message == (
        f"m.gguf: its embeddings are pooled in the way '{name}' ('llama.pooling_type' is {value}), "
        "and ctransformers gives the last token's state only: take a model whose pooling is 'last'"
    )
    assert api.infer(path, "a", {"max_tokens": 1}).usage.generated_token_count == 1


@pytest.mark.parametrize("value", [0, 3])
def test_poolings_that_are_the_last_token(
    value: int, embed: Embed, tmp_path: Path, tiny_model: Path
) -> None:
    """`last`, and `none`, which llama.cpp takes a missing value for, give the same vector."""
    path = write_llama_gguf(tmp_path / "m.gguf", extra_metadata={"llama.pooling_type": value})
    assert embed(path, "a cat").embeddings == embed(tiny_model, "a cat").embeddings


def test_a_text_that_is_too_long_is_named(embed: Embed, tiny_model: Path) -> None:
    """By its number and its beginning, with what to do; nothing of the others comes back."""
    message = refused(
        embed, PromptTooLong, tiny_model, ["a", LONG, LONG], context_length=32, threads=1
    )
    assert message == (
        "text 2, 'It is It is It is It is It is It is It i…', has 601 tokens and the context holds "
        "32: shorten it, raise context_length (up to 256), or let truncate=True cut it"
    )


def test_truncate_cuts_the_end(embed: Embed, tiny_model: Path, asking: Path) -> None:
    """What fits is left as it is, and eos stays where the file asks for it."""
    for path, room in ((tiny_model, 32), (asking, 31)):
        tokenizer = build_tokenizer(read_header(path).metadata)
        ids = tokenizer.encode(LONG)[:room]
        beginning = b"".join(map(tokenizer.token_bytes, ids)).decode()
        assert tokenizer.encode(beginning) == ids
        cut = embed(path, ["a cat", LONG], context_length=32, truncate=True)
        short = embed(path, ["a cat", beginning], context_length=32)
        assert cut == short
    assert embed(asking, "a cat", context_length=1, truncate=True).usage.prompt_token_count == 1


def test_a_text_of_any_length_is_cut(embed: Embed, tiny_model: Path) -> None:
    """More characters than can be tokenised at once are no reason to refuse what is cut."""
    text = "a" * 4_000_100
    assert "text 1, 'aaaa" in refused(embed, InvalidInput, tiny_model, text)
    began = time.monotonic()
    cut = embed(tiny_model, text, truncate=True)
    assert cut.usage.prompt_token_count == 256
    assert time.monotonic() - began < 30


COUNTING = {
    "model",
    "engine",
    "model_type",
    "context_length",
    "anyway",
    "accept",
    "gpu_layers",
    "device",
    "threads",
    "tags",
}


@pytest.mark.parametrize(
    "name", sorted({*Request.model_fields, *InferencingParams.model_fields} - COUNTING)
)
def test_options_without_effect(name: str, embed: Embed) -> None:
    """They are refused by name before anything is fetched or loaded."""
    message = refused(embed, InvalidInput, "no-model", "a", **{name: 1})
    assert message == f"{name} has no effect on embeddings: leave it out"


def test_every_option_is_one_that_counts_or_is_refused(embed: Embed, tiny_model: Path) -> None:
    """Those that choose the model and where it runs are taken."""
    plain = embed(tiny_model, "a")
    assert embed(
        tiny_model, "a", model_type=None, context_length=300, anyway=True, gpu_layers=0, threads=1,
        tags={"a": "b"},
    ).embeddings == plain.embeddings  # fmt: skip


def test_a_longer_context_is_accepted(embed: Embed, tiny_model: Path) -> None:
    """By the option that the refusal names."""
    assert "--accept context" in refused(embed, InvalidInput, tiny_model, "a", context_length=300)
    assert embed(tiny_model, "a", context_length=300, accept="context").embeddings


def test_texts_that_are_none(embed: Embed, tiny_model: Path) -> None:
    """Each is named by its number."""
    assert "text 2 is int" in refused(embed, InvalidInput, tiny_model, ["a", 5])
    assert "text 2 is empty" in refused(embed, InvalidInput, tiny_model, ["a", ""])
    surrogate = refused(embed, InvalidInput, tiny_model, ["a", "b\ud800"])
    assert surrogate.startswith("text 2: a lone surrogate")
    assert embed(tiny_model, []).embeddings == ()


def test_old_files_give_none(embed: Embed, tmp_path: Path) -> None:
    """Formats before GGUF are refused in words."""
    path = write_ggml(tmp_path / "gpt2.bin", "gpt2")
    message = refused(embed, InvalidInput, path, "a", model_type="gpt2")
    assert "an old GGML file gives no embeddings" in message


@pytest.mark.parametrize("engine", ["ctransformers", "llama.cpp"])
def test_the_array_has_the_same_vectors(
    engine: str, session: Session, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `generate_embeddings`, to the last bit, by both engines. The row says how it was done."""
    for module in (api, embeddings):
        monkeypatch.setattr(module, "current_session", lambda: session)
    options: dict[str, Any] = {"engine": engine, "gpu_layers": 0, "context_length": 32}
    texts = ["a cat", LONG, "a cat", "a"]
    tuples = api.generate_embeddings(tiny_model, texts, truncate=True, **options).embeddings
    found = embeddings.embed(texts, tiny_model, truncate=True, **options)
    assert found.dtype == np.float32
    assert [tuple(row) for row in found.tolist()] == list(tuples)
    unit = embeddings.embed(texts, tiny_model, truncate=True, normalize=True, **options)
    assert np.linalg.norm(unit, axis=1) == pytest.approx([1] * 4)
    row = session.log.rows()[-1]
    assert (row["kind"], row["text_count"], row["engine"]) == ("embedding", 3, engine)
    assert (row["context_length"], row["status"], row["device"]) == (32, "ok", "cpu")
    assert row["notices"] == ["1 of 3 texts cut to the 32 tokens of the context"]
    refusal = "^text 2, 'It is It is"
    with pytest.raises(PromptTooLong, match=refusal):
        embeddings.embed(texts, tiny_model, **options)
    with pytest.raises(PromptTooLong, match=refusal.replace("2", "3")):  # the first is counted
        embeddings.embed(["a", "a", LONG], tiny_model, **options)


@pytest.mark.parametrize(("words", "count"), [(60, 400), (0, 20_000)])
@pytest.mark.parametrize("engine", ["ctransformers", "llama.cpp"])
def test_stop_ends_a_call_within_a_second(
    engine: str, words: int, count: int, session: Session, tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its vectors are kept: the same call goes on there, and gives what one call gives.

    Texts of one block are stopped between two of them.
    """
    monkeypatch.setattr(embeddings, "current_session", lambda: session)
    options: dict[str, Any] = {"engine": engine, "gpu_layers": 0, "progress": False}
    texts = [f"{number} {'It is ' * words}" for number in range(count)]
    stopped: list[float] = []

    def stop() -> None:
        while not any(run.progress and run.progress.done > 5 for run in list(session._runs)):
            time.sleep(0.01)
        stopped.append(time.monotonic())
        _thread.interrupt_main()

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted, match=f"of {count:,} texts; the same call goes on there"):
        embeddings.embed(texts, tiny_model, **options)
    assert time.monotonic() - stopped[0] < 1.5  # a machine with other work on it
    kept = session.kept_vectors
    assert kept is not None
    done = len(kept.vectors)
    assert 5 < done < count
    here = embeddings.embed(texts[: done + 2], tiny_model, **options)
    assert session.log.rows()[-1]["text_count"] == 2
    assert (here == embeddings.embed(texts[: done + 2], tiny_model, **options)).all()


def test_a_chat_with_ids_outside_the_vocabulary(session: Session, tmp_path: Path) -> None:
    """A template's name for such a token is empty, as the token is none."""
    path = write_llama_gguf(
        tmp_path / "m.gguf",
        template="[{{ bos_token }}][{{ eos_token }}]{{ messages[0].content }}",
        extra_metadata={"tokenizer.ggml.bos_token_id": 600, "tokenizer.ggml.eos_token_id": 1},
    )
    prepared = session.prepare(Request(model=str(path), prompt="Hi", chat=True))
    assert prepared.prompt == "[][<|im_start|>]Hi"
