"""The HTTP server over a real socket, with an engine that says what a test wants."""

from __future__ import annotations

import base64
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic import __main__
from llmwit_magic.contract.wit import FinishDetail
from llmwit_magic.errors import EngineFailed, InvalidInput, OutOfMemory, PromptTooLong
from llmwit_magic.serving import http_command
from llmwit_magic.serving.served_models import served_models
from tests.support.fake import FakeEngine, FakeSession, end
from tests.support.serving import Served, served, until

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def session() -> Iterator[FakeSession]:
    session = FakeSession(FakeEngine())
    yield session
    session.close()


@pytest.fixture
def server(session: FakeSession) -> Iterator[Served]:
    with served(session) as server:
        yield server


def test_spin_gets_its_exact_fields(server: Served, session: FakeSession) -> None:
    """Spin sends keys in order, widened floats, and no content type."""
    body = (
        b'{"model":"m","options":{"maxTokens":100,"repeatPenalty":1.100000023841858,'
        b'"repeatPenaltyLastNTokenCount":64,"temperature":0.800000011920929,"topK":40,'
        b'"topP":0.8999999761581421},"prompt":"Hi"}'
    )
    status, answer, _ = server.ask("/infer", body, authorization="bearer any")
    assert (status, answer["text"]) == (200, "Hello world")
    assert answer["usage"] == {"promptTokenCount": 5, "generatedTokenCount": 2}
    params = session.engine.requests[-1].params
    assert (params.repeat_penalty, params.temperature, params.top_p) == (1.1, 0.8, 0.9)
    status, answer, _ = server.ask("/embed", b'{"input":["a","bcd"],"model":"m"}')
    assert answer == {"embeddings": [[1.0, 1.0], [3.0, 1.0]], "usage": {"promptTokenCount": 2}}


def test_spins_open_ai_mode_needs_a_word_of_the_operator(session: FakeSession) -> None:
    """It fills `frequency_penalty` with the repeat penalty, which nobody else means by it."""
    body = {
        **HELLO, "model": "m", "max_completion_tokens": 7,
        "frequency_penalty": 1.100000023841858,
    }  # fmt: skip
    with served(session) as server:
        status, answer, _ = server.ask(CHAT, body)
        assert (status, answer["error"]["param"]) == (400, "frequency_penalty")
        assert "--spin-open-ai" in answer["error"]["message"]
    with served(session, spin_penalty=True) as server:
        status, answer, _ = server.ask(CHAT, body)
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "Hello world")
    params = session.engine.requests[-1].params
    assert (params.repeat_penalty, params.max_tokens) == (1.1, 7)


def test_a_chat_is_told_in_openais_form_and_is_a_row(server: Served, session: FakeSession) -> None:
    status, answer, _ = server.ask(CHAT, {**HELLO, "model": "m", "seed": 5, "user": "someone"})
    choice = answer["choices"][0]
    assert (status, answer["object"], answer["model"]) == (200, "chat.completion", "m")
    assert choice["message"]["content"] == "Hello world"
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    assert answer["usage"]["total_tokens"] == 7
    row = session.log.to_frame().reset_index().iloc[-1]
    assert (row["run_id"], row["seed"]) == (answer["llmwit"]["run_id"], 5)
    assert (row["tag.http"], row["tag.user"]) == (CHAT, "someone")


