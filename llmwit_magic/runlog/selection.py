"""The choice of runs in the log, by the same words in `%infer_log` and in Python."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from ..contract.wit import STATUSES, LoggedStatus
from ..errors import InvalidInput

# All keys are words, as on the line of `%infer_log`.
RATINGS = {"up": 1, "down": -1, "1": 1, "-1": -1}

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SEARCHED = ("prompt", "text", "reasoning", "system", "note")


@dataclass(frozen=True, slots=True)
class Filter:
    """The runs that meet all conditions that are given.

    Raises `InvalidInput` where a value is not valid.
    """

    everyone: bool = True
    """Whether the runs of all kernels are meant, or only those of this one."""
    group: str | None = None
    """The `group_id` of a sweep, a tuning panel or a batch."""
    conversation: str | None = None
    """The `conversation_id`, or the name that it was given."""
    model: str | None = None
    """The model's name as it was asked for."""
    status: LoggedStatus | None = None
    since: str | date | timedelta | None = None
    """The runs start then or later: an age (`2h`, a timedelta) or a time (`2026-11-20 14:00`)."""
    before: str | date | timedelta | None = None
    """The runs start earlier than this, in the same words."""
    last: int | None = None
    """Only this many of the newest runs that meet the other conditions."""
    grep: str | None = None
    """Text in the prompt, answer, reasoning, system message or note, in upper or lower case."""
    tag: str | None = None
    """`KEY=VALUE`, or `KEY` for any value."""
    metric: str | None = None
    """`NAME` for any value, or a comparison such as `accuracy>=0.8`, with <, <=, =, >= or >."""
    rating: int | Literal["up", "down"] | None = None

    def __post_init__(self) -> None:
        _one_of("status", self.status, STATUSES)
        _one_of("rating", None if self.rating is None else str(self.rating), tuple(RATINGS))
        if self.last is not None and (not isinstance(self.last, int) or self.last < 1):
            raise InvalidInput(f"last: {self.last!r} is not valid: it must be a whole number ≥ 1")
        if self.metric is not None:
            _comparison(self.metric)
        for name in ("since", "before"):
            moment(name, getattr(self, name))

    def sql(self, session_id: str, gone: Collection[str]) -> tuple[str, list[Any]]:
        """The SQL that follows `FROM runs`, and its arguments. The newest run comes first.

        `gone` are the sessions whose kernels are gone: their running runs are lost. The
        connection must have the function `holds(text, part)`.
        """
        terms: list[str] = []
        arguments: list[Any] = []

        def add(term: str, *values: Any) -> None:
            terms.append(term)
            arguments.extend(values)

        if not self.everyone:
            add("session_id = ?", session_id)
        if self.group is not None:
            add("group_id = ?", self.group)
        if self.conversation is not None:
            # The length tells the ID with this name from one whose name only begins so.
            add(
                "(conversation_id = ? OR (conversation_id GLOB '*-' || ? AND "
                "length(conversation_id) = ? AND substr(conversation_id, 1, ?) = ?))",
                self.conversation,
                "[0-9a-f]" * 8,
                len(self.conversation) + 9,
                len(self.conversation),
                self.conversation,
            )
        if self.model is not None:
            add("model = ?", self.model)
        if self.status is not None:
            marks = ", ".join("?" * len(gone))
            if self.status == "lost":
                add(f"status = 'running' AND session_id IN ({marks})", *gone)
            elif self.status == "running":
                add(f"status = 'running' AND session_id NOT IN ({marks})", *gone)
            else:
                add("status = ?", self.status)
        # ISO 8601 texts in one time zone sort as their times do.
        if (since := moment("since", self.since)) is not None:
            add("started_at >= ?", since.isoformat(timespec="microseconds"))
        if (before := moment("before", self.before)) is not None:
            add("started_at < ?", before.isoformat(timespec="microseconds"))
        if self.grep is not None:
            add(
                "(" + " OR ".join(f"holds({name}, ?)" for name in _SEARCHED) + ")",
                *[self.grep.casefold()] * len(_SEARCHED),
            )
        if self.tag is not None:
            key, equals, value = self.tag.partition("=")
            same = " AND value = ?" if equals else ""
            add(_having("tags", same), *([key, value] if equals else [key]))
        if self.metric is not None:
            key, sign, number = _comparison(self.metric)
            compared = f" AND value {sign} ?" if sign else ""
            add(_having("metrics", compared), *([key, number] if sign else [key]))
        if self.rating is not None:
            add("rating = ?", RATINGS[str(self.rating)])
        where = f"WHERE {' AND '.join(terms)} " if terms else ""
        limit = " LIMIT ?" if self.last is not None else ""
        arguments += [min(self.last, 2**63 - 1)] if self.last is not None else []
        return f"{where}ORDER BY run_id DESC{limit}", arguments


def _having(column: str, term: str) -> str:
    """The SQL condition that the JSON object of a column has a key, and of its value the `term`."""
    # CASE checks the text first, so that a damaged one matches nothing and raises no error.
    return (
        f"CASE WHEN typeof({column}) = 'text' AND json_valid({column}) THEN "
        f"EXISTS (SELECT 1 FROM json_each({column}) WHERE key = ?{term}) ELSE 0 END"
    )


_COMPARED = re.compile(r"(.*?)\s*(<=|>=|==|<|>|=)\s*([^<>=]*)")


def _comparison(text: str) -> tuple[str, str, float]:
    """The name, the sign and the number of a condition; the sign is empty for a name alone."""
    if (match := _COMPARED.fullmatch(text)) is None:
        return text.strip(), "", 0
    name = match[1].strip()
    try:
        if not name or name[-1] in "<>=":  # `acc>>1`: no name ends so
            raise ValueError
        return name, match[2], float(match[3])
    except ValueError:
        raise InvalidInput(
            f"metric: '{text}' is not valid: write NAME, or NAME>=NUMBER with <, <=, =, >= or >"
        ) from None


def holds(text: Any, part: str) -> bool:
    """Whether the text has that part, which is casefolded already.

    SQLite calls it, since its own search ignores the case of ASCII letters only.
    """
    return isinstance(text, str) and part in text.casefold()


def moment(name: str, value: str | date | timedelta | None) -> datetime | None:
    """The point in time, in UTC, that an age or a time means. A time without a zone is local.

    `name` is the field that the error names. Raises `InvalidInput`.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        return _ago(name, value)
    if isinstance(value, date):  # datetimes and pandas' timestamps are dates too
        value = value.isoformat()
    if isinstance(value, str):
        if match := _AGE.fullmatch(value.strip().lower()):
            try:
                return _ago(name, timedelta(**{_UNITS[match[2]]: float(match[1])}))
            except OverflowError:
                pass
        try:
            return datetime.fromisoformat(value.strip()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise InvalidInput(
        f"{name}: {value!r} is not valid: it must be an age such as 30m, 2h, 7d, or a time such as "
        "2026-11-20 or '2026-11-20 14:00'"
    )


def _ago(name: str, age: timedelta) -> datetime:
    try:
        return datetime.now(UTC) - age
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _one_of(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value is not None and value not in known:
        words = ", ".join(map(str, known))
        raise InvalidInput(f"{name}: {value!r} is not valid: it must be one of {words}")
