"""The turn of a conversation that a cell is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..contract.events import Report
from ..contract.messages import is_id
from ..errors import InvalidInput
from ..runlog.selection import Filter
from ..running.conversations import Conversation
from ..running.logged_turns import logged_turns
from ..running.run import Run
from ..running.session import Session
from .cell import Cell


class CellTurn:
    """What a cell and its conversation have to do with each other. A sweep has none."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.conversation: Conversation | None = None

    def fields(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What is known of the turn that the line of a cell asks for; see `NextTurn`."""
        self.conversation = self._conversation(given)
        params = (
            self.conversation.next_params.model_dump() if self.conversation.has_settings else {}
        )
        fields = {**self.conversation.next_fields(), **params}
        fields.pop("content_filters", None)  # those of the notebook count
        return fields

    def _conversation(self, given: Mapping[str, Any]) -> Conversation:
        if given.get("reply_to") is not None:
            return after(self._session, given["reply_to"])
        if given.get("conversation") is not None:
            return named(self._session, given["conversation"])
        return newest(self._session)

    def shortened(self, cell: Cell, show: Report) -> Cell:
        """The cell without the oldest turns that do not fit."""
        assert self.conversation is not None
        return replace(cell, requests=(self.conversation.shortened(cell.requests[0], show),))

    def of(self, cell: Cell) -> Cell:
        """The cell, with its chat as the first turn of a new conversation if it is none yet."""
        request = cell.requests[0]
        begins = request.is_chat and not request.is_scored and not cell.is_sweep
        if self.conversation is None and begins:
            self.conversation = Conversation.opened(self._session)
            labels = {"conversation_id": self.conversation.id, "turn": 1}
            return replace(cell, requests=(request.model_copy(update=labels),))
        return cell

    def take(self, cell: Cell, run: Run) -> None:
        """Have the cell's run be the newest turn."""
        if self.conversation is not None:
            self.conversation.take(cell.requests[0], run)


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
    """The conversation with that name in this kernel, or with that ID in the log, or a new one.

    Raises `InvalidInput` for an ID that the log does not have, and for a name that is none.
    """
    known = session.conversations
    for conversation in (known.by_name.get(name), *known.newest):
        if conversation is not None and name in (conversation.name, conversation.id):
            return conversation
    if is_id(name):
        return Conversation.of_runs(session, logged_turns(session.log, name))
    made = Conversation.opened(session, name=name)
    known.by_name[name] = made
    return made


def after(session: Session, run_id: int) -> Conversation:
    """The conversation that ends with that run; a fork where it has gone on after the run."""
    for conversation in reversed(session.conversations.newest):
        turns = conversation.turns
        if turns and turns[-1].result.run_id == run_id:
            return conversation
    found = Conversation.of_runs(session, logged_turns(session.log, run_id))
    last = session.log.tuples(Filter(conversation=found.id, last=1), ("run_id",))
    return found if last == [(run_id,)] else found.fork()
