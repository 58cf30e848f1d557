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
from ..scoring import GivenChoices, GivenText
from .given import given_choices, given_text

if TYPE_CHECKING:
    from ...contract.constraint import Constraint
    from ...models.chat import Rendered
    from ..answer_mask import AnswerMask
    from ..backends.base import Evaluator, Loaded
    from ..reasoning import Splitter
    from ..threads import Threads

Given = GivenText | GivenChoices

TEMPLATE_BYTES = 256 * 2**20
"""Bytes of memory that a chat template may take to write a prompt."""


def prepare(
    loaded: Loaded,
    info: ModelInfo,
    request: Request,
    threads: Threads,
    rendering: Callable[[bool], None],
    mask_of: Callable[[Constraint, Splitter | None], AnswerMask],
    refuses: bool = True,
) -> tuple[Prepared, Sequence[int], Evaluator, Splitter | None, AnswerMask | None, Given | None]:
    """The request as it will run, the ids of its prompt, the context that evaluates them, what
    keeps the reasoning of the answer apart, the mask of its constraint, and what is scored. The
    splitter is None where the model marks no reasoning, the mask is None where no constraint holds
    an answer, and the last one is None where nothing is scored.

    `rendering(True)` is called when a chat template begins to run, `rendering(False)` when it has
    ended. `mask_of(constraint, splitter)` makes the mask. Raises `InvalidInput` and
    `ConstraintNotSupported`, and `PromptTooLong` unless `refuses` is false.
    """
    text, data, notices, splitter = _text(loaded, request, rendering)
    withheld = loaded.tokenizer.withheld(text, data)
    if withheld:
        names = dict.fromkeys(text[start:end] for start, end in withheld)
        notices.append(f"text, and no control token, in the data: {', '.join(names)}")
    ids = loaded.tokenizer.encode(text, data)
    length = loaded.evaluator.context_length
    given: Given | None = None
    if request.continuation is not None:
        given, said = given_text(loaded.tokenizer, request, follows=bool(text))
        notices += said
    elif not ids:
        raise InvalidInput("the prompt is empty: the model needs at least one token to continue")
    if request.probabilities:
        empty = _empty_prompt(loaded, request, rendering)
        given, said = given_choices(loaded.tokenizer, request, empty)
        notices += said
    if refuses:
        _check_room(loaded, len(ids), given, length, request.without_oldest)
    held = request.constraint if given is None else None
    mask = None if held is None else mask_of(held, splitter)
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
    return prepared, ids, evaluator, splitter, mask, given


def _check_room(
    loaded: Loaded, prompt: int, given: Given | None, length: int, otherwise: str
) -> None:
    """Raise `PromptTooLong` where the tokens do not fit into a context of `length` tokens.

    `otherwise` is a further remedy.
    """
    advice = f"shorten it{_longer_context(loaded, length)}{otherwise}"
    if given is None:
        if prompt >= length:
            raise PromptTooLong(
                f"the prompt has {prompt:,} tokens and the context holds {length:,}, answer "
                f"included: {advice}"
            )
        return
    texts = [given.ids] if isinstance(given, GivenText) else given.ids.values()
    longest = max(map(len, texts))
    if prompt + longest > length:
        what = "continuation" if isinstance(given, GivenText) else "longest choice"
        raise PromptTooLong(
            f"the prompt has {prompt:,} tokens and the {what} {longest:,}, and the context holds "
            f"{length:,}: {advice}"
        )


def _empty_prompt(
    loaded: Loaded, request: Request, rendering: Callable[[bool], None]
) -> Sequence[int]:
    """The ids of the request's prompt with an empty text in its place, where that is asked for."""
    if request.normalize != "empty-prompt":
        return ()
    text, data, _, _ = _text(loaded, request.model_copy(update={"prompt": ""}), rendering)
    return loaded.tokenizer.encode(text, data)


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
