"""The conversations that a session knows: those with names, and the newest ones."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conversations import Conversation

MOST = 100
"""How many conversations are remembered. One with a name is remembered in any case."""


class KnownConversations:
    """Those of one session."""

    def __init__(self) -> None:
        self.by_name: dict[str, Conversation] = {}
        self.newest: deque[Conversation] = deque(maxlen=MOST)
        """The newest one stands at the end."""

    def remember(self, conversation: Conversation) -> None:
        """Have it be the newest one."""
        if conversation in self.newest:
            self.newest.remove(conversation)
        self.newest.append(conversation)
        if conversation.name:
            self.by_name.setdefault(conversation.name, conversation)
