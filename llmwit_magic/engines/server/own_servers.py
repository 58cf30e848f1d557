"""The llama-servers that a session has started, by name."""

from __future__ import annotations

import itertools
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import Field

from ...contract.events import Cancelled, Emit, Event, Progress
from ...contract.record import U32, Record, Setting, Text
from ...contract.request import ModelSpec
from ...contract.wit import ModelInfo
from ...errors import EngineFailed, InvalidInput, ModelNotFound
from ...models.gguf import read_header
from ...models.parts import files_of
from ..backends.llamacpp.llama_backend import LlamaCpp
from ..local.local_engine import LocalEngine
from ..threads import physical_cores
from .addresses import OWN, Address, ServerConfig, names_server
from .own_server import OwnServer

MOST_SLOTS = 256
"""The most sequences that llama.cpp takes in one context."""
TOGETHER = 512
"""How many tokens a llama-server evaluates in one call."""
MOST_CACHE_MIB = 8192
"""The most memory in which a llama-server keeps earlier prompts; its own default."""
DEATH_SECONDS = 1.0
"""How long to wait for the end of a server whose connection broke."""


class OwnServerSpec(Record):
    """What a person says of a llama-server of their own, beside its model."""

    slots: Annotated[Annotated[U32, Field(ge=1, le=MOST_SLOTS)], Setting(
        f"a whole number from 1 to {MOST_SLOTS}"
    )] = 8  # fmt: skip
    port: Annotated[Annotated[U32, Field(ge=1, le=65535)] | None, Setting(
        "a whole number from 1 to 65535"
    )] = None  # fmt: skip
    name: Text | None = None


class _Servable(LlamaCpp):
    """What llama.cpp runs, whether or not its library for the local engine is here."""

    def unavailable(self) -> str:
        return ""


class OwnServers:
    """The llama-servers of one session. `changed` is called when one comes or goes."""

    def __init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._servers: dict[str, OwnServer] = {}
        self._finder = LocalEngine((_Servable(),))
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[OwnServer]:
        """The servers, those that have ended by themselves too; the newest is the last one."""
        with self._lock:
            return iter([server for server in self._servers.values() if not server.closed])

    @property
    def configs(self) -> dict[str, ServerConfig]:
        """How they are reached, by `local::NAME`."""
        return {server.model: server.config for server in self}

    def start(
        self, spec: ModelSpec, own: OwnServerSpec, aliases: Mapping[str, str], emit: Emit,
        cancel: threading.Event,
    ) -> OwnServer:  # fmt: skip
        """Find and check the model's file, start a llama-server for it, and wait until it is ready.

        Raises what a local run raises, and `EngineFailed` where there is no llama-server.
        """
        if names_server(spec.model):
            raise InvalidInput(f"{spec.model} is a server already: name a model's file")
        program = _program()
        self._finder.aliases = aliases
        info = self._finder.find(spec, emit, cancel)
        settings = _settings(info, spec, own) | {"program": program}
        server = OwnServer(
            self._free_name(own.name or _name_of(spec.model, aliases)), info, settings
        )
        try:
            emit(Progress("load", note=f"{server.name} into llama-server"))
            server.wait(cancel)
            if cancel.is_set():  # nobody waits for it any more
                raise Cancelled
        except BaseException:
            server.close()
            raise
        server.when_closed = self.changed
        with self._lock:
            ended = self._servers.pop(server.name, None)
            self._servers[server.name] = server  # the newest stands last
        if ended is not None:
            ended.close()
        self.changed()
        return server

    def _free_name(self, wanted: str) -> str:
        taken = {server.name for server in self if not server.has_ended()}
        others = (f"{wanted}-{number}" for number in itertools.count(2))
        return next(name for name in itertools.chain([wanted], others) if name not in taken)

    def stop(self, name: str = "") -> list[str]:
        """End the server of that name, given with or without `local::`, or all of them.

        Returns their names. Raises `ModelNotFound` where there is none of that name.
        """
        wanted = name.removeprefix(f"{OWN}::")
        chosen = [server for server in self if wanted in ("", server.name)]
        if wanted and not chosen:
            known = ", ".join(server.name for server in self) or "none"
            raise ModelNotFound(f"no llama-server {wanted} runs here (running: {known})")
        for server in chosen:
            server.close()
        return [server.model for server in chosen]

    @contextmanager
    def watched(self, address: Address, emit: Emit) -> Iterator[Emit]:
        """A block that asks a server, with what takes its events.

        Where the server is one of these and has ended, `EngineDied` says how.
        """
        server = next((server for server in self if server.url == address.url), None)
        if server is None:
            yield emit
            return
        server.check()

        def checked(event: Event) -> None:
            if isinstance(event, Progress):  # as before another attempt to connect
                server.check()
            emit(event)

        try:
            yield checked
        except EngineFailed:
            server.check(DEATH_SECONDS)
            raise

    def close(self) -> None:
        """End all of them."""
        self.changed = lambda: None
        for server in self:
            server.when_closed = self.changed
            server.close()
        self._finder.close()


def _program() -> str | None:
    """The program llama-server; None where xllamacpp is here and takes its place."""
    if find_spec("xllamacpp") is not None:
        return None
    program = shutil.which("llama-server")
    if program is None:
        raise EngineFailed(
            'there is no llama-server here: pip install "llmwit-magic[llama-server]", or put the '
            "program llama-server on the PATH"
        )
    return program


def _settings(info: ModelInfo, spec: ModelSpec, own: OwnServerSpec) -> dict[str, Any]:
    """What the child is told. The memory for the model and the contexts of all slots is checked."""
    # These bring numpy and psutil, which most kernels do not need.
    from ..backends.context_length import KEPT_SHARE, choose_length
    from ..backends.llamacpp.llama_loading import kv_bytes_per_token, scratch_bytes
    from ..memory import available_memory

    path = Path(str(info.path))
    header = read_header(path)
    per_token = kv_bytes_per_token(header) * own.slots
    weights = sum(file.stat().st_size for file in files_of(header))

    def needed(length: int) -> int:
        return weights + per_token * length + scratch_bytes(header, length, TOGETHER)

    trained = int(header.hyperparameter("context_length"))
    length = choose_length(
        trained, spec.context_length, spec.takes_long_context, needed, share=KEPT_SHARE
    )
    return {
        "model": str(path), "slots": own.slots, "context_length": length,
        "gpu_layers": spec.gpu_layers, "port": own.port or 0, "threads": physical_cores(),
        "cache_mib": min(MOST_CACHE_MIB, int(available_memory() * KEPT_SHARE) >> 20),
    }  # fmt: skip


def _name_of(model: str, aliases: Mapping[str, str]) -> str:
    """What a server is called after its model: an alias or a plain name, else the file's name."""
    if model in aliases or re.fullmatch(r"[\w.-]+", model):
        return model.removesuffix(".gguf")
    return PurePath(model.partition("@")[0].rpartition(":")[2].replace("\\", "/")).stem or "model"
