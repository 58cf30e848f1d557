"""From the name of a local model to a checked file, in the form that a backend loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...contract.events import Progress, Report
from ...contract.request import ModelSpec
from ...contract.wit import ModelInfo
from ...errors import InvalidInput, ModelNotSupported
from ...models.cache import sha256_of_parts, state_of
from ...models.catalog import ModelFile, find, readable
from ...models.kinds import quantisation
from ..backends.base import Backend
from ..backends.registry import BACKENDS
from .wire import Load


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A checked file, and the form of it that its backend loads."""

    info: ModelInfo
    source: Path
    """The file that was found."""
    file: Path
    """The file that the backend loads: `source` itself, or its adapted form."""
    backend: str
    """The backend's name."""
    state: tuple[tuple[int, ...], ...]
    """The states of both files (see `state_of`). When one changes, it is another model."""
    parts: tuple[Path, ...] = ()
    """All files of the model, of which `source` is the first. Empty means that one alone."""
    environment: tuple[tuple[str, str], ...] = ()
    """What the backend's child must have in its environment. With another one it is another model."""
    always_exact: bool = False
    """Whether its backend loads it in one way, whether or not a request is exact."""
    tokenizer_only: bool = False
    """Whether a child loads its vocabulary alone."""

    def unchanged(self) -> bool:
        """Whether the files are still the ones that were checked."""
        try:
            found = state_of(*(self.parts or (self.source,)))
            return (found, state_of(self.file)) == self.state
        except OSError:
            return False

    def load_command(self, spec: ModelSpec, kept_prompts: int) -> Load:
        """The command that makes a child load the model."""
        return Load(
            self.info, self.backend, str(self.source), str(self.file), spec, kept_prompts,
            dict(self.environment), self.tokenizer_only,
        )  # fmt: skip


def resolve(
    name: str,
    model_type: str | None,
    aliases: Mapping[str, str],
    report: Report,
    backends: Sequence[Backend] = BACKENDS,
    engine: str = "auto",
) -> LocalModel:
    """Find or fetch the file of a name, check it, and adapt it where that is needed.

    The first of the backends that has no objection loads it, where `engine` is `auto`; else the
    backend of that name does. `model_type` is given for a file from before GGUF only. `aliases`
    maps the user's own names to paths or hub names. Raises `InvalidInput` for a wrong
    `model_type`, and `ModelNotSupported` where no backend runs the file.
    """
    found = find(name, aliases, report)
    with readable(found.path):
        wanted = [item for item in backends if engine in ("auto", item.name)]
        backend = _backend_for(found, model_type, wanted)
        hashing = Progress("load", note="hashing the file")
        digest = sha256_of_parts(found.parts, lambda: report(hashing))
        file = backend.file(found, digest, report)
        header = found.header
        info = ModelInfo(
            name=name,
            path=str(found.path),
            sha256=digest,
            architecture=header.architecture if header else model_type,
            quantisation=quantisation(header) if header else "",
            engine=backend.name,
        )
        return LocalModel(
            info, found.path, file, backend.name, (found.state, state_of(file)),
            found.parts, environment_of([backend]), backend.always_exact,
        )  # fmt: skip


def environment_of(backends: Sequence[Backend]) -> tuple[tuple[str, str], ...]:
    """What the children of these backends must have in their environment, in order."""
    return tuple(sorted(item for backend in backends for item in backend.environment().items()))


def _backend_for(found: ModelFile, model_type: str | None, backends: Sequence[Backend]) -> Backend:
    """The backend that runs the file.

    Raises `ModelNotSupported` with what each objects to, and with the ones that would run the
    file and cannot run on this machine.
    """
    if found.header is None:
        return _backend_for_old(found, model_type, backends)
    name = found.path.name
    if model_type is not None:
        _check_type(model_type, backends)
        raise InvalidInput(
            f"model_type: {name} is a GGUF file, which says its own architecture: "
            "leave --model-type out"
        )
    objections = []
    for backend in backends:
        objection = backend.objection(found.header)
        problem = "" if objection else backend.unavailable()
        if not objection and not problem:
            return backend
        objections.append(objection or f"{backend.name} would run it ({problem})")
    raise ModelNotSupported(f"{name}: {'; '.join(objections)}")


def _backend_for_old(
    found: ModelFile, model_type: str | None, backends: Sequence[Backend]
) -> Backend:
    """The backend that runs a file from before GGUF."""
    name = found.path.name
    types = _check_type(model_type, backends)
    if not types:
        raise ModelNotSupported(
            f"{name} is an old GGML file: {backends[0].name} runs GGUF files only"
        )
    if model_type is None:
        raise ModelNotSupported(
            f"{name} is an old GGML file, which does not say its architecture: "
            f"give --model-type, one of {', '.join(types)}"
        )
    backend = next(item for item in backends if model_type in item.old_formats)
    backend.check_old(found.path, model_type)
    return backend


def _check_type(model_type: str | None, backends: Sequence[Backend]) -> list[str]:
    """The values of `model_type` that there are. Raises `InvalidInput` for another one."""
    types = sorted({name for backend in backends for name in backend.old_formats})
    if model_type is not None and model_type not in types:
        known = f"it must be one of {', '.join(types)}" if types else "leave it out"
        raise InvalidInput(f"model_type: {model_type!r} is not valid: {known}")
    return types
