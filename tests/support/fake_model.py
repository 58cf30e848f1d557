"""A model whose logits are a script, and a vocabulary of bytes, for what stands above a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmwit_magic.contract.events import Report
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.contract.spans import Spans
from llmwit_magic.contract.wit import DeviceInfo
from llmwit_magic.engines.backends.base import Loaded
from llmwit_magic.engines.threads import Threads

VOCABULARY = 256
EOS, OTHER_EOS = 0, 255
SLICE = 4


class FakeEvaluator:
    """Greedily continues with `script`, and keeps a record of what it was asked to evaluate."""

    def __init__(self, script: Sequence[int], context_length: int = 1000, cached: int = 0) -> None:
        self.script = list(script)
        self.context_length = context_length
        self.cached = cached
        self.prompts: list[list[int]] = []
        self.evaluated: list[int] = []
        self.threads: list[int] = []

    @property
    def logits(self) -> np.ndarray:
        assert self.prompts, "the prompt was never evaluated"
        values = np.zeros(VOCABULARY, dtype=np.float32)
        values[self.script[len(self.evaluated)]] = 5
        return values

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        return self.cached

    def evaluate_prompt(
        self, tokens: Sequence[int], threads: Threads, progress: Callable[[int], bool]
    ) -> bool:
        self.prompts.append(list(tokens))
        for done in range(self.cached, len(tokens), SLICE):
            self.threads.append(threads())
            if not progress(min(done + SLICE, len(tokens))):
                return False
        return True

    def evaluate_next(self, token: int, threads: int) -> None:
        self.evaluated.append(token)
        self.threads.append(threads)


class FakeTokenizer:
    made_by = "llmwit-magic"
    """Each token is its own byte."""

    end_ids = frozenset({EOS, OTHER_EOS})
    add_bos = False

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])

    def encode(self, text: str, data: Spans = ()) -> list[int]:
        return list(text.encode())

    def encode_whole(self, text: str) -> list[int]:
        return self.encode(text)

    def withheld(self, text: str, data: Spans) -> Spans:
        return ()


class FakeBackend:
    """Loads nothing, and continues each prompt with `script`."""

    name = "fake"
    old_formats = ("fake1", "fake2")
    always_exact = False

    def __init__(
        self, script: bytes = b"hello world\0", objection: str | None = None,
        unavailable: str = "",
    ) -> None:  # fmt: skip
        self.script, self._objection, self._unavailable = script, objection, unavailable
        self.opened: list[tuple[Path, Path, ModelSpec, int]] = []
        self.error: BaseException | None = None

    def environment(self) -> dict[str, str]:
        return {}

    def unavailable(self) -> str:
        return self._unavailable

    def objection(self, header: Any) -> str | None:
        return self._objection

    def check_old(self, path: Path, model_type: str) -> None:
        pass

    def file(self, found: Any, digest: str, report: Report) -> Path:
        path: Path = found.path
        return path

    def open_tokenizer(self, source: Path) -> Any:
        return FakeTokenizer()

    def open(self, source: Path, file: Path, spec: ModelSpec, kept_prompts: int) -> Loaded:
        self.opened.append((source, file, spec, kept_prompts))
        if self.error is not None:
            raise self.error
        evaluator = FakeEvaluator(self.script, spec.context_length or 1000)
        return Loaded(
            evaluator, OneContext(evaluator), FakeTokenizer(), None, DeviceInfo(), lambda: None
        )  # type: ignore[arg-type]


class OneContext:
    """The one context that there is."""

    def __init__(self, evaluator: FakeEvaluator) -> None:
        self._evaluator = evaluator

    def best_for(self, tokens: Sequence[int]) -> FakeEvaluator:
        self._evaluator.evaluated.clear()
        return self._evaluator
