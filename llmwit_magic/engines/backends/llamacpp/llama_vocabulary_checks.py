"""Whether llama.cpp can read a vocabulary, said before native code sees it.

The library trusts vocabularies: it aborts its process at some, and never ends with others. What is
refused here was found by giving it such vocabularies.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

from ....errors import ModelNotSupported
from ....models.gguf import Header
from ....models.kinds import names_suppressed_tokens
from ....models.tokenizers.pretokenizers import pretokenizer_named
from ....models.tokenizers.vocabulary import BYTE_TOKEN, TokenType

OWN_KINDS = ("llama", "gpt2")
"""Values of `tokenizer.ggml.model` whose token ids we find ourselves."""
LIBRARY_KINDS = {
    "t5": "Unigram",
    "bert": "WordPiece",
    "rwkv": "RWKV",
    "plamo2": "PLaMo 2",
    "gemma4": "Gemma 4",
}
"""Those whose token ids the library finds. Others that it knows generate no text, or end it."""
LIBRARY_PRETOKENIZERS = frozenset([
    "afmoe", "chameleon", "cohere2moe", "exaone-moe", "gemma4", "jais-2", "kimi-k2", "sarvam-moe",
    "spark2_5", "superbpe", "tiny_aya", "youtu",
])  # fmt: skip
"""Values of `tokenizer.ggml.pre` of byte-level vocabularies whose token ids the library finds."""
MAX_TOKENS = 2**20
MAX_TOKEN_BYTES = 1024
"""Of a token of a kind in `LIBRARY_KINDS`: some of their code calls itself for each byte."""
MAX_SUFFIX_BYTES = 2**28
"""Of all ends of all tokens of PLaMo 2's kind, which the library keeps in memory."""
_CONVERT = "convert the model again, or take another file of it"


def uses_library_tokenizer(metadata: Mapping[str, Any]) -> bool:
    """Whether the library finds the token ids, since we do not know the vocabulary."""
    kind = metadata.get("tokenizer.ggml.model")
    pre = metadata.get("tokenizer.ggml.pre")
    return kind in LIBRARY_KINDS or (
        kind == "gpt2" and isinstance(pre, str) and pre in LIBRARY_PRETOKENIZERS
    )


def vocabulary_objection(header: Header) -> str | None:
    """Why the library could not read the vocabulary of a model, or None."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        return "the vocabulary 'tokenizer.ggml.tokens' is missing"
    if len(tokens) > MAX_TOKENS:
        return f"a vocabulary of {len(tokens):,} tokens: at most {MAX_TOKENS:,}"
    if (twice := _duplicate(tokens)) is not None:
        return f"the token {twice[:40]!r} stands twice in the vocabulary; {_CONVERT}"
    kind = header.metadata.get("tokenizer.ggml.model")
    if not isinstance(kind, str) or kind not in (*OWN_KINDS, *LIBRARY_KINDS):
        others = ", ".join(f"{name} ({what})" for name, what in LIBRARY_KINDS.items())
        return f"tokenizer '{kind}': supported are llama (SentencePiece), gpt2 (BPE), {others}"
    for name, typecodes in (("scores", "f"), ("token_type", "iI")):
        key = f"tokenizer.ggml.{name}"
        values = header.metadata.get(key)
        if values is None:
            if name == "scores" and kind in ("llama", "t5", "plamo2"):
                return f"'{key}' is missing: this kind of vocabulary needs it; {_CONVERT}"
            continue
        if not isinstance(values, array) or values.typecode not in typecodes:
            return f"'{key}' has the wrong type; {_CONVERT}"
        if len(values) != len(tokens):
            return f"{len(values):,} of '{key}' for {len(tokens):,} tokens; {_CONVERT}"
    merges = header.metadata.get("tokenizer.ggml.merges")
    if kind in ("gpt2", "gemma4") and not (isinstance(merges, list) and merges):
        return f"'tokenizer.ggml.merges' is missing; {_CONVERT}"
    if kind == "gpt2" and not uses_library_tokenizer(header.metadata):
        try:
            pretokenizer_named(header.metadata.get("tokenizer.ggml.pre"))
        except ModelNotSupported as error:
            return str(error)
    if (why := names_suppressed_tokens(header)) is not None:
        return why
    for key, value in header.metadata.items():
        if (
            key.startswith("tokenizer.ggml.")
            and key.endswith("_token_id")
            and type(value) is not int
        ):
            return f"'{key}' is not one whole number; {_CONVERT}"
    return _library_objection(header.metadata, kind, tokens)


def _duplicate(tokens: list[bytes]) -> bytes | None:
    """A token that the library sees twice. It sees what stands before a NUL; empty ones may repeat."""
    seen: set[bytes] = set(tokens)
    if len(seen) == len(tokens) and b"\0" not in b"".join(tokens):
        return None
    seen.clear()
    for token in tokens:
        text = token.partition(b"\0")[0]
        if text and text in seen:
            return token
        seen.add(text)
    return None


def _library_objection(metadata: Mapping[str, Any], kind: str, tokens: list[bytes]) -> str | None:
    """Why the library's own tokenizer could not be trusted with a vocabulary of that kind, or None."""
    types = metadata.get("tokenizer.ggml.token_type") or [TokenType.NORMAL] * len(tokens)
    if uses_library_tokenizer(metadata):
        for token, token_type in zip(tokens, types, strict=True):
            if token_type == TokenType.BYTE and (kind == "bert" or not BYTE_TOKEN.fullmatch(token)):
                return f"the token {token[:40]!r} is said to be a byte, and is none; {_CONVERT}"
    if kind not in LIBRARY_KINDS:
        return None
    if (longest := max(tokens, key=len)) and len(longest) > MAX_TOKEN_BYTES:
        return f"a token of {len(longest):,} bytes: at most {MAX_TOKEN_BYTES:,}; {_CONVERT}"
    if kind in ("t5", "bert"):
        unknown = metadata.get("tokenizer.ggml.unknown_token_id", 2 if kind == "t5" else 100)
        if not 0 <= unknown < len(tokens):
            return f"'tokenizer.ggml.unknown_token_id' is no token: it is needed; {_CONVERT}"
    if kind == "t5":
        return _character_map_objection(metadata.get("tokenizer.ggml.precompiled_charsmap"))
    if (
        kind == "rwkv"
        and len({token for token in map(_unescaped, tokens) if len(token) == 1}) < 256
    ):
        return f"not all 256 bytes are tokens: RWKV's vocabularies need them; {_CONVERT}"
    if kind == "plamo2":
        return _plamo2_objection(tokens, types)
    return None


