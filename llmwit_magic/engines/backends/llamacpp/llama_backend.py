"""llama.cpp as a backend: the models of today."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....contract.events import Report
from ....contract.request import ModelSpec

if TYPE_CHECKING:
    from ....models.catalog import ModelFile
    from ....models.gguf import Header
    from ..base import Loaded


class LlamaCpp:
    """Runs what llama.cpp knows, by the library of an extra or one that the user names."""

    name = "llama.cpp"
    old_formats = ()
    variables = ("LLMWIT_LLAMA_LIBRARY", "GGML_VK_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")

    def unavailable(self) -> str:
        from .llama_library import unavailable

        return unavailable()

    def objection(self, header: Header) -> str | None:
        from .llama_checks import objection

        return objection(header)

    def check_old(self, path: Path, model_type: str) -> None:
        raise AssertionError("llama.cpp knows no formats from before GGUF")

    def file(self, found: ModelFile, digest: str, report: Report) -> Path:
        return found.path

    def open(self, source: Path, file: Path, spec: ModelSpec, kept_prompts: int) -> Loaded:
        from .llama_loading import load

        return load(source, file, spec, kept_prompts)
