"""What a refusal says of a sound file that ctransformers cannot run, and what is no objection."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType

from llmwit_magic.engines.backends.ctransformers.checks import (
    MAX_TOKENS,
    TENSOR_TYPE_NAMES,
    check_runnable,
    expected_tensors,
)
from llmwit_magic.errors import ModelDamaged, ModelNotSupported
from llmwit_magic.models.gguf import Header, TensorInfo, read_header
from llmwit_magic.models.kinds import quantisation
from llmwit_magic.models.tensor_types import TENSOR_TYPES
from tests.support.headers import with_metadata
from tests.support.tiny_models import spm_vocabulary, write_falcon_gguf, write_llama_gguf

F32, F64, U64 = GGUFValueType.FLOAT32, GGUFValueType.FLOAT64, GGUFValueType.UINT64
TYPES = {kind.name: kind for kind in TENSOR_TYPES.values()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def bpe(folder: Path) -> Header:
    return read_header(write_llama_gguf(folder / "bpe.gguf"))


@pytest.fixture(scope="module")
def spm(folder: Path) -> Header:
    return read_header(write_llama_gguf(folder / "spm.gguf", vocabulary="spm"))


@pytest.fixture(scope="module")
def falcon(folder: Path) -> Header:
    return read_header(write_falcon_gguf(folder / "falcon.gguf"))


def with_tensors(header: Header, change: Callable[[TensorInfo], TensorInfo | None]) -> Header:
    """The header with each tensor changed or left out."""
    changed = [change(tensor) for tensor in header.tensors]
    return replace(header, tensors=[tensor for tensor in changed if tensor is not None])


def refusal(header: Header, expected: type[ModelNotSupported] = ModelDamaged) -> str:
    """The message of the refusal. It is one line that names the file."""
    with pytest.raises(ModelNotSupported) as caught:
        check_runnable(header)
    assert type(caught.value) is expected
    message = str(caught.value)
    assert message.startswith(header.path.name + ": ")
    assert message.isprintable()
    assert len(message) < 1100
    return message


def refused(header: Header) -> str | None:
    """The message of the refusal, or None."""
    try:
        check_runnable(header)
    except ModelNotSupported as error:
        return str(error)
    return None


def test_tiny_models_are_runnable(bpe: Header, spm: Header, falcon: Header) -> None:
    """There is no objection to the files that the tests below change."""
    for header in (bpe, spm, falcon):
        check_runnable(header)


def test_falcon_40b_is_runnable(tmp_path: Path) -> None:
    """There is no objection to a falcon with two norms and several key-value heads, such as 40B."""
    path = write_falcon_gguf(tmp_path / "f.gguf", kv_heads=2, parallel_norm=True)
    check_runnable(read_header(path))


def test_what_adapt_repairs_is_not_refused(bpe: Header, spm: Header, falcon: Header) -> None:
    """Missing scores, types and output are no objection, nor is a linear scaling's new key."""
    check_runnable(with_metadata(bpe, {"tokenizer.ggml.token_type": None}))
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    check_runnable(with_metadata(spm, scaling))
    for header in (spm, falcon):
        check_runnable(with_tensors(header, lambda t: None if t.name == "output.weight" else t))


def test_a_vocabulary_has_a_limit(bpe: Header) -> None:
    """The limit is four times the largest known vocabulary.

    Each token costs memory in the kernel.
    """
    tokens = [b"\n", *[b"a"] * MAX_TOKENS]
    message = refusal(with_metadata(bpe, {"tokenizer.ggml.tokens": tokens}, 8), ModelNotSupported)
    assert "a vocabulary of 1,048,577 tokens: at most 1,048,576" in message


def test_an_unknown_pretokenizer(bpe: Header) -> None:
    """An unknown pre-tokenizer is an objection before an engine opens the file.

    A file that names none has llama.cpp's default.
    """
    header = with_metadata(bpe, {"tokenizer.ggml.pre": "xyz"}, 8)
    assert "pre-tokenizer 'xyz': not one that llmwit-magic knows" in refusal(
        header, ModelNotSupported
    )
    check_runnable(with_metadata(bpe, {"tokenizer.ggml.pre": None}))


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "LLAMA", "", "llama\n"])
def test_other_architectures(architecture: str, bpe: Header) -> None:
    """ctransformers runs llama and falcon only."""
    message = refusal(with_metadata(bpe, {"general.architecture": architecture}), ModelNotSupported)
    shown = architecture.replace("\n", "\\n")
    assert f"architecture '{shown}': ctransformers runs llama and falcon" in message


