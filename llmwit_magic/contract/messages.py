"""Messages: the texts of a chat, each with the role of who says it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from ..errors import InvalidInput
from .record import Record, Text, shown

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)

_ID = re.compile(r"[0-9a-f]{12}|(.+)-[0-9a-f]{8}")


class Message(Record):
    """What one side of a chat says."""

    role: Role
    content: Text


def checked_messages(value: Any) -> tuple[Message, ...]:
    """The messages of a list of messages, or of mappings with `role` and `content`.

    Raises `InvalidInput` with the number of the message that is none, counted from 1.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise InvalidInput(
            f"messages: {shown(value)} is not valid: it must be a list of "
            "{'role': …, 'content': …}"
        )
    return tuple(_message(item, number) for number, item in enumerate(value, 1))


def _message(item: Any, number: int) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping) or item.keys() != {"role", "content"}:
        raise InvalidInput(
            f"message {number}: {shown(item)} is not valid: it must have role and content, and "
            "nothing else" + (": infer_frame runs several prompts" if isinstance(item, str) else "")
        )
    if item["role"] not in ROLES:
        raise InvalidInput(
            f"message {number}: the role {shown(item['role'])} is not valid: it must be one of "
            f"{', '.join(ROLES)}"
        )
    if not isinstance(item["content"], str):
        raise InvalidInput(
            f"message {number}: the content is {type(item['content']).__name__}: it must be text"
        )
    try:
        return Message(**item)
    except InvalidInput as error:
        raise InvalidInput(f"message {number}: {error}") from None


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a request that are the same as these messages: prompt, system, history, chat.

    The last message becomes the prompt, and a system message at the beginning becomes `system`.
    Raises `InvalidInput` for messages that are not valid, and where the last one is not the user's.
    """
    messages = checked_messages(value)
    if not messages:
        raise InvalidInput("messages: the list is empty: end it with a message of the user")
    last = messages[-1]
    if last.role == "assistant":
        raise InvalidInput(
            "messages: the last one is the assistant's, and an answer that is begun (a prefill) is "
            "not continued: end the list with a message of the user"
        )
    if last.role == "system":
        raise InvalidInput(
            "messages: the last one is the system's: end the list with a message of the user"
        )
    first = messages[0]
    system = first.content if first.role == "system" else None
    history = messages[1 if system is not None else 0 : -1]
    return {"prompt": last.content, "system": system, "history": history, "chat": True}


def is_id(text: str) -> bool:
    """Whether the text has the form of a conversation's ID, and is no name alone."""
    return _ID.fullmatch(text) is not None


def conversation_name(conversation_id: str) -> str:
    """The name that a person gave the conversation; empty for one without a name."""
    found = _ID.fullmatch(conversation_id)
    return (found[1] or "") if found else ""
