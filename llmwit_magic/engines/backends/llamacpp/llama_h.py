"""What is needed of llama.cpp's C interface, `llama.h`, as ctypes: structs, functions, constants.

A struct of C crosses as it lies in memory, so it must be declared as the library has it. These are
the declarations of one version of the library (`GGML_VERSION`, `GGML_COMMIT`). `unlike` compares
the default parameters that the library gives with those that are known, before any struct is
handed to it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import (
    POINTER,
    c_bool,
    c_char,
    c_char_p,
    c_float,
    c_int8,
    c_int32,
    c_size_t,
    c_uint32,
    c_void_p,
)
from types import SimpleNamespace
from typing import Any

GGML_VERSION, GGML_COMMIT = "0.26.0", "86a2835"

NO_FLASH_ATTENTION = 0
AUTO_FLASH_ATTENTION = -1
MAPPED = 1
"""`load_mode`: the file is mapped into memory, and not read."""
PROCESSOR, GPU, INTEGRATED_GPU = 0, 1, 2
"""Types of devices (`enum ggml_backend_dev_type`). Metal's devices have the first one."""
POOLINGS = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}

WHOLE_NUMBER, TEXT = 0, 3
"""Types of what a model file says (`enum llama_model_kv_override_type`)."""

LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)
AbortCallback = ctypes.CFUNCTYPE(c_bool, c_void_p)


class OverrideValue(ctypes.Union):
    """The value of `struct llama_model_kv_override`."""

    _fields_ = (
        ("val_i64", ctypes.c_int64),
        ("val_f64", ctypes.c_double),
        ("val_bool", c_bool),
        ("val_str", c_char * 128),
    )


class Override(ctypes.Structure):
    """`struct llama_model_kv_override`: what holds in the place of what a model file says."""

    _fields_ = (("tag", ctypes.c_int), ("key", c_char * 128), ("value", OverrideValue))


class ModelParams(ctypes.Structure):
    """`struct llama_model_params`."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParams(ctypes.Structure):
    """`struct llama_context_params`."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("unknown_pointer", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(ctypes.Structure):
    """`struct llama_batch`: the arrays have an item for each of `n_tokens`."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (LogCallback, c_void_p)),
    "llama_supports_gpu_offload": (c_bool, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_free": (None, (c_void_p,)),
    "llama_n_ctx": (c_uint32, (c_void_p,)),
    "llama_n_ctx_seq": (c_uint32, (c_void_p,)),
    "llama_n_batch": (c_uint32, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_vocab_eos": (c_int32, (c_void_p,)),
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_vocab_sep": (c_int32, (c_void_p,)),
    "llama_vocab_get_add_bos": (c_bool, (c_void_p,)),
    "llama_vocab_get_add_eos": (c_bool, (c_void_p,)),
    "llama_model_n_embd_out": (c_int32, (c_void_p,)),
    "llama_model_is_recurrent": (c_bool, (c_void_p,)),
    "llama_model_is_hybrid": (c_bool, (c_void_p,)),
    "llama_model_has_encoder": (c_bool, (c_void_p,)),
    "llama_pooling_type": (c_int32, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_seq_rm": (c_bool, (c_void_p, c_int32, c_int32, c_int32)),
    "llama_memory_seq_pos_min": (c_int32, (c_void_p, c_int32)),
    "llama_memory_seq_pos_max": (c_int32, (c_void_p, c_int32)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_set_n_threads": (None, (c_void_p, c_int32, c_int32)),
    "llama_set_abort_callback": (None, (c_void_p, AbortCallback, c_void_p)),
    "llama_set_embeddings": (None, (c_void_p, c_bool)),
    "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_get_embeddings_seq": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_get_embeddings_ith": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_tokenize": (
        c_int32,
        (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool),
    ),
    "llama_token_to_piece": (
        c_int32,
        (c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool),
    ),
}

_GGML_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_backend_load": (c_void_p, (c_char_p,)),
    "ggml_backend_dev_count": (c_size_t, ()),
    "ggml_backend_dev_by_type": (c_void_p, (ctypes.c_int,)),
    "ggml_backend_dev_get": (c_void_p, (c_size_t,)),
    "ggml_backend_dev_name": (c_char_p, (c_void_p,)),
    "ggml_backend_dev_description": (c_char_p, (c_void_p,)),
    "ggml_backend_dev_type": (ctypes.c_int, (c_void_p,)),
    "ggml_backend_dev_memory": (None, (c_void_p, POINTER(c_size_t), POINTER(c_size_t))),
}
"""Of `ggml-backend.h`. They are in the libraries that llama.cpp's own library needs."""

_KNOWN_MODEL = {
    "devices": None, "tensor_buft_overrides": None, "n_gpu_layers": -1, "split_mode": 1,
    "load_mode": -1, "lazy_mode": 1, "main_gpu": 0, "tensor_split": None, "kv_overrides": None,
    "vocab_only": False, "check_tensors": False, "use_extra_bufts": True, "no_host": False,
    "no_alloc": False, "load_mtp": False,
}  # fmt: skip
_KNOWN_CONTEXT = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_outputs_max_per_seq": 1,
    "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1, "flash_attn_type": -1,
    "rope_freq_base": 0.0, "yarn_ext_factor": -1.0, "yarn_beta_slow": -1.0, "defrag_thold": -1.0,
    "type_k": 1, "type_v": 1, "abort_callback": None, "embeddings": False, "offload_kqv": True,
    "no_perf": True, "op_offload": True, "swa_full": True, "kv_unified": False, "samplers": None,
    "n_samplers": 0, "ctx_other": None,
}  # fmt: skip


_TYPES: dict[str, Any] = {
    "llama_batch": Batch,
    "llama_model_kv_override": Override,
    "llama_log_callback": LogCallback,
    "ggml_abort_callback": AbortCallback,
}
"""What else is used of the interface, by the names that C and `llama-cpp-python` have for it."""


def declare(library: Any) -> None:
    """Tell ctypes what the functions take and give, and make the types attributes as well.

    Raises `AttributeError` for a function that is missing.
    """
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    for name, type_ in _TYPES.items():
        setattr(library, name, type_)


def missing(bindings: Any) -> str:
    """What the declarations of another package lack of these; empty where they lack nothing."""
    return ", ".join(name for name in (*_FUNCTIONS, *_TYPES) if not hasattr(bindings, name))


def ggml_functions(libraries: Sequence[Any]) -> SimpleNamespace:
    """The functions of ggml, each from the first of the libraries that has it.

    Raises `AttributeError` for one that is missing.
    """
    found = SimpleNamespace()
    for name, (result, arguments) in _GGML_FUNCTIONS.items():
        # Windows finds a function in its own library only, and not in those that this one needs.
        owner = next((each for each in libraries if hasattr(each, name)), libraries[-1])
        function = getattr(owner, name)
        function.restype, function.argtypes = result, arguments
        setattr(found, name, function)
    return found


def unlike(library: Any) -> str:
    """In what the library's default parameters are others than known; empty where in nothing.

    Structs of another version may lack fields.
    """
    for given, known in (
        (library.llama_model_default_params(), _KNOWN_MODEL),
        (library.llama_context_default_params(), _KNOWN_CONTEXT),
    ):
        for name, value in known.items():
            found = getattr(given, name, value)
            if known[name] is None and not found:
                continue  # a null pointer to a type is an object, and no None
            if found != value:
                return f"{name} is {found!r}, not {value!r}"
    return ""