def test_no_architecture(bpe: Header) -> None:
    """A file that does not tell its architecture is refused too."""
    header = with_metadata(bpe, {"general.architecture": None})
    assert "architecture ''" in refusal(header, ModelNotSupported)


INTEGERS = [
    "context_length", "block_count", "feed_forward_length", "embedding_length",
    "attention.head_count", "attention.head_count_kv", "rope.dimension_count",
]  # fmt: skip


@pytest.mark.parametrize("name", INTEGERS[:5])
def test_missing_hyperparameters(name: str, bpe: Header) -> None:
    """The message names each missing hyperparameter that the loader needs."""
    assert f"'llama.{name}' is missing" in refusal(with_metadata(bpe, {f"llama.{name}": None}))


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [0, 2**31, 2**32 - 1])
def test_hyperparameters_out_of_range(name: str, value: int, bpe: Header) -> None:
    """The loader would divide by zero. It would take 2³¹ for a negative number."""
    message = refusal(with_metadata(bpe, {f"llama.{name}": value}))
    assert f"'llama.{name}' is {value}" in message


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    ("value", "kind"), [(4, U64), (4, 2), (True, 7), ("4", 8), (4.0, 6), (array("I", [4, 4]), 4)]
)
def test_hyperparameters_of_a_wrong_type(name: str, value: Any, kind: int, bpe: Header) -> None:
    """The loader reads single 32-bit numbers only.

    It reads no wider ones, and no list with one for each layer.
    """
    header = with_metadata(bpe, {f"llama.{name}": value}, kind)
    assert f"'llama.{name}' is not one unsigned 32-bit number" in refusal(header, ModelNotSupported)


def test_optional_hyperparameters(bpe: Header) -> None:
    """By default, key-value heads are as many as heads, and whole heads are rotated."""
    check_runnable(with_metadata(bpe, {"llama.rope.dimension_count": None}))
    check_runnable(with_metadata(bpe, {"llama.rope.freq_base": None, "llama.vocab_size": None}))
    without = with_metadata(bpe, {"llama.attention.head_count_kv": None})
    assert expected_tensors(without)["blk.0.attn_k.weight"] == (64, 64)


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 1), (4, 3), (4, 8), (128, 1)])
def test_heads_that_do_not_divide(heads: int, kv_heads: int, bpe: Header) -> None:
    """Heads must divide the dimensions, and key-value heads must divide the heads."""
    changes = {
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.rope.dimension_count": None,
    }
    assert f"{heads} heads and {kv_heads} key-value heads" in refusal(with_metadata(bpe, changes))


def test_heads_of_odd_size(tmp_path: Path) -> None:
    """The rotary embedding turns pairs of dimensions.

    The loader would end the process at the first token.
    """
    path = write_llama_gguf(tmp_path / "odd.gguf", embedding=60, heads=4, kv_heads=2)
    assert "15 dimensions" in refusal(read_header(path), ModelNotSupported)


@pytest.mark.parametrize(
    "name", ["rope.dimension_count", "attention.key_length", "attention.value_length"]
)
def test_partial_rotation(name: str, bpe: Header, falcon: Header) -> None:
    """Heads that are rotated in part, or whose size is not embedding / heads, are refused."""
    for header in (bpe, falcon):
        changes = {f"{header.architecture}.{name}": 8}
        message = refusal(with_metadata(header, changes), ModelNotSupported)
        assert f"{name} 8 with heads of 16 dimensions" in message


REALS = ["attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scale_linear"]


@pytest.mark.parametrize("name", [*REALS, "rope.scaling.factor"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-5, 0.0])
def test_real_hyperparameters(name: str, value: float, bpe: Header) -> None:
    """Epsilon, rope base and scale must be positive and finite. A scale of 0 means no scaling."""
    if value == 0 and "scal" in name:
        check_runnable(with_metadata(bpe, {f"llama.{name}": value}))
        return
    assert f"'llama.{name}' is " in refusal(with_metadata(bpe, {f"llama.{name}": value}))


@pytest.mark.parametrize("name", REALS)
def test_real_hyperparameters_of_a_wrong_type(name: str, bpe: Header) -> None:
    """The loader takes 32-bit reals only."""
    for value, kind in ((1.0, F64), (1, 4), ("1", 8), (array("f", [1.0]), F32)):
        header = with_metadata(bpe, {f"llama.{name}": value}, kind)
        assert f"'llama.{name}'" in refusal(header, ModelNotSupported)


