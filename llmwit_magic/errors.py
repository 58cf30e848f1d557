"""The errors, and the warning, that the package raises.

    InferenceError
    ├── ModelNotSupported         the WIT's model-not-supported
    │   ├── ModelNotFound         the name leads to no file
    │   └── ModelDamaged          the file breaks its own format
    ├── InvalidInput              the WIT's invalid-input
    │   ├── PromptTooLong         the prompt leaves no room in the context
    │   └── ConstraintNotSupported  what answers cannot be held to
    ├── EngineFailed              the WIT's runtime-error
    │   ├── EngineDied            the child process ended in the middle of its work
    │   ├── DeviceUnavailable     GPU layers were asked for and cannot be had
    │   ├── OutOfMemory           the model and its context do not fit
    │   ├── DownloadFailed        a model could not be fetched
    │   ├── ServerUnreachable     a server is not there, or is busy
    │   └── ConstraintFailed      no token can follow as the constraint wants it
    ├── ComponentFailed           a WebAssembly component was ended, or refuses what it was given
    └── LogError                  the run log cannot be read or written as asked
        └── RunNotFound           there is no run of that number

    Interrupted (KeyboardInterrupt)   a person stopped the run
    LogWarning (UserWarning)          a damaged run log was set aside, or a run is not logged

Each message is one line that says what failed and what to do.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from types import FrameType
from typing import Any

_LONGEST = 1000
_PACKAGE = __name__.partition(".")[0]
# What may stand between a person's line and the line that warns: a magic, which an older IPython
# calls by the package decorator, or a thread.
_BETWEEN = {_PACKAGE, "IPython", "decorator", "concurrent", "threading"}
NO_PYTHON = (
    "Python does not know its own program (sys.executable is empty): set it to the path of python"
)


def one_line(text: str) -> str:
    """The text as one printable line of at most about 1,000 characters.

    Texts from files and libraries may stand in it: signs that are not printable are escaped.
    """
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    if len(text) > _LONGEST:
        # The advice at the end is worth more than the middle.
        text = f"{text[: _LONGEST * 3 // 4]} … {text[-_LONGEST // 4 :]}"
    return text


def did_you_mean(name: object, known: Iterable[object], otherwise: str) -> str:
    """The end of an error's message: the known name that is nearly this one, or `otherwise`."""
    import difflib  # only now: each engine's process imports this module when it starts

    near = difflib.get_close_matches(str(name), list(map(str, known)), 1)
    return f"did you mean {near[0]}?" if near else otherwise


class OneLine:
    """An error of which IPython shows the message alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class InferenceError(OneLine, Exception):
    """Any failure of a run or of the log; catch this one to catch them all."""

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class ModelNotSupported(InferenceError):
    """The model cannot be run here; the message says why."""


class ModelNotFound(ModelNotSupported):
    """The name is no path, no alias and no repository that can be reached."""


class ModelDamaged(ModelNotSupported):
    """The model file contradicts itself or its format."""


class InvalidInput(InferenceError):
    """A parameter, a prompt or an option is out of its range."""


class PromptTooLong(InvalidInput):
    """The prompt leaves no room for an answer in the context."""


class ConstraintNotSupported(InvalidInput):
    """The constraint has a part that the library or the server does not know; nothing was run."""


class EngineFailed(InferenceError):
    """The engine could not carry the run out."""


class EngineDied(EngineFailed):
    """The engine's process ended by itself; the next run starts a new one."""


class DeviceUnavailable(EngineFailed):
    """GPU layers were asked for by number and cannot be had."""


class OutOfMemory(EngineFailed):
    """The model with its context needs more memory than is free."""


class DownloadFailed(EngineFailed):
    """A model could not be fetched, or is not the file that was expected."""


class ServerUnreachable(EngineFailed):
    """A server cannot be reached, or has no room for a request."""


class ConstraintFailed(EngineFailed):
    """The constraint leaves no token that can follow, and the answer is not complete."""


class ComponentFailed(InferenceError):
    """A WebAssembly component has trapped, was ended by a limit, or returned an error.

    `value` is the error that it returned, as a value of Python; else it is None.
    """

    value: object = None


class LogError(InferenceError):
    """The run log cannot be read or written as asked."""


class RunNotFound(LogError, LookupError):
    """There is no run of that number in the log."""


class LogWarning(UserWarning):
    """A damaged run log was set aside and a new one begun, or a run is not logged."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, and name the nearest line outside this package.

    Python shows the line that a warning names, and a line of this package would help nobody. The
    same words are shown once for each line, and again when its cell runs again. The line of a magic
    is the whole cell with its prompt, so its text is left out.
    """
    frame: FrameType | None = sys._getframe(1)
    is_magic = False
    while frame and (room := str(frame.f_globals.get("__name__")).partition(".")[0]) in _BETWEEN:
        is_magic = is_magic or room == "IPython"
        frame = frame.f_back
    if not frame:  # a thread of this package
        warn_once(message, category)
        return
    warnings.warn_explicit(
        message,
        category,
        "<cell>" if is_magic else frame.f_code.co_filename,
        1 if is_magic else frame.f_lineno,
        frame.f_globals.get("__name__"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )


shown_once: dict[Any, int] = {}
"""What Python keeps of the warnings that `warn_once` has shown."""


def warn_once(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn without a line of code. Python shows the same words once in a process."""
    warnings.warn_explicit(message, category, f"<{_PACKAGE}>", 1, __name__, shown_once)


def warn_unlogged(problem: str | None) -> None:
    """Warn that a run is not logged, where no view says so. `problem` is the reason, or None.

    Python shows the warning once for each reason.
    """
    if problem:
        warn_once(f"not logged: {problem}", LogWarning)


class Interrupted(OneLine, KeyboardInterrupt):
    """A person stopped the run; what was generated is kept."""


_BY_NAME = {
    cls.__name__: cls
    for cls in (
        InferenceError, ModelNotSupported, ModelNotFound, ModelDamaged, InvalidInput,
        PromptTooLong, ConstraintNotSupported, EngineFailed, EngineDied, DeviceUnavailable, OutOfMemory,
        DownloadFailed, ServerUnreachable, ConstraintFailed, ComponentFailed, LogError,
        RunNotFound,
    )
}  # fmt: skip


def error_named(name: str, message: str) -> InferenceError:
    """The error of that class name, which came from another process.

    An unknown name gives `EngineFailed`.
    """
    return _BY_NAME.get(name, EngineFailed)(message)
