"""All backends. The preferred ones come first."""

from __future__ import annotations

from .base import Backend
from .ctransformers.backend import CTransformers
from .llamacpp.llama_backend import LlamaCpp

BACKENDS: tuple[Backend, ...] = (CTransformers(), LlamaCpp())


def backend_named(name: str) -> Backend:
    """The backend of that name. It must be one of `BACKENDS`."""
    return next(backend for backend in BACKENDS if backend.name == name)
