"""A conversation as a transcript: who says what, and how each turn ended."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from ..base.printable import on_one_line, visible
from ..contract.wit import InferencingResult
from ..running.conversations import Conversation
from .display import REDRAW_SECONDS
from .frontend import Reach
from .html import MAX_UNSCROLLED, NO_MATH, escape, pre, quiet, reasoning_html
from .terminal import say
from .text import brief_parts


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a transcript, with the result where it is an answer."""

    role: str
    text: str
    result: InferencingResult | None = None
    dropped: bool = False
    """Whether the next turn leaves the message out, as the context is too short for it."""

    @property
    def status(self) -> str:
        """How its turn ended; empty for a message that is no answer."""
        if self.result is None:
            return ""
        number = "" if self.result.run_id is None else f"run {self.result.run_id}"
        return " · ".join(filter(None, [*brief_parts(self.result), number]))

    @property
    def label(self) -> str:
        """Who says it, in words."""
        return f"{self.role} (dropped)" if self.dropped else self.role


def messages_of_conversation(conversation: Conversation) -> Iterator[Said]:
    """All messages of a conversation, and what is there of the answer that goes on."""
    if conversation.system is not None:
        yield Said("system", conversation.system)
    for message in conversation.opening:
        yield Said(message.role, message.content)
    turns, going = conversation.turns, conversation.going
    newest = going.request if going else turns[-1].request if turns else None
    for turn in turns:
        dropped = newest is not None and (turn.request.turn or 1) <= newest.dropped_turns
        yield Said("user", turn.request.prompt, None, dropped)
        yield Said("assistant", turn.result.text, turn.result, dropped)
    if going is not None:
        yield Said("user", going.request.prompt)
        yield Said("assistant", going.text, going.result)


def _heading(conversation: Conversation) -> str:
    count = conversation.turn_count
    return f"conversation {conversation.id} · {count} turn{'' if count == 1 else 's'}"


def transcript_text(conversation: Conversation) -> str:
    """The transcript as plain text."""
    lines = [f"── {on_one_line(_heading(conversation))}"]
    for said in messages_of_conversation(conversation):
        status = f" · {on_one_line(said.status)}" if said.status else ""
        lines += [f"── {said.label}{status}", visible(said.text)]
    return "\n".join(lines)


def show_transcript(conversation: Conversation, reach: Reach) -> None:
    """Display the transcript, and draw it again until the turn that goes on has ended.

    Where updates do not arrive, it is displayed once, at the end. An interrupt ends the turn, and
    what there is of the answer is shown.
    """
    handle: Any = None
    updated = reach in (Reach.LIVE, Reach.UPDATES)

    def draw() -> None:
        nonlocal handle
        if reach is Reach.PRINT:
            say(transcript_text(conversation))
            return
        bundle = {
            "text/html": transcript_html(conversation),
            "text/plain": transcript_text(conversation),
        }
        if handle is None:
            handle = display(bundle, raw=True, display_id=True)
        else:
            handle.update(bundle, raw=True)

    run = conversation.going
    try:
        for _ in run.updates(REDRAW_SECONDS) if run else ():
            if updated:
                draw()
    except KeyboardInterrupt:
        assert run is not None
        run.stop()
    draw()


def transcript_html(conversation: Conversation) -> str:
    """The transcript as HTML that is read without scripts and without a style sheet.

    All texts are escaped: those of the user, too.
    """
    parts = [quiet(escape(_heading(conversation)))]
    for said in messages_of_conversation(conversation):
        parts.append(f'<div class="llmwit-role" style="margin-top:.6em"><b>{said.label}</b></div>')
        thoughts = reasoning_html(said.result) if said.result else ""
        name = "llmwit-text" + " llmwit-long" * (len(said.text) > MAX_UNSCROLLED)
        parts.append(f"{thoughts}{pre(escape(said.text), name)}")
        if said.status:
            parts.append(quiet(escape(said.status)))
    name = html.escape(f"conversation {conversation.id}")
    return (
        f'<div class="llmwit llmwit-transcript {NO_MATH}" role="group" aria-label="{name}">'
        f"{''.join(parts)}</div>"
    )
