"""A replay: a run of the log runs again, with the same model file, params and seed.

Its verdict says whether the two texts are identical.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.events import Report
from ..contract.request import OF_TURNS, ContentFilter, Request
from ..contract.spans import common
from ..contract.wit import InferencingResult
from ..errors import InvalidInput, ModelNotFound, ModelNotSupported
from ..runlog.logged_run import LoggedRun
from ..runlog.rows import filter_name, function_filters
from .session import Session

_AROUND = 30
"""How many characters are shown from the first difference on."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A run and its repetition."""

    original: LoggedRun
    result: InferencingResult
    changed: tuple[str, ...] = ()
    """The names of the settings that the caller changed."""
    notice: str = ""
    """What else differs from the original, such as the model file, in words."""

    @property
    def identical(self) -> bool:
        """Whether the reasoning, the text and its end are the same, and the scores where it has any.

        An original that was cut off is identical if it has reasoning or a text, and the new one
        begins with what it has.
        """
        old, new = self.original, self.result
        if old.finish_detail is not None:
            names = ("reasoning", "text", "finish_detail", "stop_sequence", "score", "choices")
            return all(getattr(old, name) == getattr(new, name) for name in names)
        if old.text:
            return new.reasoning == old.reasoning and new.text.startswith(old.text)
        return bool(old.reasoning) and new.reasoning.startswith(old.reasoning)

    @property
    def verdict(self) -> str:
        """One line that says `identical`, or where the difference begins."""
        name = f"run {self.original.run_id}"
        empty = not (self.original.text or self.original.reasoning)
        if self.original.finish_detail is None and empty:
            said = f"{name} has no text to compare with ({self.original.status})"
        elif self.identical:
            cut_off = f", as far as that went ({self.original.status})"
            said = f"identical to {name}" + (cut_off if not self.original.finish_detail else "")
            if self.result.device.is_server:
                said += " (which a server does not promise)"
        else:
            said = f"differs from {name}: {_difference(self.original, self.result)}"
            if self.result.device.is_server:
                said += " (a server does not promise the same text)"
            elif not (self.original.device.exact and self.result.device.exact):
                said += " (without --exact, the same text is not promised)"
        others = ", ".join(name.replace("_", " ") for name in self.changed if name != "tags")
        return " · ".join(filter(None, [said, others and f"changed: {others}", self.notice]))


def _difference(one: InferencingResult, other: InferencingResult) -> str:
    if one.reasoning != other.reasoning:
        return _place(one.reasoning, other.reasoning, " of the reasoning")
    if one.text == other.text and one.score and other.score:
        was, now = one.score.logprob, other.score.logprob
        return f"the log-probability is {now!r}, and was {was!r}"
    if one.choices and other.choices:
        shares = [
            _shares(result.choices.probabilities) for result in (other, one) if result.choices
        ]
        return f"the probabilities are {', and were '.join(shares)}"
    if one.text == other.text:
        return f"the same text, ended by {_ending(other)} and not by {_ending(one)}"
    return _place(one.text, other.text)


def _shares(probabilities: Mapping[str, float]) -> str:
    """The probabilities of the first choices."""
    shown = [f"{choice!r} {value!r}" for choice, value in list(probabilities.items())[:3]]
    return ", ".join([*shown, "…"] if len(probabilities) > 3 else shown)


def _place(one: str, other: str, of: str = "") -> str:
    place = common(one, other)
    first, second = (text[place : place + _AROUND] for text in (one, other))
    first, second = (repr(text) if text else "the end" for text in (first, second))
    return f"at character {place + 1:,}{of} it had {first}, now {second}"


def _ending(result: InferencingResult) -> str:
    stop = "" if result.stop_sequence is None else f" {result.stop_sequence!r}"
    return f"{result.finish_detail}{stop}"


