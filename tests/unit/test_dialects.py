"""Each kind of server, as its own source says that it speaks: what is sent, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmwit_magic.contract.request import ModelSpec, Request
from llmwit_magic.contract.wit import InferencingResult, InferencingUsage
from llmwit_magic.engines.server.answers import Facts
from llmwit_magic.errors import (
    EngineFailed,
    InferenceError,
    InvalidInput,
    ModelNotFound,
    PromptTooLong,
)
from llmwit_magic.running.session import Session
from llmwit_magic.views.text import status_parts
from tests.support.speaking import CONTEXT, KINDS, SpeakingServer, speaking

__all__ = ["speaking"]
Start = Callable[[str], SpeakingServer]


@pytest.fixture
def ask(session: Session) -> Callable[..., InferencingResult]:
    """Runs a prompt on a server, and gives the result. Raises what the run raises."""

    def run(server: SpeakingServer, prompt: str = "The capital", **values: Any) -> Any:
        params = {"temperature": 0, **values.pop("params", {})}
        model = values.pop("model", f"{server.url}#m")
        request = Request(model=model, prompt=prompt, params=params, **values)
        with session.run(request) as done:
            assert done.wait(20)
            done.raise_failure()
            return done.result

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_found_by_asking(
    kind: str, speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    """OpenAI itself is known by its host, and is else one of the others."""
    server = speaking(kind)
    result = ask(server, params={"max_tokens": 2})
    assert (result.text, result.finish_detail) == (" Paris.", "max_tokens")
    assert result.model is not None
    assert result.model.engine == ("other" if kind == "openai" else kind)
    assert result.model.path == f"{server.url}#m"
    assert result.device.name == f"127.0.0.1:{server.server_port}"
    assert not result.device.exact
    assert result.usage == InferencingUsage(
        prompt_token_count=2, generated_token_count=2, cached_token_count=None
    )


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_all_finish_reasons(
    kind: str, chat: bool, speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    """The end-of-text token is not counted, a stop sequence is never shown, a limit is one."""
    server = speaking(kind)
    eos = ask(server, chat=chat, params={"max_tokens": 20})
    assert (eos.text, eos.finish_reason, eos.finish_detail) == (
        " Paris. It is big.", "stop", "eos",
    )  # fmt: skip
    assert eos.usage.generated_token_count == 6
    stopped = ask(server, chat=chat, params={"max_tokens": 20, "stop": ["s b", "big."]})
    assert (stopped.text, stopped.finish_detail, stopped.stop_sequence) == (
        " Paris. It i", "stop_sequence", "s b",
    )  # fmt: skip
    # Where the server does not count while it writes, nobody knows how much it has written.
    assert stopped.usage.generated_token_count == (5 if kind in ("vllm", "sglang") else None)
    full = ask(server, chat=chat, params={"max_tokens": 3})
    assert (full.text, full.finish_detail) == (" Paris. It", "max_tokens")
    assert full.usage.generated_token_count == 3
    none = ask(server, chat=chat, params={"max_tokens": 0})
    assert (none.text, none.finish_detail, none.usage.generated_token_count) == (
        "", "max_tokens", 0,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_without_a_limit_is_never_cut_by_a_silent_one(
    kind: str, speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    """A completion of these servers ends after 16 tokens where nothing is said."""
    server = speaking(kind)
    server.text = [" word"] * 30
    if kind in ("openai", "other"):
        with pytest.raises(InvalidInput, match="give --max-tokens, or --accept unsupported"):
            ask(server, params={"max_tokens": None})
        short = ask(server, params={"max_tokens": None}, accept="unsupported")
        assert (short.finish_reason, short.finish_detail) == ("length", "unknown")
        assert ask(server, chat=True, params={"max_tokens": None}).text == " word" * 30
        return
    assert ask(server, params={"max_tokens": None}).finish_detail == "eos"
    server.text = [" word"] * 100
    full = ask(server, params={"max_tokens": None})
    # LM Studio does not say how long its context is.
    assert full.finish_detail == ("unknown" if kind == "lmstudio" else "context_full")
    assert full.finish_reason == "length"
    generated = full.usage.generated_token_count
    assert generated == CONTEXT - 2 - (kind == "sglang")


SENT = {
    "vllm": {"top_k": 7, "repetition_penalty": 1.5, "seed": 5, "min_p": 0.0, "presence_penalty": 0.0,
             "max_tokens": 9, "stop": ["x"]},
    "sglang": {"top_k": 7, "repetition_penalty": 1.5, "seed": 5, "max_tokens": 9, "stop": ["x"]},
    "lmstudio": {"top_k": 7, "repeat_penalty": 1.5, "seed": 5, "max_tokens": 9},
    "openai": {"seed": 5, "max_tokens": 9},
    "other": {"seed": 5, "max_tokens": 9},
}  # fmt: skip
UNMET = {
    "vllm": {"repeat_penalty_last_n_token_count"},
    "sglang": {"repeat_penalty_last_n_token_count", "seed"},
    "ollama": set(),
    "lmstudio": {"repeat_penalty_last_n_token_count"},
    "openai": {"repeat_penalty", "repeat_penalty_last_n_token_count", "top_k"},
    "other": {"repeat_penalty", "repeat_penalty_last_n_token_count", "top_k"},
}
GIVEN = {
    "temperature": 0.5, "top_k": 7, "top_p": 0.75, "repeat_penalty": 1.5, "seed": 5,
    "max_tokens": 9, "stop": ["x"], "repeat_penalty_last_n_token_count": 11,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_is_sent_and_what_is_not_honoured_is_said(
    kind: str, speaking: Start, session: Session, ask: Callable[..., InferencingResult]
) -> None:
    server = speaking(kind)
    session.servers = {"lab": {"url": server.url, "kind": kind}}
    refused = UNMET[kind] - {"seed"}
    if refused:
        with pytest.raises(InvalidInput, match=rf"{kind} cannot honour it.*--accept unsupported"):
            ask(server, model="lab::m", params=GIVEN)
    result = ask(server, model="lab::m", params=GIVEN, accept="unsupported")
    assert set(result.not_honoured) == UNMET[kind]
    assert set(session.log[result.run_id or 0].not_honoured) == UNMET[kind]
    if kind == "ollama":
        assert server.body["options"] == {
            "num_ctx": CONTEXT, "num_predict": 9, "temperature": 0.5, "top_k": 7, "top_p": 0.75,
            "repeat_penalty": 1.5, "repeat_last_n": 11, "seed": 5, "stop": [], "min_p": 0.0,
            "typical_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        }  # fmt: skip
        sent = {name: server.body[name] for name in ("raw", "truncate", "shift", "stream", "think")}
        assert sent == {
            "raw": True, "truncate": False, "shift": False, "stream": True, "think": False,
        }  # fmt: skip
        return
    expected = {"temperature": 0.5, "top_p": 0.75, "stream": True, **SENT[kind]}
    assert {name: server.body.get(name) for name in expected} == expected
    assert ("stop" in server.body) == (kind in ("vllm", "sglang"))


def test_a_seed_of_more_bits_than_the_server_takes_is_refused(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    for kind, most in (("ollama", 2**32 - 2), ("lmstudio", 2**32 - 2), ("vllm", 2**63 - 1)):
        server = speaking(kind)
        assert ask(server, params={"seed": most}).not_honoured in ((), ("repeat_penalty",))
        if most < 2**63 - 1:
            with pytest.raises(InvalidInput, match=r"seed: .* cannot honour it"):
                ask(server, params={"seed": most + 1})


def test_sglang_honours_seeds_where_it_says_so(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    """It draws otherwise unless it runs with --enable-deterministic-inference."""
    server = speaking("sglang")
    server.plain["/get_server_info"]["enable_deterministic_inference"] = True
    warm = {"temperature": 1, "repeat_penalty": 1, "seed": 3}
    assert ask(server, params=warm).not_honoured == ()


@pytest.mark.parametrize("kind", ["vllm", "ollama", "openai", "other", "sglang"])
@pytest.mark.parametrize("chat", [False, True])
def test_log_probabilities(
    kind: str, chat: bool, speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    """Each token of the text has them, the end of text and a stop sequence have none."""
    server = speaking(kind)
    result = ask(server, chat=chat, top_logprobs=1, params={"max_tokens": 20})
    assert result.tokens is not None
    assert b"".join(token.bytes for token in result.tokens).decode() == result.text
    assert [token.logprob for token in result.tokens] == [-0.5] * 6
    assert [(token.rank, len(token.top)) for token in result.tokens] == [(0, 1)] * 6
    stopped = ask(server, chat=chat, top_logprobs=1, params={"max_tokens": 20, "stop": ["s b"]})
    assert stopped.text == " Paris. It i"
    assert stopped.tokens is not None
    assert [token.bytes for token in stopped.tokens] == [b" Paris", b".", b" It"]


def test_log_probabilities_that_do_not_come_are_said(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    """LM Studio has none. Another server may ignore that it was asked for them."""
    with pytest.raises(InvalidInput, match="top_logprobs: lmstudio cannot honour it"):
        ask(speaking("lmstudio"), top_logprobs=1)
    server = speaking("other")
    server.logprobs = False
    result = ask(server, top_logprobs=1, params={"top_k": 0}, accept="unsupported")
    assert result.not_honoured == ("top_logprobs",)
    with pytest.raises(InvalidInput, match="top_logprobs: ollama cannot honour it"):
        ask(speaking("ollama"), top_logprobs=21)


def test_reasoning_that_comes_apart_is_kept_apart(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    """A stop sequence counts in it, too. How many of the tokens are in it, no server says."""
    for kind in ("vllm", "ollama", "other"):
        server = speaking(kind)
        server.thoughts = ["Let me", " think"]
        result = ask(server, chat=True, params={"max_tokens": 30})
        assert (result.reasoning, result.text) == ("Let me think", " Paris. It is big.")
        assert (result.usage.reasoning_token_count, result.notices) == (None, ())
        stopped = ask(server, chat=True, params={"max_tokens": 30, "stop": "think"})
        assert (stopped.reasoning, stopped.text) == ("Let me ", "")
        assert (stopped.finish_detail, stopped.stop_sequence) == ("stop_sequence", "think")


def test_variables_of_the_template_where_they_can_be_sent(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    options = {"enable_thinking": False}
    for kind in ("vllm", "sglang"):
        server = speaking(kind)
        ask(server, chat=True, template_options=options, params={"max_tokens": 3, "top_k": 0})
        assert server.asked[-1][1]["chat_template_kwargs"] == options
    for kind in ("openai", "ollama", "other"):
        with pytest.raises(InvalidInput, match=r"template_options: .* cannot honour it"):
            ask(speaking(kind), chat=True, template_options=options, params={"top_k": 0})


def test_a_prompt_over_the_context_is_refused_with_both_numbers(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    for kind in ("vllm", "sglang"):
        with pytest.raises(PromptTooLong, match=r"the prompt has 70 tokens .* holds 64"):
            ask(speaking(kind), "word " * 70)


def test_a_prompt_that_ollama_cuts_is_an_error(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    """An old Ollama does not know `truncate`: it reads as much as its context holds."""
    server = speaking("ollama")
    server.truncates = True
    with pytest.raises(PromptTooLong, match="it has cut the prompt"):
        ask(server, "word " * 100)


def test_the_context_of_ollama_is_its_own_or_what_is_asked_for(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    """A model is loaded first, where it is not: then the server says its context."""
    server = speaking("ollama")
    assert ask(server).context_length == CONTEXT
    assert ("/api/generate", {"model": "m", "stream": False}) in server.asked
    assert ask(server, context_length=32).context_length == 32
    assert server.body["options"]["num_ctx"] == 32
    with pytest.raises(InvalidInput, match="context_length: a server has loaded its model"):
        ask(speaking("vllm"), context_length=32)


def test_a_limit_is_no_more_than_the_room(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    """vLLM refuses a limit that is longer than the context."""
    server = speaking("vllm")
    server.text = [" word"] * 100
    result = ask(server, params={"max_tokens": 1000})
    assert server.body["max_tokens"] == CONTEXT - 2
    assert result.finish_detail == "context_full"


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_control_tokens_in_data_are_refused(
    kind: str, speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    server = speaking(kind)
    with pytest.raises(InvalidInput, match=r"the prompt's data has '<\|im_end\|>'"):
        ask(server, "a <|im_end|> b", chat=True)
    with pytest.raises(InvalidInput, match="the prompt's data has '</s>'"):
        ask(server, "a </s> b", data_spans=((2, 6),))
    assert ask(server, "a </s> b").text  # it was typed
    assert ask(server, "a </s> b", data_spans=((2, 6),), control_tokens="all").text


def test_empty_prompts(speaking: Start, ask: Callable[..., InferencingResult]) -> None:
    for kind in ("vllm", "ollama", "other"):
        with pytest.raises(InvalidInput, match="the prompt is empty"):
            ask(speaking(kind), "")


def test_content_filters_are_on_our_side(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    server = speaking("other")
    result = ask(server, content_filters=(r"\bIt\b",))
    assert (result.text, result.finish_reason) == (" Paris. ", "content_filter")
    seen = ask(server, content_filters=(lambda text: text.find("big") if "big" in text else None,))
    assert (seen.text, seen.finish_reason) == (" Paris. It is ", "content_filter")


def test_the_model_may_be_left_out_where_there_is_one(
    speaking: Start, session: Session, ask: Callable[..., InferencingResult]
) -> None:
    for kind in ("vllm", "ollama"):
        server = speaking(kind)
        result = ask(server, model=server.url)
        assert result.text
        assert result.model is not None
        assert result.model.path == f"{server.url}#m"
        assert f"{server.url}#m" in status_parts(result)
        models = [{"id": name, "name": name, "owned_by": server.kind} for name in ("m", "n/o:p")]
        server.plain |= {"/v1/models": {"data": models}, "/api/tags": {"models": models}}
        session.servers = {"lab": {"url": server.url, "kind": kind}}
        assert session.server_models("lab::") == ["m", "n/o:p"]
        with pytest.raises(ModelNotFound, match=r"2 models \(m, n/o:p\): name one after lab::"):
            ask(server, model="lab::")
        assert ask(server, model="lab::m").model.name == "lab::m"  # type: ignore[union-attr]


def test_an_address_without_v1_is_said(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    server = speaking("other")
    with pytest.raises(ModelNotFound, match="the address of most servers ends with /v1"):
        ask(server, model=server.url.removesuffix("/v1"))
    native = speaking("ollama")
    assert ask(native, model=native.url.removesuffix("/v1")).text


def test_text_is_whole_characters_however_it_is_sent(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    """CRLF, comments that keep the connection alive, line ends of Unicode, single bytes."""
    for kind in ("vllm", "ollama"):
        server = speaking(kind)
        server.text = ["日本", "語 😀", " é", "\u2028\x85", "end"]
        server.piece = 1
        if kind == "vllm":
            server.line_end, server.before = "\r\n", ": still here\r\n\r\n"
        assert ask(server, params={"max_tokens": 20}).text == "".join(server.text)


def test_usage_that_is_missing_is_unknown(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    for kind in ("other", "vllm", "ollama"):
        server = speaking(kind)
        server.usage = False
        usage = ask(server).usage
        assert usage.generated_token_count is None
        assert usage.prompt_token_count == (2 if kind == "vllm" else None)


def test_a_closed_session_asks_no_server(
    session: Session, speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    server = speaking("vllm")
    assert ask(server).text
    session.close()
    run = session.run(Request(model=f"{server.url}#m", prompt="The"), logged=False)
    assert run.wait(20)
    assert "the session is closed" in str(run.error)


@pytest.mark.parametrize(
    "wrong", [{"slots": "8"}, {"slots": True}, {"context_length": 0.5}, {"version": None},
              {"quantisation": 4}, {"template": []}],
)  # fmt: skip
def test_facts_are_texts_and_counts(wrong: Any) -> None:
    """A server may send anything. Twice the text "8" would be "88"."""
    with pytest.raises(TypeError, match=r"a (text|count) is none"):
        Facts(**{"version": "1", "model": "m"} | wrong)


def test_an_unknown_form_is_one_line(
    speaking: Start, ask: Callable[..., InferencingResult]
) -> None:
    for value in ([], {"data": [1]}, {"data": {}}, "text", None):
        server = speaking("other")
        server.plain["/v1/models"] = value
        with pytest.raises(InferenceError) as caught:
            ask(server)
        assert "\n" not in str(caught.value)
        assert "unexpected" not in str(caught.value)
    server = speaking("vllm")
    server.vice = lambda handler: handler.stream([{"choices": [None]}])
    with pytest.raises(InferenceError, match="an answer of an unknown form"):
        ask(server)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors(kind: str, speaking: Start, session: Session) -> None:
    """Each kind is asked for them in blocks, in its own form."""
    server = speaking(kind)
    texts = [f"text {number}" for number in range(40)]
    path = "/api/embed" if kind == "ollama" else "/v1/embeddings"

    def answer(body: dict[str, Any]) -> Any:
        vectors = [[float(text.split()[1]), 0.5] for text in body["input"]]
        if kind == "ollama":
            return {"embeddings": vectors, "prompt_eval_count": len(vectors)}
        data = [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]
        return {"data": data[::-1], "usage": {"prompt_tokens": len(vectors)}}

    server.answers[path] = answer
    request = Request(model=f"{server.url}#m", prompt=texts[0])
    found = session.embed(request, texts)
    assert [vector[0] for vector in found.embeddings] == list(range(40))
    assert found.usage.prompt_token_count == 40
    sent = [body for asked, body in server.asked if asked == path]
    assert [len(body["input"]) for body in sent] == [32, 8]
    row = session.log.rows()[-1]
    assert (row["kind"], row["text_count"], row["status"]) == ("embedding", 40, "ok")
    if kind == "ollama":
        session.embed(request, texts[:1], truncate=True)
        cuts = [body["truncate"] for asked, body in server.asked if asked == path]
        assert cuts == [False, False, True]
    else:
        with pytest.raises(InvalidInput, match=r"^truncate: this kind of server cuts no texts"):
            session.embed(request, texts, truncate=True)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"data": []}, "sent an answer of an unknown form"),
        ({"data": [], "usage": {"prompt_tokens": 0}}, "made 0 vectors of 2 texts"),
        ([[1.0, 2.0], [1.0]], "made vectors of different lengths"),
        ([[], []], "made vectors of different lengths, or empty ones"),
        ([[1.0], ["one"]], "sent an answer of an unknown form"),
        ([[1.0], [float("nan")]], "sent vectors with NaN"),
        ([[1.0], [1e300]], "sent vectors with NaN or infinite numbers"),
    ],
)
def test_vectors_that_are_none(
    answer: Any, message: str, speaking: Start, session: Session
) -> None:
    """Each is an error of one line."""
    server = speaking("other")
    if isinstance(answer, list):
        data = [{"index": place, "embedding": vector} for place, vector in enumerate(answer)]
        answer = {"data": data, "usage": {"prompt_tokens": 2}}
    server.plain["/v1/embeddings"] = answer
    with pytest.raises(EngineFailed, match=message):
        session.embed(Request(model=f"{server.url}#m", prompt="a"), ["a", "b"])
    assert session.log.rows()[-1]["status"] == "error"


def test_an_empty_text_has_no_vector(speaking: Start, session: Session) -> None:
    """It is refused by its number, and not sent."""
    server = speaking("other")
    with pytest.raises(InvalidInput, match=r"^text 2 is empty"):
        session.embed(Request(model=f"{server.url}#m", prompt="a"), ["a", ""])


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_a_text(kind: str, speaking: Start, session: Session) -> None:
    """vLLM and SGLang count them. The others are refused by their names."""
    server = speaking(kind)
    spec = ModelSpec(model=f"{server.url}#m")
    if kind in ("vllm", "sglang"):
        assert session.count_tokens(spec, ["one two", "three"] * 6) == [2, 1] * 6
        sent = [body for path, body in server.asked if path.endswith("/tokenize")]
        assert all(body["add_special_tokens"] is False for body in sent)
        return
    name = "other" if kind == "openai" else kind
    with pytest.raises(InvalidInput, match=f"^{name} does not tell the tokens of a text"):
        session.count_tokens(spec, ["one two"])


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_dry_run_counts_a_short_prompt(kind: str, speaking: Start, session: Session) -> None:
    """A run does not ask for the number where the prompt surely fits."""
    server = speaking(kind)
    server.plain["/v1/models"]["data"][0]["max_model_len"] = 4096
    request = Request(model=f"{server.url}#m", prompt="The capital of")
    assert session.prepare(request).prompt_token_count == 3
    server.asked.clear()
    assert session.run(request).wait(20)
    assert not [path for path, _ in server.asked if path.endswith("/tokenize")]
