"""The turns of a conversation in the log: the newest one, and those before it."""

from __future__ import annotations

from ..errors import InvalidInput, LogError, RunNotFound
from ..runlog.log import RunLog
from ..runlog.logged_run import LoggedRun
from ..runlog.selection import Filter


def is_kept(status: str, text: str) -> bool:
    """Whether a run that ended so is a turn: one that was stopped must have begun its answer."""
    return status == "ok" or (status == "interrupted" and bool(text))


def logged_turns(log: RunLog, which: str | int) -> list[LoggedRun]:
    """The turns up to a run, or those of the newest conversation with that ID or name.

    They are followed from the newest one back, as far as the log has them. Raises `InvalidInput`
    where the log has no such conversation, `RunNotFound` for an unknown run, and `LogError`.
    """
    if not isinstance(which, str | int) or not which:
        raise InvalidInput(
            f"{which!r} names no conversation: give its name, its ID or a run's number"
        )
    newest = log[which] if isinstance(which, int) else log[_newest_turn(log, which)]
    request = newest.request
    is_turn = request.is_chat and not request.is_scored and is_kept(newest.status, newest.text)
    if not is_turn:
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
    return runs


def _newest_turn(log: RunLog, which: str) -> int:
    found = log.tuples(Filter(conversation=which), ("run_id", "status", "text"))
    for run_id, status, text in reversed(found):
        if is_kept(status, text):
            return int(run_id)
    raise InvalidInput(
        f"the log has no conversation {which!r}: %infer_log --all --columns conversation_id lists "
        "those that it has"
    )
