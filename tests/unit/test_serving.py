"""The HTTP server over a real socket, with an engine that says what a test wants."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.wit import FinishDetail
from llmwit_magic.errors import EngineFailed, OutOfMemory, PromptTooLong
from llmwit_magic.serving.served_models import served_models
from tests.support.fake import FakeEngine, FakeSession, end
from tests.support.serving import CHAT, HELLO, Served, fake_session, served, server

__all__ = ["fake_session", "server"]


def test_spin_gets_its_exact_fields(server: Served, fake_session: FakeSession) -> None:
    """Spin sends keys in order, widened floats, and no content type."""
    body = (
        b'{"model":"m","options":{"maxTokens":100,"repeatPenalty":1.100000023841858,'
        b'"repeatPenaltyLastNTokenCount":64,"temperature":0.800000011920929,"topK":40,'
        b'"topP":0.8999999761581421},"prompt":"Hi"}'
    )
    status, answer, _ = server.ask("/infer", body, authorization="bearer any")
    assert (status, answer["text"]) == (200, "Hello world")
    assert answer["usage"] == {"promptTokenCount": 5, "generatedTokenCount": 2}
    params = fake_session.engine.requests[-1].params
    assert (params.repeat_penalty, params.temperature, params.top_p) == (1.1, 0.8, 0.9)
    status, answer, _ = server.ask("/embed", b'{"input":["a","bcd"],"model":"m"}')
    assert answer == {"embeddings": [[1.0, 1.0], [3.0, 1.0]], "usage": {"promptTokenCount": 2}}


def test_spins_open_ai_mode_needs_a_word_of_the_operator(fake_session: FakeSession) -> None:
    """It fills `frequency_penalty` with the repeat penalty, which nobody else means by it."""
    body = {
        **HELLO, "model": "m", "max_completion_tokens": 7,
        "frequency_penalty": 1.100000023841858,
    }  # fmt: skip
    with served(fake_session) as server:
        status, answer, _ = server.ask(CHAT, body)
        assert (status, answer["error"]["param"]) == (400, "frequency_penalty")
        assert "--spin-open-ai" in answer["error"]["message"]
    with served(fake_session, spin_penalty=True) as server:
        status, answer, _ = server.ask(CHAT, body)
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "Hello world")
    params = fake_session.engine.requests[-1].params
    assert (params.repeat_penalty, params.max_tokens) == (1.1, 7)


def test_a_chat_is_told_in_openais_form_and_is_a_row(
    server: Served, fake_session: FakeSession
) -> None:
    status, answer, _ = server.ask(CHAT, {**HELLO, "model": "m", "seed": 5, "user": "someone"})
    choice = answer["choices"][0]
    assert (status, answer["object"], answer["model"]) == (200, "chat.completion", "m")
    assert choice["message"]["content"] == "Hello world"
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    assert answer["usage"]["total_tokens"] == 7
    row = fake_session.log.to_frame().reset_index().iloc[-1]
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
    detail: FinishDetail, reason: str, fake_session: FakeSession, server: Served
) -> None:
    fake_session.engine = FakeEngine(last=end(2, detail))
    assert server.ask(CHAT, HELLO)[1]["choices"][0]["finish_reason"] == reason
    last = server.events(CHAT, HELLO)[-2]
    assert last["choices"][0]["finish_reason"] == reason


def test_reasoning_stands_apart(fake_session: FakeSession, server: Served) -> None:
    fake_session.engine = FakeEngine(thoughts=["Hm"])
    message = server.ask(CHAT, HELLO)[1]["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm", "Hello world")


def test_params_have_the_names_of_openai_and_of_llama_server(
    server: Served, fake_session: FakeSession
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
    first, second, third = (request.params for request in fake_session.engine.requests)
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
    more: dict[str, Any], param: str, server: Served, fake_session: FakeSession
) -> None:
    status, answer, _ = server.ask(CHAT, {**HELLO, **more})
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert answer["error"]["type"] == "invalid_request_error"
    assert fake_session.engine.requests == []


def test_a_schema_becomes_a_constraint(server: Served, fake_session: FakeSession) -> None:
    class Held(FakeEngine):
        capabilities = type(FakeEngine.capabilities)(constraints=("json_schema",))

    fake_session.engine = Held(['{"a": 1}'])
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    described = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert server.ask(CHAT, {**HELLO, "response_format": described})[0] == 200
    assert fake_session.engine.requests[-1].constraint.kind == "json_schema"


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
    error: Exception, status: int, fake_session: FakeSession, server: Served
) -> None:
    fake_session.engine = FakeEngine([], error)
    for path, body in (
        (CHAT, HELLO),
        (CHAT, {**HELLO, "stream": True}),
        ("/infer", {"prompt": "p"}),
    ):
        found, answer, _ = server.ask(path, body)
        assert found == status
        assert "/home" not in answer["error"]["message"]
    fake_session.engine = FakeEngine(["a"], error)
    assert "error" in server.events(CHAT, HELLO)[-1]  # too late for a status