def _unescaped(token: bytes) -> bytes:
    """A token of RWKV's as the library reads it: `\\t`, `\\n`, `\\r`, `\\xNN`, else what follows `\\`."""
    if b"\\" not in token:
        return token
    result = bytearray()
    place = 0
    while place < len(token):
        char = token[place : place + 1]
        if char == b"\\":
            char = token[place + 1 : place + 2]
            if char == b"x":
                digits = token[place + 2 : place + 4].decode("latin-1")
                if len(digits) < 2 or not all(d in "0123456789abcdef" for d in digits):
                    return b""  # the library makes some other byte of it
                char = bytes.fromhex(digits)
                place += 2
            else:
                char = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}.get(char, char)
            place += 1
        result += char
        place += 1
    return bytes(result)


def _plamo2_objection(tokens: list[bytes], types: Any) -> str | None:
    suffixes = 0
    bytes_there = set()
    for token, token_type in zip(tokens, types, strict=True):
        try:
            token.decode()
        except UnicodeDecodeError:
            return f"the token {token[:40]!r} is not UTF-8; {_CONVERT}"
        suffixes += len(token) ** 2
        if token_type == TokenType.BYTE:
            bytes_there.add(token.upper())
    if suffixes > MAX_SUFFIX_BYTES:
        return f"the tokens are too long for PLaMo 2's kind of vocabulary; {_CONVERT}"
    if len(bytes_there) < 256:
        return f"not all 256 bytes are tokens: PLaMo 2's vocabularies need them; {_CONVERT}"
    return None


def _character_map_objection(values: Any) -> str | None:
    """Why the map by which Unigram rewrites characters could not be read, or None.

    It is SentencePiece's: the length of a double array in bytes, the array, and texts that end
    with NUL. The library ends its process where a step leads out of the array or the texts. So
    every step from every unit is looked at.
    """
    broken = f"'tokenizer.ggml.precompiled_charsmap' is damaged; {_CONVERT}"
    if values is None:
        return None
    if not isinstance(values, array) or values.typecode not in "bB" or len(values) < 4:
        return broken
    data = values.tobytes()
    size = int.from_bytes(data[:4], "little")
    texts = len(data) - 4 - size
    if size % 4 or not size or texts < 1 or data[-1]:
        return broken
    import numpy as np  # for this kind alone: it takes a new kernel 40 ms

    units = np.frombuffer(data, "<u4", size // 4, 4)
    places = np.arange(len(units), dtype=np.uint32)
    is_text = units >> 31 == 1
    steps = places ^ ((units >> 10) << ((units & (1 << 9)) >> 6))
    # A unit leads to one of 256 others, which begin at a multiple of 256.
    if is_text[0] or np.any(steps[~is_text] | 255 >= len(units)):
        return broken
    ends = steps[~is_text & (units >> 8 & 1 == 1)]
    found = units[ends] & 0x7FFFFFFF
    return broken if np.any(found >= texts) else None
