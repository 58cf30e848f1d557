"""Tiny GGUF models with random weights, which real engines load and evaluate within milliseconds.

A file depends on the arguments alone: the same call writes the same bytes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGUFValueType, GGUFWriter, LlamaFileType, TokenType
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.support.k_quants import quantised

Weights = Literal["random", "zero", "constant", "nan", "successor"]
Shapes = Mapping[str, tuple[int, ...]]
Tensors = dict[str, NDArray[np.float32]]

#: What the vocabularies are learnt from: English first, then scripts whose characters take two,
#: three and four bytes, code, digits and whitespace runs.
TEXT = """\
A language model reads a prompt and predicts the next token. The prompt is a list of tokens, and
every token is a piece of text. The model gives one logit for each token of its vocabulary; the
softmax of the logits is the probability of what comes next. Sampling at a low temperature takes
the best token nearly always, and sampling at a high temperature takes many others.

user: What is the capital of France?
assistant: The capital of France is Paris.
user: And what is the capital of Japan?
assistant: The capital of Japan is Tokyo. It is the largest city in the country.
system: You are a helpful assistant. Answer the questions of the user, and be brief.

Once upon a time there was a small robot that lived in a house near the sea. Every morning the
robot went to the beach and counted the waves: one, two, three, four, five, six, seven, eight,
nine, ten. When the sun was high it went home again, and the people in the house said hello.
"Hello, world!" said the robot. "I've seen 1024 waves today, and I'll see 2048 more tomorrow."

def fibonacci(n):
    if n < 2:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)

for i in range(10):
    print(i, fibonacci(i))

Un café, s'il vous plaît. Où est la gare ? Die Straße ist schön, und die Bäume sind grün.
El niño comió una piña. Être ou ne pas être, voilà la question. Grüße aus München und Köln.
Привет, мир! Это простой текст. Привет, как дела?
日本語で答えてください。日本の首都は東京です。日本語のテキスト。你好,世界!你好。
สวัสดีชาวโลก สวัสดี 안녕하세요 세계 안녕하세요 😀 🎉 😀 👍🏽 🎉
"""

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

#: The control tokens of Falcon 7B, with its ids; 11 ends a text.
FALCON_TOKENS = (
    *(f">>{name}<<" for name in ("TITLE", "ABSTRACT", "INTRODUCTION", "SUMMARY", "COMMENT")),
    *(f">>{name}<<" for name in ("ANSWER", "QUESTION", "DOMAIN", "PREFIX", "SUFFIX", "MIDDLE")),
    "<|endoftext|>",
)

#: What a model with an `answer` is asked: two letters that no other merge joins.
QUESTION = "qq"

#: Standard deviation of a matrix's values times the square root of its columns, by the end of its
#: name; 1 for the others. The output's is that of the logits. What each block adds outweighs the
#: token's own embedding: otherwise tied embeddings merely repeat the last token.
SPREADS = {
    "attn_output.weight": 8.0,
    "ffn_down.weight": 8.0,
    "token_embd.weight": 2.0,
    "output.weight": 2.0,
}


#: Ends of the names of what converters do not quantise.
STAY_F32 = (".bias", "ffn_gate_inp.weight")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, with scores and types; `merges` is empty for SentencePiece."""

    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...] = ()


