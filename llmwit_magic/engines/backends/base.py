"""The interface of a local engine to a library that runs models: token ids in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...contract.events import Report
from ...contract.request import ModelSpec
from ...contract.wit import DeviceInfo

if TYPE_CHECKING:
    from ...models.catalog import ModelFile
    from ...models.gguf import Header
    from ...models.tokenizers.native import NativeTokenizer
    from ...models.tokenizers.vocabulary import Tokenizer
    from ..sampling import Logits
    from ..threads import Threads


class Evaluator(Protocol):
    """One context of a loaded model. It evaluates token ids, and remembers which ones it holds."""

    context_length: int
    """How many tokens the context holds."""

    @property
    def reusable_length(self) -> int:
        """How many tokens of the context a later prompt may share."""
        ...

    @property
    def logits(self) -> Logits:
        """The logits of the newest token, shape (vocabulary,).

        The next evaluation may overwrite them. Raises `EngineFailed` where there are none.
        """
        ...

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens need not be evaluated again."""
        ...

    def evaluate_prompt(
        self, tokens: Sequence[int], threads: Threads, progress: Callable[[int], bool]
    ) -> bool:
        """Make `tokens` the context. Returns whether all of it was evaluated.

        `threads()` is called before each part and gives the number of threads. `progress(done)`
        is called after each part with the number of tokens of the context that are evaluated. It
        returns whether to go on.
        """
        ...

    def evaluate_next(self, token: int, threads: int) -> None:
        """Append one token to the context."""
        ...

    def go_back(self, length: int) -> bool:
        """Forget all but the first tokens; there are no logits until the next evaluation.

        Returns False where the model cannot do that. Then the context has to be evaluated again.
        """
        ...


class Embedder(Protocol):
    """Makes vectors of token ids, by the pooling that the model file asks for."""

    context_length: int
    """The most tokens of a text."""

    def vector(
        self, tokens: Sequence[int], threads: Threads, goes_on: Callable[[], bool]
    ) -> list[float] | None:
        """The vector of one text. Its length is that of the model's embedding.

        `goes_on()` is asked now and then whether to go on. None stands for a vector that was given
        up. Raises `EngineFailed` for numbers that are none.
        """
        ...


class Contexts(Protocol):
    """The contexts of one loaded model, each with what it has evaluated. One runs at a time."""

    def best_for(self, tokens: Sequence[int]) -> Evaluator:
        """The context that should evaluate this prompt."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run."""

    evaluator: Evaluator
    """The first one of the contexts."""
    contexts: Contexts
    tokenizer: Tokenizer | NativeTokenizer
    header: Header | None
    """None for a file from before GGUF."""
    device: DeviceInfo
    embedder: Callable[[], Embedder]
    """Raises `InvalidInput` or `ModelNotSupported` where the model has no vectors that it can give."""
    interrupt: Callable[[bool], None] = lambda asked: None
    """Makes native code give up the evaluation that goes on, until it is taken back with False."""


class Backend(Protocol):
    """A library that loads models. `open` is called in the child, everything else in the kernel."""

    @property
    def name(self) -> str:
        """The name by which a child finds the backend that its kernel chose."""
        ...

    @property
    def old_formats(self) -> Collection[str]:
        """The values of `model_type` that it runs; they are kinds of files from before GGUF."""
        ...

    @property
    def always_exact(self) -> bool:
        """Whether its runs are exact where a request does not ask for it."""
        ...

    def environment(self) -> Mapping[str, str]:
        """What a child that loads a model by it must have in its environment."""
        ...

    def unavailable(self) -> str:
        """Why it cannot run on this machine; empty where it can. Asked before a file is fetched."""
        ...

    def objection(self, header: Header) -> str | None:
        """Why it cannot run a model with this header, or None.

        Raises `ModelDamaged` for a file that contradicts itself.
        """
        ...

    def check_old(self, path: Path, model_type: str) -> None:
        """Raise `ModelDamaged` for a file from before GGUF that it cannot read safely."""
        ...

    def file(self, found: ModelFile, digest: str, report: Report) -> Path:
        """The file that it loads: the one that was found, or another form of it in the cache.

        `digest` is the SHA-256 of the file that was found, in hexadecimal. `report` gets the
        progress, where another form has to be written.
        """
        ...

    def open_tokenizer(self, source: Path) -> Tokenizer:
        """The vocabulary of the GGUF file `source`, without its tensors."""
        ...

    def open(self, source: Path, file: Path, spec: ModelSpec, kept_prompts: int) -> Loaded:
        """Load `file`. The vocabulary is read from `source`, the file that was found.

        The evaluation of the last `kept_prompts` prompts is kept where memory allows.
        """
        ...
