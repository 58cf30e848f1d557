"""From texts to vectors: the texts become token ids that fit, which a backend makes vectors of."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator

from ...contract.events import End, Prepared, Vectors, as_bytes
from ...contract.wit import InferencingUsage, ModelInfo
from ...errors import InvalidInput, PromptTooLong
from ...models.gguf import Header
from ...models.tokenizers.vocabulary import Tokenizer
from ..backends.base import Loaded
from ..threads import Threads
from .wire import Embed

_SHOWN = 40
"""How many characters of a text an error shows."""


def embed(
    loaded: Loaded,
    info: ModelInfo,
    command: Embed,
    threads: Threads,
    cancelled: Callable[[], bool],
) -> Iterator[Prepared | Vectors | End]:
    """The events of the command: one vector for each text, each as soon as it is there.

    A cancellation leaves out the texts that were not evaluated. All texts are tokenised and
    checked before the first one is evaluated. Raises `InvalidInput` or `PromptTooLong` for a text
    that cannot be evaluated, and `InvalidInput` or `ModelNotSupported` for a model without such
    vectors.
    """
    embedder, header, tokenizer = loaded.embedder(), loaded.header, loaded.tokenizer
    assert header is not None
    assert isinstance(tokenizer, Tokenizer)
    length, truncate = embedder.context_length, command.truncate
    prompts: list[array[int]] = []
    cut = 0
    for number, text in zip(command.numbers, command.texts, strict=True):
        if cancelled():
            break
        ids = _ids(tokenizer, text, number, truncate)
        if len(ids) > length:
            if not truncate:
                raise _too_long(header, text, number, len(ids), length)
            ids, cut = _shortened(tokenizer, ids, length), cut + 1
        prompts.append(array("i", ids))  # a list takes nine times the memory
    request, began = command.request, time.perf_counter()
    said = f"{cut:,} of {len(prompts):,} texts cut to the {length:,} tokens of the context"
    yield Prepared(
        prompt=request.prompt,
        prompt_token_count=sum(map(len, prompts)),
        cached_token_count=0,
        context_length=length,
        params=request.params,
        model=info,
        device=loaded.device.model_copy(update={"threads": threads()}),
        notices=(said,) if cut else (),
    )
    done = 0
    for prompt in prompts:
        if cancelled():  # the embedder asks between blocks, and a short text is one block
            break
        vector = embedder.vector(prompt.tolist(), threads, lambda: not cancelled())
        if vector is None:
            break
        done += len(prompt)
        yield Vectors(as_bytes(array("f", vector)), len(vector), len(prompt))
    usage = InferencingUsage(prompt_token_count=done)
    yield End(None, usage, seconds={"prompt": time.perf_counter() - began})


def _ids(tokenizer: Tokenizer, text: str, number: int, truncate: bool) -> list[int]:
    try:
        ids = tokenizer.encode_whole(text[: tokenizer.longest_text] if truncate else text)
    except InvalidInput as error:
        raise InvalidInput(f"text {number}, {_beginning(text)}: {error}") from None
    if not ids:
        raise InvalidInput(f"text {number} is empty: it has no embedding")
    return ids


def _too_long(header: Header, text: str, number: int, count: int, length: int) -> PromptTooLong:
    trained = header.hyperparameter("context_length")
    more = f", raise context_length (up to {trained:,})" if trained > length else ""
    return PromptTooLong(
        f"text {number}, {_beginning(text)}, has {count:,} tokens and the context holds "
        f"{length:,}: shorten it{more}, or let truncate=True cut it"
    )


def _shortened(tokenizer: Tokenizer, ids: list[int], length: int) -> list[int]:
    # The vector is the state of the last token. A model that was trained with a special token at
    # the end of each text needs that token there, so it is kept.
    return [*ids[: length - 1], ids[-1]] if tokenizer.add_eos else ids[:length]


def _beginning(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
