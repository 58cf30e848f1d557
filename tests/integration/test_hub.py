"""Models fetched by the real hub client from a small hub on this machine's loopback."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from tests.support.loopback import (
    Answer,
    Handler,
    Server,
    cut,
    not_found,
    own_folders,
    server,
    stalled,
)

__all__ = ["own_folders", "server"]

pytestmark = pytest.mark.timeout(60)

#: Resolves a name in a process of its own, because the hub's client reads its settings only once.
#: The pauses between the client's attempts are skipped.
RESOLVE = """
import json, sys, time
from llmwit_magic.errors import InferenceError
from llmwit_magic.models.hub import fetch_from_hub

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

#: A hub client below 1.1 takes no progress bar. Then the size of the growing file is reported.
HAS_BARS = "tqdm_class" in inspect.signature(huggingface_hub.hf_hub_download).parameters
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = os.urandom(64) * 400_000  # 25.6 MB: more than two pieces of the hub's client
ETAG = hashlib.sha256(MODEL).hexdigest()
RESOLVED = "/owner/repo/resolve/main/m.gguf"


def hub_file(handler: Handler) -> None:
    """The model, or the rest of it for a client that was interrupted."""
    headers = {"X_Repo_Commit": COMMIT, "ETag": f'"{ETAG}"'}
    begin = int((handler.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
    if begin:
        headers["Content_Range"] = f"bytes {begin}-{len(MODEL) - 1}/{len(MODEL)}"
    handler.answer(MODEL[begin:], 206 if begin else 200, **headers)


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
    """The path, or the class and the message of the error. Then the progress that was reported."""
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


def test_hub_download(hub: Server) -> None:
    """The only model of a repository is fetched once. Then it is in the cache."""
    path, seen = from_hub()
    assert Path(path).read_bytes() == MODEL
    assert seen[0] == [0, None, "owner/repo"]
    again, _ = from_hub()
    assert again == path
    assert hub.asked.count(f"GET {RESOLVED}") == 1


@pytest.mark.skipif(not HAS_BARS, reason="this client of the hub does not say how far it is")
def test_hub_progress(hub: Server) -> None:
    """Progress is reported up to the end, with the whole size and the name of the file."""
    _, seen = from_hub()
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert done[-1] == len(MODEL)
    assert len(set(done)) > 2
    assert seen[-1][1:] == [len(MODEL), "m.gguf"]


def test_hub_file_and_revision(hub: Server) -> None:
    """A file and a revision are requested as they are named."""
    hub.answers["/owner/repo/resolve/v1/sub/m.gguf"] = hub_file
    path, _ = from_hub(file="sub/m.gguf", revision="v1")
    assert Path(path).read_bytes() == MODEL
    assert not [asked for asked in hub.asked if "/tree/" in asked]


def small_file(text: bytes, commit: str = COMMIT) -> Answer:
    etag = f'"{hashlib.sha256(text).hexdigest()}"'
    return lambda handler: handler.answer(text, X_Repo_Commit=commit, ETag=etag)


@pytest.mark.parametrize("file", ["", "q4/m-00001-of-00003.gguf", "q4/m-00003-of-00003.gguf"])
def test_hub_model_in_several_files(file: str, hub: Server) -> None:
    """All parts are fetched into one folder, of the commit of the first, whichever is named."""
    names = [f"q4/m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    hub.answers["/api/models/owner/repo/tree/main"] = tree("README.md", *names)
    for name in names:
        place = "main" if name == names[0] else COMMIT
        hub.answers[f"/owner/repo/resolve/{place}/{name}"] = small_file(name.encode())
    path, seen = from_hub(file=file)
    assert Path(path).name == "m-00001-of-00003.gguf"
    for name in names:
        assert (Path(path).parent / Path(name).name).read_bytes() == name.encode()
    notes = list(dict.fromkeys(note for _, _, note in seen))
    # Older clients of the hub say nothing of so small files.
    assert notes in (["owner/repo", *names], ["owner/repo"])


def test_hub_missing_part(hub: Server) -> None:
    """The part that the repository lacks is named."""
    first = "m-00001-of-00002.gguf"
    hub.answers[f"/owner/repo/resolve/main/{first}"] = small_file(b"one")
    missing = "m-00002-of-00002.gguf"
    hub.answers[f"/owner/repo/resolve/{COMMIT}/{missing}"] = not_found("EntryNotFound")
    answer, _ = from_hub(file=first)
    assert failure(answer) == ("ModelNotFound", f"owner/repo has no file '{missing}'")


def test_hub_cancelled(hub: Server, tmp_path: Path) -> None:
    """A cancellation half-way is raised unchanged, and leaves no model."""
    hub.answers[RESOLVED] = stalled(MODEL, X_Repo_Commit=COMMIT, ETag=f'"{ETAG}"')
    answer, seen = from_hub(file="m.gguf", give_up_at=len(MODEL) // 4)
    assert failure(answer)[0] == "GivenUp"
    assert 0 < seen[-1][0] < len(MODEL)
    assert seen[-1][1:] == [len(MODEL) if HAS_BARS else None, "m.gguf"]
    assert not taken_for_whole(tmp_path)
    hub.answers[RESOLVED] = hub_file
    path, _ = from_hub(file="m.gguf")
    assert Path(path).read_bytes() == MODEL


def test_hub_cut_off(hub: Server, tmp_path: Path) -> None:
    """A connection that breaks for good is an error of one line, and leaves no model."""
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
        ("/api/models/owner/repo/tree/main", tree("b.gguf", "mmproj-b.gguf", "a.gguf"), {},
         ("ModelNotFound", "owner/repo has 2 models: name one, as in owner/repo:a.gguf")),
        ("/api/models/owner/repo/tree/main", lambda handler: handler.answer(b"", 403), {},
         ("DownloadFailed", "owner/repo could not be fetched: ")),
        ("/m.gguf", hub_file, {"file": "../../../../m.gguf"},
         ("DownloadFailed", "owner/repo could not be fetched: ")),
        ("", hub_file, {"repo": "owner/--repo", "file": "m.gguf"},
         ("ModelNotFound", "there is no repository 'owner/--repo'")),
    ],
)  # fmt: skip
def test_hub_refusals(
    path: str, answer: Answer, options: dict[str, str], expected: tuple[str, str], hub: Server
) -> None:
    """Each refusal of the hub is an error of one line that says which it is."""
    hub.answers[path] = answer
    name, message = failure(from_hub(**options)[0])
    assert name == expected[0]
    assert expected[1] in message


@pytest.mark.parametrize(
    "said",
    [
        b"5", b"null", b"{}", b'{"error": 1}', b"[1]", b"[null]", b'[{"type": "file"}]',
        b'[{"type": "file", "path": 5, "size": 1, "oid": "0"}]',
        b'[{"type": "file", "path": null, "size": 1, "oid": "0"}]',
        b'["m.gguf"]', b"<html>no hub</html>", b"", b"\xff\xfe", b"[" * 200_000,
    ],
    ids=lambda said: ascii(said[:30]),
)  # fmt: skip
def test_hub_answers_that_nobody_expects(said: bytes, hub: Server) -> None:
    """An answer that is no list of files is an error about the hub's answer, not about the network."""
    hub.answers["/api/models/owner/repo/tree/main"] = lambda handler: handler.answer(
        said, Content_Type="application/json"
    )
    name, message = failure(from_hub()[0])
    if said == b"{}":  # no files at all
        assert (name, "has no GGUF file" in message) == ("ModelNotFound", True)
        return
    assert name == "DownloadFailed"
    assert "owner/repo could not be fetched: what the hub answers is not what" in message
    assert "network" not in message


@pytest.mark.parametrize("file", ["m.gguf", ""])
def test_hub_unreachable(file: str, hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that cannot be reached is an error of one line about the network."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        name, message = failure(from_hub(file=file)[0])
    assert name == "DownloadFailed"
    assert "check the network" in message


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("file", ["m.gguf", ""])
def test_hub_unreachable_is_soon_given_up(
    file: str, listens: bool, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that refuses connections, or accepts one and is silent, is given up after some seconds.

    The hub's client writes nothing meanwhile.
    """
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        patient = RESOLVE.replace("time.sleep = lambda seconds: None\n", "")
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", patient, "owner/repo", file, "", "1000000"],
            capture_output=True, text=True, timeout=50,
        )  # fmt: skip
        seconds = time.monotonic() - began
    assert "check the network" in done.stdout
    assert done.stderr == ""
    assert seconds < 12, seconds  # of which four are for the hub, and the rest for the imports


def test_hub_cache_without_a_network(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the hub cannot be reached, a model in its cache is found by its file and by its repository."""
    path, _ = from_hub(file="m.gguf")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert from_hub(file="m.gguf")[0] == path
        assert from_hub()[0] == path


def test_hub_offline(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, a model in the hub's cache is found. For any other the error is one line."""
    path, _ = from_hub(file="m.gguf")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert from_hub(file="m.gguf")[0] == path
    assert failure(from_hub(file="other.gguf")[0])[0] == "DownloadFailed"
    assert from_hub()[0] == path
