"""The tokenizer of a GGUF file, by the kind of vocabulary that the file names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ModelNotSupported
from .bpe import ByteLevelTokenizer
from .spm import SentencePieceTokenizer
from .vocabulary import Tokenizer


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer for the metadata of a GGUF file, by the keys of the file.

    An array of strings is a list of `bytes`. Raises ModelNotSupported for a tokenizer model or a
    pre-tokenizer that is not known, for a file without tokens or without the merges that it
    needs, and for merges that are not pairs.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        return ByteLevelTokenizer(metadata)
    if model == "llama":
        return SentencePieceTokenizer(metadata)
    raise ModelNotSupported(f"tokenizer model {model!r}: only 'gpt2' and 'llama' are supported")