def test_missing_epsilon(bpe: Header, falcon: Header) -> None:
    """Each architecture has an epsilon of its own."""
    for header, name in ((bpe, "layer_norm_rms_epsilon"), (falcon, "layer_norm_epsilon")):
        key = f"{header.architecture}.attention.{name}"
        assert f"'{key}' is missing" in refusal(with_metadata(header, {key: None}))


@pytest.mark.parametrize("kind", ["bert", "t5", "none", None])
def test_other_tokenizers(kind: str | None, bpe: Header) -> None:
    """Only the vocabularies of SentencePiece and byte-level BPE are read."""
    header = with_metadata(bpe, {"tokenizer.ggml.model": kind})
    assert f"tokenizer '{kind}'" in refusal(header, ModelNotSupported)


@pytest.mark.parametrize("value", [None, [], "text", array("I", [1, 2])])
def test_no_vocabulary(value: Any, spm: Header) -> None:
    """A vocabulary must be a list of at least one text."""
    message = refusal(with_metadata(spm, {"tokenizer.ggml.tokens": value}), ModelNotSupported)
    assert "'tokenizer.ggml.tokens' is missing" in message


@pytest.mark.parametrize("name", ["scores", "token_type"])
def test_lists_as_long_as_the_vocabulary(name: str, spm: Header) -> None:
    """There must be a score and a type for each token.

    The loader reads beyond the end of a shorter list.
    """
    key, count = f"tokenizer.ggml.{name}", len(spm_vocabulary().tokens)
    whole = spm.metadata[key]
    for values in (whole[:-1], whole[:0], whole + whole[:1]):
        message = refusal(with_metadata(spm, {key: values}, spm.types[key]), ModelNotSupported)
        assert f"{len(values)} of '{key}' for {count} tokens" in message


@pytest.mark.parametrize("name", ["scores", "token_type"])
def test_lists_of_a_wrong_type(name: str, spm: Header) -> None:
    """The loader reads scores as 32-bit reals and types as 32-bit integers, whatever they are."""
    key, count = f"tokenizer.ggml.{name}", len(spm_vocabulary().tokens)
    for values, kind in (
        (array("B", bytes(count)), 0),
        (array("d", [0.0] * count), F64),
        ([b""] * count, 8),
        (spm.metadata[key][0], spm.types[key]),
        ("x" * count, 8),
    ):
        header = with_metadata(spm, {key: values}, kind)
        assert f"'{key}' has the wrong type" in refusal(header, ModelNotSupported)


def test_types_may_be_unsigned(bpe: Header) -> None:
    """Token types that were written as unsigned 32-bit numbers have the same bytes."""
    key = "tokenizer.ggml.token_type"
    check_runnable(with_metadata(bpe, {key: array("I", bpe.metadata[key])}, 4))


def test_scores_of_sentencepiece(spm: Header) -> None:
    """SentencePiece needs scores. Byte-level BPE does not."""
    header = with_metadata(spm, {"tokenizer.ggml.scores": None})
    assert "'tokenizer.ggml.scores' is missing" in refusal(header, ModelNotSupported)


@pytest.mark.parametrize("value", [None, "a b", [], array("i", [1, 2])])
def test_missing_merges(value: Any, bpe: Header) -> None:
    """Byte-level BPE needs a list of at least one merge."""
    header = with_metadata(bpe, {"tokenizer.ggml.merges": value})
    assert "'tokenizer.ggml.merges' is missing" in refusal(header, ModelNotSupported)


def without_token(header: Header, token: bytes) -> Header:
    before = header.metadata["tokenizer.ggml.tokens"]
    tokens = [b"other" if each == token else each for each in before]
    return with_metadata(header, {"tokenizer.ggml.tokens": tokens}, 8)


def test_vocabularies_without_a_line_end(bpe: Header, spm: Header, falcon: Header) -> None:
    """The loader looks up the line end, and ends the process where there is none."""
    assert "<0x0A>" in refusal(without_token(spm, b"<0x0A>"), ModelNotSupported)
    assert "line end" in refusal(without_token(bpe, "Ċ".encode()), ModelNotSupported)
    assert "line end" in refusal(without_token(falcon, b"\n"), ModelNotSupported)


@pytest.mark.parametrize("value", [7, 601, 0, 2**32 - 1, "x"])
def test_vocabulary_size(value: int | str, bpe: Header) -> None:
    """The list of tokens is the vocabulary. Neither llama.cpp nor ctransformers reads the size."""
    check_runnable(with_metadata(bpe, {"llama.vocab_size": value}))


