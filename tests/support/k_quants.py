"""Quantisation by ggml itself, for the types that the package `gguf` reads and does not write."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize
from numpy.typing import NDArray

from llmwit_magic.engines.backends.llamacpp.llama_sources import source


def quantised(values: NDArray[np.float32], kind: GGMLQuantizationType) -> NDArray[np.uint8]:
    """The rows as blocks of that type, shape (…, bytes of a row)."""
    try:
        return quantize(values, kind)
    except NotImplementedError:
        return _by_ggml(values, kind)


def _by_ggml(values: NDArray[np.float32], kind: GGMLQuantizationType) -> NDArray[np.uint8]:
    columns = values.shape[-1]
    block, size = GGML_QUANT_SIZES[kind]
    result = np.zeros((*values.shape[:-1], columns // block * size), np.uint8)
    written = _library().ggml_quantize_chunk(
        int(kind), np.ascontiguousarray(values).ctypes.data, result.ctypes.data, 0,
        values.size // columns, columns, None,
    )  # fmt: skip
    assert written == result.size
    return result


@cache
def _library() -> ctypes.CDLL:
    path = source().find("ggml-base")
    assert path is not None
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
        ctypes.c_int64, ctypes.c_void_p,
    )  # fmt: skip
    return library
