"""Texts to vectors: the last hidden state of the last token, which is all that ctransformers gives.

That is the pooling that llama.cpp calls `last`. A file that names none, or 0 (`none`, which is
what llama.cpp takes a missing value for), leaves the choice to whoever asks, and has it too. The
others are refused: they need the states of all tokens (`mean`), of the first (`cls`, in models
that look ahead) or a head that ranks (`rank`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import InvalidInput, ModelNotSupported, PromptTooLong
from ..models.gguf import Header
from ..models.tokenizer import LONGEST_TEXT, Tokenizer
from .loading import Loaded
from .threads import Threads

_POOLINGS = {1: "mean", 2: "cls", 4: "rank"}
_SAME_AS_LAST = (None, 0, 3)
_SHOWN = 40
"""Characters of a text that an error shows."""


def embed(
    loaded: Loaded,
    texts: Sequence[str],
    truncate: bool,
    threads: Threads,
    cancelled: Callable[[], bool],
) -> tuple[list[list[float]], int]:
    """A vector for each text, and the number of tokens of all of them; fewer where cancelled.

    All texts are looked at before the first is evaluated. `truncate` cuts the ends of those that
    do not fit into the context.
    """
    header, tokenizer, model = loaded.header, loaded.tokenizer, loaded.model
    if header is None or not isinstance(tokenizer, Tokenizer):
        raise InvalidInput("an old GGML file gives no embeddings: ctransformers has them for GGUF")
    _check_pooling(header)
    prompts: list[list[int]] = []
    for number, text in enumerate(texts, 1):
        if cancelled():
            break
        prompts.append(_ids(header, tokenizer, text, number, model.context_length, truncate))
    vectors: list[list[float]] = []
    for ids in prompts:
        if not model.evaluate_prompt(ids, threads, lambda done: not cancelled()):
            break
        vectors.append(model.embedding)
    return vectors, sum(map(len, prompts[: len(vectors)]))


def _check_pooling(header: Header) -> None:
    pooling = header.hyperparameter("pooling_type")
    if pooling not in _SAME_AS_LAST:
        name = _POOLINGS.get(pooling, "unknown") if isinstance(pooling, int) else "unknown"
        raise ModelNotSupported(
            f"{header.path.name}: its embeddings are pooled in the way '{name}' "
            f"('{header.architecture}.pooling_type' is {pooling}), and ctransformers gives the "
            "last token's state only: take a model whose pooling is 'last'"
        )


def _ids(
    header: Header, tokenizer: Tokenizer, text: str, number: int, length: int, truncate: bool
) -> list[int]:
    try:
        ids = tokenizer.encode_whole(text[:LONGEST_TEXT] if truncate else text)
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
    # The last token's state is the vector, so it has to be the one that the model was trained with.
    return [*ids[: length - 1], ids[-1]] if tokenizer.add_eos else ids[:length]


def _beginning(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
