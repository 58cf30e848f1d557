"""Token ids equal llama.cpp's, over many scripts, for every pre-tokenizer and for SentencePiece.

The default model's vocabulary splits most texts alike under several pre-tokenizers, so those are
compared over a vocabulary trained without one: it has tokens across every boundary.
"""

import io
import json
import os
import random
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from llmwit_magic.models.tokenizers.building import build_tokenizer
from llmwit_magic.models.tokenizers.pretokenizers import PRETOKENIZERS
from tests.model import llamacpp

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<user>", "<us", "<s>", "</s>", "<unk>"]
TEXTS = [
    "",
    "Hello, world! It's 12345 o'clock; we'LL see. I'm 'S 'RE HELLO'S don'T",
    "Grüße aus Köln – schön, ÄÖÜß. camelCaseÉtéÀB iPhone McDonald's",
    "Привет, как дела? Всё хорошо.",
    "日本語で答えてください。東京は12時です",
    "你好，世界！我有３个苹果",
    "안녕하세요 세계 가나다",
    "مرحبا بالعالم ١٢٣، كيف؟ שלום עולם",
    "नमस्ते दुनिया १२३ क्षत्रिय বাংলা ভাষা ৪৫৬",
    "สวัสดีชาวโลก ๑๒๓",
    "Γειά σου Κόσμε ὦ ὅ ქართული ენა Հայերեն",
    "👨‍👩‍👧‍👦 family 🏳️‍🌈 flag 😀😀😀 🇩🇪",
    "def f(x):\n    return x**2  # comment\n\n\nclass A:\n\tpass\n",
    "for(int i=0;i<10;++i){a[i]+=~b^c|d&e%f$g`h`;}",
    "http://example.com/a/b?c=d&e=f#g /// //\n/",
    "   leading, trailing   ",
    "a\r\nb\r\n\r\nc\rd\n\n\n e\n \n \t\n  f",
    " " * 37 + "x" + "\t" * 9 + "\n" * 7 + " \n \n",
    "".join(map(chr, range(32))) + "\x7f\x80\x85\x9f\xa0\xad",
    "a\0b \0 c\x04\x06\x13",
    "<|im_start|>system\nYou are.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n",
    "x<|im_end|>y<|endoftext|>z<|im_start|><|im_start|> <|im_ <user><us<users",
    "1 22 333 4444 55555 666666 7777777 1234567890123 ½ ² ⅷ ①②③ 12½34²5 ₁₂₃ a₁ ١٢٣٤٥٦٧",
    "~tilde ~~ a~b ~1 ~\n…。，、।۔، foo…bar。baz (a|b)",
    "e\u0301a\u0300 \u0301 x\u200by\u200d\ufeff\u2028\u2029\u3000z\u1680",
    "ſ 'ſ K 'K ǅ ǆ ªº ʰ \ue000\U000f0000\ufffd\uffff 𝐀𝟘 𐐀𐐨 ㍿",
]


@cache
def comparison_texts() -> list[str]:
    """The texts above and 600 random mixtures of them, always the same ones."""
    draw = random.Random(1)
    characters = [
        chr(code) for code in range(0x20000) if unicodedata.category(chr(code)) not in ("Cs", "Cn")
    ]
    ascii_bits = [*"abcXYZ0123456789 \n\t\r'.,!?-_~$+|<>(){}[]/\\\"#@`^*&%"]
    ascii_bits += ["'s", "'LL", "  ", "   ", "\n\n", " \n", "\r\n"]
    words = [word for text in TEXTS for word in text.split(" ")]
    kinds = [ascii_bits, words, characters, SPECIALS]
    return TEXTS + [
        "".join(
            draw.choice(draw.choices(kinds, weights=[55, 25, 15, 5])[0])
            for _ in range(draw.randint(1, 25))
        )
        for _ in range(600)
    ]


@pytest.fixture(scope="module")
def byte_level_vocabulary() -> dict[str, Any]:
    """Metadata of a byte-level BPE trained on the texts uncut, with some merges taken out.

    A token whose merge is missing tells whether merges are ignored for whole words.
    """
    trained = HuggingFaceTokenizer(BPE())
    trained.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    trained.train_from_iterator(
        comparison_texts() * 2,
        BpeTrainer(
            vocab_size=5000,
            min_frequency=2,
            max_token_length=12,
            initial_alphabet=sorted(ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    model = json.loads(trained.to_str())["model"]
    head = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<us", "<user>"]
    tokens = head + [t for t in sorted(model["vocab"], key=model["vocab"].get) if t not in head]
    merges = [" ".join(merge) for merge in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [token.encode() for token in tokens],
        "tokenizer.ggml.token_type": [UNKNOWN, *[CONTROL] * 6, USER_DEFINED]
        + [1] * (len(tokens) - len(head)),
        "tokenizer.ggml.merges": [m.encode() for i, m in enumerate(merges) if i % 10 != 9],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


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


@pytest.mark.parametrize("name", [None, *PRETOKENIZERS])
def test_pre_tokenizer(
    name: str | None, byte_level_vocabulary: dict[str, Any], tmp_path: Path
) -> None:
    """Each pre-tokenizer name, and none at all, gives llama.cpp's ids."""
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
