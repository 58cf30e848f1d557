"""What is said of a model file before llama.cpp sees it."""

from __future__ import annotations

import math
import subprocess
import sys
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.engines.backends.llamacpp.llama_backend import LlamaCpp
from llmwit_magic.engines.backends.llamacpp.llama_checks import (
    ARCHITECTURES,
    objection,
)
from llmwit_magic.engines.backends.llamacpp.llama_loading import kv_bytes_per_token
from llmwit_magic.engines.backends.llamacpp.llama_sources import source
from llmwit_magic.engines.backends.llamacpp.llama_vocabulary_checks import MAX_TOKENS
from llmwit_magic.errors import InferenceError, ModelDamaged
from llmwit_magic.models.gguf import Header, TensorInfo, read_header
from llmwit_magic.models.tensor_types import TENSOR_TYPES
from llmwit_magic.models.tokenizers.building import build_tokenizer
from tests.support.headers import with_metadata
from tests.support.tiny_models import write_falcon_gguf, write_llama_gguf

COUNTS = ("context_length", "block_count", "embedding_length")
HEADS = (
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length",
)  # fmt: skip
NO_NUMBERS: list[Any] = ["5", "", 5.0, math.nan, True, [b"a"], []]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Header:
    """The header of a model that llama.cpp runs."""
    return read_header(write_llama_gguf(tmp_path_factory.mktemp("models") / "sound.gguf"))


def changed(header: Header, **values: Any) -> Header:
    """The header with other values; `__` stands for a point, and None takes the key away."""
    metadata = dict(header.metadata)
    for key, value in values.items():
        metadata[key.replace("__", ".")] = value
    return replace(header, metadata={k: v for k, v in metadata.items() if v is not None})


def of_llama(header: Header, name: str, value: Any) -> Header:
    """The header with another value of a hyperparameter."""
    return changed(header, **{f"llama.{name}": value})


# Architectures ------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", ["bpe", "spm"])
def test_a_sound_file(vocabulary: Any, tmp_path: Path) -> None:
    """Both kinds of vocabularies of the architecture llama are taken."""
    path = write_llama_gguf(tmp_path / "tiny.gguf", vocabulary=vocabulary)
    assert objection(read_header(path)) is None
    assert LlamaCpp().objection(read_header(path)) is None


def test_a_sound_falcon(tmp_path: Path) -> None:
    """Counts are looked up by the name of the architecture."""
    assert objection(read_header(write_falcon_gguf(tmp_path / "tiny.gguf"))) is None


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_each_architecture_is_known(architecture: str, sound: Header) -> None:
    """Whichever of the list a file names, with its counts, is taken."""
    counts = {f"{architecture}.{name}": 64 for name in COUNTS}
    assert objection(changed(sound, general__architecture=architecture, **counts)) is None


@pytest.mark.parametrize("name", ["clip", "bert", "t5encoder", "LLAMA", "llama2", "", "x\ny"])
def test_an_unknown_architecture_is_named(name: str, sound: Header) -> None:
    """Encoders and projectors, which generate no text, are refused like names that nobody knows."""
    message = objection(changed(sound, general__architecture=name))
    assert message is not None
    assert f"architecture '{name}'" in message
    assert "llama.cpp does not know it" in message


def test_an_architecture_that_is_missing(sound: Header) -> None:
    """It is taken for one without a name."""
    message = objection(changed(sound, general__architecture=None))
    assert message is not None
    assert "architecture ''" in message


@pytest.mark.skipif(
    bool(source().problem or source().bindings), reason="the table is of the library of the extra"
)
def test_the_library_knows_each_architecture() -> None:
    """Each name stands in the library, as C stores a text."""
    library = source().find("llama")
    assert library is not None
    data = library.read_bytes()
    assert b"no such architecture\0" not in data
    assert [name for name in sorted(ARCHITECTURES) if name.encode() + b"\0" not in data] == []


# Counts -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [None, 0, -1, -(2**31), 2**31, 2**64 - 1, *NO_NUMBERS])
def test_a_count_that_is_none(name: str, value: Any, sound: Header) -> None:
    """What is missing, zero, negative, too large or no whole number is damage, named by its key."""
    with pytest.raises(ModelDamaged) as caught:
        objection(of_llama(sound, name, value))
    message = str(caught.value)
    assert message.startswith(f"sound.gguf: 'llama.{name}' is {value}: the file is damaged")
    assert message.isprintable()


