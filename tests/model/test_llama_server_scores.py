"""Scores of a real llama-server of the default model, beside those of our own llama.cpp."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.events import Chunk
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.errors import PromptTooLong
from llmwit_magic.running.session import Session
from tests.support.llama_server import LlamaServerChild, running_llama_server

Ask = Callable[..., InferencingResult]
PROMPT = "The capital of France is"
NEAR = 2e-3
"""How near the log-probabilities of a token are, in nats: the two compute in other blocks."""


@pytest.fixture(scope="module")
def server(default_model_source: Path) -> Iterator[LlamaServerChild]:
    with running_llama_server(default_model_source) as child:
        yield child


@pytest.fixture
def both(server: LlamaServerChild, session: Session, default_model_source: Path) -> Ask:
    """Scores on the server and on our own engine. Gives both results."""

    def run(prompt: str = PROMPT, **values: Any) -> Any:
        if choices := values.pop("choices", None):
            values["constraint"] = Constraint(kind="choices", source=json.dumps(choices))
            values["probabilities"] = True
        results = []
        for model in (
            {"model": server.url},
            {"model": str(default_model_source), "engine": "llama.cpp"},
        ):
            done = session.run(Request(**model, prompt=prompt, **values))
            assert done.wait(60)
            done.raise_failure()
            results.append(done.result)
        return results

    return run


@pytest.mark.parametrize(
    ("text", "chat"),
    [(" Paris, the city of light.", True), (" 日本の首都", False), (" <|im_end|> is", False)],
)
def test_each_token_of_a_text(text: str, chat: bool, both: Ask) -> None:
    """Also one that ends within a character, of which the server itself says nothing."""
    there, here = both(continuation=text, chat=chat, top_logprobs=2)
    assert there.text == here.text == text
    assert there.finish_detail == here.finish_detail == "scored"
    assert [(token.id, token.bytes) for token in there.tokens] == [
        (token.id, token.bytes) for token in here.tokens
    ]
    for one, other in zip(there.tokens, here.tokens, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=NEAR)
        assert len(one.top) == 2
        assert one.top[0].logprob == pytest.approx(other.top[0].logprob, abs=NEAR)
        assert one.rank in (None, other.rank) or one.rank == pytest.approx(other.rank, rel=0.05)
    assert there.logprob == pytest.approx(here.logprob, abs=NEAR * len(there.tokens))
    assert there.score.exact
    assert there.usage.prompt_token_count == here.usage.prompt_token_count


def test_the_tokens_of_the_prompt_and_a_text_without_one(both: Ask) -> None:
    there, here = both(continuation=" Paris", prompt_logprobs=True)
    assert [token.bytes for token in there.prompt_tokens] == [
        b" capital",
        b" of",
        b" France",
        b" is",
    ]
    assert [token.logprob for token in there.prompt_tokens] == pytest.approx(
        [token.logprob for token in here.prompt_tokens], abs=NEAR
    )
    alone, alone_here = both("", continuation="The capital of France")
    assert alone.text == "The capital of France"
    assert [token.bytes for token in alone.tokens] == [b" capital", b" of", b" France"]
    assert alone.logprob == pytest.approx(alone_here.logprob, abs=3 * NEAR)


@pytest.mark.parametrize("normalize", ["sum", "token", "empty-prompt"])
def test_probabilities_of_choices(normalize: str, both: Ask) -> None:
    """One choice is the beginning of another, so the end of text belongs to each."""
    choices = [" Paris", " London", " the city", " Paris, of"]
    there, here = both(choices=choices, normalize=normalize)
    assert there.probabilities == pytest.approx(here.probabilities, abs=NEAR)
    assert math.fsum(there.probabilities.values()) == pytest.approx(1)
    assert there.text == here.text
    assert there.choices.end_of_text
    # Its tokens that end a text are found by their names, so there may be more.
    assert not there.choices.exact
    assert there.notices == (
        "the end of text is that by <|im_end|> or <|endoftext|>; the model may have other tokens "
        "for it",
    )
    assert there.choices.scores[0].end_logprob == pytest.approx(
        here.choices.scores[0].end_logprob, abs=NEAR
    )


def test_without_the_end_of_text_probabilities_are_exact(both: Ask) -> None:
    """The order of the choices does not matter, and tokens that several begin with are asked once."""
    choices = [" red apple", " red pear", " green", " blue"]
    there, here = both(choices=choices)
    assert there.choices.exact
    assert there.probabilities == pytest.approx(here.probabilities, abs=NEAR)
    again, _ = both(choices=choices[::-1])
    assert again.probabilities == pytest.approx(there.probabilities, abs=1e-6)
    assert there.choices.scores[0].tokens[0] is there.choices.scores[1].tokens[0]


def test_limits(both: Ask) -> None:
    with pytest.raises(PromptTooLong, match=r"and the text 2, and the server's context holds 512"):
        both("word " * 509, continuation=" a b")


def test_stop_ends_a_score_and_the_server_goes_on(
    session: Session, server: LlamaServerChild
) -> None:
    request = Request(model=server.url, prompt=PROMPT, continuation=" and so on" * 100)
    run = session.run(request)
    for event in run:
        if isinstance(event, Chunk) and event.tokens:
            run.cancel()
    assert run.wait(20)
    assert run.status == "interrupted"
    assert run.result.tokens
    assert len(run.result.tokens) < 300
    again = session.run(Request(model=server.url, prompt=PROMPT, continuation=" Paris"))
    assert again.wait(20)
    assert again.result.score is not None
