"""Tiny models in the file formats from before GGUF, as ctransformers' `model_type` names them.

A file begins with a magic number, the hyperparameters and the vocabulary, and goes on with the
tensors up to its end. Numbers are 32-bit and little-endian. It says nothing of its architecture:
the same magic number begins most of them, and the wrong `model_type` reads nonsense.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .tiny_models import (
    FALCON_TOKENS,
    Weights,
    bpe_vocabulary,
    make_tensors,
    spm_vocabulary,
    token_bytes,
)

ModelType = Literal[
    "gpt2", "gptj", "gptneox", "dollyv2", "starcoder", "mpt", "replit", "llama", "falcon"
]
MODEL_TYPES: tuple[ModelType, ...] = get_args(ModelType)

#: ggml's number for the type of the tensors, and of the file.
F32 = 0

END_OF_TEXT = b"<|endoftext|>"

#: Tokens with the end of text first, every byte, and words with and without a space before them.
VOCABULARY: tuple[bytes, ...] = (
    END_OF_TEXT,
    *(bytes([byte]) for byte in range(256)),
    *(b"the of is capital France Paris Japan Tokyo Hello world user assistant".split()),
    *(b" " + word for word in b"the a of is capital France Paris Japan Tokyo world".split()),
)

#: Tokens that ctransformers treats as special ones when they are in the vocabulary.
SPECIAL: dict[str, tuple[bytes, ...]] = {
    "dollyv2": (b"### End", b"### Instruction:", b"### Response:"),
    "starcoder": (b"<|system|>", b"<|user|>", b"<|assistant|>", b"<|end|>"),
}

#: The numbers before the vocabulary, by their names in `write_ggml`.
GPT2_HEADER = "ggml vocabulary context embedding heads blocks f32 vocabulary"
GPT_NEOX_HEADER = "ggml vocabulary context embedding heads blocks rotated parallel_residual f32"
HEADERS: dict[str, str] = {
    "gpt2": GPT2_HEADER,
    "starcoder": GPT2_HEADER,
    "gptj": "ggml vocabulary context embedding heads blocks rotated f32 vocabulary",
    "gptneox": GPT_NEOX_HEADER,
    "dollyv2": GPT_NEOX_HEADER,
    "mpt": "ggml embedding context heads blocks vocabulary alibi_bias_max clip_qkv f32",
    "replit": "ggml embedding context heads blocks vocabulary f32",
    "llama": "ggjt ggjt_version vocabulary embedding multiple heads blocks rotated f32",
    "falcon": "ggcc ggcc_version vocabulary embedding heads kv_heads blocks falcon_7b f32 merges",
}

#: The tensors of a model: outside the blocks, in each block, and the place of a block in a name.
#: The dimensions are numpy's (rows, columns), in these letters: v vocabulary, c context,
#: e embedding, f feed-forward (4e), 3 three times e, q query, key and value, n feed-forward of
#: llama.
GPT2 = (
    "model/ln_f/g e, model/ln_f/b e, model/wte ve, model/wpe ce, model/lm_head ve",
    "ln_1/g e, ln_1/b e, ln_2/g e, ln_2/b e, attn/c_attn/w 3e, attn/c_attn/b 3,"
    " attn/c_proj/w ee, attn/c_proj/b e, mlp/c_fc/w fe, mlp/c_fc/b f,"
    " mlp/c_proj/w ef, mlp/c_proj/b e",
    "model/h{}/",
)
GPT_NEOX = (
    "gpt_neox.embed_in.weight ve, gpt_neox.final_layer_norm.weight e,"
    " gpt_neox.final_layer_norm.bias e, embed_out.weight ve",
    "input_layernorm.weight e, input_layernorm.bias e,"
    " attention.query_key_value.weight 3e, attention.query_key_value.bias 3,"
    " attention.dense.weight ee, attention.dense.bias e,"
    " post_attention_layernorm.weight e, post_attention_layernorm.bias e,"
    " mlp.dense_h_to_4h.weight fe, mlp.dense_h_to_4h.bias f,"
    " mlp.dense_4h_to_h.weight ef, mlp.dense_4h_to_h.bias e",
    "gpt_neox.layers.{}.",
)
MPT = (
    "transformer.wte.weight ve, transformer.norm_f.weight e",
    "norm_1.weight e, attn.Wqkv.weight 3e, attn.out_proj.weight ee, norm_2.weight e,"
    " ffn.up_proj.weight fe, ffn.down_proj.weight ef",
    "transformer.blocks.{}.",
)
LAYOUTS: dict[str, tuple[str, str, str]] = {
    "gpt2": GPT2,
    "starcoder": GPT2,
    "gptj": (
        "transformer.wte.weight ve, transformer.ln_f.weight e, transformer.ln_f.bias e,"
        " lm_head.weight ve, lm_head.bias v",
        "ln_1.weight e, ln_1.bias e, attn.q_proj.weight ee, attn.k_proj.weight ee,"
        " attn.v_proj.weight ee, attn.out_proj.weight ee, mlp.fc_in.weight fe, mlp.fc_in.bias f,"
        " mlp.fc_out.weight ef, mlp.fc_out.bias e",
        "transformer.h.{}.",
    ),
    "gptneox": GPT_NEOX,
    "dollyv2": GPT_NEOX,
    "mpt": MPT,
    "replit": MPT,
    "llama": (
        "tok_embeddings.weight ve, norm.weight e, output.weight ve",
        "attention_norm.weight e, attention.wq.weight ee, attention.wk.weight ee,"
        " attention.wv.weight ee, attention.wo.weight ee, ffn_norm.weight e,"
        " feed_forward.w1.weight ne, feed_forward.w2.weight en, feed_forward.w3.weight ne",
        "layers.{}.",
    ),
    "falcon": (
        "transformer.word_embeddings.weight ve, transformer.ln_f.weight e,"
        " transformer.ln_f.bias e, lm_head.weight ve",
        "input_layernorm.weight e, input_layernorm.bias e,"
        " self_attention.query_key_value.weight qe, self_attention.dense.weight ee,"
        " mlp.dense_h_to_4h.weight fe, mlp.dense_4h_to_h.weight ef",
        "transformer.h.{}.",
    ),
}

#: As `tiny_models.SPREADS`, for the names of these formats.
SPREADS = dict.fromkeys(
    (
        *("c_proj/w", "out_proj.weight", "fc_out.weight", "dense.weight", "dense_4h_to_h.weight"),
        *("down_proj.weight", "wo.weight", "w2.weight", "wpe"),
    ),
    8.0,
) | dict.fromkeys(
    (
        *("wte", "lm_head", "wte.weight", "lm_head.weight", "embed_in.weight", "embed_out.weight"),
        *("word_embeddings.weight", "tok_embeddings.weight", "output.weight"),
    ),
    2.0,
)


def write_gpt2_ggml(
    path: str | Path,
    *,
    vocab: Sequence[bytes] | None = None,
    context_length: int = 256,
    seed: int = 0,
    weights: Weights = "random",
) -> Path:
    """Write a GGML file of type gpt2; the options are those of `write_ggml`."""
    return write_ggml(
        path, "gpt2", vocab=vocab, context_length=context_length, seed=seed, weights=weights
    )


def write_ggml(
    path: str | Path,
    model_type: ModelType,
    *,
    vocab: Sequence[bytes] | None = None,
    context_length: int = 256,
    blocks: int = 2,
    embedding: int = 64,
    heads: int = 4,
    seed: int = 0,
    weights: Weights = "random",
) -> Path:
    """Write a file of the type, with F32 weights, in the newest format that ctransformers reads.

    That is GGML, GGJT version 3 for llama, and GGCC version 10 for falcon. `vocab` is the raw
    bytes of each token. The files of llama and falcon do not tell their context length. mpt and
    replit have tied embeddings; for `weights` see `make_tensors`.
    """
    merges: Sequence[tuple[bytes, bytes]] = ()
    if vocab is None:
        vocab, merges = _vocabulary(model_type)
    head = embedding // heads
    kv_heads = 1
    multiple = 32  # llama rounds its feed-forward dimension, two thirds of 4e, up to one of these
    sizes = {
        "v": len(vocab),
        "c": context_length,
        "e": embedding,
        "f": 4 * embedding,
        "3": 3 * embedding,
        "q": (heads + 2 * kv_heads) * head,
        "n": -(-(8 * embedding // 3) // multiple) * multiple,
    }
    numbers = {
        "ggml": 0x67676D6C,
        "ggjt": 0x67676A74,
        "ggjt_version": 3,
        "ggcc": 0x67676363,
        "ggcc_version": 10,
        "vocabulary": len(vocab),
        "merges": len(merges),
        "context": context_length,
        "embedding": embedding,
        "heads": heads,
        "kv_heads": kv_heads,
        "blocks": blocks,
        "rotated": head,
        "multiple": multiple,
        "parallel_residual": 1,
        "alibi_bias_max": 8.0,
        "clip_qkv": 0.0,
        "falcon_7b": 7,
        "f32": F32,
    }
    outside, inside, block_name = LAYOUTS[model_type]
    shapes = _shapes(outside, "", sizes)
    for block in range(blocks):
        shapes |= _shapes(inside, block_name.format(block), sizes)
    tensors = make_tensors(shapes, weights, seed, SPREADS)

    with open(path, "wb") as file:
        for name in HEADERS[model_type].split():
            number = numbers[name]
            file.write(struct.pack("<f" if isinstance(number, float) else "<i", number))
        for rank, token in enumerate(vocab):
            _write_bytes(file, token.decode("latin-1").encode() if model_type == "mpt" else token)
            if model_type in ("replit", "llama", "falcon"):
                file.write(struct.pack("<f", 0.0 if model_type == "falcon" else -float(rank)))
        if model_type == "falcon":
            file.write(struct.pack("<i", len(merges)))
            for pair in merges:
                for part in pair:
                    _write_bytes(file, part)
        for name, values in tensors.items():
            _write_tensor(file, name, values, aligned=model_type in ("llama", "falcon"))
    return Path(path)


def _vocabulary(
    model_type: ModelType,
) -> tuple[Sequence[bytes], Sequence[tuple[bytes, bytes]]]:
    """The tokens as the converters of the type stored them, and falcon's merges."""
    if model_type == "llama":
        tokens = [" \u2047 ".encode(), b"", b"", *(bytes([byte]) for byte in range(256))]
        pieces = spm_vocabulary().tokens[len(tokens) :]
        return [*tokens, *(piece.replace("▁", " ").encode() for piece in pieces)], ()
    if model_type == "falcon":
        words = bpe_vocabulary(FALCON_TOKENS)
        learnt = words.tokens[len(FALCON_TOKENS) :]
        pairs = [merge.encode().split(b" ") for merge in words.merges]
        control = [token.encode() for token in FALCON_TOKENS]
        return [*control, *map(token_bytes, learnt)], [(left, right) for left, right in pairs]
    if model_type == "replit":
        return [token.replace(b" ", "▁".encode()) for token in VOCABULARY], ()
    return [*VOCABULARY, *SPECIAL.get(model_type, ())], ()


def _shapes(layout: str, prefix: str, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in layout.split(","):
        name, dimensions = entry.split()
        shapes[prefix + name] = tuple(sizes[letter] for letter in dimensions)
    return shapes


def _write_bytes(file: BinaryIO, data: bytes) -> None:
    file.write(struct.pack("<I", len(data)) + data)


def _write_tensor(file: BinaryIO, name: str, values: NDArray[np.float32], aligned: bool) -> None:
    """Dimensions go in ggml's order, columns first; data is aligned to 32 bytes or not at all."""
    dimensions = values.shape[::-1]
    file.write(struct.pack("<3i", len(dimensions), len(name), F32))
    file.write(struct.pack(f"<{len(dimensions)}i", *dimensions) + name.encode())
    if aligned:
        file.write(bytes(-file.tell() % 32))
    file.write(values.astype("<f4").tobytes())