@pytest.mark.parametrize("name", COUNTS)
def test_counts_at_their_limits(name: str, sound: Header) -> None:
    """The least and the largest are taken: the library compares them with the tensors."""
    most = 512 if name == "block_count" else 2**31 - 1
    for value in (1, most):
        assert objection(of_llama(sound, name, value)) is None


@pytest.mark.parametrize("value", [513, 65536, 2**31 - 1])
def test_more_blocks_than_the_library_takes(value: int, sound: Header) -> None:
    """The library aborts its process at them."""
    message = objection(of_llama(sound, "block_count", value))
    assert message == f"{value:,} blocks: llama.cpp runs at most 512"


def test_a_count_of_another_architecture(sound: Header) -> None:
    """Counts that stand under another name are missing."""
    with pytest.raises(ModelDamaged, match=r"'qwen3\.context_length' is None"):
        objection(changed(sound, general__architecture="qwen3"))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    "value", [-1, 2**31, *NO_NUMBERS, array("i", [4, -1]), array("f", [4.0]), array("i")]
)
def test_numbers_of_heads_that_are_none(name: str, value: Any, sound: Header) -> None:
    """The size of a token's memory is computed with them, so no nonsense may stand there."""
    with pytest.raises(ModelDamaged, match=rf"sound\.gguf: 'llama\.{name}' is "):
        objection(of_llama(sound, name, value))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("value", [None, 0, 1, array("I", [4, 0]), array("i", [2, 2])])
def test_numbers_of_heads(name: str, value: Any, sound: Header) -> None:
    """They may be missing, be zero for a model without attention, or be given for each layer."""
    header = of_llama(sound, name, value)
    assert objection(header) is None
    assert kv_bytes_per_token(header) >= 0


def test_the_memory_of_a_token(sound: Header) -> None:
    """Two bytes for each dimension of keys and values, by layer: the largest where layers differ."""
    # Two layers, two heads for keys and values, of 64 / 4 dimensions.
    assert kv_bytes_per_token(sound) == 2 * 2 * 2 * (16 + 16)
    assert kv_bytes_per_token(of_llama(sound, "attention.key_length", 32)) == 2 * 2 * 2 * (32 + 16)
    layers = of_llama(sound, "attention.head_count_kv", array("I", [1, 4]))
    assert kv_bytes_per_token(layers) == 2 * 2 * 4 * (16 + 16)
    same = of_llama(sound, "attention.head_count_kv", None)
    assert kv_bytes_per_token(same) == 2 * 2 * 4 * (16 + 16)


# Vocabularies -------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [None, [], "tokens", 5, array("I", [1, 2])])
def test_a_missing_vocabulary(tokens: Any, sound: Header) -> None:
    """Tokens that are missing, none, or no texts: a generating model has them."""
    message = objection(changed(sound, tokenizer__ggml__tokens=tokens))
    assert message == "the vocabulary 'tokenizer.ggml.tokens' is missing"


def test_a_vocabulary_that_is_too_large(sound: Header) -> None:
    """More than a million tokens are no vocabulary; that many are one."""
    most = [b"%d" % number for number in range(MAX_TOKENS)]
    header = changed(sound, tokenizer__ggml__token_type=None)
    assert objection(changed(header, tokenizer__ggml__tokens=most)) is None
    message = objection(changed(header, tokenizer__ggml__tokens=[*most, b"a"]))
    assert message == "a vocabulary of 1,048,577 tokens: at most 1,048,576"


@pytest.mark.parametrize(
    ("first", "second"), [(b"a", b"a"), (b"the", b"the\0more"), (b"\xff\0", b"\xff\0\0")]
)
def test_a_token_that_stands_twice(first: bytes, second: bytes, sound: Header) -> None:
    """The library aborts its process at it; it reads a token up to a NUL."""
    tokens = [first, *(b"%d" % number for number in range(598)), second]
    message = objection(changed(sound, tokenizer__ggml__tokens=tokens))
    assert message is not None
    assert message.startswith(f"the token {second!r} stands twice in the vocabulary")


