"""From texts to vectors: the texts become token ids that fit, which a backend makes vectors of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...errors import InvalidInput, PromptTooLong
from ...models.gguf import Header
from ...models.tokenizers.vocabulary import Tokenizer
from ..backends.base import Loaded
from ..threads import Threads

_SHOWN = 40
"""How many characters of a text an error shows."""


def embed(
    loaded: Loaded,
    texts: Sequence[str],
    truncate: bool,
    threads: Threads,
    cancelled: Callable[[], bool],
) -> tuple[list[list[float]], int]:
    """One vector for each text, and the number of tokens of these texts.

    A cancellation leaves out the texts that were not evaluated. All texts are tokenised and
    checked before the first one is evaluated. `truncate` cuts the ends of texts that do not fit
    into the context. Raises `InvalidInput` or `PromptTooLong` for a text that cannot be evaluated,
    and `InvalidInput` or `ModelNotSupported` for a model without such vectors.
    """
    embedder, header, tokenizer = loaded.embedder(), loaded.header, loaded.tokenizer
    assert header is not None
    assert isinstance(tokenizer, Tokenizer)
    prompts: list[list[int]] = []
    for number, text in enumerate(texts, 1):
        if cancelled():
            break
        prompts.append(_ids(header, tokenizer, text, number, embedder.context_length, truncate))
    vectors: list[list[float]] = []
    for ids in prompts:
        vector = embedder.vector(ids, threads, lambda: not cancelled())
        if vector is None:
            break
        vectors.append(vector)
    return vectors, sum(map(len, prompts[: len(vectors)]))


def _ids(
    header: Header, tokenizer: Tokenizer, text: str, number: int, length: int, truncate: bool
) -> list[int]:
    try:
        ids = tokenizer.encode_whole(text[: tokenizer.longest_text] if truncate else text)
    except InvalidInput as error:
        raise InvalidInput(f"text {number}, {_beginning(text)}: {error}") from None
    if not ids:
        raise InvalidInput(f"text {number} is empty: it has no embedding")
    if len(ids) <= length:
        return ids
    if not truncate:
        trained = header.hyperparameter("context_length")
        more = f", raise context_length (up to {trained:,})" if trained > length else ""
        raise PromptTooLong(
            f"text {number}, {_beginning(text)}, has {len(ids):,} tokens and the context holds "
            f"{length:,}: shorten it{more}, or let truncate=True cut it"
        )
    # The vector is the state of the last token. A model that was trained with a special token at
    # the end of each text needs that token there, so it is kept.
    return [*ids[: length - 1], ids[-1]] if tokenizer.add_eos else ids[:length]


def _beginning(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
