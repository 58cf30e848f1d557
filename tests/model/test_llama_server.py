"""The whole contract on a real llama-server of the default model, beside our own llama.cpp."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from llmwit_magic import Component, api
from llmwit_magic.analysis import splitting
from llmwit_magic.contract.events import Progress
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.engines.server.addresses import Address
from llmwit_magic.engines.server.dialects.llama_server import LlamaServer
from llmwit_magic.engines.server.http_client import HttpClient
from llmwit_magic.errors import (
    EngineFailed,
    InferenceError,
    InvalidInput,
    ModelNotFound,
    ModelNotSupported,
    PromptTooLong,
    ServerUnreachable,
)
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.replay import Replay, replay_request
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.kernel import Kernel
from tests.support.llama_server import LlamaServerChild, running_llama_server
from tests.support.wat_guests import forwarder
from tests.support.wat_interfaces import SECOND

KEY = "planted-key-0123456789"
PROMPT = "The capital of France is"
PROMPTS = (PROMPT, "Once upon a time", "1, 2, 3, 4,", "def add(a, b):")


@pytest.fixture(scope="module")
def server(default_model_source: Path) -> Iterator[LlamaServerChild]:
    with running_llama_server(default_model_source, slots=2, key=KEY) as child:
        yield child


@pytest.fixture
def lab(
    server: LlamaServerChild, session: Session, monkeypatch: pytest.MonkeyPatch
) -> LlamaServerChild:
    """The server under the name `lab::` in the session."""
    monkeypatch.setenv("LAB_KEY", KEY)
    session.servers = {"lab": {"url": server.url, "api_key_env": "LAB_KEY"}}
    return server


Ask = Callable[..., InferencingResult]


@pytest.fixture
def ask(session: Session, lab: LlamaServerChild) -> Ask:
    return lambda prompt=PROMPT, **values: finished(session, prompt, **values).result


def finished(session: Session, prompt: str = PROMPT, **values: Any) -> Run:
    params = {"temperature": 0, "max_tokens": 12, **values.pop("params", {})}
    request = Request(**{"model": "lab::", "prompt": prompt, **values}, params=params)
    run = session.run(request)
    assert run.wait(60)
    run.raise_failure()
    return run


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_and_counts_are_those_of_our_own_engine(
    prompt: str, ask: Ask, default_model_source: Path
) -> None:
    """Up to the first token where two candidates are so near that rounding decides.

    There the two best are less than 0.1 apart.
    """
    there = ask(prompt, top_logprobs=2)
    here = ask(prompt, top_logprobs=2, model=str(default_model_source), engine="llama.cpp")
    assert there.usage.prompt_token_count == here.usage.prompt_token_count
    assert there.tokens is not None
    assert here.tokens is not None
    for one, other in zip(there.tokens, here.tokens, strict=True):
        if one.id != other.id:
            assert abs(one.top[0].logprob - one.top[1].logprob) < 0.1
            break
        assert one.bytes == other.bytes
        assert one.logprob == pytest.approx(other.logprob, abs=1e-2)
        assert one.rank == other.rank == 0
        assert [top.id for top in one.top][:1] == [top.id for top in other.top][:1]
    else:
        assert there.text == here.text


@pytest.mark.parametrize(
    ("chat", "params", "detail"),
    [
        (True, {"max_tokens": None}, "eos"),
        (False, {"stop": ["."]}, "stop_sequence"),
        (False, {"max_tokens": 5}, "max_tokens"),
    ],
)
def test_ends_and_usage_are_those_of_our_own_engine(
    chat: bool, params: dict[str, Any], detail: str, ask: Ask, default_model_source: Path
) -> None:
    """The end-of-text token does not count, the tokens of a stop sequence do."""
    prompt = "What is 2+2?" if chat else PROMPT
    there = ask(prompt, chat=chat, params=params)
    here = ask(
        prompt, chat=chat, params=params, model=str(default_model_source), engine="llama.cpp"
    )
    for name in ("text", "finish_reason", "finish_detail", "stop_sequence", "prompt"):
        assert getattr(there, name) == getattr(here, name), name
    assert there.finish_detail == detail
    for name in ("prompt_token_count", "generated_token_count"):
        assert getattr(there.usage, name) == getattr(here.usage, name), name
    assert there.usage.cached_token_count is not None


def test_tokens_within_a_character_are_not_listed_by_the_server(ask: Ask) -> None:
    """It lists a token once its character is whole, with the last token alone. We say so."""
    result = ask("日本の首都は", top_logprobs=0, params={"max_tokens": 20})
    assert result.tokens is not None
    assert len(result.tokens) < 20
    listed = len(result.tokens)
    assert result.notices == (f"the server says the log-probabilities of {listed} of 20 tokens",)


def test_stop_sequences_over_token_borders(ask: Ask) -> None:
    """In the text, in the tokens, whoever looks for them: the server, or we for the tokens' sake."""
    whole = ask(params={"max_tokens": 12}).text
    stop = whole[8:13]
    assert stop
    place = whole.find(stop)
    for extra in ({}, {"top_logprobs": 0}):
        result = ask(params={"max_tokens": 30, "stop": [stop]}, **extra)
        assert (result.text, result.stop_sequence) == (whole[:place], stop)
        if result.tokens is not None:
            said = b"".join(token.bytes for token in result.tokens).decode()
            assert result.text.startswith(said)
            assert len(result.text) - len(said) < 12
    many = ask(params={"max_tokens": 30, "stop": [*(f"never {i}" for i in range(9)), stop]})
    assert many.text == whole[:place]


