"""How many tokens texts have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ...models.tokenizers.native import NativeTokenizer
from ...models.tokenizers.vocabulary import Tokenizer


def token_counts(
    tokenizer: Tokenizer | NativeTokenizer, texts: Sequence[str], cancelled: Callable[[], bool]
) -> Iterator[int]:
    """The number of tokens of each text alone, until it is cancelled.

    No control token is recognised, and the beginning-of-text token does not count. Raises
    `InvalidInput` for a text that cannot be tokenised.
    """
    for text in texts:
        if cancelled():
            return
        ids = tokenizer.encode(text, ((0, len(text)),))
        begins = (
            tokenizer.add_bos and tokenizer.bos_id is not None and ids[:1] == [tokenizer.bos_id]
        )
        yield len(ids) - begins
