"""A llama-server of our own, as the kernel sees it: start, wait, watch, end."""

from __future__ import annotations

import json
import os
import queue
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...base.children import PACKAGE, beginning, package_code, start
from ...base.printable import on_one_line
from ...contract.events import Cancelled
from ...contract.wit import ModelInfo
from ...errors import NO_PYTHON, EngineDied, EngineFailed, error_named
from ..local.death import dead
from .addresses import OWN, ServerConfig

EXIT_SECONDS = 2.0
"""How long a child may take to end by itself. Then it is killed."""
POLL_SECONDS = 0.05
_TAIL_BYTES = 8000
"""How much of the log's end is searched for a server's last words."""
_CODE = package_code("llmwit_magic.engines.server.server_child")
# As for a child of the local engine, see `local/pipe.py`.
_ENVIRONMENT = {"PYDANTIC_DISABLE_PLUGINS": "__all__", "GGML_NO_BACKTRACE": "1"}
_LOG_LINE = re.compile(r"(?:[\d.]+ (?P<level>[A-Z]) )?(?P<text>.*)")


class OwnServer:
    """A llama-server that this process has started. It ends with this process, or by `close`.

    It is a context manager, which closes it at the end.
    """

    def __init__(self, name: str, info: ModelInfo, settings: Mapping[str, Any]) -> None:
        """Start the child, which loads the model: see `wait`. Raises `EngineFailed`.

        `settings` are what `server_child` reads, without the files that are made here.
        """
        if not sys.executable:
            raise EngineFailed(f"llama-server could not be started: {NO_PYTHON}")
        self.name = name
        self.info = info
        """The model's file, as it was checked."""
        self.url = ""
        """The address that OpenAI's clients take; empty until it is ready."""
        self.slots = 0
        self.context_length = 0
        """How many tokens prompt and answer of one slot may have together."""
        self.folder = Path(tempfile.mkdtemp(prefix="llmwit-server-"))
        # Only this user can read the folder.
        self._finalizer = weakref.finalize(self, _remove, self.folder, os.getpid())
        self.closed = False
        self.when_closed: Callable[[], None] = lambda: None
        self._said = _Said()
        key_file, log = self.folder / "key", self.folder / "log"
        key_file.touch(mode=0o600)
        key_file.write_text(secrets.token_urlsafe(32), "ascii")
        try:
            with log.open("ab") as output:
                self._process = start(
                    [sys.executable, "-P", "-c", beginning() + _CODE, str(PACKAGE),
                     str(os.getpid())],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
                    env=os.environ | _ENVIRONMENT,
                )  # fmt: skip
        except OSError as error:
            self._finalizer()
            raise EngineFailed(
                f"llama-server could not be started: {error.strerror or error}"
            ) from None
        threading.Thread(
            target=self._said.listen, args=(self._process,), name="llmwit-server", daemon=True
        ).start()
        wanted = {**settings, "alias": name, "key_file": str(key_file), "log": str(log)}
        with suppress(OSError):  # a child that has died is noticed by `wait`
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
            self._process.stdin.flush()

    @property
    def model(self) -> str:
        """The name of its model for `-m`."""
        return f"{OWN}::{self.name}"

    @property
    def api_key(self) -> str:
        """The key that it asks for."""
        return (self.folder / "key").read_text("ascii")

    @property
    def pid(self) -> int:
        """The id of the process that is the server, or looks after it."""
        return int(self._process.pid)

    @property
    def config(self) -> ServerConfig:
        """How it is reached."""
        return ServerConfig(
            url=self.url, api_key_file=str(self.folder / "key"), kind="llama-server",
            model_sha256=self.info.sha256,
        )  # fmt: skip

    def __repr__(self) -> str:
        state = "closed" if self.closed else "ended" if self.has_ended() else self.url
        return f"<llama-server {self.model}: {self.slots} slots, {state}>"

    def wait(self, cancel: threading.Event) -> None:
        """Wait until it has loaded its model.

        Raises `Cancelled`, `EngineDied`, and the error that the child reports.
        """
        while not cancel.is_set():
            try:
                message = self._said.messages.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            match message:
                case {"ready": ready}:
                    self.url = ready["url"] + "/v1"
                    self.slots, self.context_length = ready["slots"], ready["context_length"]
                    return
                case {"failed": [kind, said]}:
                    words = self._last_words(first_error=True)
                    raise error_named(kind, said + (f": {words}" if said.endswith("start") else ""))
                case None:
                    raise self._death("loading the model")
        raise Cancelled

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Whether it has ended, or does so within some seconds."""
        return self._said.gone.wait(seconds)

    def check(self, seconds: float = 0.0) -> None:
        """Raise `EngineDied` where it has ended, or does so within some seconds."""
        if not self.closed and self.has_ended(seconds):
            raise self._death("serving")

    def _death(self, doing: str) -> EngineDied:
        code = self._said.code
        if code is None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(EXIT_SECONDS)
        return dead(
            self.model, doing, code, self._last_words(first_error=doing != "serving"),
            "llama-server", "%infer_llama_server starts it again",
        )  # fmt: skip

    def _last_words(self, first_error: bool) -> str:
        """The last line of the log, or the first error in it, which is often the cause of others.

        A line about ordinary work says nothing of a death.
        """
        try:
            with (self.folder / "log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        found = [match for line in lines if (match := _LOG_LINE.fullmatch(line.strip()))]
        errors = [match for match in found if match["level"] == "E"]
        last = [match for match in found[-1:] if match["level"] in (None, "E")]
        chosen = errors[:1] if first_error and errors else last
        return on_one_line(" ".join(chosen[0]["text"].split()))[:300] if chosen else ""

    def close(self) -> None:
        """End it. Its memory has been given back when this returns."""
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        if self.url:  # one that loads its model does not notice that
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_SECONDS)
        self._kill()
        self.closed = True
        self._finalizer()
        self.when_closed()

    def _kill(self) -> None:
        """End the process where it has not ended, with the program that it may look after."""
        if self._process.poll() is not None:
            return
        import psutil

        with suppress(psutil.Error):
            for process in psutil.Process(self.pid).children(recursive=True):
                with suppress(psutil.Error):
                    process.kill()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_SECONDS)

    def __enter__(self) -> OwnServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Said:
    """What a child has said. Nothing here refers to its `OwnServer`, which may be let go."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        """Its messages, then None when it has gone."""
        self.code: int | None = None
        """The exit code of a program that it looked after."""
        self.gone = threading.Event()

    def listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with suppress(OSError), process.stdout:
            for line in process.stdout:
                with suppress(ValueError):  # the user's sitecustomize may print first
                    match json.loads(line):
                        case {"ended": int(code)}:
                            self.code = code
                        case dict(message):
                            self.messages.put(message)
        self.messages.put(None)
        self.gone.set()


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # a forked process must not take its parent's files away
        shutil.rmtree(folder, ignore_errors=True)
