"""Scores and probabilities of choices from servers, as their sources say that they speak."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.errors import EngineFailed, InvalidInput, PromptTooLong
from llmwit_magic.running.session import Session
from tests.support.speaking import SpeakingServer, speaking

__all__ = ["speaking"]
Start = Callable[[str], SpeakingServer]
Ask = Callable[..., InferencingResult]
PROMPT = "The capital of France is"


@pytest.fixture
def ask(session: Session) -> Ask:
    """Scores on a server. Raises what the run raises."""

    def run(server: SpeakingServer, prompt: str = PROMPT, **values: Any) -> Any:
        session.servers = {"lab": {"url": server.url, "kind": server.kind}}
        if choices := values.pop("choices", None):
            values["constraint"] = Constraint(kind="choices", source=json.dumps(choices))
            values["probabilities"] = True
        with session.run(Request(model="lab::m", prompt=prompt, **values)) as done:
            assert done.wait(20)
            done.raise_failure()
            return done.result

    return run


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_continuation(kind: str, speaking: Start, ask: Ask) -> None:
    """Each token has its log-probability, in one request."""
    server = speaking(kind)
    result = ask(server, continuation=" Paris , big", top_logprobs=2)
    assert (result.text, result.finish_reason, result.finish_detail) == (
        " Paris , big", "stop", "scored",
    )  # fmt: skip
    assert result.tokens is not None
    assert [(token.id, token.bytes, token.logprob) for token in result.tokens] == [
        (5, b" Paris", -1.5), (6, b" ,", -1.75), (7, b" big", -2.0),
    ]  # fmt: skip
    # vLLM says the rank of each token. SGLang lists the likeliest only.
    assert [token.rank for token in result.tokens] == (
        [5, 6, 7] if kind == "vllm" else [None, None, None]
    )
    assert [(other.id, other.logprob) for other in result.tokens[0].top] == [(0, -0.25), (1, -0.5)]
    assert result.score is not None
    assert (result.score.logprob, result.score.token_count, result.score.exact) == (-5.25, 3, True)
    assert result.usage.prompt_token_count == 5
    assert result.usage.generated_token_count == 0
    path, body = server.asked[-1]
    if kind == "vllm":
        assert (path, body) == (
            "/v1/completions",
            {"model": "m", "prompt": list(range(8)), "max_tokens": 1, "temperature": 0.0,
             "prompt_logprobs": 2, "stream": False},
        )  # fmt: skip
    else:
        assert (path, body) == (
            "/generate",
            {"input_ids": list(range(8)), "return_logprob": True, "logprob_start_len": 0,
             "top_logprobs_num": 2, "return_text_in_logprobs": True, "stream": False,
             "sampling_params": {"max_new_tokens": 0, "temperature": 0.0}},
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_the_tokens_of_the_prompt(kind: str, speaking: Start, ask: Ask) -> None:
    result = ask(speaking(kind), continuation=" Paris", prompt_logprobs=True)
    assert result.prompt_tokens is not None
    assert [(token.id, token.bytes) for token in result.prompt_tokens] == [
        (1, b" capital"), (2, b" of"), (3, b" France"), (4, b" is"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_the_bytes_of_tokens_make_up_the_text(kind: str, speaking: Start, ask: Ask) -> None:
    """Where a token ends within a character, or nothing is in front of the first one."""
    whole = ask(speaking(kind), continuation=" caféé la")
    assert whole.tokens is not None
    assert b"".join(token.bytes for token in whole.tokens).decode() == " caféé la"
    assert len(whole.tokens) == 6
    alone = ask(speaking(kind), prompt="", continuation="The capital of")
    assert alone.text == "The capital of"
    assert alone.tokens is not None
    assert [token.bytes for token in alone.tokens] == [b" capital", b" of"]
    with pytest.raises(InvalidInput, match="one token, and nothing is in front"):
        ask(speaking(kind), prompt="", continuation="The")


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_choices(kind: str, speaking: Start, ask: Ask) -> None:
    """All tokens of a choice count. The probabilities sum to 1, in any order."""
    choices = [" Paris", " London town", " Rome"]
    result = ask(speaking(kind), choices=choices)
    weights = [math.exp(-1.5), math.exp(-1.75 - 2.0), math.exp(-2.25)]
    assert result.probabilities == pytest.approx(
        dict(zip(choices, (weight / sum(weights) for weight in weights), strict=True))
    )
    assert result.text == " Paris"
    assert result.choices is not None
    assert (result.choices.exact, result.choices.end_of_text) == (True, False)
    with pytest.raises(InvalidInput, match="does not say which tokens end a text: give never"):
        ask(speaking(kind), choices=[" a", " a b"])
    assert ask(speaking(kind), choices=[" a", " a b"], end_of_text="never").text == " a"
    with pytest.raises(InvalidInput, match="says no token for an empty prompt"):
        ask(speaking(kind), choices=choices, normalize="empty-prompt")


def test_a_chat_is_scored_where_the_server_says_its_tokens(speaking: Start, ask: Ask) -> None:
    server = speaking("vllm")
    server.plain["/tokenize"] = {"tokens": [0, 1], "count": 2}
    server.vocabulary = ["<a>", "<b>"]
    assert ask(server, chat=True, continuation=" Paris").usage.prompt_token_count == 2
    asked = next(body for path, body in server.asked if path == "/tokenize")
    assert asked["messages"] == [{"role": "user", "content": PROMPT}]
    with pytest.raises(InvalidInput, match="chat: sglang does not say the tokens of a chat"):
        ask(speaking("sglang"), chat=True, continuation=" Paris")


@pytest.mark.parametrize("kind", ["ollama", "lmstudio", "openai", "other"])
def test_kinds_that_have_no_way_refuse_by_name(kind: str, speaking: Start, ask: Ask) -> None:
    with pytest.raises(InvalidInput, match=f"{kind} gives no scores: leave out continuation"):
        ask(speaking(kind), continuation=" Paris")
    with pytest.raises(InvalidInput, match=f"{kind} gives no scores: leave out probabilities"):
        ask(speaking(kind), choices=[" a", " b"])


def test_limits(speaking: Start, ask: Ask, session: Session) -> None:
    server = speaking("vllm")
    with pytest.raises(PromptTooLong, match=r"has 60 tokens and the text 4, .* holds 64, with one"):
        ask(server, "word " * 60, continuation=" a b c d")
    with pytest.raises(InvalidInput, match="top_logprobs: vllm cannot honour it"):
        ask(server, continuation=" a", top_logprobs=21)
    accepted = ask(server, continuation=" a", top_logprobs=21, accept="unsupported")
    assert accepted.not_honoured == ("top_logprobs",)
    with pytest.raises(InvalidInput, match=r"the text to score has '<\|im_end\|>'"):
        ask(server, continuation=" a <|im_end|>")
    assert session.prepare(
        Request(model="lab::m", prompt=PROMPT, continuation=" Paris")
    ).prompt_token_count == 5  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [{"choices": [{"prompt_logprobs": None}]}, {"choices": [{"text": "x"}]},
     {"choices": [{"prompt_logprobs": [None, {"7": {"logprob": -1, "rank": 1}}]}]},
     {"choices": []}, {}],
)  # fmt: skip
@pytest.mark.parametrize("choices", [False, True])
def test_a_server_that_says_something_else_is_one_line(
    answer: Any, choices: bool, speaking: Start, ask: Ask
) -> None:
    server = speaking("vllm")
    server.vice = lambda handler: handler.json(answer)
    given: dict[str, Any] = {"choices": [" a", " b"]} if choices else {"continuation": " a"}
    with pytest.raises(EngineFailed) as caught:
        ask(server, **given)
    assert "\n" not in str(caught.value)
