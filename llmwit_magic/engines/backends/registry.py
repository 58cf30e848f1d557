"""All backends. The preferred ones come first."""

from __future__ import annotations

from .base import Backend
from .ctransformers.backend import CTransformers

BACKENDS: tuple[Backend, ...] = (CTransformers(),)


def backend_named(name: str) -> Backend:
    """The backend of that name. It must be one of `BACKENDS`."""
    return next(backend for backend in BACKENDS if backend.name == name)
