"""Who may ask the HTTP server, in which order, and what is bounded."""

from __future__ import annotations

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic import __main__
from llmwit_magic.errors import InvalidInput
from llmwit_magic.serving import http_command
from tests.support.fake import FakeEngine, FakeSession
from tests.support.serving import CHAT, HELLO, Served, fake_session, served, server, until

__all__ = ["fake_session", "server"]


def test_a_token_is_asked_for(fake_session: FakeSession) -> None:
    with served(fake_session, token="planted-key-0123456789") as server:
        for header in ({}, {"authorization": "Bearer x"}, {"authorization": "Basic planted"}):
            status, _, headers = server.ask(CHAT, HELLO, **header)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert server.ask("/v1/models")[0] == 401
        for scheme in ("Bearer", "bearer"):
            key = f"{scheme} planted-key-0123456789"
            assert server.ask(CHAT, HELLO, authorization=key)[0] == 200
        assert server.ask("/health")[0] == server.ask("/ready")[0] == 200
        assert "planted" not in "".join(server.lines)


def test_pages_of_other_sites_are_refused(server: Served) -> None:
    """By the Host header where they lead their name to this machine, else by their Origin."""
    assert server.ask("/v1/models", host="evil.example:80")[0] == 403
    assert server.ask("/v1/models", host="127.0.0.1.evil.example")[0] == 403
    assert server.ask(CHAT, HELLO, origin="http://evil.example")[0] == 403
    assert server.ask(CHAT, HELLO, origin="null")[0] == 403
    for host in ("localhost", "127.0.0.1:9", "[::1]:9"):
        status, _, headers = server.ask("/v1/models", host=host)
        assert status == 200
        assert not [name for name in headers if name.startswith("access-control")]


def test_a_body_has_bounds(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmwit_magic.serving.bodies.MOST_BYTES", 1000)
    monkeypatch.setattr("llmwit_magic.serving.bodies.BODY_SECONDS", 0.2)
    assert server.ask(CHAT, b"x" * 1001)[0] == 413
    chunked = server.connect()
    chunked.request("POST", CHAT, iter([b"x" * 600] * 2), encode_chunked=True,
                    headers={"transfer-encoding": "chunked"})  # fmt: skip
    assert chunked.getresponse().status == 413
    chunked.close()
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
        assert b" 408 " in slow.recv(4096).split(b"\r\n")[0] + b" "


def test_a_full_line_is_429(fake_session: FakeSession) -> None:
    fake_session.engine = FakeEngine(["a"] * 20, pause=0.05)
    with served(fake_session, places=1) as server, ThreadPoolExecutor(3) as pool:
        first = pool.submit(server.ask, CHAT, HELLO)
        until(lambda: fake_session.engine.requests)
        second = pool.submit(server.ask, CHAT, HELLO)
        until(lambda: server.service.line.waiting == 1)
        status, answer, headers = server.ask(CHAT, HELLO)
        assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
        assert int(headers["retry-after"]) > 0
        assert server.ask("/ready")[0] == 503
        assert (first.result()[0], second.result()[0]) == (200, 200)
        assert server.ask("/ready")[0] == 200


def test_fifty_clients_at_once(server: Served, fake_session: FakeSession) -> None:
    """None is lost, none gets another one's answer, and one runs at a time."""
    fake_session.engine = FakeEngine(["a"], pause=0.002)
    with ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(lambda seed: server.ask(CHAT, {**HELLO, "seed": seed})[1], range(50))
        )
    assert [answer["llmwit"]["seed"] for answer in answers] == list(range(50))
    assert sorted(answer["llmwit"]["run_id"] for answer in answers) == list(range(1, 51))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_run(
    stream: bool, server: Served, fake_session: FakeSession
) -> None:
    fake_session.engine = FakeEngine(["a"] * 1000, pause=0.01)
    connection = server.connect()
    connection.request("POST", CHAT, f'{{"messages": [{{"role": "user", "content": "Hi"}}], '
                       f'"stream": {str(stream).lower()}}}')  # fmt: skip
    until(lambda: server.service.runs and next(iter(server.service.runs)).text)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    assert until(lambda: fake_session.log.to_frame()["status"].iloc[-1] == "interrupted") < 0.3
    assert until(lambda: [line for line in server.lines if "went away" in line]) < 1


