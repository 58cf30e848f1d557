"""ctransformers as a backend: which files it runs, in which form, and how it loads them."""

from __future__ import annotations

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


# A child imports this file to find out what loads its model. So what only the kernel needs is
# imported where it is needed.
OLD_FORMATS = (
    "dollyv2", "falcon", "gpt2", "gptj", "gptneox", "llama", "mpt", "replit", "starcoder",
)  # fmt: skip


class CTransformers:
    """Runs GGUF files of llama and falcon, and the formats from before GGUF. See `base.Backend`."""

    name = "ctransformers"
    old_formats = OLD_FORMATS
    always_exact = True

    def environment(self) -> Mapping[str, str]:
        return {}

    def unavailable(self) -> str:
        from .builds import platform_problem

        return platform_problem()

    def objection(self, header: Header) -> str | None:
        from .checks import objection

        return objection(header)

    def check_old(self, path: Path, model_type: str) -> None:
        from .ggml import check_old_vocabulary

        check_old_vocabulary(path, model_type)

    def file(self, found: ModelFile, digest: str, report: Report) -> Path:
        from .adapt import needs_adaptation
        from .adapted_files import adapted_file

        if found.header is None or not needs_adaptation(found.header):
            return found.path
        return adapted_file(found.header, digest, found.state, report)

    def open_tokenizer(self, source: Path) -> Tokenizer:
        from ....models.gguf import read_header
        from ..parallel_opening import tokenizer_of

        return tokenizer_of(read_header(source))

    def open(self, source: Path, file: Path, spec: ModelSpec, kept_prompts: int) -> Loaded:
        from .loading import load

        return load(source, file, spec, kept_prompts)
