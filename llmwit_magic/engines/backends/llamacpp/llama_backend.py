"""llama.cpp as a backend: the models of today."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ....contract.events import Report
from ....contract.request import ModelSpec

if TYPE_CHECKING:
    from ....models.catalog import ModelFile
    from ....models.gguf import Header
    from ....models.tokenizers.vocabulary import Tokenizer
    from ..base import Loaded

_OF_DEVICES = ("GGML_VK_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""Variables of the environment that choose which GPUs the library sees."""


class LlamaCpp:
    """Runs what llama.cpp knows, by a library that `llama_sources.source` chooses.

    `library` is the path that is configured in the notebook; empty where there is none.
    """

    name = "llama.cpp"
    old_formats = ()
    always_exact = False

    def __init__(self, library: str = "") -> None:
        self.library = library

    def environment(self) -> Mapping[str, str]:
        from .llama_sources import VARIABLE

        seen = {name: os.environ[name] for name in _OF_DEVICES if name in os.environ}
        return seen | {VARIABLE: self.library or os.environ.get(VARIABLE, "")}

    def unavailable(self) -> str:
        from .llama_sources import unavailable

        return unavailable(self.library)

    def objection(self, header: Header) -> str | None:
        from .llama_checks import objection

        return objection(header)

    def check_old(self, path: Path, model_type: str) -> None:
        raise AssertionError("llama.cpp knows no formats from before GGUF")

    def file(self, found: ModelFile, digest: str, report: Report) -> Path:
        return found.path

    def open_tokenizer(self, source: Path) -> Tokenizer:
        from .llama_loading import load_tokenizer

        return load_tokenizer(source)

    def open(self, source: Path, file: Path, spec: ModelSpec, kept_prompts: int) -> Loaded:
        from .llama_loading import load

        return load(source, file, spec, kept_prompts)