@pytest.mark.parametrize("name", ["token_embd.weight", "output.weight"])
@pytest.mark.parametrize("more", [-1, 1, 8])
def test_a_token_for_each_row(name: str, more: int, spm: Header) -> None:
    """The message gives both numbers where they differ, and does not call the file damaged."""
    count = len(spm.metadata["tokenizer.ggml.tokens"])

    def resized(tensor: TensorInfo) -> TensorInfo:
        return replace(tensor, shape=(64, count + more)) if tensor.name == name else tensor

    message = refusal(with_tensors(spm, resized), ModelNotSupported)
    assert f"{count} tokens for the {count + more} rows of '{name}'" in message
    assert "damaged" not in message


@pytest.mark.parametrize("value", [array("i", [3]), array("I", [3, 4]), 3, "3", [b"3"]])
def test_suppressed_tokens(value: Any, bpe: Header) -> None:
    """llama.cpp never samples these tokens. We would, so a file that names some is refused."""
    key = "tokenizer.ggml.suppress_tokens"
    assert f"'{key}' names tokens" in refusal(with_metadata(bpe, {key: value}), ModelNotSupported)
    check_runnable(with_metadata(bpe, {key: array("i")}))


@pytest.mark.parametrize("name", ["bos", "eos", "unknown", "padding", "seperator", "eot"])
def test_special_tokens_outside_the_vocabulary(name: str, bpe: Header, spm: Header) -> None:
    """An id outside the vocabulary counts as no id, as for llama.cpp."""
    for header in (bpe, spm):
        count = len(header.metadata["tokenizer.ggml.tokens"])
        for value in (count - 1, count, 2**31, 2**32 - 1):
            check_runnable(with_metadata(header, {f"tokenizer.ggml.{name}_token_id": value}))


@pytest.mark.parametrize("name", ["bos", "eos", "unknown", "padding", "seperator"])
@pytest.mark.parametrize(("value", "kind"), [(1, 5), (1, U64), (True, 7), ("1", 8), (1.0, 6)])
def test_special_tokens_of_a_wrong_type(name: str, value: Any, kind: int, bpe: Header) -> None:
    """The loader takes special ids as unsigned 32-bit numbers only."""
    key = f"tokenizer.ggml.{name}_token_id"
    assert f"'{key}'" in refusal(with_metadata(bpe, {key: value}, kind), ModelNotSupported)


def test_default_special_tokens_of_a_small_vocabulary(tmp_path: Path) -> None:
    """Where a byte-level file names no end of text, the loader takes token 11, there or not."""
    tokens = ["<|endoftext|>", "Ċ", "a"]
    path = write_llama_gguf(
        tmp_path / "small.gguf",
        extra_metadata={
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3, 1, 1],
            "llama.vocab_size": 3,
        },
        drop=["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"],
    )
    header = with_tensors(
        read_header(path),
        lambda t: replace(t, shape=(64, 3)) if t.name == "token_embd.weight" else t,
    )
    check_runnable(header)


@pytest.mark.parametrize(
    "name", ["BF16", "IQ4_NL", "IQ2_XXS", "Q8_1", "Q8_K", "I8", "F64", "MXFP4"]
)
def test_tensor_types(name: str, bpe: Header) -> None:
    """The message names the tensor and its type, where the loader does not know the type."""
    wide = with_tensors(bpe, lambda t: replace(t, type=TYPES[name]) if len(t.shape) == 2 else t)
    message = refusal(wide, ModelNotSupported)
    assert f"tensor type {name} of 'token_embd.weight'" in message


@pytest.mark.parametrize("name", sorted(TENSOR_TYPE_NAMES))
def test_known_tensor_types(name: str, bpe: Header) -> None:
    """Matrices may have any type that the loader knows. Vectors must be F32."""
    wide = with_tensors(bpe, lambda t: replace(t, type=TYPES[name]) if len(t.shape) == 2 else t)
    check_runnable(wide)
    if name != "F32":
        narrow = with_tensors(bpe, lambda t: replace(t, type=TYPES[name]))
        assert f"is {name}, not F32" in refusal(narrow, ModelNotSupported)


def test_bfloat16_file(tmp_path: Path) -> None:
    """A real BF16 file is refused for its type."""
    header = read_header(write_llama_gguf(tmp_path / "model.gguf", tensor_type="BF16"))
    assert "tensor type BF16" in refusal(header, ModelNotSupported)


def test_each_missing_tensor(bpe: Header, falcon: Header) -> None:
    """The message names each missing tensor that the loader needs."""
    for header in (bpe, falcon):
        for missing in header.tensors:
            if missing.name != "output.weight":
                less = with_tensors(header, lambda t, m=missing: None if t is m else t)  # type: ignore[misc]
                assert f"the tensor '{missing.name}' is missing" in refusal(less)


