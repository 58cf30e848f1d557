"""The child that is a llama-server, or looks after one.

Its first line of input has what is wanted, as JSON. Its output is one line of JSON for each thing
that it has to say: `ready` with the server's own words, `failed` with an error, or `ended` with the
exit code of a program. It ends when its input ends, which the end of its parent does too. What a
llama-server writes goes into the log, which is standard error.

Without a program, the llama-server of xllamacpp runs in this process. A program cannot be told to
end with the kernel on every system, so this process stays beside it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ...base.children import beginning, private_pipes, start, watch_parent
from ...errors import DeviceUnavailable, EngineFailed, InferenceError

POLL_SECONDS = 0.05
DEVICES_SECONDS = 60.0
"""How long a program may look for devices."""
LOG_BYTES = 2**20
"""The log is emptied when it is longer: a server may run for weeks."""
LOOK_SECONDS = 5.0
"""How often the length of the log is looked at."""
WORDS_SECONDS = 2.0
"""How long a server that could not start may take to write why."""
_PORT = re.compile(rb"listening(?: on http://|, hostname: )127\.0\.0\.1(?::|, port: )(\d+)")
_EXEC = "os.execv(sys.argv[1], sys.argv[1:])\n"
_DEVICE = re.compile(r"\s+\w+: .*\(\d+ MiB")
_WARNINGS = 2
"""llama.cpp's verbosity that writes warnings and errors."""

Settings = Mapping[str, Any]


def main(parent: int) -> None:
    """Serve until the parent goes away or closes the pipe. `parent` is its process id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    commands, answers = private_pipes()
    settings = json.loads(commands.readline())
    try:
        server: Program | Library = Program(settings) if settings["program"] else Library(settings)
    except InferenceError as error:
        _say(answers, failed=[type(error).__name__, str(error)])
        os._exit(1)
    watch_parent(parent, server.end)
    threading.Thread(target=_read, args=(commands, server.end), daemon=True).start()
    try:
        url = server.started()
        _say(answers, ready={"url": url, **_facts(url, settings)})
    except InferenceError as error:
        _say(answers, failed=[type(error).__name__, str(error)])
        server.end()
    while (code := server.ended(LOOK_SECONDS)) is None:
        _shorten(Path(settings["log"]))
    _say(answers, ended=code)
    os._exit(1)


def _read(commands: BinaryIO, end: Callable[[], NoReturn]) -> None:
    while commands.read(1):
        pass
    end()


def _say(answers: BinaryIO, **message: Any) -> None:
    try:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()
    except OSError:
        os._exit(1)


def _shorten(log: Path) -> None:
    """Empty the log where it has become long. Whoever writes into it appends."""
    with suppress(OSError):
        if log.stat().st_size > LOG_BYTES:
            os.truncate(log, 0)


class Library:
    """The llama-server of the package xllamacpp, in this process."""

    def __init__(self, settings: Settings) -> None:
        try:
            import xllamacpp
        except Exception as error:  # whatever its native code raises where it cannot be loaded
            raise EngineFailed(
                f"xllamacpp cannot be loaded ({error}): install it again, or put a llama-server "
                "program on the PATH"
            ) from None
        self._library: Any = xllamacpp
        self._settings = settings
        self._server: Any = None

    def started(self) -> str:
        """The server's address, when it has loaded its model."""
        settings = self._settings
        has_gpu = any("GPU" in device["type"].name for device in self._library.get_device_info())
        params = self._library.CommonParams()
        params.model.path = settings["model"]
        params.model_alias = {settings["alias"]}
        params.port = settings["port"]
        params.api_keys = [_key(settings)]
        params.n_parallel = settings["slots"]
        params.n_ctx = settings["slots"] * settings["context_length"]
        params.kv_unified = False
        params.cache_ram_mib = settings["cache_mib"]
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
        params.verbosity = _WARNINGS
        if (layers := _layers(settings, has_gpu)) is not None:
            params.n_gpu_layers, params.fit_params = layers, False
        try:
            self._server = self._library.Server(params)
        except Exception:
            self._await_words()
            raise EngineFailed("llama-server could not start") from None
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # The library's own handler would end the server and keep the process.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return str(self._server.listening_address)

    def _await_words(self) -> None:
        """Wait until the log has said something: a thread of the library writes it, maybe later."""
        log, deadline = Path(self._settings["log"]), time.monotonic() + WORDS_SECONDS
        size, before = log.stat().st_size, 0
        while time.monotonic() < deadline and (not size or size != before):
            time.sleep(2 * POLL_SECONDS)
            size, before = log.stat().st_size, size

    def ended(self, seconds: float) -> int | None:
        """None: it ends with this process."""
        time.sleep(seconds)
        return None

    def end(self) -> NoReturn:
        os._exit(0)


