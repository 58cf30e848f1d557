"""A request: one prompt with its model, its params and its labels, checked.

Beside its params, a request has six parts: the model, the prompt, the shape of the answer, what is
scored in the place of an answer, what is recorded, and labels.
Each part is a record of its own, and `Request` has the fields of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from ..errors import InvalidInput
from .constraint import Constraint
from .messages import Message, checked_messages, fields_of
from .record import U32, Record, Setting, Text, lists, shown, strings
from .scores import EndOfText, Normalization
from .spans import Spans, in_order
from .urls import checked_model
from .wit import InferencingParams

DEFAULT_MODEL = "smollm2-135m-instruct"
"""The model of a request that names none."""

Accept = Literal["context", "file", "filters", "engine", "unsupported"]
"""What would be refused, and is done where a person accepts it."""
ALL_ACCEPTED: tuple[Accept, ...] = get_args(Accept)

ContentFilter = str | Callable[[str], int | None]
"""A regular expression, or a function. The function gets the text so far, and returns the position
(in characters) where it must be cut, or None. It gets reasoning and answer as texts of their own."""


OWN_VARIABLES = frozenset({
    "messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now",
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    "additional_special_tokens", "self",
})  # fmt: skip
"""The variables of a chat template that are set from the request and from the model file."""


def _free_variables(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The variables that a person sets for a chat template.

    Raises `InvalidInput` for a name that is none or is taken, and for a value that no JSON has.
    """
    for name, value in options.items():
        if not name.isidentifier():
            raise InvalidInput(
                f"template_options: {shown(name)} is not the name of a variable of a chat template"
            )
        if name in OWN_VARIABLES:
            raise InvalidInput(
                f"template_options: {name} is set from the request and the model file: leave it out"
            )
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise InvalidInput(
                f"template_options: the value of {name} is not JSON: it must be finite numbers, "
                "text, true, false, null, lists and mappings"
            ) from None
    return options


class ModelSpec(Record):
    """The model, and how it is loaded. Requests with equal specs share one loaded model."""

    model: Annotated[
        Text,
        Setting(metavar="NAME", flags=("-m", "--model"), per_cell=True),
        AfterValidator(checked_model),
    ] = Field(
        description="path, alias, owner/repo[:file][@revision] or name of a model; on a server "
        "SERVER::MODEL or URL#MODEL"
    )
    model_type: Annotated[str | None, Setting(metavar="TYPE", per_cell=True)] = Field(
        default=None, description="format of an old GGML file, such as gpt2; GGUF files need none"
    )
    engine: Annotated[
        Literal["auto", "ctransformers", "llama.cpp"],
        Setting("auto, ctransformers or llama.cpp"),
    ] = Field(
        default="auto",
        description="what loads the model file; auto: ctransformers where it runs the file, else "
        "llama.cpp",
    )
    exact: Annotated[bool, Setting("True or False")] = Field(
        default=True,
        description="the same seed gives the same text; without it, llama.cpp reads prompts faster",
    )
    context_length: Annotated[
        Annotated[U32, Field(ge=1)] | None, Setting("a whole number ≥ 1", "N")
    ] = Field(
        default=None,
        description="tokens of prompt and answer together; by default what the model was trained "
        "with, or what memory allows, at most 8192",
    )
    accept: Annotated[
        tuple[Accept, ...],
        Setting("one or more of context, file, filters, engine, unsupported", per_cell=True),
        BeforeValidator(strings),
    ] = Field(
        default=(),
        description="take what would be refused: a context longer than the model was trained "
        "with; in a replay a model file that has changed since, the loss of content filters that "
        "were functions, or another engine; unsupported: what a server cannot honour",
    )
    gpu_layers: Annotated[U32 | Literal["auto"], Setting("a whole number ≥ 0, or auto", "N")] = (
        Field(
            default="auto",
            description="layers to run on the GPU; auto: as many as fit, none without a usable one",
        )
    )
    device: Annotated[
        Annotated[Text, Field(min_length=1)] | None,
        Setting("the name of a device, or a part of its description", "NAME"),
    ] = Field(
        default=None,
        description="the GPU that gets the layers, by llama.cpp's name such as Vulkan0, or by a "
        "part of its description; by default the first one",
    )

    @property
    def takes_long_context(self) -> bool:
        """Whether the context may be longer than the model was trained with."""
        return "context" in self.accept