@cache
def bpe_vocabulary(
    control: tuple[str, ...] = CHATML_TOKENS, size: int = 600, text: str = TEXT
) -> Vocabulary:
    """Byte-level BPE: the control tokens, the 256 bytes in GPT-2's byte-to-unicode form, merges.

    Words are split as the pre-tokenizer `smollm` does: single digits apart, then GPT-2's
    expression. A merge is the two parts with a space between, in order of rank.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(control),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokens, merges = _learn(tokenizer, trainer, text)
    types = [TokenType.CONTROL] * len(control) + [TokenType.NORMAL] * (len(tokens) - len(control))
    return Vocabulary(tuple(tokens), (0.0,) * len(tokens), tuple(types), tuple(merges))


@cache
def spm_vocabulary(size: int = 600, text: str = TEXT) -> Vocabulary:
    """SentencePiece as Llama 2 has it: `<unk>`, `<s>`, `</s>`, 256 byte tokens, pieces with `▁`.

    Merged pieces come in order of rank, then single characters; the score is the negative rank.
    """
    control = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(control), show_progress=False
    )
    tokens, _ = _learn(tokenizer, trainer, " ".join(text.split()))
    pieces = sorted(tokens[len(control) :], key=lambda piece: len(piece) == 1)
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    types += [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(pieces)
    scores = [0.0] * len(control) + [-float(rank) for rank in range(len(pieces))]
    return Vocabulary((*control, *pieces), tuple(scores), tuple(types))


def _learn(
    tokenizer: Tokenizer, trainer: trainers.BpeTrainer, text: str
) -> tuple[list[str], list[str]]:
    """The tokens in order of id, and the merges in order of rank."""
    tokenizer.train_from_iterator([text], trainer)
    ids = tokenizer.get_vocab()
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return sorted(ids, key=ids.__getitem__), [" ".join(pair) for pair in merges]


def _with_answer(words: Vocabulary, answer: Sequence[str], marks: Collection[str]) -> Vocabulary:
    """The vocabulary with a token for the question, and after it the answer's, which no merge makes.

    Those among `marks` are control tokens.
    """
    if not answer:
        return words
    to_unicode = {byte: character for character, byte in unicode_to_byte().items()}
    texts = ["".join(to_unicode[byte] for byte in text.encode()) for text in answer]
    tokens = (*words.tokens, QUESTION, *texts)
    new = len(tokens) - len(words.tokens)
    return Vocabulary(
        tokens,
        words.scores + (0.0,) * new,
        words.types
        + (TokenType.NORMAL,) * (new - len(answer))
        + tuple(TokenType.CONTROL if text in marks else TokenType.NORMAL for text in answer),
        (*words.merges, " ".join(QUESTION)),
    )


@cache
def unicode_to_byte() -> dict[str, int]:
    """GPT-2's byte-to-unicode map, the other way round.

    Printable bytes stand for themselves; the others take the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


def token_bytes(token: str) -> bytes:
    """The raw bytes of a token in GPT-2's byte-to-unicode form."""
    to_byte = unicode_to_byte()
    return bytes(to_byte[character] for character in token)


def make_tensors(
    shapes: Shapes,
    weights: Weights = "random",
    seed: int = 0,
    spreads: Mapping[str, float] = SPREADS,
) -> Tensors:
    """Values for the tensors named, in numpy's order of dimensions (rows, columns).

    - "random": normal, with `spreads` as in `SPREADS`. A tensor depends on its name, its shape and
      the seed, not on the other tensors.
    - "zero": all logits are 0, so every token is equally likely.
    - "constant": the best token is the last but one, whatever the text.
    - "nan": the vectors are NaN, and so are all logits.
    - "successor": the best token after token i is i + 1, and after the last one the first. The
      embedding is the first matrix and the output the second one of the same shape; the blocks
      add nothing.
    """
    if weights in ("zero", "nan"):
        vector = 0 if weights == "zero" else np.nan
        return {
            name: np.full(shape, vector if len(shape) == 1 else 0, np.float32)
            for name, shape in shapes.items()
        }
    tensors = {name: _random(name, shape, seed, spreads) for name, shape in shapes.items()}
    if weights == "constant":
        return _constant(tensors)
    return _successors(tensors) if weights == "successor" else tensors


def _random(
    name: str, shape: tuple[int, ...], seed: int, spreads: Mapping[str, float]
) -> NDArray[np.float32]:
    values = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    if len(shape) >= 2:
        spread = next((spreads[end] for end in spreads if name.endswith(end)), 1.0)
        values *= spread / np.sqrt(shape[-1])
    else:
        values = _is_scale(name) + 0.1 * values
    return values.astype(np.float32)


def _is_scale(name: str) -> bool:
    """Whether a vector multiplies, as a norm's weight does, or is added, as a bias."""
    return name.endswith((".weight", "/g"))


def _successors(tensors: Tensors) -> Tensors:
    embedding, output = _ends(tensors)
    directions = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    _empty(tensors)
    embedding[:] = directions
    output[:] = 3 * np.roll(directions, 1, axis=0)
    return tensors


def _constant(tensors: Tensors) -> Tensors:
    embedding, output = _ends(tensors)
    _empty(tensors)
    embedding[:] = output[-2] = 1
    return tensors


