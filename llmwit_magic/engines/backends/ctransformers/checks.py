"""Whether ctransformers can run a model, checked before it opens the file.

The native loader crashes on a model that it cannot run, or says "Failed to create
LLM". So the conditions of its GGUF loader (ctransformers 0.2.27) are written out
here, and a refusal gives its reason.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping

from ....errors import ModelDamaged, ModelNotSupported
from ....models.gguf import Header
from ....models.kinds import names_suppressed_tokens
from ....models.tokenizers.pretokenizers import pretokenizer_named
from .computation import unlike_ctransformers

ARCHITECTURES = ("llama", "falcon")
_ROW_EACH = ("token_embd.weight", "output.weight")  # tensors with a row for each token
TENSOR_TYPE_NAMES = frozenset(
    ["F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
)
_UINT32, _FLOAT32, _INT32 = 4, 6, 5
_CONVERT = "convert the model again, or take another file of it"
# The largest vocabularies that are known have a quarter of that number.
MAX_TOKENS = 2**20


class _Objection(Exception):
    """Raised by the first check that finds an objection, and caught in this module."""


def objection(header: Header) -> str | None:
    """Why ctransformers cannot run the model, or None.

    What `adapt.py` can put right is no objection. Raises `ModelDamaged` where the file
    contradicts itself.
    """
    try:
        _check_architecture(header)
        if header.part_count > 1:
            raise _Objection(
                f"a model in {header.part_count} files: ctransformers loads models of one file; "
                "merge them by 'llama-gguf-split --merge'"
            )
        _check_hyperparameters(header)
        _check_vocabulary(header)
        _check_tensors(header)
    except _Objection as found:
        return str(found)
    return None


def check_runnable(header: Header) -> None:
    """Raise `ModelNotSupported` for an objection, `ModelDamaged` for a contradiction."""
    if (why := objection(header)) is not None:
        raise ModelNotSupported(f"{header.path.name}: {why}")


def _damaged(header: Header, why: str) -> ModelDamaged:
    """The error of a file that contradicts itself.

    Most often the file was written wrongly, since one that was cut off is noticed before.
    """
    return ModelDamaged(
        f"{header.path.name}: {why}: the file is damaged, or was written wrongly; fetch it again, "
        "or take another file of the model"
    )


def _check_architecture(header: Header) -> None:
    if header.architecture not in ARCHITECTURES:
        raise _Objection(
            f"architecture '{header.architecture}': ctransformers runs llama and falcon"
        )
    if not isinstance(header.metadata.get("general.name", ""), str):
        raise _Objection("'general.name' is not one text: ctransformers needs one")


def _check_hyperparameters(header: Header) -> None:
    def integer(name: str, default: int | None = None) -> int:
        key = f"{header.architecture}.{name}"
        value = header.metadata.get(key, default)
        if value is None:
            raise _damaged(header, f"'{key}' is missing")
        if header.types.get(key, _UINT32) != _UINT32 or not isinstance(value, int):
            raise _Objection(f"'{key}' is not one unsigned 32-bit number: ctransformers needs one")
        if not 1 <= value < 2**31:
            raise _damaged(header, f"'{key}' is {value}")
        return value

    def real(name: str, default: float | None = None, least: float = math.ulp(0.0)) -> float:
        key = f"{header.architecture}.{name}"
        value = header.metadata.get(key, default)
        if value is None:
            raise _damaged(header, f"'{key}' is missing")
        if header.types.get(key, _FLOAT32) != _FLOAT32 or not isinstance(value, float):
            raise _Objection(f"'{key}' is not one 32-bit real: ctransformers needs one")
        if not math.isfinite(value) or value < least:
            raise _damaged(header, f"'{key}' is {value}")
        return value

    integer("context_length")
    integer("block_count")
    integer("feed_forward_length")
    embedding = integer("embedding_length")
    heads = integer("attention.head_count")
    kv_heads = integer("attention.head_count_kv", heads)
    size = embedding // heads
    for name in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        if header.hyperparameter(name) is not None and integer(name) != size:
            raise _Objection(
                f"{name} {header.hyperparameter(name)} with heads of {size} dimensions: "
                "ctransformers needs them equal",
            )
    if embedding % heads or heads % kv_heads:
        raise _damaged(
            header,
            f"{heads} heads and {kv_heads} key-value heads do not divide {embedding} dimensions",
        )
    if size % 2:
        raise _Objection(f"heads of {size} dimensions: the rotary embedding turns pairs")
    epsilon = "layer_norm_rms_epsilon" if header.architecture == "llama" else "layer_norm_epsilon"
    real(f"attention.{epsilon}")
    real("rope.freq_base", 10000.0)
    real("rope.scale_linear", 1.0, least=0.0)
    real("rope.scaling.factor", 1.0, least=0.0)
    if (what := unlike_ctransformers(header)) is not None:
        raise _Objection(what)


def _check_vocabulary(header: Header) -> None:
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind not in ("llama", "gpt2"):
        raise _Objection(f"tokenizer '{kind}': supported are llama (SentencePiece) and gpt2 (BPE)")
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise _Objection("the vocabulary 'tokenizer.ggml.tokens' is missing")
    if len(tokens) > MAX_TOKENS:
        raise _Objection(f"a vocabulary of {len(tokens):,} tokens: at most {MAX_TOKENS:,}")
    # llama.cpp also accepts token types that were written as unsigned numbers.
    for name, item_types in (("scores", (_FLOAT32,)), ("token_type", (_INT32, _UINT32))):
        key = f"tokenizer.ggml.{name}"
        values = header.metadata.get(key)
        if values is None:
            if name == "scores" and kind == "llama":
                raise _Objection(f"'{key}' is missing: SentencePiece needs it; {_CONVERT}")
            continue
        if header.types[key] not in item_types or not isinstance(values, array):
            raise _Objection(f"'{key}' has the wrong type; {_CONVERT}")
        if len(values) != len(tokens):
            raise _Objection(f"{len(values):,} of '{key}' for {len(tokens):,} tokens; {_CONVERT}")
    merges = header.metadata.get("tokenizer.ggml.merges")
    if kind == "gpt2" and not (isinstance(merges, list) and merges):
        raise _Objection(f"'tokenizer.ggml.merges' is missing; {_CONVERT}")
    if kind == "gpt2":
        try:
            pretokenizer_named(header.metadata.get("tokenizer.ggml.pre"))
        except ModelNotSupported as error:
            raise _Objection(str(error)) from None
    if kind == "llama" and b"<0x0A>" not in tokens:
        raise _Objection("the vocabulary has no byte tokens such as <0x0A>")
    # The loader looks up the line end "\n". `adapt.py` makes it of "Ċ".
    if kind == "gpt2" and b"\n" not in tokens and "Ċ".encode() not in tokens:
        raise _Objection("the vocabulary has no token for a line end")
    if (why := names_suppressed_tokens(header)) is not None:
        raise _Objection(why)
    # An id outside the vocabulary counts as no id, for llama.cpp and for `adapt.py`.
    for key, number in header.metadata.items():
        if not (key.startswith("tokenizer.ggml.") and key.endswith("_token_id")):
            continue
        if header.types[key] != _UINT32 or not isinstance(number, int):
            raise _Objection(f"'{key}' is not one unsigned 32-bit number: ctransformers needs one")


def _check_tensors(header: Header) -> None:
    expected = expected_tensors(header)
    present = {tensor.name: tensor for tensor in header.tensors}
    # Unknown tensors are looked for first: a variant has one in place of another that it lacks.
    for name in present:
        if name not in expected:
            why = (
                "Llama 3.1 and later scale their rotary embedding in a way it lacks"
                if name == "rope_freqs.weight"
                else "it belongs to a variant of the architecture"
            )
            raise _Objection(f"tensor '{name}' is unknown to ctransformers: {why}")
    for name, shape in expected.items():
        tensor = present.get(name)
        if tensor is None:
            if name == "output.weight":
                continue  # tied to the embeddings
            raise _damaged(header, f"the tensor '{name}' is missing")
        actual = tensor.shape + (1,) * (len(shape) - len(tensor.shape))
        if (
            name in _ROW_EACH
            and len(tensor.shape) == 2
            and actual[0] == shape[0]
            and actual != shape
        ):
            raise _Objection(
                f"{shape[1]:,} tokens for the {actual[1]:,} rows of '{name}': ctransformers "
                f"needs one for each; {_CONVERT}",
            )
        if actual != shape:
            raise _damaged(header, f"tensor '{name}' has the shape {actual}, not {shape}")
        if tensor.type.name not in TENSOR_TYPE_NAMES:
            raise _Objection(
                f"tensor type {tensor.type.name} of '{name}': ctransformers knows "
                "F32, F16, Q4_0 to Q8_0 and Q2_K to Q6_K",
            )
        if len(shape) == 1 and tensor.type.name != "F32":
            raise _Objection(f"tensor '{name}' is {tensor.type.name}, not F32")


def expected_tensors(header: Header) -> Mapping[str, tuple[int, ...]]:
    """Name and shape (innermost dimension first) of each tensor that the loader asks for.

    Raises `ModelDamaged` where the header counts more blocks than there are tensors.
    """
    width = header.hyperparameter("embedding_length")
    inner = header.hyperparameter("feed_forward_length")
    heads = header.hyperparameter("attention.head_count")
    kv_width = width // heads * header.hyperparameter("attention.head_count_kv", heads)
    vocabulary = len(header.metadata["tokenizer.ggml.tokens"])
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (width, vocabulary),
        "output_norm.weight": (width,),
        "output.weight": (width, vocabulary),
    }
    llama = header.architecture == "llama"
    if not llama:
        shapes["output_norm.bias"] = (width,)
    second_norm = any(tensor.name == "blk.0.attn_norm_2.weight" for tensor in header.tensors)
    blocks = header.hyperparameter("block_count")
    if blocks > len(header.tensors):
        raise _damaged(header, f"{blocks:,} blocks for {len(header.tensors):,} tensors")
    for index in range(blocks):
        block = f"blk.{index}."
        shapes[block + "attn_norm.weight"] = (width,)
        shapes[block + "attn_output.weight"] = (width, width)
        shapes[block + "ffn_down.weight"] = (inner, width)
        shapes[block + "ffn_up.weight"] = (width, inner)
        if llama:
            shapes[block + "attn_q.weight"] = (width, width)
            shapes[block + "attn_k.weight"] = (width, kv_width)
            shapes[block + "attn_v.weight"] = (width, kv_width)
            shapes[block + "ffn_gate.weight"] = (width, inner)
            shapes[block + "ffn_norm.weight"] = (width,)
        else:
            shapes[block + "attn_norm.bias"] = (width,)
            shapes[block + "attn_qkv.weight"] = (width, width + 2 * kv_width)
            if second_norm:
                shapes[block + "attn_norm_2.weight"] = (width,)
                shapes[block + "attn_norm_2.bias"] = (width,)
    return shapes
