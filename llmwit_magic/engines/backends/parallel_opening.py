"""Opens a model file and builds its tokenizer at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from ...errors import ModelNotSupported
from ...models.gguf import Header
from ...models.tokenizers.building import build_tokenizer
from ...models.tokenizers.vocabulary import Tokenizer


class _Opened(Protocol):
    @property
    def vocabulary_size(self) -> int: ...


T = TypeVar("T", bound=_Opened)


def with_tokenizer(
    header: Header, open_model: Callable[[], T], library: str
) -> tuple[T, Tokenizer]:
    """What `open_model()` gives, and the tokenizer, which must know as many tokens.

    Raises `ModelNotSupported` for a vocabulary that is not known, or that `library` sees otherwise.
    """
    # Python takes as long to build the tokenizer as native code to open the file. So the tokenizer
    # is built in a thread of its own. All native calls stay in this thread.
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(tokenizer_of, header)
        try:
            opened = open_model()
        finally:
            tokenizer = building.result()  # its error says more than one of opening the file
    if opened.vocabulary_size != len(tokenizer):
        raise ModelNotSupported(
            f"{header.path.name}: {library} sees {opened.vocabulary_size:,} tokens "
            f"of {len(tokenizer):,}"
        )
    return opened, tokenizer


def tokenizer_of(header: Header) -> Tokenizer:
    """The tokenizer of a file. Raises `ModelNotSupported` for a vocabulary that is not known."""
    try:
        return build_tokenizer(header.metadata)
    except ModelNotSupported as error:
        raise ModelNotSupported(f"{header.path.name}: {error}") from None