@pytest.mark.parametrize("with_usage", [False, True])
def test_a_stream_says_the_same(server: Served, with_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if with_usage else {}
    *events, done = server.events(CHAT, {**HELLO, **options})
    assert done == "[DONE]"
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello world"
    assert (events[-1].get("usage") or {}).get("total_tokens") == (7 if with_usage else None)
    *events, done = server.events("/v1/completions", {"prompt": "Hi", **options})
    assert "".join(event["choices"][0]["text"] for event in events if event["choices"])
    reasons = [event["choices"][0]["finish_reason"] for event in events if event["choices"]]
    assert [reason for reason in reasons if reason] == ["stop"]


@pytest.mark.parametrize(
    ("detail", "reason"),
    [(FinishDetail.MAX_TOKENS, "length"), (FinishDetail.CONTENT_FILTER, "content_filter")],
)
def test_all_finish_reasons(
    detail: FinishDetail, reason: str, session: FakeSession, server: Served
) -> None:
    session.engine = FakeEngine(last=end(2, detail))
    assert server.ask(CHAT, HELLO)[1]["choices"][0]["finish_reason"] == reason
    last = server.events(CHAT, HELLO)[-2]
    assert last["choices"][0]["finish_reason"] == reason


def test_reasoning_stands_apart(session: FakeSession, server: Served) -> None:
    session.engine = FakeEngine(thoughts=["Hm"])
    message = server.ask(CHAT, HELLO)[1]["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm", "Hello world")


def test_params_have_the_names_of_openai_and_of_llama_server(
    server: Served, session: FakeSession
) -> None:
    """What is left open has the defaults of a cell; a completion has OpenAI's limit."""
    server.ask(
        "/v1/completions",
        {
            "prompt": ["Hi"], "max_tokens": 3, "temperature": 0, "top_p": 0.5, "top_k": 7,
            "repeat_penalty": 1.2, "repeat_last_n": 9, "stop": "x", "seed": 1, "n": 1,
            "frequency_penalty": 0.0, "logit_bias": {}, "best_of": None, "echo": False,
        },
    )  # fmt: skip
    server.ask("/v1/completions", {"prompt": "Hi"})
    server.ask(CHAT, HELLO)
    first, second, third = (request.params for request in session.engine.requests)
    assert (first.max_tokens, first.temperature, first.top_p, first.top_k) == (3, 0, 0.5, 7)
    assert (first.repeat_penalty, first.repeat_penalty_last_n_token_count) == (1.2, 9)
    assert (first.stop, first.seed) == (("x",), 1)
    assert (second.max_tokens, third.max_tokens) == (16, None)
    assert (second.temperature, second.top_k, second.repeat_penalty) == (0.8, 40, 1.1)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"), ({"n": 2}, "n"), ({"n": True}, "n"),
        ({"presence_penalty": 0.5}, "presence_penalty"), ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"min_p": 0.1}, "min_p"), ({"max_tokens": 1, "max_completion_tokens": 2},
                                    "max_completion_tokens"),
        ({"temperature": -1}, "temperature"), ({"seed": -1}, "seed"), ({"stop": [""]}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"), ({"response_format": {"type": "x"}},
                                               "response_format"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"audio": {}}, "audio"),
    ],
)  # fmt: skip
def test_what_we_do_not_have_is_refused_by_name(
    more: dict[str, Any], param: str, server: Served, session: FakeSession
) -> None:
    status, answer, _ = server.ask(CHAT, {**HELLO, **more})
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert answer["error"]["type"] == "invalid_request_error"
    assert session.engine.requests == []


def test_a_schema_becomes_a_constraint(server: Served, session: FakeSession) -> None:
    class Held(FakeEngine):
        capabilities = type(FakeEngine.capabilities)(constraints=("json_schema",))

    session.engine = Held(['{"a": 1}'])
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    described = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert server.ask(CHAT, {**HELLO, "response_format": described})[0] == 200
    assert session.engine.requests[-1].constraint.kind == "json_schema"


def test_only_the_models_that_are_named_are_run(server: Served, tmp_path: Path) -> None:
    (tmp_path / "secret.gguf").write_bytes(b"GGUF")
    for name in (str(tmp_path / "secret.gguf"), "fake", "../m", "http://127.0.0.1:1/v1"):
        status, answer, _ = server.ask(CHAT, {**HELLO, "model": name})
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert server.ask("/infer", {"prompt": "Hi", "model": name})[0] == 404
    assert [model["id"] for model in server.ask("/v1/models")[1]["data"]] == ["m"]


def test_a_file_is_known_by_its_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    assert served_models([str(path)]).names == {"tiny": str(path)}
    assert served_models([f"small={path}"]).names == {"small": str(path)}
    assert list(served_models([]).names) == ["smollm2-135m-instruct"]


