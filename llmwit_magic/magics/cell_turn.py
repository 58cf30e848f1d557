"""The turn of a conversation that a cell is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..contract.events import Report
from ..running import conversations
from ..running.conversations import Conversation
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
        params = self.conversation.next_params.model_dump() if self.conversation.turns else {}
        fields = {**self.conversation.next_fields(), **params}
        fields.pop("content_filters", None)  # those of the notebook count
        return fields

    def _conversation(self, given: Mapping[str, Any]) -> Conversation:
        if given.get("reply_to") is not None:
            return conversations.after(self._session, given["reply_to"])
        if given.get("conversation") is not None:
            return conversations.named(self._session, given["conversation"])
        return conversations.newest(self._session)

    def shortened(self, cell: Cell, show: Report) -> Cell:
        """The cell without the oldest turns that do not fit."""
        assert self.conversation is not None
        return replace(cell, requests=(self.conversation.shortened(cell.requests[0], show),))

    def of(self, cell: Cell) -> Cell:
        """The cell, with its chat as the first turn of a new conversation if it is none yet."""
        if self.conversation is None and not cell.is_sweep and cell.requests[0].is_chat:
            self.conversation = Conversation.opened(self._session)
            labels = {"conversation_id": self.conversation.id, "turn": 1}
            return replace(cell, requests=(cell.requests[0].model_copy(update=labels),))
        return cell

    def take(self, cell: Cell, run: Run) -> None:
        """Have the cell's run be the newest turn."""
        if self.conversation is not None:
            self.conversation.take(cell.requests[0], run)