def test_a_variant_lacks_what_it_has_otherwise(bpe: Header) -> None:
    """A tensor in place of a missing one is named first: a fused one, or a norm elsewhere."""
    for old, new in (("attn_q", "attn_qkv"), ("attn_norm", "post_attention_norm")):

        def renamed(tensor: TensorInfo, old: str = old, new: str = new) -> TensorInfo:
            return replace(tensor, name=tensor.name.replace(f".{old}.", f".{new}."))

        message = refusal(with_tensors(bpe, renamed), ModelNotSupported)
        assert f"tensor 'blk.0.{new}.weight' is unknown to ctransformers" in message


def test_what_contradicts_itself_may_be_whole(bpe: Header) -> None:
    """A file that contradicts itself may be damaged or written wrongly. The message says both."""
    less = with_tensors(bpe, lambda t: None if t.name == "output_norm.weight" else t)
    assert "is damaged, or was written wrongly; fetch it again, or take another" in refusal(less)


def test_each_misshapen_tensor(bpe: Header, falcon: Header) -> None:
    """Every shape must follow from the hyperparameters.

    A longer one is refused, and one with a dimension more or less.
    """
    for header in (bpe, falcon):
        for wrong in header.tensors:
            for shape in (
                (*wrong.shape[:-1], wrong.shape[-1] + 1),
                (*wrong.shape, 2),
                wrong.shape[:-1] or (1,),
            ):
                changed = replace(wrong, shape=shape)
                other = with_tensors(header, lambda t, w=wrong, c=changed: c if t is w else t)  # type: ignore[misc]
                if wrong.name in ("token_embd.weight", "output.weight") and shape[1:] == (601,):
                    continue  # a vocabulary of another size, above
                assert f"tensor '{wrong.name}' has the shape" in refusal(other)


def test_extra_tensors(bpe: Header) -> None:
    """The loader refuses a tensor that it does not know.

    The message names it, and Llama 3.1 for its own.
    """
    for name, reason in (
        ("rope_freqs.weight", "Llama 3.1"),
        ("blk.0.attn_q.bias", "variant"),
        ("blk.2.attn_norm.weight", "variant"),
    ):
        more = replace(bpe, tensors=[*bpe.tensors, replace(bpe.tensors[1], name=name)])
        message = refusal(more, ModelNotSupported)
        assert f"tensor '{name}' is unknown to ctransformers" in message
        assert reason in message


def test_more_blocks_than_tensors(bpe: Header) -> None:
    """An absurd number of blocks costs no time."""
    message = refusal(with_metadata(bpe, {"llama.block_count": 2**31 - 1}))
    assert "2,147,483,647 blocks" in message


def test_name_of_a_wrong_type(bpe: Header) -> None:
    """The loader gives up where the name is no text."""
    header = with_metadata(bpe, {"general.name": 5})
    assert "'general.name'" in refusal(header, ModelNotSupported)


@pytest.mark.parametrize(
    "key",
    [
        "general.architecture", "general.name", "general.file_type", "split.count",
        *(f"llama.{name}" for name in (*INTEGERS, *REALS, "vocab_size", "expert_count")),
        "llama.rope.scaling.type", "llama.rope.scaling.factor",
        *(f"tokenizer.ggml.{name}" for name in ("model", "tokens", "scores", "merges")),
        "tokenizer.ggml.token_type", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eot_token_id",
    ],
)  # fmt: skip
def test_any_value_is_an_objection_or_none(key: str, bpe: Header) -> None:
    """The check ends in an objection or none, whatever type the value has."""
    for value, kind in (
        (0, 4), (-1, 5), (2**64 - 1, 10), (math.nan, 6), (True, 7), ("", 8), ("x" * 5000, 8),
        ([], 8), ([b"\xff"] * 3000, 8), (array("I", range(3000)), 4), (array("f", [0.5]), 6),
    ):  # fmt: skip
        message = refused(with_metadata(bpe, {key: value}, kind))
        assert message is None or message.startswith("bpe.gguf: ")
        assert message is None or len(message) < 1100


def test_quantisation(tmp_path: Path, bpe: Header) -> None:
    """A file has the type that most of its bytes have. Without tensors it has none."""
    header = read_header(write_llama_gguf(tmp_path / "q.gguf", tensor_type="Q8_0"))
    assert quantisation(header) == "Q8_0"
    assert quantisation(bpe) == "F32"
    assert quantisation(replace(bpe, tensors=[])) == ""
