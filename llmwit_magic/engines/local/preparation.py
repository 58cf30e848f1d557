"""From a request to the prompt that a model reads: its text, its token ids, and notices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...contract.events import Prepared
from ...contract.request import Request
from ...contract.spans import Spans, touched
from ...contract.wit import ModelInfo
from ...errors import InvalidInput, PromptTooLong
from ...models.tokenizers.native import NativeTokenizer
from ..memory import limited_memory

if TYPE_CHECKING:
    from ...models.chat import Rendered
    from ..backends.base import Evaluator, Loaded
    from ..reasoning import Splitter
    from ..threads import Threads

TEMPLATE_BYTES = 256 * 2**20
"""Bytes of memory that a chat template may take to write a prompt."""


def prepare(
    loaded: Loaded,
    info: ModelInfo,
    request: Request,
    threads: Threads,
    rendering: Callable[[bool], None],
) -> tuple[Prepared, Sequence[int], Evaluator, Splitter | None]:
    """The request as it will run, the ids of its prompt, the context that evaluates them, and what
    keeps the reasoning of the answer apart. The last one is None where the model marks none.

    `rendering(True)` is called when a chat template begins to run, `rendering(False)` when it has
    ended. Raises `InvalidInput` and `PromptTooLong`.
    """
    text, data, notices, splitter = _text(loaded, request, rendering)
    withheld = loaded.tokenizer.withheld(text, data)
    if withheld:
        names = dict.fromkeys(text[start:end] for start, end in withheld)
        notices.append(f"text, and no control token, in the data: {', '.join(names)}")
    ids = loaded.tokenizer.encode(text, data)
    length = loaded.evaluator.context_length
    if not ids:
        raise InvalidInput("the prompt is empty: the model needs at least one token to continue")
    if len(ids) >= length:
        raise PromptTooLong(
            f"the prompt has {len(ids):,} tokens and the context holds {length:,}, answer "
            f"included: shorten it{_longer_context(loaded, length)}{request.without_oldest}"
        )
    evaluator = loaded.contexts.best_for(ids)
    prepared = Prepared(
        prompt=text,
        prompt_token_count=len(ids),
        cached_token_count=evaluator.shared_prefix(ids),
        context_length=length,
        params=request.params,
        model=info,
        device=loaded.device.model_copy(update={"threads": threads()}),
        data_spans=() if request.is_chat else touched(data, withheld),
        notices=tuple(notices),
    )
    return prepared, ids, evaluator, splitter


def _text(
    loaded: Loaded, request: Request, rendering: Callable[[bool], None]
) -> tuple[str, Spans, list[str], Splitter | None]:
    """The whole prompt, the spans of it that are data, notices about it, and the splitter."""
    if request.is_chat:
        rendered, splitter = _render(loaded, request, rendering)
        data = () if request.control_tokens == "all" else rendered.data
        return rendered.text, data, list(rendered.notices), splitter
    whole = ((0, len(request.prompt)),)
    data = {"none": whole, "typed": request.data_spans, "all": ()}[request.control_tokens]
    return request.prompt, data, [], None


def _longer_context(loaded: Loaded, length: int) -> str:
    header = loaded.header
    trained = header.hyperparameter("context_length") if header else length
    return f" or raise --context-length (up to {trained:,})" if trained > length else ""


def _render(
    loaded: Loaded, request: Request, rendering: Callable[[bool], None]
) -> tuple[Rendered, Splitter | None]:
    # Imported here, since jinja2 takes long to import and only chat prompts need it.
    from ...models.chat import render_chat
    from ...models.template import template_of, unread
    from ..reasoning import splitter_for

    if loaded.header is None or isinstance(loaded.tokenizer, NativeTokenizer):
        raise InvalidInput("an old GGML file has no chat template: leave out --chat")
    template = template_of(loaded.header.metadata, request.chat_template)
    messages = [(message.role, message.content) for message in request.messages]
    variables = {**request.template_options, **loaded.tokenizer.template_variables()}
    # The kernel ends this process where the template does not end. Only the kernel can, since most
    # of Python's own functions cannot be interrupted from inside.
    rendering(True)
    with limited_memory(TEMPLATE_BYTES):
        rendered = render_chat(template, messages, variables)
    rendering(False)
    unknown = unread(template, request.template_options)
    if unknown:
        said = f"the model's chat template does not read {', '.join(unknown)}: no effect"
        rendered = replace(rendered, notices=(*rendered.notices, said))
    return rendered, splitter_for(template, loaded.tokenizer, rendered.text, rendered.data)