class Prompt(Record):
    """The prompt, and how it is read."""

    prompt: Text = Field(description="the text to continue; with chat, what the user says")
    chat: Annotated[bool, Setting()] = Field(
        default=False, description="put the prompt into the model's own chat template"
    )
    system: Annotated[Text | None, Setting(metavar="TEXT", escapes=True)] = Field(
        default=None, description="the system message of the chat"
    )
    history: Annotated[tuple[Message, ...], BeforeValidator(checked_messages)] = Field(
        default=(), description="the messages between the system message and the prompt"
    )
    chat_template: Annotated[Text | None, Setting(metavar="NAME")] = Field(
        default=None,
        description="which of the model's named chat templates; the default one otherwise",
    )
    template_options: Annotated[
        Mapping[Text, JsonValue],
        Setting(metavar="KEY=JSON", flags=("--template-option",)),
        AfterValidator(_free_variables),
    ] = Field(
        default={},
        description="a variable of the chat template, such as enable_thinking=false; may be given "
        "several times",
    )
    control_tokens: Annotated[Literal["none", "typed", "all"], Setting("none, typed or all")] = (
        Field(
            default="typed",
            description="where a text such as <|im_end|> is a control token: nowhere but in the chat "
            "template, also where the prompt was typed, or in values and chat messages too",
        )
    )
    data_spans: Annotated[Spans, AfterValidator(in_order), BeforeValidator(lists)] = Field(
        default=(),
        description="parts of the prompt that were not typed but put in as values, as pairs of "
        "positions in characters: no control token is recognised there",
    )

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is put into the model's chat template."""
        return (
            self.chat
            or self.system is not None
            or bool(self.history)
            or self.chat_template is not None
            or bool(self.template_options)
        )

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages of the chat: the system message, the history, and the prompt as the user's."""
        system = () if self.system is None else (Message(role="system", content=self.system),)
        return (*system, *self.history, Message(role="user", content=self.prompt))


class Shape(Record):
    """What the answer must be."""

    constraint: Constraint | None = Field(
        default=None,
        description="what the answer must be: one of some choices, or what a regular expression, a "
        "JSON schema or a grammar allows",
    )


class Scored(Record):
    """What is scored in the place of an answer. Nothing is generated then."""

    continuation: Annotated[Text | None, Setting(metavar="TEXT", escapes=True, per_cell=True)] = (
        Field(
            default=None,
            description="the text to score after the prompt, which is data; nothing is generated",
        )
    )
    prompt_logprobs: Annotated[bool, Setting(per_cell=True)] = Field(
        default=False,
        description="with a continuation: the log-probabilities of the prompt's own tokens, too",
    )
    probabilities: Annotated[bool, Setting(per_cell=True)] = Field(
        default=False,
        description="with choices: the probability of each one, in the place of an answer",
    )
    normalize: Annotated[Normalization, Setting("sum, token or empty-prompt")] = Field(
        default="sum",
        description="what the probabilities of choices are made of: the log-probability, that per "
        "token, or that less the one after an empty prompt",
    )
    end_of_text: Annotated[EndOfText, Setting("auto, always or never")] = Field(
        default="auto",
        description="whether the end of text belongs to each choice; auto: where one choice is the "
        "beginning of another",
    )

    @property
    def is_scored(self) -> bool:
        """Whether a text or choices are scored, and nothing is generated."""
        return self.continuation is not None or self.probabilities


class Recorded(Record):
    """What is recorded of the answer, and what content filters cut from it."""

    top_logprobs: Annotated[
        Annotated[U32, Field(le=100)] | None, Setting("a whole number from 0 to 100", "N")
    ] = Field(
        default=None,
        description="record each token's log-probability, with this many alternatives",
    )
    content_filters: Annotated[tuple[ContentFilter, ...], BeforeValidator(strings)] = ()