def test_embeddings_as_numbers_and_as_base64(server: Served) -> None:
    body = {"input": ["a", "bcd"], "model": "m"}
    answer = server.ask("/v1/embeddings", body)[1]
    assert [item["embedding"] for item in answer["data"]] == [[1.0, 1.0], [3.0, 1.0]]
    assert answer["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    answer = server.ask("/v1/embeddings", {**body, "encoding_format": "base64"})[1]
    data = base64.b64decode(answer["data"][1]["embedding"])
    assert struct.unpack("<2f", data) == (3.0, 1.0)
    assert server.ask("/v1/embeddings", {**body, "dimensions": 5})[0] == 400


@pytest.mark.parametrize(
    ("error", "status"),
    [(PromptTooLong("the prompt has 9 tokens"), 400), (EngineFailed("/home/me/x"), 500),
     (OutOfMemory("/home/me/x"), 503)],
)  # fmt: skip
def test_errors_have_a_status_and_no_paths(
    error: Exception, status: int, session: FakeSession, server: Served
) -> None:
    session.engine = FakeEngine([], error)
    for path, body in (
        (CHAT, HELLO),
        (CHAT, {**HELLO, "stream": True}),
        ("/infer", {"prompt": "p"}),
    ):
        found, answer, _ = server.ask(path, body)
        assert found == status
        assert "/home" not in answer["error"]["message"]
    session.engine = FakeEngine(["a"], error)
    assert "error" in server.events(CHAT, HELLO)[-1]  # too late for a status


def test_a_token_is_asked_for(session: FakeSession) -> None:
    with served(session, token="planted-key-0123456789") as server:
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


def test_a_full_line_is_429(session: FakeSession) -> None:
    session.engine = FakeEngine(["a"] * 20, pause=0.05)
    with served(session, places=1) as server, ThreadPoolExecutor(3) as pool:
        first = pool.submit(server.ask, CHAT, HELLO)
        until(lambda: session.engine.requests)
        second = pool.submit(server.ask, CHAT, HELLO)
        until(lambda: server.service.line.waiting == 1)
        status, answer, headers = server.ask(CHAT, HELLO)
        assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
        assert int(headers["retry-after"]) > 0
        assert server.ask("/ready")[0] == 503
        assert (first.result()[0], second.result()[0]) == (200, 200)
        assert server.ask("/ready")[0] == 200


def test_fifty_clients_at_once(server: Served, session: FakeSession) -> None:
    """None is lost, none gets another one's answer, and one runs at a time."""
    session.engine = FakeEngine(["a"], pause=0.002)
    with ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(lambda seed: server.ask(CHAT, {**HELLO, "seed": seed})[1], range(50))
        )
    assert [answer["llmwit"]["seed"] for answer in answers] == list(range(50))
    assert sorted(answer["llmwit"]["run_id"] for answer in answers) == list(range(1, 51))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_run(
    stream: bool, server: Served, session: FakeSession
) -> None:
    session.engine = FakeEngine(["a"] * 1000, pause=0.01)
    connection = server.connect()
    connection.request("POST", CHAT, f'{{"messages": [{{"role": "user", "content": "Hi"}}], '
                       f'"stream": {str(stream).lower()}}}')  # fmt: skip
    until(lambda: server.service.runs and next(iter(server.service.runs)).text)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    assert until(lambda: session.log.to_frame()["status"].iloc[-1] == "interrupted") < 0.3
    assert until(lambda: [line for line in server.lines if "went away" in line]) < 1


def test_one_that_waits_and_goes_away_leaves_the_line(server: Served, session: FakeSession) -> None:
    session.engine = FakeEngine(["a"] * 30, pause=0.02)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.ask, CHAT, HELLO)
        until(lambda: session.engine.requests)
        waiting = server.connect()
        waiting.request("POST", CHAT, b'{"messages": [{"role": "user", "content": "Hi"}]}')
        until(lambda: server.service.line.waiting == 1)
        waiting.close()
        until(lambda: server.service.line.waiting == 0)
        assert first.result()[0] == 200
    assert len(session.engine.requests) == 1


def test_a_slow_reader_holds_nobody_up(
    server: Served, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is dropped after some time; the next run begins as soon as its own has ended."""
    monkeypatch.setattr("llmwit_magic.serving.answering.SEND_SECONDS", 0.5)
    session.engine = FakeEngine(["x" * 200_000] * 100)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        body = b'{"messages": [{"role": "user", "content": "Hi"}], "stream": true}'
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        slow.sendall(head.encode() + body)
        until(lambda: session.engine.requests)
        session.engine = FakeEngine()
        assert server.ask(CHAT, HELLO)[0] == 200
        until(lambda: [line for line in server.lines if "went away" in line])
        until(lambda: not server.server.server_state.connections)


def test_hosts_take_turns(session: FakeSession) -> None:
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


def test_an_orderly_end(session: FakeSession) -> None:
    """No new requests, those that wait are refused, and runs that go on may end."""
    session.engine = FakeEngine(["a"] * 20, pause=0.02)
    with served(session) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.ask, CHAT, HELLO)
        until(lambda: session.engine.requests)
        second = pool.submit(server.ask, CHAT, HELLO)
        until(lambda: server.service.line.waiting == 1)
        server.server_loop(server.service.stop)
        assert second.result()[0] == 503
        assert server.ask("/ready")[0] == server.ask(CHAT, HELLO)[0] == 503
        assert server.ask("/health")[0] == 200
        assert first.result()[0] == 200


def test_runs_that_go_on_too_long_are_ended(session: FakeSession) -> None:
    """A stream says so in its last event, and the row is interrupted."""
    session.engine = FakeEngine(["a"] * 1000, pause=0.01)
    with served(session) as server, ThreadPoolExecutor(1) as pool:
        stream = pool.submit(server.events, CHAT, HELLO)
        until(lambda: server.service.runs and next(iter(server.service.runs)).text)
        server.server_loop(server.service.stop)
        server.server_loop(server.service.end_runs)
        assert stream.result()[-1]["error"]["code"] == "shutting_down"
    assert session.log.to_frame()["status"].iloc[-1] == "interrupted"


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


def test_malformed_and_random_requests_get_a_400(server: Served, session: FakeSession) -> None:
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
    session.engine = FakeEngine(["a"])

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


def test_the_threads_of_a_server_end(session: FakeSession) -> None:
    before = threading.active_count()
    with served(session) as server:
        server.ask(CHAT, HELLO)
    time.sleep(0.05)
    assert threading.active_count() <= before + 1  # asyncio's own pool ends with its loop
