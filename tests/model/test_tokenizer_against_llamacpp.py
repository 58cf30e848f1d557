"""Token ids equal those of another build of llama.cpp, over many scripts.

The default model's vocabulary splits most texts alike under several pre-tokenizers, so those are
compared over a vocabulary trained without one: it has tokens across every boundary.
"""

import io
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece

from llmwit_magic.models.tokenizers.building import build_tokenizer
from tests.model import llamacpp
from tests.support.scripts import TEXTS, comparison_texts
from tests.support.trained import trained_byte_level

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4


@pytest.fixture(scope="module")
def byte_level_vocabulary() -> dict[str, Any]:
    return trained_byte_level()


@pytest.fixture(scope="module")
def sentencepiece_vocabulary() -> dict[str, Any]:
    """Metadata of a SentencePiece BPE trained on the texts and a module of the standard library."""
    source = Path(os.__file__).read_text(encoding="utf-8")
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(
            line.replace("\0", "") for line in source.splitlines() + TEXTS * 20 if line.strip()
        ),
        model_writer=trained,
        model_type="bpe",
        vocab_size=2000,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        num_threads=1,
        user_defined_symbols=["<user>", "<us"],
        control_symbols=["<|im_end|>"],
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())

    def token_type(token_id: int) -> int:
        if model.is_unknown(token_id):
            return UNKNOWN
        if model.is_control(token_id):
            return CONTROL
        if model.is_byte(token_id):
            return 6
        return USER_DEFINED if model.id_to_piece(token_id) in ("<user>", "<us") else 1

    ids = range(model.vocab_size())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i).encode() for i in ids],
        "tokenizer.ggml.scores": [model.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": [token_type(i) for i in ids],
    }


def write_model(path: Path, metadata: dict[str, Any]) -> None:
    """A llama model of one block and width 32 around a vocabulary."""
    width = 32
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    vocabulary_size = len(metadata["tokenizer.ggml.tokens"])
    writer.add_tensor("token_embd.weight", np.zeros((vocabulary_size, width), np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((width, width), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_metadata(path: Path) -> dict[str, Any]:
    """The scalars and arrays of a file's header, strings in arrays as bytes."""
    metadata: dict[str, Any] = {}
    for key, field in gguf.GGUFReader(path).fields.items():
        if field.types[0] != gguf.GGUFValueType.ARRAY:
            metadata[key] = field.contents()
        elif field.types[1] == gguf.GGUFValueType.STRING:
            metadata[key] = [bytes(field.parts[index]) for index in field.data]
        else:
            metadata[key] = [field.parts[index][0].item() for index in field.data]
    return metadata


def assert_same_ids(path: Path, metadata: dict[str, Any]) -> None:
    tokenizer = build_tokenizer(metadata)
    texts = comparison_texts()
    for text, expected in zip(texts, llamacpp.tokenize(path, texts), strict=True):
        # llama.cpp puts bos in front of a text that begins with it all the same.
        if tokenizer.add_bos and expected[:2] == [tokenizer.bos_id] * 2:
            expected = expected[1:]
        assert tokenizer.encode(text) == expected, ascii(text)


def test_default_model(default_model_source: Path) -> None:
    """The default model's own file gives llama.cpp's ids."""
    assert_same_ids(default_model_source, read_metadata(default_model_source))


@pytest.mark.parametrize("name", [None, "smollm", "llama-bpe", "qwen2", "deepseek-llm", "tekken"])
def test_pre_tokenizer(
    name: str | None, byte_level_vocabulary: dict[str, Any], tmp_path: Path
) -> None:
    """Some pre-tokenizer names, and none at all, give the ids of another build of llama.cpp.

    `tests/integration/test_library_vocabularies.py` tries all names with the library that is used.
    """
    metadata = dict(byte_level_vocabulary)
    if name:
        metadata["tokenizer.ggml.pre"] = name
    write_model(tmp_path / "model.gguf", metadata)
    assert_same_ids(tmp_path / "model.gguf", metadata)


@pytest.mark.parametrize("space_prefix", [None, False])
def test_sentencepiece(
    space_prefix: bool | None, sentencepiece_vocabulary: dict[str, Any], tmp_path: Path
) -> None:
    """A SentencePiece vocabulary with byte tokens gives llama.cpp's ids, with the prefix or not."""
    metadata = dict(sentencepiece_vocabulary)
    if space_prefix is not None:
        metadata["tokenizer.ggml.add_space_prefix"] = space_prefix
    write_model(tmp_path / "model.gguf", metadata)
    assert_same_ids(tmp_path / "model.gguf", metadata)


def test_best_next_tokens(default_model_source: Path) -> None:
    """The helper's ids are token ids of the model: after the capital's name comes a full stop."""
    tokenizer = build_tokenizer(read_metadata(default_model_source))
    ids = tokenizer.encode("The capital of France is Paris")
    best = llamacpp.best_next_tokens(default_model_source, ids, [len(ids) - 1, len(ids)])
    assert [tokenizer.token_bytes(token_id) for token_id in best] == [b" Paris", b"."]
