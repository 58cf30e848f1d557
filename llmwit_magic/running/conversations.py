"""Conversations: messages that belong together. Each turn is a run, and a row of the log.

The log keeps of each turn the messages before it, its conversation and the run that it replies to.
So a conversation can be read from the log, and go on in another kernel.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.filesystem import replacing
from ..contract.events import Report
from ..contract.messages import Message, checked_messages, conversation_name, is_id
from ..contract.request import OF_TURNS, Request
from ..contract.wit import InferencingParams, InferencingResult
from ..errors import InvalidInput, LogError, PromptTooLong, RunNotFound
from ..requests.arguments import Messages, request_from
from ..runlog.log import RunLog
from ..runlog.selection import Filter
from .run import Run
from .session import Session, current_session
from .streams import TextStream, result_in_loop, result_of

_OWN = {*OF_TURNS, "prompt", "data_spans", "history", "tags", "group_id", "replay_of", "params"}
"""The fields that belong to one turn. The others stay for the next one."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user said, and the result: the answer, complete or interrupted."""

    request: Request
    """The request as it was made: its seed is missing unless it was given."""
    result: InferencingResult

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
        opening = checked_messages(messages)
        if system is None and opening and opening[0].role == "system":
            system, opening = opening[0].content, opening[1:]
        if opening and opening[-1].role != "assistant":
            raise InvalidInput(
                "messages: those before the first turn end with an answer of the assistant: give "
                "the user's last one to ask()"
            )
        options = {"chat": True, **options, "system": system, "history": opening}
        self._begin(current_session(), request_from(model, "", params, options), name)
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
                if _is_kept(result.status, result.text):
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
            raise InvalidInput("a turn of this conversation goes on: wait for its end, or stop it")
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
    def next_params(self) -> InferencingParams:
        """The params of the next turn, where it gives none."""
        settings = self._settings
        return settings.params if settings else InferencingParams()

    def request(
        self, text: str, params: InferencingParams | Mapping[str, Any] | None = None, **options: Any
    ) -> Request:
        """The request of the next turn. Raises `InvalidInput`."""
        if not isinstance(params, InferencingParams):
            kept = self.next_params.model_dump(exclude_unset=True)
            params = kept | dict(params or {})
        fields = self.next_fields()
        model = options.pop("model", fields.pop("model", None))
        return request_from(model, text, params, fields | options)

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
            raise InvalidInput("a turn of this conversation goes on: wait for its end, or stop it")
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
        """Write the messages into a file, each as a line of JSON; the number of messages."""
        messages = self.messages
        lines = "".join(f"{json.dumps(message, ensure_ascii=False)}\n" for message in messages)
        with replacing(Path(path).expanduser()) as temporary:
            temporary.write_text(lines, encoding="utf-8")
        return len(messages)

    @classmethod
    def load(cls, which: str | int, log: RunLog | None = None) -> Conversation:
        """A conversation from the log: by its ID, by its name, or up to the run of a number.

        Of several with a name, the newest is meant. The turns are followed from the newest one back
        to the first. Its next turn draws a seed. Raises `InvalidInput` where the log has no such
        conversation, `RunNotFound` for an unknown run, and `LogError`.
        """
        return loaded(current_session(), which, log)

    @property
    def turn_count(self) -> int:
        """How many turns it has, also those of which the log has no rows any more."""
        return self._before + len(self.turns)

    def __repr__(self) -> str:
        count = self.turn_count
        return f"<Conversation {self.id}: {count} turn{'' if count == 1 else 's'}>"


def _is_kept(status: str, text: str) -> bool:
    """Whether a run that ended so is a turn: one that was stopped must have begun its answer."""
    return status == "ok" or (status == "interrupted" and bool(text))


def new_id(name: str | None) -> str:
    """A new ID: the name with eight digits, or twelve digits without a name.

    Raises `InvalidInput` for a name that cannot be one.
    """
    if name is None:
        return uuid.uuid4().hex[:12]
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InvalidInput(f"conversation: {name!r} is not a name: give one of printable letters")
    return f"{name}-{uuid.uuid4().hex[:8]}"


def loaded(session: Session, which: str | int, log: RunLog | None = None) -> Conversation:
    """What `Conversation.load` gives."""
    log = log or session.log
    newest = log[which] if isinstance(which, int) else log[_newest_turn(log, which)]
    if not newest.request.is_chat or not _is_kept(newest.status, newest.text):
        raise InvalidInput(
            f"run {newest.run_id} is no turn of a conversation: it must be a chat with an answer"
        )
    runs = [newest]
    while (number := runs[0].request.reply_to) is not None:
        try:
            before = log[number]
        except (RunNotFound, LogError):
            break
        said = tuple((message.role, message.content) for message in runs[0].request.history[-2:])
        if said and said != (("user", before.request.prompt), ("assistant", before.text)):
            break  # the file of the log was replaced: another run has that number
        runs.insert(0, before)
    first = runs[0].request
    turns = [Turn(run.request.with_params(seed=None), run) for run in runs]
    made = Conversation.opened(session, turns[0].request)
    made.id = newest.request.conversation_id or made.id
    made._turns, made._before = turns, (first.turn or 1) - 1
    return made


def _newest_turn(log: RunLog, which: str) -> int:
    names = ("run_id", "conversation_id", "status", "text")
    found = log.tuples(Filter(conversation=which), names)
    for run_id, _, status, text in reversed(found):
        if _is_kept(status, text):
            return int(run_id)
    raise InvalidInput(
        f"the log has no conversation {which!r}: %infer_log --all --columns conversation_id lists "
        "those that it has"
    )


# Those of a kernel --------------------------------------------------------------------


def newest(session: Session) -> Conversation:
    """The newest conversation of this kernel that has a turn. Raises `InvalidInput` for none."""
    for conversation in reversed(session.conversations.newest):
        if conversation.turns or conversation.going:
            return conversation
    raise InvalidInput(
        "continue: this kernel has no conversation yet: begin one with --chat, or give "
        "--conversation NAME"
    )


def named(session: Session, name: str) -> Conversation:
    """The conversation with that name in this kernel, or with that ID in the log, or a new one."""
    known = session.conversations
    for conversation in (known.by_name.get(name), *known.newest):
        if conversation is not None and name in (conversation.name, conversation.id):
            return conversation
    if session.log.tuples(Filter(conversation=name), ("run_id",)) and is_id(name):
        return loaded(session, name)
    made = Conversation.opened(session, name=name)
    known.by_name[name] = made
    return made


def after(session: Session, run_id: int) -> Conversation:
    """The conversation that ends with that run; a fork where it has gone on after the run."""
    for conversation in reversed(session.conversations.newest):
        turns = conversation.turns
        if turns and turns[-1].result.run_id == run_id:
            return conversation
    found = loaded(session, run_id)
    last = session.log.tuples(Filter(conversation=found.id, last=1), ("run_id",))
    return found if last == [(run_id,)] else found.fork()