class Labels(Record):
    """What a person finds the run by in the log."""

    tags: Annotated[
        Mapping[Text, Text], Setting(metavar="KEY=VALUE", flags=("--tag",), per_cell=True)
    ] = Field(default={}, description="KEY=VALUE kept with the run in the log")
    preset: Text | None = Field(
        default=None, description="name of the preset that settings were taken from"
    )
    group_id: str | None = None
    prompt_name: Text | None = Field(
        default=None, description="name of the prompt among those of its sweep"
    )
    replay_of: int | None = None
    conversation_id: str | None = None
    turn: Annotated[U32, Field(ge=1)] | None = Field(
        default=None, description="number of the turn in its conversation, from 1 on"
    )
    reply_to: int | None = Field(default=None, description="run_id of the turn before")
    dropped_turns: U32 = Field(
        default=0, description="how many of the oldest turns are not among the messages"
    )


OF_TURNS = ("conversation_id", "turn", "reply_to", "dropped_turns")
"""The labels of a turn of a conversation."""


class Request(ModelSpec, Prompt, Shape, Scored, Recorded, Labels):
    """One prompt with its model, params and labels. Raises `InvalidInput` for a bad value."""

    params: InferencingParams = InferencingParams()
    threads: Annotated[
        Annotated[U32, Field(ge=1)] | Literal["auto"],
        Setting("a whole number ≥ 1, or auto", "N"),
    ] = Field(
        default="auto",
        description="processor threads; auto takes as many as other programs leave cores for",
    )

    @model_validator(mode="before")
    @classmethod
    def _accepts_context(cls, values: Any) -> Any:
        """Let `anyway` mean `accept=("context",)`, as it did in version 0.1."""
        if not isinstance(values, Mapping) or "anyway" not in values:
            return values
        values = dict(values)
        if values.pop("anyway"):
            accepted = strings(values.get("accept") or ())
            values["accept"] = tuple(dict.fromkeys((*accepted, "context")))
        return values

    @model_validator(mode="after")
    def _scores_what_is_there(self) -> Self:
        """Refuse a score that lacks what it is about, or that is about two things."""
        chosen = self.constraint is not None and self.constraint.kind == "choices"
        if self.probabilities and not chosen:
            raise InvalidInput("probabilities: there are no choices: give at least one")
        if self.continuation is not None and self.constraint is not None:
            raise InvalidInput(
                "continuation: a text that is given cannot be held to a constraint: leave one out"
            )
        if self.continuation == "":
            raise InvalidInput("continuation: it is empty: give the text to score")
        if self.prompt_logprobs and self.continuation is None:
            raise InvalidInput("prompt_logprobs: they belong to a score: give a continuation")
        return self

    @model_validator(mode="before")
    @classmethod
    def _takes_messages(cls, values: Any) -> Any:
        """Let `messages` stand in the place of prompt, system and history."""
        if not isinstance(values, Mapping) or "messages" not in values:
            return values
        fields = fields_of(values["messages"])
        for name in ("prompt", "history", "system"):
            if values.get(name) and (name != "system" or fields["system"] is not None):
                raise InvalidInput(f"{name}: it is among the messages already: leave it out")
        others = {name: value for name, value in values.items() if name != "messages"}
        return others | {name: value for name, value in fields.items() if value is not None}

    @property
    def spec(self) -> ModelSpec:
        """The part of the request that says which model is loaded, and how."""
        values = {name: getattr(self, name) for name in ModelSpec.model_fields}
        # The other words of `accept` do not change how a model is loaded.
        accepted = ("context",) if self.takes_long_context else ()
        return ModelSpec(**values | {"accept": accepted})

    def with_params(self, **changes: Any) -> Request:
        """The request with other values for some of its params. Raises `InvalidInput`."""
        params = InferencingParams(**self.params.model_dump() | changes)
        return self.model_copy(update={"params": params})

    @property
    def without_oldest(self) -> str:
        """What the error of a prompt that is too long offers too, where the run is a later turn."""
        return ", or --drop-oldest leaves out the oldest turns" if self.reply_turns else ""

    @property
    def reply_turns(self) -> int:
        """How many turns before this one are among the messages."""
        return max((self.turn or 1) - 1 - self.dropped_turns, 0)


def checked_text(text: object, name: str) -> str:
    """A text, checked as the prompt of a request is. `name` is what errors call it.

    Raises `InvalidInput`.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"{name} is {type(text).__name__}, not text")
    try:
        return Request(model=DEFAULT_MODEL, prompt=text).prompt
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {str(error).removeprefix('prompt: ')}") from None
