"""The HTTP server as a process of its own with the default model, and real clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from llmwit_magic.contract.request import DEFAULT_MODEL, Request
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.session import Session

PROMPT = "The capital of France is"
CHAT: Any = [{"role": "user", "content": "Name a fruit."}]
TOKEN = "planted-key-0123456789"


class Child:
    """A server in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        env = {**os.environ, "XDG_DATA_HOME": str(folder), "SERVER_TOKEN": TOKEN}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmwit_magic", "http", "--port", "0", *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        )  # fmt: skip
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first.startswith("serving "), first + self.process.stdout.read()
        self.url = first.split(" on ")[1].strip()
        self.log = folder / "llmwit-magic" / "runs.sqlite3"

    def post(self, path: str, body: bytes) -> Any:
        """The JSON of an answer, as a client that looks at no status reads it."""
        url = self.url.removesuffix("/v1") + path
        request = urllib.request.Request(url, body, {"authorization": f"bearer {TOKEN}"})
        request.add_header("content-type", "")
        try:
            with urllib.request.urlopen(request, timeout=50) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def end(self) -> str:
        """End it in order. Returns what it said of its requests."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, said
        return said


@pytest.fixture(scope="module")
def child(default_model_loaded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    child = Child(
        tmp_path_factory.mktemp("http"), "--token-env", "SERVER_TOKEN", "--spin-open-ai",
        "--model", f"small={DEFAULT_MODEL}",
    )  # fmt: skip
    yield child
    said = child.end()
    assert said.endswith("ended\n")
    assert TOKEN not in said
    assert "France" not in said
    assert "defect" not in said


@pytest.fixture
def client(child: Child) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=child.url, api_key=TOKEN, max_retries=0, timeout=50) as client:
        yield client


def here(session: Session, **values: Any) -> Any:
    """What a cell gets."""
    run = session.run(Request(model=DEFAULT_MODEL, **values))
    assert run.wait(50)
    run.raise_failure()
    return run.result


def test_openais_client_gets_what_a_cell_gets(client: openai.OpenAI, session: Session) -> None:
    """The same seed gives the same text, whole and as a stream, with usage and finish reason."""
    params = {"max_tokens": 12, "seed": 5}
    ours = here(session, messages=CHAT, params=params)
    whole = client.chat.completions.create(
        model="small", messages=CHAT, max_completion_tokens=12, seed=5
    )
    assert whole.choices[0].message.content == ours.text
    assert whole.choices[0].finish_reason == ours.finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == ours.usage.prompt_token_count
    assert whole.usage.completion_tokens == ours.usage.generated_token_count
    chunks = list(
        client.chat.completions.create(
            model="small", messages=CHAT, max_tokens=12, seed=5, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == ours.text
    assert len(said) > 3  # who speaks, the first token, the others in one, and the end
    assert chunks[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}  # type: ignore[union-attr]
    )


def test_completions_stop_and_say_log_probabilities(
    client: openai.OpenAI, session: Session
) -> None:
    params = {"max_tokens": 8, "temperature": 0, "stop": ["."]}
    ours = here(session, prompt=PROMPT, params=params, top_logprobs=2)
    told = client.completions.create(
        model="small", prompt=PROMPT, max_tokens=8, temperature=0, stop=".", logprobs=2
    ).choices[0]
    assert (told.text, told.finish_reason) == (ours.text, "stop") == (" Paris", "stop")
    assert told.logprobs is not None
    assert told.logprobs.tokens == [" Paris"]
    assert told.logprobs.token_logprobs == [token.logprob for token in ours.tokens]
    chat = client.chat.completions.create(
        model="small", messages=CHAT, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    ).choices[0]
    assert chat.logprobs is not None
    content = chat.logprobs.content or []
    assert "".join(item.token for item in content) == chat.message.content
    assert all(item.logprob == item.top_logprobs[0].logprob for item in content)


def test_openais_client_gets_vectors_and_models(client: openai.OpenAI, session: Session) -> None:
    texts = ["a fruit", "a car"]
    ours = session.embed(Request(model=DEFAULT_MODEL, prompt=texts[0]), texts)
    told = client.embeddings.create(model="small", input=texts)
    assert [tuple(item.embedding) for item in told.data] == list(ours.embeddings)
    assert told.usage.prompt_tokens == ours.usage.prompt_token_count
    assert [model.id for model in client.models.list()] == ["small"]


def test_openais_client_gets_our_errors(client: openai.OpenAI, child: Child) -> None:
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(
            model="small", messages=CHAT,
            tools=[{"type": "function", "function": {"name": "f"}}],
        )  # fmt: skip
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model=DEFAULT_MODEL, prompt="x")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="small", prompt="word " * 10_000)
    assert caught.value.code == "context_length_exceeded"
    wrong = openai.OpenAI(base_url=child.url, api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_a_json_schema_holds_the_answer(client: openai.OpenAI) -> None:
    schema = {
        "type": "object", "properties": {"fruit": {"enum": ["apple", "pear"]}},
        "required": ["fruit"], "additionalProperties": False,
    }  # fmt: skip
    answer = client.chat.completions.create(
        model="small", messages=CHAT, seed=1, max_tokens=30,
        response_format={
            "type": "json_schema", "json_schema": {"name": "f", "schema": schema, "strict": True},
        },
    )  # fmt: skip
    assert json.loads(answer.choices[0].message.content or "")["fruit"] in ("apple", "pear")


def test_a_replay_of_spins_requests(child: Child, session: Session) -> None:
    """They are replayed as crates/llm-remote-http of Spin 4 builds them: no Spin runs here."""
    body = (
        b'{"model":"small","options":{"maxTokens":8,"repeatPenalty":1.100000023841858,'
        b'"repeatPenaltyLastNTokenCount":64,"temperature":0.0,"topK":40,'
        b'"topP":0.8999999761581421},"prompt":"The capital of France is"}'
    )
    told = child.post("/infer", body)
    params = {"max_tokens": 8, "temperature": 0, "repeat_penalty": 1.1}
    ours = here(session, prompt=PROMPT, params=params)
    assert told["text"] == ours.text
    assert told["usage"] == {"promptTokenCount": 5, "generatedTokenCount": 8}
    vectors = child.post("/embed", b'{"input":["a fruit","a car"],"model":"small"}')
    assert [len(vector) for vector in vectors["embeddings"]] == [576, 576]
    assert vectors["usage"]["promptTokenCount"] > 0
    # Its `open_ai` mode.
    body = (
        b'{"messages":[{"role":"user","content":"Name a fruit."}],"model":"small",'
        b'"max_completion_tokens":8,"frequency_penalty":1.1}'
    )
    answer = child.post("/v1/chat/completions", body)
    assert isinstance(answer["choices"][0]["message"]["content"], str)
    assert answer["usage"]["completion_tokens"] == 8
    failed = child.post("/v1/chat/completions", body.replace(b'"small"', b'"llama2-chat"'))
    assert "no such model" in failed["error"]["message"]
    assert "text" not in child.post("/infer", b'{"model":"llama2-chat","prompt":"x"}')


def test_our_own_engine_of_servers_as_client(
    child: Child, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_TOKEN", TOKEN)
    session.servers = {"lab": {"url": child.url, "api_key_env": "SERVER_TOKEN"}}
    request = Request(
        model="lab::small", prompt=PROMPT, params={"max_tokens": 8, "temperature": 0, "stop": ["."]}
    )
    run = session.run(request)
    assert run.wait(50)
    run.raise_failure()
    assert (run.result.text, run.result.finish_detail) == (" Paris", "stop_sequence")
    assert run.result.not_honoured == ()
    assert run.result.model is not None
    assert run.result.model.engine == "llmwit-magic"
    # All that a cell can set is honoured, so the same seed gives the same text.
    params = {
        "max_tokens": 12, "seed": 2**62 + 1, "top_k": 7, "repeat_penalty": 1.3,
        "repeat_penalty_last_n_token_count": 5,
    }  # fmt: skip
    for more in ({"prompt": PROMPT}, {"messages": CHAT, "template_options": {"x": True}}):
        far = session.run(Request(model="lab::small", params=params, top_logprobs=2, **more))
        assert far.wait(50)
        far.raise_failure()
        near = here(session, params=params, top_logprobs=2, **more)
        assert far.result.text == near.text
        assert [token.logprob for token in far.result.tokens or ()] == [
            token.logprob for token in near.tokens
        ]


def test_a_client_that_goes_away_leaves_an_interrupted_row(
    client: openai.OpenAI, child: Child
) -> None:
    stream = client.completions.create(
        model="small", prompt="Once upon a time", max_tokens=1000, seed=3, stream=True,
        extra_body={"user": "goes"},
    )  # fmt: skip
    next(iter(stream))
    stream.close()
    began, status = time.monotonic(), None
    log = RunLog(child.log)
    try:
        while status != "interrupted":
            assert time.monotonic() < began + 1
            found = log.to_frame(tag="user=goes")["status"]
            status = found.iloc[-1] if len(found) else None
    finally:
        log.close()


def test_a_run_may_end_after_sigterm(default_model_loaded: Path, tmp_path: Path) -> None:
    """A run that goes on is whole; nothing of the server is left."""
    child = Child(tmp_path)
    with openai.OpenAI(base_url=child.url, api_key="none", max_retries=0) as client:
        stream = client.completions.create(
            model=DEFAULT_MODEL, prompt=PROMPT, max_tokens=40, stream=True, temperature=0
        )
        first = next(iter(stream))
        child.process.send_signal(signal.SIGTERM)
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason == "length"
        assert first.choices[0].text
    assert child.process.wait(20) == 0
    child.process.stdout.close()  # type: ignore[union-attr]


def test_an_address_that_others_reach_needs_a_token() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmwit_magic", "http", "--host", "0.0.0.0", "--port", "0"],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.returncode == 2
    assert "give a token" in done.stderr