def test_tokens_that_the_library_tells_apart(sound: Header) -> None:
    """Empty ones get names of their own, and a NUL alone makes none the same."""
    tokens = [b"", b"\0", b"", b"a\0b", *(b"%d" % number for number in range(596))]
    assert objection(changed(sound, tokenizer__ggml__tokens=tokens)) is None


@pytest.mark.parametrize(
    "kind", [None, "none", "no_vocab", "test", "hybriddna", "whitespace", "", 5, "LLAMA", [b"t5"]]
)
def test_a_tokenizer_of_another_kind(kind: Any, sound: Header) -> None:
    """It is named, with those that are supported. The library ends its process at some of them."""
    message = objection(changed(sound, tokenizer__ggml__model=kind))
    assert message == (
        f"tokenizer '{kind}': supported are llama (SentencePiece), gpt2 (BPE), t5 (Unigram), bert "
        "(WordPiece), rwkv (RWKV), plamo2 (PLaMo 2), gemma4 (Gemma 4)"
    )


SCORES, TYPES, MERGES = (f"tokenizer.ggml.{name}" for name in ("scores", "token_type", "merges"))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (SCORES, "scores", "has the wrong type"),
        (SCORES, array("i", [0] * 600), "has the wrong type"),
        (SCORES, [b"0"] * 600, "has the wrong type"),
        (SCORES, array("f", [0] * 599), "599 of 'tokenizer.ggml.scores' for 600 tokens"),
        (SCORES, array("f"), "0 of 'tokenizer.ggml.scores' for 600 tokens"),
        (TYPES, 1, "has the wrong type"),
        (TYPES, array("f", [1] * 600), "has the wrong type"),
        (TYPES, array("i", [1] * 601), "601 of 'tokenizer.ggml.token_type' for 600 tokens"),
        (MERGES, None, "is missing"),
        (MERGES, [], "is missing"),
        (MERGES, array("i", [0] * 10_000), "is missing"),
        (MERGES, "a b", "is missing"),
    ],
)
def test_a_vocabulary_that_does_not_fit_together(
    key: str, value: Any, words: str, sound: Header
) -> None:
    """What belongs to the tokens is of its type, and there is one for each of them."""
    message = objection(changed(sound, **{key: value}))
    assert message is not None
    assert f"'{key}'" in message
    assert words in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (SCORES, None),
        (SCORES, array("f", [0] * 600)),
        (TYPES, None),
        (TYPES, array("I", [1] * 600)),
    ],
)
def test_what_a_vocabulary_may_lack(key: str, value: Any, sound: Header) -> None:
    """Byte-level BPE needs no scores, and types may be missing or be written as unsigned."""
    assert objection(changed(sound, **{key: value})) is None


@pytest.mark.parametrize("value", ["2", 2.0, True, [b"2"], array("I", [2])])
@pytest.mark.parametrize("name", ["bos", "eos", "eot", "unknown"])
def test_token_ids_that_are_no_numbers(name: str, value: Any, sound: Header) -> None:
    """The key is named."""
    message = objection(changed(sound, **{f"tokenizer.ggml.{name}_token_id": value}))
    assert message is not None
    assert f"'tokenizer.ggml.{name}_token_id' is not one whole number" in message


# Numbers that end the library ---------------------------------------------------------


@pytest.mark.parametrize("name", ["layer_norm_rms_epsilon", "layer_norm_epsilon"])
@pytest.mark.parametrize("value", [-1.0, -1e-9, math.inf, -math.inf, math.nan, "1e-5", True, [b""]])
def test_epsilons_that_are_none(name: str, value: Any, sound: Header) -> None:
    """The library aborts its process at a negative one."""
    with pytest.raises(ModelDamaged, match=rf"'llama\.attention\.{name}' is "):
        objection(of_llama(sound, f"attention.{name}", value))


@pytest.mark.parametrize("value", [None, 0.0, 1e-12, 1e-5])
def test_epsilons(value: float | None, sound: Header) -> None:
    """Zero and small ones are taken, and one that is missing is left to the library."""
    assert objection(of_llama(sound, "attention.layer_norm_epsilon", value)) is None