def replay_request(
    session: Session,
    original: LoggedRun,
    changes: Mapping[str, Any],
    functions: tuple[ContentFilter, ...] = (),
    show: Report | None = None,
    accept: str | Collection[str] = (),
) -> tuple[Request, str]:
    """The request that runs `original` again, and a notice of what differs from it.

    `changes` are fields of params or request that shall be others; `functions`
    are those that may be among the run's content filters, of which the log has
    only the names. Raises `ModelNotSupported` where the model's file has changed,
    unless `accept` has `file`, and `InvalidInput` where a function is not there any
    more, unless it has `filters`. Raises `ModelNotSupported` where another engine
    would run it, unless it has `engine`. Raises what finding the model raises, too.
    """
    if original.kind == "embedding":
        raise InvalidInput(
            f"run {original.run_id} made vectors, and the log keeps no texts of them but the first: "
            "call embed() with the texts again"
        )
    accepted = Request(model="-", prompt="", accept=accept).accept
    fields = {key: value for key, value in changes.items() if key in Request.model_fields}
    params = {key: value for key, value in changes.items() if key not in fields}
    if "prompt" in fields:
        fields.setdefault("data_spans", ())
        fields.setdefault("prompt_name", None)
    if "content_filters" not in fields:
        fields["content_filters"] = _filters(original, functions, "filters" in accepted)
    request = Request(
        **{
            **{name: getattr(original.request, name) for name in Request.model_fields},
            "accept": tuple(dict.fromkeys((*original.request.accept, *accepted))),
            **fields,
            "params": original.request.with_params(**params).params,
            "group_id": None,
            "replay_of": original.run_id,
            # It has the messages of the turn, and is none itself.
            **{name: Request.model_fields[name].default for name in OF_TURNS},
        }
    )
    if request.is_scored and params:
        raise InvalidInput(f"{next(iter(params))} has no effect on a score: leave it out")
    if "model" in changes or original.model is None:
        return request, ""
    if original.device.is_server:
        return request, _other_server(session, original, request, show, "file" in accepted)
    if original.model.sha256 is None:
        return request, ""
    try:
        found = session.find(request, show)
    except ModelNotFound:
        # The name was a relative path, or an alias of another kernel.
        if not original.model.path or not Path(original.model.path).is_file():
            raise
        request = request.model_copy(update={"model": original.model.path})
        found = session.find(request, show)
    before = original.model.engine or "ctransformers"
    chosen = "engine" in accepted or "engine" in changes
    if found.engine not in (None, before) and not chosen:
        raise ModelNotSupported(
            f"run {original.run_id} was run by {before}, and {found.engine} would run it now: "
            f"--with --engine {before} asks for that one, --accept engine takes the other"
        )
    if found.sha256 == original.model.sha256:
        return request, ""
    said = (
        f"the model file {found.path} is not the one of run {original.run_id} "
        f"(sha256 {str(found.sha256)[:12]}…, was {original.model.sha256[:12]}…)"
    )
    if "file" not in accepted:
        raise ModelNotSupported(f"{said}: --accept file runs it with the file that is there now")
    return request, said


def _other_server(
    session: Session, original: LoggedRun, request: Request, show: Report | None, accepted: bool
) -> str:
    """A notice where the name leads to another server or model than it did; else nothing.

    A server of our own is known by the hash of its model's file, because its port is another one
    after each start. Raises `ModelNotSupported` in that case, unless it is `accepted`.
    """
    found, before = session.find(request, show), original.model
    assert before is not None
    by_hash = found.sha256 is not None and before.sha256 is not None
    if found.sha256 == before.sha256 if by_hash else found.path == before.path:
        return ""
    now, was = (
        f"{info.path}" + (f" (sha256 {info.sha256[:12]}…)" if by_hash and info.sha256 else "")
        for info in (found, before)
    )
    said = f"{request.model} is {now}, and was {was} in run {original.run_id}"
    if not accepted:
        raise ModelNotSupported(f"{said}: --accept file runs it with the model that is there now")
    return said


def _filters(
    original: LoggedRun, functions: tuple[ContentFilter, ...], accepted: bool
) -> tuple[ContentFilter, ...]:
    """The content filters of the run: its patterns, and its functions as far as they are known.

    Raises `InvalidInput` for an unknown function, unless that is `accepted`.
    """
    known = {filter_name(item): item for item in functions if callable(item)}
    wanted = function_filters(original.row)
    missing = [name for name in wanted if name not in known]
    if missing and not accepted:
        raise InvalidInput(
            f"run {original.run_id} had the content filter {missing[0]}, which is not among "
            "InferMagics.content_filters now: define it there, or --accept filters runs without it"
        )
    found = tuple(known[name] for name in wanted if name in known)
    return original.request.content_filters + found
