"""Token ids, bytes of tokens and ends of texts, compared with those of llama.cpp itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.apart import python_apart
from tests.support.scripts import comparison_texts

# Run apart, since a vocabulary that the library does not like ends its process.
COMPARE = """
import ctypes, json, os, sys
from pathlib import Path
from llmwit_magic.engines.backends.llamacpp.llama_library import library
from llmwit_magic.engines.backends.llamacpp.llama_vocabulary import LlamaTokenizer
from llmwit_magic.engines.backends.llamacpp.llama_vocabulary_checks import (
    uses_library_tokenizer, vocabulary_objection)
from llmwit_magic.models.gguf import read_header
from llmwit_magic.models.tokenizers.building import build_tokenizer

lib, texts = library(), json.loads(Path(sys.argv[1]).read_text())
params = lib.llama_model_default_params()
params.n_gpu_layers, params.vocab_only = 0, True
said = {}
for path in map(Path, sys.argv[2:]):
    header = read_header(path)
    assert vocabulary_objection(header) is None, vocabulary_objection(header)
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    vocabulary = lib.llama_model_get_vocab(model)
    own = not uses_library_tokenizer(header.metadata)
    tokenizer = (build_tokenizer(header.metadata) if own
                 else LlamaTokenizer(header.metadata, lib, vocabulary))
    room = (ctypes.c_int32 * 4096)()
    other = []
    for text in texts:
        count = lib.llama_tokenize(vocabulary, text.encode(), len(text.encode()), room, 4096, True, True)
        ids = room[:count]
        # The library puts bos in front of a text that begins with it, and eos behind a prompt.
        if tokenizer.add_bos and ids[:2] == [tokenizer.bos_id] * 2:
            ids = ids[1:]
        try:
            found = tokenizer.encode_whole(text)
        except Exception as error:
            found = [f"{type(error).__name__}: {error}"]
        if tokenizer.add_eos and ids[-2:] == [tokenizer.eos_id] * 2:
            ids = ids[:-1]
        if ids != found:
            other.append([text, found, ids])
    piece = ctypes.create_string_buffer(4096)
    pieces = []
    for token_id in range(len(tokenizer)):
        size = lib.llama_token_to_piece(vocabulary, token_id, piece, 4096, 0, True)
        if piece.raw[:size] != tokenizer.token_bytes(token_id):
            pieces.append([token_id, piece.raw[:size].hex(), tokenizer.token_bytes(token_id).hex()])
    ends = [token_id for token_id in range(len(tokenizer))
            if lib.llama_vocab_is_eog(vocabulary, token_id) != (token_id in tokenizer.end_ids)]
    said[path.stem] = [tokenizer.made_by, other[:3], pieces, ends]
    lib.llama_model_free(model)
print("SAID", json.dumps(said))
"""


def compare_with_library(paths: Iterable[Path]) -> dict[str, Any]:
    """Of each file by its name: whose tokenizer it has, and what is other than the library's.

    These are texts with other ids, tokens with other bytes, and tokens that do or do not end a
    text.
    """
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.json"
        texts.write_text(json.dumps(comparison_texts()))
        return python_apart(COMPARE, texts, *paths)  # type: ignore[no-any-return]
