"""Scores and choices by both local engines, with tiny models: exact, bounded, refused in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.events import Chunk, Prepared, Progress
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.engines.backends.llamacpp.llama_sources import unavailable
from llmwit_magic.errors import InvalidInput, PromptTooLong
from llmwit_magic.running.replay import Replay, replay_request
from llmwit_magic.running.session import Session
from tests.support.tiny_mamba import write_mamba_gguf
from tests.support.tiny_models import write_llama_gguf

NEEDS_LLAMA = pytest.mark.skipif(bool(unavailable()), reason=f"llama.cpp: {unavailable()}")
ENGINES = ("ctransformers", pytest.param("llama.cpp", marks=NEEDS_LLAMA))
PROMPT = "Once upon a time there was a small robot that lived in a house near the sea."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "bpe": write_llama_gguf(folder / "bpe.gguf", context_length=512),
        "spm": write_llama_gguf(folder / "spm.gguf", context_length=512, vocabulary="spm"),
    }


class Asked:
    """Runs requests on a tiny model."""

    def __init__(self, session: Session, model: Path) -> None:
        self.session, self.model = session, model

    def __call__(self, prompt: str = PROMPT, **options: Any) -> InferencingResult:
        if isinstance(options.get("choices"), list):
            source = str(options.pop("choices")).replace("'", '"')
            options |= {"constraint": Constraint(kind="choices", source=source)}
            options |= {"probabilities": True}
        request = Request(model=str(self.model), prompt=prompt, gpu_layers=0, **options)
        run = self.session.run(request)
        assert run.wait(50)
        run.raise_failure()
        return run.result


@pytest.fixture(params=["bpe", "spm"])
def asked(request: pytest.FixtureRequest, session: Session, models: dict[str, Path]) -> Asked:
    return Asked(session, models[request.param])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_border_to_the_prompt(asked: Asked, engine: str) -> None:
    """The ids of the prompt stay, and the text gets no space in front. A space makes another one."""
    run = asked.session.run(Request(model=str(asked.model), prompt="Once upon", gpu_layers=0,
                                    engine=engine, continuation="a time"))  # fmt: skip
    assert run.wait(50)
    assert run.result.text == "a time"
    assert run.result.tokens
    assert b"".join(token.bytes for token in run.result.tokens) == b"a time"
    prepared = next(event for event in run.events if isinstance(event, Prepared))
    assert prepared.prompt_token_count == asked("Once upon", params={"max_tokens": 0},
                                                engine=engine).usage.prompt_token_count  # fmt: skip
    spaced = asked("Once upon", continuation=" a time", engine=engine)
    assert spaced.text == " a time"
    assert spaced.logprob != run.result.logprob


def test_a_text_that_stands_for_itself(asked: Asked) -> None:
    """After the token that begins a text, where the vocabulary has one; else its first token has no
    figure. The text is the one that was given."""
    whole = asked("", continuation=PROMPT)
    assert whole.tokens
    assert whole.score
    assert whole.text == PROMPT
    begun = whole.usage.prompt_token_count
    shown = b"".join(token.bytes for token in whole.tokens).decode()
    assert PROMPT.endswith(shown)
    assert (shown == PROMPT) == (begun == 1)
    parts = asked("Once upon", continuation=" a time", prompt_logprobs=True)
    assert parts.prompt_tokens is not None
    assert len(parts.prompt_tokens) == (parts.usage.prompt_token_count or 0) - 1
    alone = asked("", continuation="Once upon")
    assert [token.logprob for token in alone.tokens or ()] == [
        token.logprob for token in parts.prompt_tokens
    ]
    without = asked("Once upon", continuation=" a time")
    assert (without.tokens, without.prompt_tokens) == (parts.tokens, None)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("repeated", [1, 3])
def test_choices_are_what_each_is_alone(asked: Asked, engine: str, repeated: int) -> None:
    """To the last bit: what stands beside a choice, and what was evaluated before, changes nothing."""
    prompt = PROMPT * repeated
    texts = [" the sea", " the house", " the", "a robot and a robot and another robot", " the sea."]
    found = asked(prompt, engine=engine, choices=texts, top_logprobs=1)
    assert found.choices
    assert found.choices.end_of_text
    assert math.fsum(found.choices.probabilities.values()) == pytest.approx(1, abs=1e-12)
    for each in found.choices.scores:
        scored = asked(prompt, engine=engine, continuation=each.choice, top_logprobs=1)
        assert scored.tokens == each.tokens
        one = asked(prompt, engine=engine, choices=[each.choice], end_of_text="always")
        assert one.choices
        assert one.choices.scores[0].logprob == each.logprob
        assert one.probabilities == {each.choice: 1.0}
    reverse = asked(prompt, engine=engine, choices=texts[::-1], top_logprobs=1)
    assert reverse.probabilities == found.probabilities
    assert found.text == reverse.text == found.choices.best


@pytest.mark.parametrize("engine", ENGINES)
def test_what_choices_begin_with_is_evaluated_once(asked: Asked, engine: str) -> None:
    """Beside the prompt, each beginning that something follows is evaluated once."""
    texts = [" the sea", " the house", " the", " a robot", " a robot and a house"]
    source = str(texts).replace("'", '"')
    run = asked.session.run(
        Request(model=str(asked.model), prompt=PROMPT, gpu_layers=0, engine=engine,
                constraint=Constraint(kind="choices", source=source), probabilities=True)
    )  # fmt: skip
    assert run.wait(50)
    assert run.result.choices
    ids = [tuple(token.id for token in each.tokens) for each in run.result.choices.scores]
    # Each choice is evaluated whole, since the end of text belongs to it here.
    assert run.result.choices.end_of_text
    beginnings = {each[:length] for each in ids for length in range(1, len(each) + 1)}
    assert len(beginnings) < sum(map(len, ids))
    steps = [e for e in run.events if isinstance(e, Progress) and e.stage == "score"]
    assert [(step.done, step.total) for step in steps] == [
        (number, len(beginnings)) for number in range(1, len(beginnings) + 1)
    ]


def test_the_end_of_text_belongs_to_choices_that_begin_others(asked: Asked) -> None:
    """Then to all choices of the call; and always, or never, where that is asked for."""
    for texts, how, wanted in (
        ([" the", " the sea"], "auto", True),
        ([" the", " a"], "auto", False),
        ([" the", " a"], "always", True),
        ([" the", " the sea"], "never", False),
    ):
        found = asked(choices=texts, end_of_text=how)
        assert found.choices
        assert found.choices.end_of_text is wanted
        assert {each.end_logprob is not None for each in found.choices.scores} == {wanted}


def test_what_is_refused(asked: Asked) -> None:
    """In one line each, which says what to do."""
    for options, error, said in (
        ({"continuation": ""}, InvalidInput, "continuation: it is empty: give the text to score"),
        ({"continuation": " the" * 600}, PromptTooLong, "the context holds 512: shorten it"),
        ({"choices": [" a", " the" * 600]}, PromptTooLong, "and the longest choice"),
        ({"choices": [" a", " a"]}, InvalidInput, "stands there twice"),
        ({"choices": ["", " a"]}, InvalidInput, "each must be a text with a character"),
        ({"choices": []}, InvalidInput, "at least one text"),
        ({"continuation": "x", "choices": ["x"]}, InvalidInput, "leave one out"),
        ({"prompt_logprobs": True}, InvalidInput, "give a continuation"),
        ({"probabilities": True}, InvalidInput, "there are no choices"),
    ):
        with pytest.raises(error) as caught:
            asked(**options)
        assert said in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    long = " the" * 600
    with pytest.raises(PromptTooLong, match=r"the prompt has [\d,]+ tokens and the continuation"):
        asked(continuation=long)


def test_control_tokens_in_what_is_given_are_text(asked: Asked) -> None:
    """As in every value; which the result says. `all` takes them for what they are."""
    name = next(
        text for text in ("<|im_end|>", "</s>", "<|endoftext|>")
        if asked(continuation=f" a{text}", control_tokens="all").tokens
        != asked(continuation=f" a{text}").tokens
    )  # fmt: skip
    told = asked(continuation=f" a{name}")
    assert told.notices == (f"text, and no control token, in the data: {name}",)
    assert told.text == f" a{name}"
    chosen = asked(choices=[f" a{name}", " b"])
    assert chosen.notices == told.notices


def test_rows_and_replays(asked: Asked) -> None:
    """The log has the figures, and gives back the same result. A replay is identical."""
    log = asked.session.log
    text = asked(continuation=" the sea", top_logprobs=2, prompt_logprobs=True)
    picked = asked(choices=[" the sea", " a house"], normalize="empty-prompt", end_of_text="always")
    for result in (text, picked):
        assert result.run_id
        kept = log[result.run_id]
        names = [name for name in type(result).model_fields if name != "log_problem"]
        assert {name: getattr(kept, name) for name in names} == {
            name: getattr(result, name) for name in names
        }
        request, notice = replay_request(asked.session, kept, {})
        assert (request.is_scored, notice) == (True, "")
        run = asked.session.run(request)
        assert run.wait(50)
        again = Replay(kept, run.result)
        assert again.identical
        assert again.verdict == f"identical to run {result.run_id}"
    assert text.score
    row = log.rows()[0]
    assert row["score_logprob"] == text.score.logprob
    assert row["score_token_count"] == text.score.token_count
    assert row["score_perplexity"] == text.score.perplexity
    assert row["seed"] is None
    with pytest.raises(InvalidInput, match="temperature has no effect on a score"):
        replay_request(asked.session, log[text.run_id or 0], {"temperature": 0})
    other, _ = replay_request(asked.session, log[text.run_id or 0], {"continuation": " the bee"})
    run = asked.session.run(other)
    assert run.wait(50)
    assert not Replay(log[text.run_id or 0], run.result).identical


def test_stop_keeps_what_was_scored(asked: Asked) -> None:
    """The row is interrupted, has the tokens so far, and no score: half a text has none."""
    text = " the sea and the house" * 60
    run = asked.session.run(
        Request(model=str(asked.model), prompt="Once", gpu_layers=0, continuation=text)
    )
    for event in run:
        if isinstance(event, Chunk):
            run.cancel()
    assert run.wait(20)
    result = run.result
    assert (run.status, result.finish_reason, result.score) == ("interrupted", None, None)
    assert result.tokens
    assert text.startswith(result.text)
    assert len(result.text) < len(text)
    assert str(run.interrupted()).startswith(f"stopped after {len(result.tokens)} tokens")
    assert asked.session.log.rows()[0]["score_logprob"] is None


@NEEDS_LLAMA
def test_a_model_that_cannot_go_back(session: Session, tmp_path: Path) -> None:
    """It reads its prompt again for each choice, and gives each the figures that it has alone."""
    asked = Asked(session, write_mamba_gguf(tmp_path / "mamba.gguf"))
    texts = [" the sea", " the house", " a robot"]
    found = asked(choices=texts)
    assert found.choices
    for each in found.choices.scores:
        assert asked(continuation=each.choice).tokens == each.tokens
