"""A stand-in for llama.cpp's shared library, as `ctypes.CDLL` gives it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from typing import Any

from llmwit_magic.engines.backends.llamacpp import llama_h


class Function:
    """A function of the library, which notes that it was called."""

    def __init__(self, name: str, result: Callable[..., Any], calls: list[tuple[Any, ...]]) -> None:
        self.name, self.result, self.calls = name, result, calls
        self.restype: Any = ctypes.c_int
        self.argtypes: Any = None

    def __call__(self, *arguments: Any) -> Any:
        self.calls.append((self.name, *arguments))
        return self.result(*arguments)


class FakeNative:
    """The library that llmwit-magic knows: `functions` replace some results, `missing` lack.

    `calls` has the name and the arguments of each call.
    """

    def __init__(self, missing: Collection[str] = (), **functions: Callable[..., Any]) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._missing = missing
        self._results = {
            "ggml_version": llama_h.GGML_VERSION.encode,
            "ggml_commit": llama_h.GGML_COMMIT.encode,
            "ggml_backend_load": lambda path: 1,
            "llama_model_default_params": model_params,
            "llama_context_default_params": context_params,
            **functions,
        }

    def __getattr__(self, name: str) -> Function:
        if name.startswith("__") or name in self._missing:
            raise AttributeError(f"undefined symbol: {name}")
        function = Function(name, self._results.get(name, lambda *_: None), self.calls)
        setattr(self, name, function)
        return function

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of a function."""
        return [call[1:] for call in self.calls if call[0] == name]


def model_params(**changes: Any) -> llama_h.ModelParams:
    """The known default parameters of a model, some of them changed."""
    return _params(llama_h.ModelParams(), llama_h._KNOWN_MODEL | changes)


def context_params(**changes: Any) -> llama_h.ContextParams:
    """The known default parameters of a context, some of them changed."""
    return _params(llama_h.ContextParams(), llama_h._KNOWN_CONTEXT | changes)


def _params(params: Any, values: dict[str, Any]) -> Any:
    for name, value in values.items():
        setattr(params, name, value)
    return params