class Program:
    """A program llama-server, as a child of this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        program = settings["program"]
        given = {
            "--model": settings["model"], "--alias": settings["alias"],
            "--host": "127.0.0.1", "--port": settings["port"],
            "--api-key-file": settings["key_file"], "--parallel": settings["slots"],
            "--ctx-size": settings["slots"] * settings["context_length"],
            "--threads": settings["threads"],
        }  # fmt: skip
        # What a person has set for other servers does not count here. What an older program does
        # not know is harmless as a variable, and an error as an option.
        environment = {
            name: value for name, value in os.environ.items()
            if not name.startswith("LLAMA_ARG_") and name != "LLAMA_API_KEY"
        } | {"LLAMA_ARG_CACHE_RAM": str(settings["cache_mib"])}  # fmt: skip
        layers = _layers(settings, _has_gpu(program, environment))
        if layers is not None:
            given["--gpu-layers"] = layers
            environment["LLAMA_ARG_FIT"] = "off"
        command = [program, *(str(word) for option in given.items() for word in option)]
        if sys.platform == "linux":  # it then ends with this process, whatever ends that
            command = [sys.executable, "-P", "-c", beginning() + _EXEC, *command]
        try:
            self._process = start(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=2, stderr=2
            )
        except OSError as error:
            raise EngineFailed(
                f"{program} could not be started: {error.strerror or error}"
            ) from None

    def started(self) -> str:
        """The server's address, when it has loaded its model."""
        url = ""
        while self.ended(POLL_SECONDS) is None:
            if not url and (found := _PORT.search(Path(self._settings["log"]).read_bytes())):
                url = f"http://127.0.0.1:{int(found[1])}"
            if url and _is_ready(url):
                return url
        raise EngineFailed("llama-server could not start")

    def ended(self, seconds: float) -> int | None:
        """The exit code of a program that has ended within so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> NoReturn:
        self._process.kill()
        os._exit(0)


def _key(settings: Settings) -> str:
    return Path(settings["key_file"]).read_text("ascii").strip()


def _layers(settings: Settings, has_gpu: bool) -> int | None:
    """The layers to put on a GPU. None leaves the choice to llama-server, which measures."""
    asked = settings["gpu_layers"]
    if not has_gpu:
        if asked not in ("auto", 0):
            raise DeviceUnavailable(
                f"{asked} GPU layers were asked for, and this llama-server finds no GPU: "
                "--gpu-layers 0 runs on the processor"
            )
        return 0
    return None if asked == "auto" else int(asked)


def _has_gpu(program: str, environment: Mapping[str, str]) -> bool:
    """Whether the program finds a device beside the processor."""
    try:
        with start(
            [program, "--list-devices"], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                said = process.communicate(timeout=DEVICES_SECONDS)[0]
            finally:
                process.kill()
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineFailed(f"{program} --list-devices failed: {error}") from None
    return any(map(_DEVICE.match, said.decode(errors="replace").splitlines()))


# A proxy of the environment must not come between two ends of one machine.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _is_ready(url: str) -> bool:
    """Whether a model is loaded. Until then the answer is 503."""
    try:
        with _DIRECTLY.open(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _facts(url: str, settings: Settings) -> dict[str, Any]:
    """What the server says of its slots, and of the context of each."""
    request = urllib.request.Request(
        f"{url}/props", headers={"Authorization": f"Bearer {_key(settings)}"}
    )
    try:
        with _DIRECTLY.open(request, timeout=30) as response:
            props = json.load(response)
        return {
            "slots": int(props["total_slots"]),
            "context_length": int(props["default_generation_settings"]["n_ctx"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineFailed(
            f"llama-server does not say its slots ({type(error).__name__}: {error}): "
            "another version may"
        ) from None