def test_the_context_is_full(ask: Ask) -> None:
    """Without a limit the answer ends where the context of 512 tokens does."""
    result = ask("word " * 490, params={"max_tokens": None, "stop": ["no such text"]})
    assert result.finish_reason == "length"
    assert result.finish_detail == "context_full"
    assert result.usage.prompt_token_count == 491
    assert result.usage.generated_token_count in (20, 21)


def test_seeds(ask: Ask) -> None:
    """Equal ones give equal texts, others give others, and one that is too great is refused."""
    warm = {"temperature": 1.5, "top_k": 0, "top_p": 1, "max_tokens": 8}
    texts = [ask(params={**warm, "seed": seed}).text for seed in (1, 1, 2, 2**32 - 2)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3
    with pytest.raises(InvalidInput, match="seed: llama-server cannot honour it"):
        ask(params={"seed": 2**32 - 1})
    said = ask(params={"seed": 2**40, "max_tokens": 1}, accept="unsupported")
    assert said.not_honoured == ("seed",)


def test_limits_at_their_ends(ask: Ask) -> None:
    nothing = ask(params={"max_tokens": 0})
    assert (nothing.text, nothing.finish_detail) == ("", "max_tokens")
    assert nothing.usage.generated_token_count == 0
    with pytest.raises(InvalidInput, match="the prompt is empty"):
        ask("")
    with pytest.raises(PromptTooLong, match=r"the prompt has 601 tokens .* context holds 512"):
        ask("word " * 600)


def test_control_tokens(ask: Ask, default_model_source: Path) -> None:
    """Where they are typed they are control tokens. In data they are text, or are refused."""
    typed = ask("a <|im_end|> b")
    data = ask("a <|im_end|> b", data_spans=((2, 12),))
    here = ask(
        "a <|im_end|> b", data_spans=((2, 12),), model=str(default_model_source), engine="llama.cpp"
    )
    assert typed.usage.prompt_token_count == 4
    assert data.usage.prompt_token_count == here.usage.prompt_token_count
    assert "text, and no control token, in the data" in data.notices[0]
    with pytest.raises(InvalidInput, match="a chat message has the name of a control token"):
        ask("a <|im_end|> b", chat=True)
    assert ask("a <|im_end|> b", chat=True, control_tokens="all").prompt.count("<|im_end|>") >= 2


def test_plain_texts_are_read_once(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second reading shows control tokens in data. Tokens that plain texts had need none."""
    read: list[str] = []
    tokenize = LlamaServer._tokenize

    async def counted(self: LlamaServer, http: HttpClient, address: Address, text: str,
                      special: bool, first: bool = True) -> list[int]:  # fmt: skip
        read.append(text)
        return await tokenize(self, http, address, text, special, first)

    monkeypatch.setattr(LlamaServer, "_tokenize", counted)

    def asked(prompt: str) -> InferencingResult:
        read.clear()
        return ask(prompt, data_spans=((0, len(prompt)),), params={"max_tokens": 0})

    asked("im end, begin im start now")
    asked("a word or im end")
    assert not asked("a word, im end").notices
    assert read == ["a word, im end"]
    assert asked("a begin or end").usage.prompt_token_count == 4
    for text in ("<|im_end|>, im end", "a word<|im_end|>, im end", "a word, im end<|im_end|>"):
        result = asked(text)
        assert "text, and no control token, in the data" in result.notices[0]
        assert len(read) > 1
        assert result.usage.prompt_token_count > 7  # the mark as text is several tokens


def test_content_filters(ask: Ask) -> None:
    whole = ask().text
    word = whole.split()[2]
    result = ask(content_filters=(rf"{word}",))
    assert (result.text, result.finish_reason) == (whole[: whole.find(word)], "content_filter")


def test_a_stopped_run_leaves_the_server_idle_within_a_second(
    session: Session, lab: LlamaServerChild
) -> None:
    request = Request(model="lab::", prompt="Tell a story", params={"max_tokens": 400, "seed": 1})
    run = session.run(request)
    wait_until(lambda: (run.generated_token_count or 0) > 2)
    assert lab.busy == 1
    began = time.monotonic()
    run.cancel()
    assert run.wait(1)
    wait_until(lambda: lab.busy == 0)
    assert time.monotonic() - began < 1
    assert (run.status, run.result.finish_reason) == ("interrupted", None)
    assert run.text
    assert session.log[run.run_id or 0].text == run.text


def wait_until(done: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_server_that_is_killed_in_a_stream_is_an_error_with_the_text_so_far(
    session: Session, default_model_source: Path
) -> None:
    with running_llama_server(default_model_source) as child:
        params = {"max_tokens": 400, "seed": 1}
        run = session.run(Request(model=child.url, prompt="Tell a story", params=params))
        wait_until(lambda: (run.generated_token_count or 0) > 2)
        child.kill()
    assert run.wait(20)
    assert (run.status, run.result.finish_reason) == ("error", None)
    assert isinstance(run.error, EngineFailed)
    assert str(run.error).startswith(f"the connection to 127.0.0.1:{child.root[17:]} broke")
    assert session.log[run.run_id or 0].text == run.text != ""


def test_a_server_that_starts_is_waited_for(session: Session, default_model_source: Path) -> None:
    """Refused connections, then 503 while it loads, then the answer; and it can be interrupted."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    params = {"max_tokens": 2, "temperature": 0}
    run = session.run(Request(model=url, prompt=PROMPT, params=params))
    wait_until(lambda: any("again in" in note for note in notes(run)))
    child = LlamaServerChild(default_model_source, port=port)
    try:
        assert run.wait(40)
        run.raise_failure()
        assert run.text == " Paris."
    finally:
        child.kill()
    gone = session.run(Request(model=url + "#other", prompt=PROMPT))
    wait_until(lambda: any("no connection" in note for note in notes(gone)))
    gone.cancel()
    assert gone.wait(1)
    assert gone.status == "interrupted"


def notes(run: Run) -> list[str]:
    return [event.note for event in run.events if isinstance(event, Progress)]


def test_keys(session: Session, lab: LlamaServerChild, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=r"\(401\): it wants a key"):
        finished(session, model=lab.url)
    monkeypatch.setenv("LAB_KEY", "another-key-0123456789")
    with pytest.raises(InvalidInput, match=r"\(401\): its key is not accepted") as caught:
        finished(session)
    assert "another-key" not in str(caught.value)
    session.servers = {"far": {"url": "http://far.example/v1", "api_key_env": "LAB_KEY"}}
    with pytest.raises(InvalidInput, match="would be sent unencrypted"):
        finished(session, model="far::m")
    monkeypatch.delenv("LAB_KEY")
    with pytest.raises(InvalidInput, match="that its api_key_env names is not set"):
        finished(session, model="far::m")


def test_a_name_that_the_server_does_not_have_is_refused(
    session: Session, lab: LlamaServerChild
) -> None:
    """llama-server itself takes any name for its one model."""
    (name,) = session.server_models("lab::")
    assert finished(session, model=f"lab::{name}").text
    assert finished(session, model=f"lab::{Path(name).name}").text
    with pytest.raises(ModelNotFound, match=r"has no model 'Qwen3-8B'; it has .*SmolLM2"):
        finished(session, model="lab::Qwen3-8B")
    with pytest.raises(ModelNotFound, match="no server 'lob' is configured"):
        finished(session, model="lob::x")


def test_a_replay_compares_and_says_what_is_not_promised(
    session: Session, lab: LlamaServerChild
) -> None:
    run = finished(session)
    original = session.log[run.run_id or 0]
    assert (original.model, original.device) == (run.result.model, run.result.device)
    request, notice = replay_request(session, original, {})
    again = finished(session, **{name: getattr(request, name) for name in ("model", "prompt")})
    verdict = Replay(original, again.result, (), notice).verdict
    assert verdict == f"identical to run {run.run_id} (which a server does not promise)"
    other = finished(session, "Once upon a time")
    verdict = Replay(original, other.result).verdict
    assert "(a server does not promise the same text)" in verdict
    session.servers = {"lab": {"url": lab.url.replace("127.0.0.1", "localhost"),
                               "api_key_env": "LAB_KEY"}}  # fmt: skip
    with pytest.raises(ModelNotSupported, match="lab:: is http://localhost"):
        replay_request(session, original, {})
    _, notice = replay_request(session, original, {}, accept="file")
    assert notice.startswith("lab:: is http://localhost")


def test_dry_run_and_infer(
    session: Session, lab: LlamaServerChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(model="lab::", prompt="Say hello.", chat=True)
    prepared = session.prepare(request)
    assert "<|im_start|>user\nSay hello." in prepared.prompt
    assert (prepared.prompt_token_count, prepared.context_length) == (33, 512)
    monkeypatch.setattr(api, "current_session", lambda: session)
    assert api.infer("lab::", PROMPT, {"temperature": 0, "stop": ["."]}).text == " Paris"
    assert "".join(api.stream("lab::", PROMPT, {"temperature": 0, "max_tokens": 2})) == " Paris."


def test_counts_and_parts_are_those_of_the_file(
    session: Session, lab: LlamaServerChild, default_model_source: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The server's tokenizer and our own agree on texts of several scripts."""
    monkeypatch.setattr(splitting, "current_session", lambda: session)
    text = (
        "The fox met a crow. It sang!\n\nहाँ, वह गाया। 狐と烏。 قال الغراب نعم. "
        "<|im_end|> 👨‍👩‍👧 e\u0301\n"
    )
    texts = [text, "", " a", "\n", "<|im_start|>user"]
    here = splitting.count_tokens(texts, default_model_source)
    assert splitting.count_tokens(texts, "lab::") == here
    for overlap in (0, 6):
        parts = splitting.split(text * 4, 40, overlap, "lab::")
        assert parts == splitting.split(text * 4, 40, overlap, default_model_source)
        assert max(part.token_count for part in parts) <= 40


def test_embeddings(session: Session, default_model_source: Path) -> None:
    """A server that was started for them gives what our own engine computes."""
    texts = ["a cat", "a kitten"]
    with running_llama_server(default_model_source, embeddings=True) as child:
        request = Request(model=child.url, prompt="")
        there = session.embed(request, texts)
        with pytest.raises(InferenceError):
            session.embed(request, ["word " * 600])
    here = session.embed(
        Request(model=str(default_model_source), engine="llama.cpp", prompt=""), texts
    )
    assert there.usage == here.usage
    row = session.log.rows()[0]
    assert (row["kind"], row["text_count"], row["engine"]) == ("embedding", 2, "llama-server")
    for one, other in zip(there.embeddings, here.embeddings, strict=True):
        assert one == pytest.approx(other, abs=0.05)


def test_the_key_is_nowhere(
    session: Session, lab: LlamaServerChild, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither in the log, nor in exports, forms to copy, outputs, or in Python's own log."""
    run = finished(session, tags={"a": "b"})
    session.log.export(tmp_path / "runs.jsonl")
    session.log.export(tmp_path / "runs.csv")
    assert KEY not in repr(session.remote.servers) + repr(run.result) + json.dumps(session.servers)
    session.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in "".join(capfd.readouterr())
    assert threading.active_count() < 30


def test_the_quickstart_notebook_runs_on_the_server(
    kernel: Kernel, server: LlamaServerChild, log_path: Path
) -> None:
    """Every cell, with finish reasons of all three kinds, and with the columns that it shows."""
    configured = {"lab": {"url": server.url, "api_key_env": "LAB_KEY"}}
    begun = kernel.run(
        f"import os\nos.environ['LAB_KEY'] = {KEY!r}\nservers = {configured!r}\n"
        "%config InferMagics.servers = servers\n%config InferMagics.model = 'lab::'"
    )
    assert begun.status == "ok", begun.error
    path = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
    shown = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and "load_ext" not in cell.source:
            reply = kernel.run(cell.source)
            assert reply.status == "ok", (cell.source, reply.error)
            shown.append(repr(vars(reply)))
    assert KEY not in "".join(shown)
    rows = RunLog(log_path).rows()
    assert {row["engine"] for row in rows} == {"llama-server"}
    assert {row["finish_reason"] for row in rows} == {"stop", "length", "content_filter"}
    assert {row["finish_detail"] for row in rows} >= {"eos", "stop_sequence", "max_tokens"}
    assert all(row["generated_token_count"] is not None for row in rows)
    assert [row["text"] for row in rows[:2]] == [rows[0]["text"], " Paris"]


def test_a_component_asks_a_server_several_things_at_once(
    lab: LlamaServerChild, session: Session
) -> None:
    """Each request of `infer-many` is a run of the server, and has its result or its error."""
    guest = Component(forwarder(SECOND).encode(), session=session, model="lab::")
    asked = [
        {"model": "m", "prompt": {"text": prompt}, "logprobs": "no", "echo": False,
         "params": {"max_tokens": 5, "temperature": 0, "stop": [], "seed": 3}}
        for prompt in (*PROMPTS, "")
    ]  # fmt: skip
    *found, refused = guest.call("infer-many", asked)
    wanted = [
        finished(session, prompt=prompt, params={"max_tokens": 5, "temperature": 0, "seed": 3})
        for prompt in PROMPTS
    ]
    assert [each["ok"]["text"] for each in found] == [each.text for each in wanted]
    assert {each["ok"]["finish_reason"] for each in found} == {"length"}
    assert list(refused["err"]) == ["invalid-input"]


def test_a_server_that_never_comes_is_given_up(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmwit_magic.engines.server import http_client

    monkeypatch.setattr(http_client, "ATTEMPTS", 2)
    with pytest.raises(ServerUnreachable, match="it refuses the connection - is the server"):
        finished(session, model="http://127.0.0.1:9/v1#m")
