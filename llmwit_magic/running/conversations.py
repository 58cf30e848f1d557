"""Conversations: messages that belong together. Each turn is a run, and a row of the log.

The log keeps of each turn the messages before it, its conversation and the run that it replies to.
So a conversation can be read from the log, and go on in another kernel.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.filesystem import replacing
from ..base.printable import short
from ..contract.events import Report
from ..contract.messages import Message, checked_messages, conversation_name
from ..contract.request import OF_TURNS, Request, Scored, Shape
from ..contract.wit import InferencingParams, InferencingResult
from ..errors import InvalidInput, PromptTooLong, warn
from ..requests.arguments import Messages, request_from
from ..requests.presets import preset_of
from ..runlog.log import RunLog
from ..runlog.logged_run import LoggedRun
from ..runlog.rows import function_filters
from .logged_turns import is_kept, logged_turns
from .run import Run
from .session import Session, current_session
from .streams import TextStream, result_in_loop, result_of

_OWN = {
    *OF_TURNS, "prompt", "data_spans", "history", "tags", "prompt_name", "group_id", "replay_of", "params",
    *Shape.model_fields, *Scored.model_fields,
}  # fmt: skip
"""The fields that belong to one turn. The others stay for the next one."""


@dataclass(frozen=True, slots=True, repr=False)
class Turn:
    """What the user said, and the result: the answer, complete or interrupted."""

    request: Request
    """The request as it was made: its seed is missing unless it was given."""
    result: InferencingResult

    def __repr__(self) -> str:
        return f"<Turn: {short(self.request.prompt, 60)!r} → {short(self.result.text, 60)!r}>"

    @property
    def messages(self) -> tuple[Message, Message]:
        """The two messages of the turn. Reasoning is in neither of them."""
        said, answer = self.request.prompt, self.result.text
        return Message(role="user", content=said), Message(role="assistant", content=answer)


class Conversation:
    """Messages that belong together. Displayed, it is a transcript.

    Model, system message, params and options stay from turn to turn, unless a turn is given others:
    these stay then. `messages` are ones to begin with, which no turn drops.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        system: str | None = None,
        params: InferencingParams | Mapping[str, Any] | None = None,
        name: str | None = None,
        messages: Messages = (),
        **options: Any,
    ) -> None:
        """Raises `InvalidInput` for a value that is not valid."""
        for given in ("prompt", "history"):
            if given in options:
                raise InvalidInput(f"{given}: a conversation takes messages= to begin with")
        opening = checked_messages(messages)
        if system is None and opening and opening[0].role == "system":
            system, opening = opening[0].content, opening[1:]
        if opening and opening[-1].role != "assistant":
            raise InvalidInput(
                "messages: those before the first turn end with an answer of the assistant: give "
                "the user's last one to ask()"
            )
        options = {"chat": True, **options, "history": opening}
        if system is not None:
            options["system"] = system
        first = request_from(model, "", params, options)
        _refuse_score(first)
        if first.constraint is not None:
            raise InvalidInput(
                f"constraint {first.constraint.kind}: the shape of an answer belongs to one turn: "
                "give it to ask()"
            )
        self._begin(current_session(), first, name)
        if name is not None:
            self._session.conversations.by_name[name] = self

    def _begin(self, session: Session, first: Request | None, name: str | None) -> None:
        self._session = session
        self._first = first
        self._before = 0  # turns before the first one that is known
        self.id = new_id(name)
        self._turns: list[Turn] = []
        self._going: tuple[Request, Run] | None = None
        self._lock = threading.Lock()

    @classmethod
    def opened(
        cls, session: Session, first: Request | None = None, name: str | None = None
    ) -> Conversation:
        """A conversation whose settings those of `first` are, or else of its first turn."""
        made = cls.__new__(cls)
        made._begin(session, first, name)
        return made

    # What is known of it ---------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name that it was given; empty where it has none."""
        return conversation_name(self.id)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns that have ended, the newest at the end.

        One that failed is none, and neither is one that was stopped before its answer began.
        """
        with self._lock:
            if self._going is not None and self._going[1].done:
                (request, run), self._going = self._going, None
                result = run.result
                if is_kept(result.status, result.text):
                    self._turns.append(Turn(request, result))
            return tuple(self._turns)

    @property
    def going(self) -> Run | None:
        """The run of the turn that goes on now."""
        self.turns  # noqa: B018  takes a turn that has ended
        return self._going[1] if self._going else None

    @property
    def opening(self) -> tuple[Message, ...]:
        """The messages before the first turn, without the system message."""
        return self._first.history if self._first else ()

    @property
    def system(self) -> str | None:
        """The system message of the next turn."""
        settings = self._settings
        return settings.system if settings else None

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages, also those of dropped turns: mappings with `role` and `content`."""
        system = [] if self.system is None else [Message(role="system", content=self.system)]
        said = [message for turn in self.turns for message in turn.messages]
        return [message.model_dump() for message in (*system, *self.opening, *said)]

    @property
    def _settings(self) -> Request | None:
        turns = self.turns
        return turns[-1].request if turns else self._first

    # The next turn ---------------------------------------------------------------------

    def next_fields(self) -> dict[str, Any]:
        """The fields of the next turn's request that are known: its messages, labels and settings.

        Raises `InvalidInput` while a turn goes on.
        """
        if self.going is not None:
            raise InvalidInput(
                "a turn of this conversation goes on: .wait() for the end of its run, or .stop() it"
            )
        turns, settings = self.turns, self._settings
        kept: dict[str, Any] = {"chat": True}
        if settings is not None:
            names = Request.model_fields.keys() - _OWN
            kept = {name: getattr(settings, name) for name in names}
        newest = turns[-1] if turns else None
        return (
            kept
            | {
                "conversation_id": self.id,
                "turn": self.turn_count + 1,
                "reply_to": newest.result.run_id if newest else None,
            }
            | self._history(newest.request.dropped_turns if newest else 0)
        )

    def _history(self, dropped: int) -> dict[str, Any]:
        """The messages before the next turn, without those of the oldest turns."""
        sent = self.turns[max(dropped - self._before, 0) :]
        said = (message for turn in sent for message in turn.messages)
        return {"dropped_turns": dropped, "history": (*self.opening, *said)}

    @property
    def has_settings(self) -> bool:
        """Whether it has model and params of its own, by its first turn or from the beginning."""
        return self._settings is not None

    @property
    def next_params(self) -> InferencingParams:
        """The params of the next turn, where it gives none."""
        settings = self._settings
        return settings.params if settings else InferencingParams()

    def request(
        self, text: str, params: InferencingParams | Mapping[str, Any] | None = None, **options: Any
    ) -> Request:
        """The request of the next turn. Raises `InvalidInput`."""
        fields, named = self.next_fields(), preset_of(options)
        params_of_preset = {
            name: named.pop(name) for name in InferencingParams.model_fields if name in named
        }
        if not isinstance(params, InferencingParams):
            params = _given(self.next_params) | params_of_preset | dict(params or {})
        fields |= named
        label = fields.pop("preset", None)  # settings that stay are not read from the file again
        model = options.pop("model", fields.pop("model", None))
        request = request_from(model, text, params, fields | options)
        _refuse_score(request)
        return request.model_copy(update={"preset": label})

    def shortened(self, request: Request, show: Report | None = None) -> Request:
        """The request without as many of the oldest turns as it takes for prompt and answer to fit.

        The answer gets room for `max_tokens`, or for a quarter of the context where there is no
        limit. System message and opening stay. Nothing is dropped on a server that counts no tokens
        before the run. Raises `PromptTooLong` where the last message alone does not fit.
        """
        while True:
            droppable = request.reply_turns > 0
            try:
                prepared = self._session.prepare(request, show)
            except PromptTooLong:
                if not droppable:
                    raise
            else:
                length, count = prepared.context_length, prepared.prompt_token_count
                if length is None or count is None or not droppable:
                    return request
                most = request.params.max_tokens
                if count + (length // 4 if most is None else most) <= length:
                    return request
            request = request.model_copy(update=self._history(request.dropped_turns + 1))

    def take(self, request: Request, run: Run) -> None:
        """Have the run be the newest turn, once it has ended. `request` is as it was made."""
        with self._lock:
            self._going = (request, run)
        self._session.conversations.remember(self)

    def start(
        self,
        text: str,
        params: InferencingParams | Mapping[str, Any] | None = None,
        *,
        drop_oldest: bool = False,
        **options: Any,
    ) -> Run:
        """Begin the next turn in the background. Takes the arguments of `ask`."""
        request = self.request(text, params, **options)
        if drop_oldest:
            request = self.shortened(request)
        run = self._session.run(request)
        self.take(request, run)
        return run

    def ask(
        self,
        text: str,
        params: InferencingParams | Mapping[str, Any] | None = None,
        *,
        drop_oldest: bool = False,
        **options: Any,
    ) -> InferencingResult:
        """Say something, and return the result with the answer.

        `params` are some of the fields of `InferencingParams`, and `options` those of `infer`, and
        `model` and `system`. What is given stays for the next turns. A turn that fails leaves the
        conversation as it was; one that is interrupted keeps the answer so far.

        With `drop_oldest`, the oldest turns are left out where the context is too short. Otherwise
        that raises `PromptTooLong`. Raises what `infer` raises, too.
        """
        return result_of(self.start(text, params, drop_oldest=drop_oldest, **options))

    def stream(
        self, text: str, params: InferencingParams | Mapping[str, Any] | None = None, **options: Any
    ) -> TextStream:
        """Say something, and iterate over the chunks of the answer. The arguments are `ask`'s."""
        return TextStream(self.start(text, params, **options))

    async def aask(
        self, text: str, params: InferencingParams | Mapping[str, Any] | None = None, **options: Any
    ) -> InferencingResult:
        """Say something, as `ask` does, while other tasks of the event loop go on."""
        return await result_in_loop(self.start(text, params, **options))

    # The whole of it -------------------------------------------------------------------

    def undo(self) -> Turn:
        """Take the last turn out, and return it. Its row stays in the log.

        Raises `InvalidInput` where there is none, and while a turn goes on.
        """
        if self.going is not None:
            raise InvalidInput(
                "a turn of this conversation goes on: .wait() for the end of its run, or .stop() it"
            )
        if not self.turns:
            raise InvalidInput("the conversation has no turn to undo")
        return self._turns.pop()

    def fork(self, name: str | None = None) -> Conversation:
        """Another conversation with the same turns. The two go on apart."""
        other = Conversation.opened(self._session, self._first, name or self.name or None)
        other._turns, other._before = list(self.turns), self._before
        if name is not None:
            self._session.conversations.by_name[name] = other
        return other

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write the messages into a file, each as a line of JSON; the number of messages.

        Raises `InvalidInput` for a file whose name does not end with `.jsonl`.
        """
        if Path(path).suffix.lower() != ".jsonl":
            raise InvalidInput(
                f"{path}: messages are written as JSON Lines: name a file that ends with .jsonl"
            )
        messages = self.messages
        lines = "".join(f"{json.dumps(message, ensure_ascii=False)}\n" for message in messages)
        with replacing(Path(path).expanduser()) as temporary:
            temporary.write_text(lines, encoding="utf-8")
        return len(messages)

    @classmethod
    def load(cls, which: str | int, log: RunLog | None = None) -> Conversation:
        """A conversation from the log: by its ID, by its name, or up to the run of a number.

        Of several with a name, the newest is meant. The turns are followed from the newest one back
        to the first. Its next turn draws a seed. The log has no content filters that are functions:
        a warning says so. Raises `InvalidInput` where the log has no such conversation,
        `RunNotFound` for an unknown run, and `LogError`.
        """
        session = current_session()
        runs = logged_turns(log or session.log, which)
        if names := function_filters(runs[-1].row):
            warn(
                f"the log does not have the content filters {', '.join(names)}: give "
                "content_filters= to the next turn"
            )
        return cls.of_runs(session, runs)

    @classmethod
    def of_runs(cls, session: Session, runs: Sequence[LoggedRun]) -> Conversation:
        """The conversation whose last turns those runs of the log are."""
        turns = [Turn(run.request.with_params(seed=None), run) for run in runs]
        first = turns[0].request
        made = cls.opened(session, first)
        made.id = turns[-1].request.conversation_id or made.id
        made._turns, made._before = turns, (first.turn or 1) - 1
        return made

    @property
    def turn_count(self) -> int:
        """How many turns it has, also those of which the log has no rows any more."""
        return self._before + len(self.turns)

    def __repr__(self) -> str:
        count = self.turn_count
        return f"<Conversation {self.id}: {count} turn{'' if count == 1 else 's'}>"


def _refuse_score(request: Request) -> None:
    if request.is_scored:
        raise InvalidInput("a score is no turn of a conversation: use score() or choose()")


def _given(params: InferencingParams) -> dict[str, Any]:
    """The params that somebody gave. Those of a cell and of the log are set without exception."""
    given = params.model_dump(exclude_unset=True)
    if given.keys() == InferencingParams.model_fields.keys():
        standard = InferencingParams(temperature=params.temperature)
        if params.repeat_penalty == standard.repeat_penalty:  # it follows from the temperature
            del given["repeat_penalty"]
    return given


def new_id(name: str | None) -> str:
    """A new ID: the name with eight digits, or twelve digits without a name.

    Raises `InvalidInput` for a name that cannot be one.
    """
    if name is None:
        return uuid.uuid4().hex[:12]
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InvalidInput(f"conversation: {name!r} is not a name: give one of printable letters")
    return f"{name}-{uuid.uuid4().hex[:8]}"