def _ends(tensors: Tensors) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The embedding and the output matrix."""
    matrices = [values for values in tensors.values() if values.ndim == 2]
    output = next((m for m in matrices[1:] if m.shape == matrices[0].shape), None)
    if output is None:
        raise ValueError("such weights need an output matrix: the embeddings are tied")
    return matrices[0], output


def _empty(tensors: Tensors) -> None:
    """Let the blocks add nothing."""
    for name, values in tensors.items():
        values[:] = _is_scale(name) if values.ndim == 1 else 0


def write_llama_gguf(
    path: str | Path,
    *,
    vocabulary: Literal["bpe", "spm"] = "bpe",
    context_length: int = 256,
    blocks: int = 2,
    embedding: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    feed_forward: int = 128,
    tied: bool | None = None,
    seed: int = 0,
    template: str | None = CHATML,
    tensor_type: str = "F32",
    weights: Weights = "random",
    extra_metadata: Mapping[str, Any] | None = None,
    drop: Collection[str] = (),
    answer: Sequence[str] = (),
    tensors_per_part: int = 0,
    marks: Collection[str] = (),
) -> Path:
    """Write a GGUF file of architecture llama as llama.cpp's converters do today.

    "bpe" is like SmolLM2: a byte-level vocabulary without scores, ChatML control tokens, tied
    embeddings (no `output.weight`). ctransformers refuses it as it is. "spm" is like Llama 2,
    untied, and ctransformers loads it. `tied` overrides either.

    `tensor_type` is the type of the matrices, by its GGML name ("F16", "Q8_0", "BF16" …); vectors
    stay F32. For `weights` see `make_tensors`. `extra_metadata` sets keys: a plain value, or a
    pair of value and `GGUFValueType`. `drop` leaves out the keys and the tensors named.
    `answer` adds tokens to the end of a "bpe" vocabulary: with weights "successor", what the model
    says, token by token, to the prompt `QUESTION`. Those among `marks` are control tokens.
    `tensors_per_part` makes a model in several files, of which the first is returned.
    """
    tied = vocabulary == "bpe" if tied is None else tied
    words = bpe_vocabulary() if vocabulary == "bpe" else spm_vocabulary()
    words = _with_answer(words, answer, marks)
    head = embedding // heads
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": f"Tiny {vocabulary}",
        "general.license": "apache-2.0",
        "general.languages": ["en"],
        "llama.block_count": blocks,
        "llama.context_length": context_length,
        "llama.embedding_length": embedding,
        "llama.feed_forward_length": feed_forward,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "general.file_type": _file_type(tensor_type),
        "llama.vocab_size": len(words.tokens),
        "llama.rope.dimension_count": head,
    }
    if vocabulary == "bpe":
        metadata |= {
            "tokenizer.ggml.add_space_prefix": False,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.ggml.tokens": list(words.tokens),
            "tokenizer.ggml.token_type": [int(kind) for kind in words.types],
            "tokenizer.ggml.merges": list(words.merges),
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.padding_token_id": 2,
        }
    else:
        metadata |= {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": list(words.tokens),
            "tokenizer.ggml.scores": list(words.scores),
            "tokenizer.ggml.token_type": [int(kind) for kind in words.types],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.add_eos_token": False,
        }
    if template is not None:
        metadata["tokenizer.chat_template"] = template
    metadata["general.quantization_version"] = 2

    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(words.tokens), embedding)}
    for block in range(blocks):
        shapes |= {
            f"blk.{block}.attn_norm.weight": (embedding,),
            f"blk.{block}.ffn_down.weight": (embedding, feed_forward),
            f"blk.{block}.ffn_gate.weight": (feed_forward, embedding),
            f"blk.{block}.ffn_up.weight": (feed_forward, embedding),
            f"blk.{block}.ffn_norm.weight": (embedding,),
            f"blk.{block}.attn_k.weight": (kv_heads * head, embedding),
            f"blk.{block}.attn_output.weight": (embedding, embedding),
            f"blk.{block}.attn_q.weight": (embedding, embedding),
            f"blk.{block}.attn_v.weight": (kv_heads * head, embedding),
        }
    shapes["output_norm.weight"] = (embedding,)
    if not tied:
        shapes["output.weight"] = (len(words.tokens), embedding)
    return _write_gguf(
        path, metadata, shapes, tensor_type, weights, seed, extra_metadata, drop, tensors_per_part
    )


def write_falcon_gguf(
    path: str | Path,
    *,
    context_length: int = 256,
    blocks: int = 2,
    embedding: int = 64,
    heads: int = 4,
    kv_heads: int = 1,
    parallel_norm: bool = False,
    seed: int = 0,
    tensor_type: str = "F32",
    weights: Weights = "random",
    extra_metadata: Mapping[str, Any] | None = None,
    drop: Collection[str] = (),
) -> Path:
    """Write a GGUF file of architecture falcon as the converters of 2023 did.

    Tokens are raw bytes, all of type normal and score 0; merges keep the byte-to-unicode form.
    ctransformers loads it as it is. `parallel_norm` adds the second norm that Falcon 40B has (with
    more than one of `kv_heads`). The rest is as in `write_llama_gguf`.
    """
    words = bpe_vocabulary(FALCON_TOKENS)
    count = len(FALCON_TOKENS)
    tokens = [token.encode() for token in words.tokens[:count]]
    tokens += [token_bytes(token) for token in words.tokens[count:]]
    metadata: dict[str, Any] = {
        "general.architecture": "falcon",
        "general.name": "Falcon",
        "falcon.context_length": context_length,
        "falcon.tensor_data_layout": "jploski",
        "falcon.embedding_length": embedding,
        "falcon.feed_forward_length": 4 * embedding,
        "falcon.block_count": blocks,
        "falcon.attention.head_count": heads,
        "falcon.attention.head_count_kv": kv_heads,
        "falcon.attention.layer_norm_epsilon": 1e-5,
        "general.file_type": _file_type(tensor_type),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": list(words.scores),
        "tokenizer.ggml.token_type": [int(TokenType.NORMAL)] * len(tokens),
        "tokenizer.ggml.merges": list(words.merges),
        "tokenizer.ggml.bos_token_id": 11,
        "tokenizer.ggml.eos_token_id": 11,
    }
    if tensor_type not in ("F32", "F16"):
        metadata["general.quantization_version"] = 2

    rows = (heads + 2 * kv_heads) * (embedding // heads)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens), embedding)}
    for block in range(blocks):
        if parallel_norm:
            shapes |= {
                f"blk.{block}.attn_norm_2.weight": (embedding,),
                f"blk.{block}.attn_norm_2.bias": (embedding,),
            }
        shapes |= {
            f"blk.{block}.attn_norm.weight": (embedding,),
            f"blk.{block}.attn_norm.bias": (embedding,),
            f"blk.{block}.attn_qkv.weight": (rows, embedding),
            f"blk.{block}.attn_output.weight": (embedding, embedding),
            f"blk.{block}.ffn_up.weight": (4 * embedding, embedding),
            f"blk.{block}.ffn_down.weight": (embedding, 4 * embedding),
        }
    shapes |= {
        "output_norm.weight": (embedding,),
        "output_norm.bias": (embedding,),
        "output.weight": (len(tokens), embedding),
    }
    return _write_gguf(path, metadata, shapes, tensor_type, weights, seed, extra_metadata, drop)


def _file_type(tensor_type: str) -> int:
    if tensor_type == "F32":
        return LlamaFileType.ALL_F32
    return LlamaFileType[f"MOSTLY_{tensor_type}"]


def _write_gguf(
    path: str | Path,
    metadata: dict[str, Any],
    shapes: Shapes,
    tensor_type: str,
    weights: Weights,
    seed: int,
    extra_metadata: Mapping[str, Any] | None,
    drop: Collection[str],
    tensors_per_part: int = 0,
    fixed: Mapping[str, NDArray[np.float32]] | None = None,
    spreads: Mapping[str, float] = SPREADS,
) -> Path:
    """`fixed` are further tensors with their values."""
    tensors = make_tensors(shapes, weights, seed, spreads) | dict(fixed or {})
    metadata |= extra_metadata or {}
    if unknown := set(drop) - metadata.keys() - tensors.keys():
        raise ValueError(f"nothing to drop: {sorted(unknown)}")

    writer = GGUFWriter(path, arch="", split_max_tensors=tensors_per_part)
    writer.kv_data[0].clear()
    for key, value in metadata.items():
        if key not in drop:
            plain, kind = value if isinstance(value, tuple) else (value, _value_type(value))
            writer.add_key_value(key, plain, kind)
    matrix_type = GGMLQuantizationType[tensor_type]
    for name, values in tensors.items():
        if name not in drop:
            kind = matrix_type if values.ndim >= 2 else GGMLQuantizationType.F32
            if values.shape[-1] % GGML_QUANT_SIZES[kind][0] or name.endswith(STAY_F32):
                kind = GGMLQuantizationType.F32
            writer.add_tensor(name, quantised(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(writer.format_shard_names(Path(path))[0])


def _value_type(value: object) -> GGUFValueType:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return GGUFValueType.UINT32
    return GGUFValueType.get_type(value)