@pytest.mark.parametrize("vocabulary", ["bpe", "spm"])
def test_any_value_is_refused_or_used(vocabulary: Any, tmp_path: Path) -> None:
    """Whatever stands where, what the engine computes with it ends without an accident."""
    header = read_header(write_llama_gguf(tmp_path / "tiny.gguf", vocabulary=vocabulary))
    accepted, refusals = 0, []
    for key in (*header.metadata, *OPTIONAL):
        for value in VALUES:
            given = changed(header, **{key: value})
            try:
                if objection(given) is None:
                    accepted += 1
                    assert kv_bytes_per_token(given) >= 0
                    build_tokenizer(given.metadata).encode("Hello 1 \u65e5")
            except InferenceError as error:
                refusals.append(str(error))
    assert accepted > 0
    assert all(refusal.isprintable() and len(refusal) < 1100 for refusal in refusals)


VALUES: list[Any] = [
    0, -1, 2**64 - 1, 0.5, math.nan, True, "", "x" * 5000, [], [b"\xff"] * 3000,
    array("I", range(3000)), array("f", [0.5]), array("d"),
]  # fmt: skip
OPTIONAL = (
    *(f"llama.{name}" for name in HEADS),
    *(f"tokenizer.ggml.{name}" for name in (
        "pre", "scores", "merges", "token_type", "add_bos_token", "add_space_prefix",
        "eot_token_id", "eom_token_id", "fim_pad_token_id", "added_tokens",
    )),
)  # fmt: skip


@pytest.mark.parametrize("kind", [1, 8, 30])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("output_norm.weight", (64,)), ("blk.0.attn_q.bias", (64,)), ("rope_freqs.weight", (32,)),
        ("blk.0.attn_sinks.weight", (32,)), ("blk.0.ffn_up_exps.bias", (64, 8)),
    ],
)  # fmt: skip
def test_vectors_of_another_type(
    name: str, shape: tuple[int, ...], kind: int, sound: Header
) -> None:
    """The library aborts its process at norms, biases and the like that are no F32."""
    others = [tensor for tensor in sound.tensors if tensor.name != name]
    tensor = TensorInfo(name, shape, TENSOR_TYPES[kind], 0)
    message = str(objection(replace(sound, tensors=[*others, tensor])))
    assert message.startswith(f"tensor type {TENSOR_TYPES[kind].name} of '{name}': llama.cpp knows")
    plain = replace(tensor, type=TENSOR_TYPES[0])
    assert objection(replace(sound, tensors=[*others, plain])) is None
    gate = replace(tensor, name="blk.0.ffn_gate_inp_shexp.weight")
    assert objection(replace(sound, tensors=[*others, gate])) is None


def test_what_comes_first(sound: Header) -> None:
    """An unknown architecture is told before counts, which stand under its name."""
    header = changed(sound, general__architecture="clip", tokenizer__ggml__tokens=None)
    assert "architecture 'clip'" in str(objection(header))


# The backend --------------------------------------------------------------------------


def test_formats_from_before_gguf() -> None:
    """llama.cpp reads none of them."""
    assert LlamaCpp().old_formats == ()
    with pytest.raises(AssertionError):
        LlamaCpp().check_old(Path("old.bin"), "gpt2")


def test_a_pre_tokenizer_that_is_not_known(sound: Header) -> None:
    """It is refused by name before the file is loaded."""
    header = with_metadata(sound, {"tokenizer.ggml.pre": "of-tomorrow"})
    assert "of-tomorrow" in str(objection(header))


def test_tokens_that_must_never_be_generated(sound: Header) -> None:
    """Our sampler would generate them."""
    header = with_metadata(sound, {"tokenizer.ggml.suppress_tokens": array("i", [5])})
    assert "must never be generated" in str(objection(header))


def test_a_look_at_a_file_needs_no_numpy(tmp_path: Path) -> None:
    """A new kernel would wait for its import, before it can tell its engine to load the file."""
    model = write_llama_gguf(tmp_path / "tiny.gguf")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from llmwit_magic.engines.backends.registry import BACKENDS\n"
        "from llmwit_magic.engines.local.model_files import resolve\n"
        "found = resolve(sys.argv[1], None, {}, print, BACKENDS, 'llama.cpp')\n"
        "print(found.backend, 'numpy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, timeout=50
    )
    assert done.stdout.splitlines()[-1:] == ["llama.cpp False"], done.stderr