def test_one_that_waits_and_goes_away_leaves_the_line(
    server: Served, fake_session: FakeSession
) -> None:
    fake_session.engine = FakeEngine(["a"] * 30, pause=0.02)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.ask, CHAT, HELLO)
        until(lambda: fake_session.engine.requests)
        waiting = server.connect()
        waiting.request("POST", CHAT, b'{"messages": [{"role": "user", "content": "Hi"}]}')
        until(lambda: server.service.line.waiting == 1)
        waiting.close()
        until(lambda: server.service.line.waiting == 0)
        assert first.result()[0] == 200
    assert len(fake_session.engine.requests) == 1


def test_a_slow_reader_holds_nobody_up(
    server: Served, fake_session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is dropped after some time; the next run begins as soon as its own has ended."""
    monkeypatch.setattr("llmwit_magic.serving.answering.SEND_SECONDS", 0.5)
    fake_session.engine = FakeEngine(["x" * 200_000] * 100)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        body = b'{"messages": [{"role": "user", "content": "Hi"}], "stream": true}'
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        slow.sendall(head.encode() + body)
        until(lambda: fake_session.engine.requests)
        fake_session.engine = FakeEngine()
        assert server.ask(CHAT, HELLO)[0] == 200
        until(lambda: [line for line in server.lines if "went away" in line])
        until(lambda: not server.server.server_state.connections)


def test_hosts_take_turns(fake_session: FakeSession) -> None:
    """One with many connections does not keep one with a single connection waiting for all."""
    import asyncio

    from llmwit_magic.serving.waiting_line import WaitingLine

    async def order() -> list[str]:
        line, served_hosts = WaitingLine(10), []

        async def one(host: str) -> None:
            turn = await line.take("m", host, 1)
            served_hosts.append(host)
            await asyncio.sleep(0)
            turn.release()
            turn.release()

        tasks = [asyncio.create_task(one(host)) for host in "aaaab"]
        await asyncio.gather(*tasks)
        assert (line.waiting, line._lanes["m"].running) == (0, 0)
        return served_hosts

    assert asyncio.run(order()) == ["a", "a", "b", "a", "a"]


def test_an_orderly_end(fake_session: FakeSession) -> None:
    """No new requests, those that wait are refused, and runs that go on may end."""
    fake_session.engine = FakeEngine(["a"] * 20, pause=0.02)
    with served(fake_session) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.ask, CHAT, HELLO)
        until(lambda: fake_session.engine.requests)
        second = pool.submit(server.ask, CHAT, HELLO)
        until(lambda: server.service.line.waiting == 1)
        server.server_loop(server.service.stop)
        assert second.result()[0] == 503
        assert server.ask("/ready")[0] == server.ask(CHAT, HELLO)[0] == 503
        assert server.ask("/health")[0] == 200
        assert first.result()[0] == 200


def test_runs_that_go_on_too_long_are_ended(fake_session: FakeSession) -> None:
    """A stream says so in its last event, and the row is interrupted."""
    fake_session.engine = FakeEngine(["a"] * 1000, pause=0.01)
    with served(fake_session) as server, ThreadPoolExecutor(1) as pool:
        stream = pool.submit(server.events, CHAT, HELLO)
        until(lambda: server.service.runs and next(iter(server.service.runs)).text)
        server.server_loop(server.service.stop)
        server.server_loop(server.service.end_runs)
        assert stream.result()[-1]["error"]["code"] == "shutting_down"
    assert fake_session.log.to_frame()["status"].iloc[-1] == "interrupted"


def test_a_token_comes_from_a_variable_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_TOKEN", " planted-key ")
    monkeypatch.setenv("EMPTY", "")
    path = tmp_path / "token"
    path.write_text("planted-key\n")
    assert http_command._token("SERVER_TOKEN", None) == "planted-key"
    assert http_command._token(None, str(path)) == "planted-key"
    assert http_command._token(None, None) is None
    for both in (("EMPTY", None), ("MISSING", None), ("SERVER_TOKEN", str(path))):
        with pytest.raises(InvalidInput, match="--token-env"):
            http_command._token(*both)


def test_another_address_needs_a_token() -> None:
    with pytest.raises(InvalidInput, match="give a token"):
        http_command._listening("0.0.0.0", 0, None)
    for host, token in (("0.0.0.0", "planted-key"), ("localhost", None), ("127.0.0.1", None)):
        http_command._listening(host, 0, token).close()


def test_a_missing_extra_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["llmwit_magic", "http"])
    monkeypatch.setattr(__main__, "find_spec", lambda name: None)
    assert __main__.main() == 2
    assert 'pip install "llmwit-magic[http]"' in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["llmwit_magic"])
    assert __main__.main() == 2
    assert "usage" in capsys.readouterr().err


def test_the_line_about_a_request_has_no_prompt(server: Served) -> None:
    server.ask(CHAT, {"messages": [{"role": "user", "content": "planted-prompt"}]})
    server.ask("/planted-path?key=planted")
    until(lambda: len(server.lines) == 2)
    assert "200 run 1 ok 5+2 tokens" in server.lines[0]
    assert "404" in server.lines[1]
    assert "planted" not in "".join(server.lines)


MALFORMED: list[bytes] = [
    b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"[" * 50_000, b'{"a":' * 50_000,
    b'{"messages": NaN}', b'{"messages": 1e999}', b'{"model": "m", "model": "m"}',
    b'{"prompt": "\\ud800"}', b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
]  # fmt: skip


def test_malformed_and_random_requests_get_a_400(server: Served, fake_session: FakeSession) -> None:
    """Whatever is sent, the answer is an error object or an answer, and never a defect."""
    drawn = random.Random(7)
    values: list[Any] = [
        None, True, 0, 1, -1, 2**70, 0.5, "", "x", "m", [], ["x"], [1], {}, {"a": 1},
        [{"role": "user", "content": "Hi"}], [{"role": [], "content": {}}], [[]], [None],
        {"type": "json_object"}, {"type": {}}, {"type": "json_schema", "json_schema": []},
    ]  # fmt: skip
    fields = [
        "model", "messages", "prompt", "input", "options", "temperature", "top_p", "top_k", "seed",
        "stop", "stream", "stream_options", "logprobs", "top_logprobs", "max_tokens", "n", "user",
        "response_format", "tools", "encoding_format", "é\n", "repeat_last_n",
    ]  # fmt: skip
    paths = ["/infer", "/embed", "/v1/completions", CHAT, "/v1/embeddings"]
    seen: set[int] = set()
    connection = server.connect()
    fake_session.engine = FakeEngine(["a"])

    def send(path: str, body: bytes) -> None:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        data = answer.read()
        seen.add(answer.status)
        assert answer.status in (200, 400, 404), (path, body[:200], data)
        assert data

    import json

    for path in paths:
        for body in MALFORMED:
            send(path, body)
        whole = json.dumps({"model": "fake", "prompt": "p", **HELLO}).encode()
        for _ in range(40):  # cut off, or with a byte that is another one
            place = drawn.randrange(len(whole))
            send(path, whole[:place])
            send(path, whole[:place] + bytes([drawn.randrange(256)]) + whole[place + 1 :])
        for _ in range(200):
            chosen = drawn.sample(fields, drawn.randint(0, 5))
            body = {name: drawn.choice(values) for name in chosen}
            if drawn.random() < 0.5:
                body |= {"messages": HELLO["messages"]} if path == CHAT else {"prompt": "p"}
            send(path, json.dumps(body).encode())
    connection.close()
    assert {200, 400, 404} == seen
    assert not [line for line in server.lines if "defect" in line]


def test_bytes_that_are_no_http_end_their_connection_only(server: Served) -> None:
    drawn = random.Random(3)
    for number in range(200):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
            raw.sendall(drawn.choice([b"GET / HTTP/9\r\n\r\n", b"POST /infer HTTP/1.1\r\n",
                                      drawn.randbytes(200) + b"\r\n\r\n"]))  # fmt: skip
            if number % 20 == 0:
                raw.shutdown(socket.SHUT_WR)
                raw.recv(1000)
    assert server.ask("/health")[0] == 200


def test_the_threads_of_a_server_end(fake_session: FakeSession) -> None:
    before = threading.active_count()
    with served(fake_session) as server:
        server.ask(CHAT, HELLO)
    time.sleep(0.05)
    assert threading.active_count() <= before + 1  # asyncio's own pool ends with its loop
