"""From texts to vectors. A vector is the last hidden state of the text's last token.

ctransformers gives no other state. llama.cpp calls this pooling `last`. A file with the pooling 0
(`none`) leaves the choice to the caller, and so gets `last` too. A file that names no pooling also
gets `last`, since llama.cpp takes a missing value for 0. Files with another pooling are refused.
`mean` needs the states of all tokens. `cls` needs that of the first token, in models that look
ahead. `rank` needs a head that ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...errors import InvalidInput, ModelNotSupported, PromptTooLong
from ...models.gguf import Header
from ...models.tokenizers.bpe import LONGEST_TEXT
from ...models.tokenizers.vocabulary import Tokenizer
from ..backends.base import Loaded
from ..threads import Threads

_POOLINGS = {1: "mean", 2: "cls", 4: "rank"}
_SAME_AS_LAST = (None, 0, 3)
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
    header, tokenizer, evaluator = loaded.header, loaded.tokenizer, loaded.evaluator
    if header is None or not isinstance(tokenizer, Tokenizer):
        raise InvalidInput("an old GGML file gives no embeddings: ctransformers has them for GGUF")
    _check_pooling(header)
    prompts: list[list[int]] = []
    for number, text in enumerate(texts, 1):
        if cancelled():
            break
        prompts.append(_ids(header, tokenizer, text, number, evaluator.context_length, truncate))
    vectors: list[list[float]] = []
    for ids in prompts:
        if not evaluator.evaluate_prompt(ids, threads, lambda done: not cancelled()):
            break
        vectors.append(evaluator.embedding)
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
    # The vector is the state of the last token. A model that was trained with a special token at
    # the end of each text needs that token there, so it is kept.
    return [*ids[: length - 1], ids[-1]] if tokenizer.add_eos else ids[:length]


def _beginning(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
