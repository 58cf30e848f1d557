"""Servers with vices: each run ends in time, in one line, with the text so far and without the key."""

from __future__ import annotations

import asyncio
import gzip
import logging
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic.contract.events import Cancelled, Progress
from llmwit_magic.contract.request import Request
from llmwit_magic.engines.server import http_client, server_engine
from llmwit_magic.engines.server.addresses import Address
from llmwit_magic.engines.server.http_client import HttpClient
from llmwit_magic.errors import EngineFailed, InferenceError, ServerUnreachable
from llmwit_magic.requests.snippets import forms
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.speaking import KEY, SpeakingHandler, SpeakingServer, speaking

__all__ = ["speaking"]
Start = Callable[[str], SpeakingServer]
KINDS = ("vllm", "ollama")
"""One whose events are server-sent, and one whose events are lines."""
WHOLE = " Paris. It is big."


@pytest.fixture
def ask(session: Session, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Runs a prompt on a server with a key, to the end."""
    monkeypatch.setenv("LAB_KEY", KEY)

    def run(server: SpeakingServer, **values: Any) -> Run:
        session.servers = {
            "lab": {"url": server.url, "kind": server.kind, "api_key_env": "LAB_KEY"}
        }
        params = {"temperature": 0, "max_tokens": 20, **values.pop("params", {})}
        done = session.run(Request(model="lab::m", prompt="The", params=params, **values))
        assert done.wait(20)
        if done.error is not None:
            assert "\n" not in str(done.error)
            assert len(str(done.error)) < 1000
            assert "unexpected" not in str(done.error)
        return done

    return run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_that_is_cut_is_never_a_short_answer(
    kind: str, chat: bool, speaking: Start, ask: Callable[..., Run]
) -> None:
    """At every tenth of its bytes: an error with its partial text, unless the end was said."""
    server = speaking(kind)
    texts = []
    for tenth in range(10):
        server.cut = tenth / 10
        run = ask(server, chat=chat)
        assert WHOLE.startswith(run.text)
        texts.append(run.text)
        if run.error is None:  # only counts were lost
            assert (run.text, run.result.finish_detail) == (WHOLE, "eos")
            continue
        assert (run.status, run.result.finish_reason) == ("error", None)
        assert isinstance(run.error, EngineFailed)
    assert texts == sorted(texts, key=len)
    assert len(set(texts)) > 3
    server.cut = 0.0
    assert ask(server, chat=chat).status == "error"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_the_middle_of_a_stream(
    kind: str, speaking: Start, ask: Callable[..., Run]
) -> None:
    server = speaking(kind)
    first = {"choices": [{"text": " Paris"}]} if kind == "vllm" else {"response": " Paris"}
    said = {"message": f"out of memory ({KEY})"} if kind == "vllm" else f"no memory {KEY}"
    server.vice = lambda handler: handler.stream([first, {"error": said}])
    run = ask(server)
    assert (run.status, run.text) == ("error", " Paris")
    assert "memory" in str(run.error)
    assert KEY not in str(run.error)


@pytest.mark.parametrize(
    "events",
    [[], ["[DONE]"], ["[1]"], ["x"], ["null"], ["[" * 100_000], ['{"choices": {"a": 1}}'],
     ['{"choices": [{"text": 7}]}'], ['{"choices": [{"text": "a", "logprobs": {"content": 3}}]}']],
)  # fmt: skip
def test_events_that_are_none(events: list[str], speaking: Start, ask: Callable[..., Run]) -> None:
    server = speaking("vllm")
    server.vice = lambda handler: handler.stream(events)
    run = ask(server, top_logprobs=0)
    assert run.status == "error"
    assert isinstance(run.error, EngineFailed)


@pytest.mark.parametrize("kind", KINDS)
def test_an_endless_stream_is_stopped_after_max_tokens(
    kind: str, speaking: Start, ask: Callable[..., Run]
) -> None:
    server = speaking(kind)
    server.ignores_limit = True
    server.text = [" word"] * 100_000
    server.usage = kind == "vllm"
    run = ask(server)
    assert (run.status, run.result.finish_detail) == ("ok", "max_tokens")
    assert run.result.notices == ("the server sent more than max_tokens, and was stopped",)
    assert len(run.text) < 1000
    assert server.broken_off.wait(5)


def test_a_stream_that_never_ends_after_its_end(
    speaking: Start, ask: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its counts are missing. They are waited for, but not for long."""
    monkeypatch.setattr(server_engine, "LATE_SECONDS", 0.3)
    server = speaking("other")

    def hang(handler: SpeakingHandler) -> None:
        def events() -> Any:
            yield {"choices": [{"text": " Paris", "finish_reason": "stop"}]}
            server.broken_off.wait(5)

        handler.stream(events())

    server.vice = hang
    run = ask(server, params={"top_k": 0})
    assert (run.status, run.text, run.result.finish_detail) == ("ok", " Paris", "eos")
    server.broken_off.set()


def test_a_connection_that_stays_open_after_the_last_event(
    speaking: Start, ask: Callable[..., Run]
) -> None:
    """Its end is waited for, so that the connection can be used again, but for a moment only."""
    server = speaking("other")

    def hang(handler: SpeakingHandler) -> None:
        def events() -> Any:
            yield {"choices": [{"text": " Paris", "finish_reason": "stop"}]}
            yield "[DONE]"
            server.broken_off.wait(20)

        handler.stream(events())

    server.vice = hang
    began = time.monotonic()
    run = ask(server, params={"top_k": 0})
    server.broken_off.set()
    assert (run.status, run.text, run.result.finish_detail) == ("ok", " Paris", "eos")
    assert time.monotonic() - began < 3


def test_a_server_that_says_nothing(
    session: Session, speaking: Start, ask: Callable[..., Run]
) -> None:
    session.remote.http.silence_seconds = 0.3
    server = speaking("vllm")
    server.vice = lambda handler: time.sleep(1)  # type: ignore[assignment]
    assert "has said nothing for 0.3 s" in str(ask(server).error)


@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson", "application/json"])
def test_a_body_of_a_gigabyte_takes_no_memory(
    kind: str, speaking: Start, ask: Callable[..., Run]
) -> None:
    """It is given up after 64 MiB; a stream is, where one of its lines is that long."""
    server = speaking("vllm")

    def flood(handler: SpeakingHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(2**30))
        handler.end_headers()
        handler.wfile.write(b"data: {")
        try:
            for _ in range(2**30 // 2**20):
                handler.wfile.write(b"x" * 2**20)
        except OSError:
            server.broken_off.set()

    server.vice = flood
    ask(speaking("other"), params={"top_k": 0})
    before = psutil.Process().memory_info().rss
    run = ask(server)
    assert "sent more than 64 MiB without an end" in str(run.error)
    assert server.broken_off.wait(5)
    assert psutil.Process().memory_info().rss - before < 400 * 2**20


@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson", "application/json"])
@pytest.mark.parametrize("status", [200, 400])
def test_compressed_bytes_are_not_unpacked(
    status: int, kind: str, speaking: Start, ask: Callable[..., Run]
) -> None:
    """A few of them could be gigabytes of text. Nothing compressed was asked for."""
    server = speaking("vllm")
    small = gzip.compress(b"data: {" + b"x" * 2**20)
    server.vice = lambda handler: handler.whole(small, kind, status, Content_Encoding="gzip")
    run = ask(server)
    assert isinstance(run.error, EngineFailed)
    assert "sent an answer that is compressed (gzip)" in str(run.error)
    assert server.headers[-1]["Accept-Encoding"] == "identity"
    server.vice = None
    assert ask(server).text == WHOLE


def test_html_instead_of_json(speaking: Start, ask: Callable[..., Run]) -> None:
    server = speaking("vllm")
    page = f"<html>\n<h1>nginx {KEY}</h1>".encode()
    server.vice = lambda handler: handler.whole(page, "text/html")
    assert "without a stream: <html> <h1>nginx …</h1>" in str(ask(server).error)
    server.vice = lambda handler: handler.whole(page, "text/html", 502)
    assert "failed (502): <html> <h1>nginx …</h1>" in str(ask(server).error)


def test_a_redirect_is_not_followed_and_the_key_stays(
    speaking: Start, ask: Callable[..., Run]
) -> None:
    server, other = speaking("vllm"), speaking("vllm")
    place = f"{other.url}/completions"
    for status in (301, 302, 307, 308):
        server.vice = lambda handler, status=status: handler.whole(  # type: ignore[misc]
            b"", "text/plain", status, Location=place
        )
        assert f"sends on to {place}, which is not followed" in str(ask(server).error)
    assert other.asked == []
    assert any(headers.get("Authorization") == f"Bearer {KEY}" for headers in server.headers)


def later(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("after", [None, "0", "0.2", "date", "yesterday", "nan", "-5"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(
    after: str | None, status: int, speaking: Start, ask: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """After the pause that it asks for, or our own. Progress says so."""
    monkeypatch.setattr(http_client, "LONGEST_PAUSE_SECONDS", 0.05)
    server = speaking("vllm")
    headers = {} if after is None else {"Retry_After": later(1) if after == "date" else after}
    busy = {"error": {"message": "Loading model"}}
    server.first = [lambda handler: handler.json(busy, status, **headers)] * 2
    run = ask(server)
    assert (run.status, run.text) == ("ok", WHOLE)
    notes = [event.note for event in run.events if isinstance(event, Progress)]
    assert sum(f"busy ({status}), again in" in note for note in notes) == 2


def test_a_busy_server_is_given_up(
    speaking: Start, ask: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After eight attempts, or at once where it asks for a pause of more than a minute."""
    monkeypatch.setattr(http_client, "LONGEST_PAUSE_SECONDS", 0.01)
    server = speaking("vllm")
    server.vice = lambda handler: handler.json({"error": "too many requests"}, 429)
    run = ask(server)
    assert isinstance(run.error, ServerUnreachable)
    assert "is busy (429): too many requests; try again later" in str(run.error)
    assert sum(path == "/v1/completions" for path, _ in server.asked) == 8
    for pause in ("3600", later(3600)):
        server.vice = lambda handler, pause=pause: handler.json({}, 503, Retry_After=pause)  # type: ignore[misc]
        began = time.monotonic()
        assert isinstance(ask(server).error, ServerUnreachable)
        assert time.monotonic() - began < 5


def test_a_wait_can_be_interrupted(session: Session, speaking: Start) -> None:
    server = speaking("vllm")
    server.vice = lambda handler: handler.json({}, 429, Retry_After="30")
    run = session.run(Request(model=f"{server.url}#m", prompt="The", params={"temperature": 0}))
    while run.progress is None or "again in" not in run.progress.note:
        assert not run.wait(0.02)
    run.cancel()
    assert run.wait(1)
    assert run.status == "interrupted"


def test_what_is_interrupted_cleans_up_undisturbed() -> None:
    """It is cancelled once, however long it takes to close its stream."""
    client, cancel, closed = HttpClient(), threading.Event(), threading.Event()

    async def work() -> None:
        try:
            cancel.set()
            await asyncio.sleep(20)
        finally:
            await asyncio.sleep(5 * http_client.POLL_SECONDS)
            closed.set()

    try:
        with pytest.raises(Cancelled):
            client.run(work(), cancel)
        assert closed.is_set()
    finally:
        client.close()


@pytest.mark.parametrize(("idle_seconds", "connections"), [(60.0, 1), (0.05, 2)])
def test_a_connection_that_was_idle_is_not_used_again(
    idle_seconds: float, connections: int, speaking: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may be about to close it: uvicorn does so after 5 s."""
    assert http_client.IDLE_SECONDS < 4
    monkeypatch.setattr(http_client, "IDLE_SECONDS", idle_seconds)
    server, accepted = speaking("vllm"), []
    accept = server.process_request

    def counted(request: Any, address: Any) -> None:
        accepted.append(address)
        accept(request, address)

    monkeypatch.setattr(server, "process_request", counted)
    client, address = HttpClient(), Address("lab::m", server.url, "m")
    try:
        for _ in range(2):
            client.run(client.json(address, "models"), threading.Event())
            time.sleep(0.1)
        assert len(accepted) == connections
    finally:
        client.close()


def test_a_stream_is_not_asked_for_again_after_its_first_byte(
    speaking: Start, ask: Callable[..., Run]
) -> None:
    server = speaking("vllm")
    server.cut = 0.5
    assert ask(server).status == "error"
    assert sum(path == "/v1/completions" for path, _ in server.asked) == 1


def test_a_certificate_that_is_wrong_is_one_line(
    session: Session, speaking: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once. With the variable that the message names, it is the right one."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout",
         key, "-out", certificate, "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost"],
        capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    server = speaking("vllm")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_port}/v1"
    request = Request(model=f"{url}#m", prompt="The", params={"temperature": 0})
    run = session.run(request)
    assert run.wait(20)
    assert isinstance(run.error, ServerUnreachable)
    assert "CERTIFICATE_VERIFY_FAILED" in str(run.error)
    assert "SSL_CERT_FILE" in str(run.error)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with_variable = Session(":memory:")
    run = with_variable.run(request)
    assert run.wait(20)
    with_variable.close()
    run.raise_failure()
    assert run.text == WHOLE


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_server_on_this_machine_is_asked_past_proxies(
    variable: str, speaking: Start, ask: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the key would go to the proxy."""
    proxy = speaking("vllm")
    monkeypatch.setenv(variable, proxy.url.removesuffix("/v1"))
    assert ask(speaking("vllm")).text == WHOLE
    assert proxy.asked == []


def test_a_key_that_is_echoed_everywhere_is_nowhere(
    session: Session, speaking: Start, ask: Callable[..., Run], tmp_path: Path,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The server writes it into errors, its version, model names and answers."""
    caplog.set_level(logging.DEBUG)
    server = speaking("vllm")
    server.plain["/version"] = {"version": f"0.1 {KEY}"}
    server.text = [" the key", " is ", KEY[:9], KEY[9:], " and", " more"]
    runs = [ask(server), ask(server, top_logprobs=1), ask(server, chat=True)]
    for run in runs:
        assert (run.text, run.result.finish_detail) == (" the key is ", "content_filter")
    server.text = [f" {KEY}"]
    runs.append(ask(server))
    assert "send_request_headers" in caplog.text
    assert KEY not in caplog.text
    caplog.set_level(logging.INFO)  # httpcore's own log has the headers of an answer
    server.plain["/v1/models"]["data"].append({"id": KEY, "owned_by": "vllm"})
    assert session.server_models("lab::") == ["m", "…"]
    escaped = "".join(f"\\u{ord(sign):04x}" for sign in KEY)
    listed = f'{{"data": [{{"id": "m {escaped}"}}]}}'.encode()
    server.pages["/v1/models"] = listed
    assert session.server_models("lab::") == ["m …"]
    del server.pages["/v1/models"]
    for answer in ({"error": f"bad key {KEY}"}, {"error": {"message": f"Bearer {KEY}"}}, [KEY]):
        for status in (400, 401, 404, 429, 500):
            server.vice = lambda handler, answer=answer, status=status: handler.json(  # type: ignore[misc]
                answer, status, Retry_After="99"
            )
            runs.append(ask(server))
    server.vice = lambda handler: handler.whole(
        b" " * 5000 + KEY.encode(), "text/plain", 302, Location=f"http://x/{KEY}"
    )
    runs.append(ask(server))
    assert [run.status for run in runs[4:]] == ["error"] * (len(runs) - 4)
    shown = [repr(session.servers), repr(session.remote.servers), caplog.text, *capfd.readouterr()]
    for run in runs:
        shown += [repr(run.result), repr(run.events), repr(forms(run.request, {}))]
        if run.error is not None:
            shown.append("".join(traceback.format_exception(run.error)))
    assert not [text for text in shown if KEY in text]
    for name in ("runs.jsonl", "runs.csv", "runs.parquet"):
        session.log.export(tmp_path / name)
    session.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_forked_or_fresh_process_is_told_no_key(
    session: Session, speaking: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the name of the variable, and the variable itself."""
    monkeypatch.setenv("LAB_KEY", KEY)
    session.servers = {"lab": {"url": speaking("vllm").url, "api_key_env": "LAB_KEY"}}
    assert "LAB_KEY" in repr(session.settings)
    assert KEY not in repr(session.settings)


def test_httpx_is_not_imported_before_it_is_needed() -> None:
    code = "import llmwit_magic.magics.infer, sys; print({'httpx', 'httpx_sse'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.stdout.strip() == "set()", done.stderr


def test_errors_are_of_the_tree() -> None:
    assert issubclass(ServerUnreachable, InferenceError)
