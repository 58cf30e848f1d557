"""Real engines and tiny models that think before they answer: the reasoning is kept apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, InferencingResult
from llmwit_magic.errors import ConstraintNotSupported, InvalidInput
from llmwit_magic.running.batch import run_batch
from llmwit_magic.running.replay import Replay, replay_request
from llmwit_magic.running.session import Session
from tests.support.llama_server import running_llama_server
from tests.support.tiny_models import QUESTION, write_llama_gguf

ENGINES = ("ctransformers", "llama.cpp")
CONTENT = "{{ messages[0]['content'] }}"
#: No token stands twice in a vocabulary, and no word of these is in the tiny models' own.
THINKS = ("<think>", "\n \n", "Let me", " see it", "!!", "</think>", "\n\t\n", "Paris", "?!")
IN_PIECES = ("<", "thi", "nk>\n", "Let me", " see it", "!!</", "think", ">\n\n", "Paris", "?!")
HARMONY = (
    "<|channel|>", "analysis", "<|message|>", "Let me", " see it", "!!", "<|end|>", "<|start|>",
    "assistant<|chan", "nel|>final<", "|message|>", "Paris", "?!", "<|return|>", "<|call|>",
)  # fmt: skip
#: It says the marks, opens the reasoning itself where it is asked to, or closes it.
TEMPLATE = (
    CONTENT + "{% if opened is defined %}<think>{% endif %}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think></think>{% endif %}"
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    session = Session(tmp_path_factory.mktemp("log") / "runs.sqlite3")
    yield session
    session.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A model file whose model says an answer to `QUESTION`."""
    folder = tmp_path_factory.mktemp("models")

    @functools.cache
    def made(
        answer: tuple[str, ...], marks: tuple[str, ...] = (), template: str = TEMPLATE
    ) -> Path:
        return write_llama_gguf(
            folder / f"{abs(hash((answer, marks, template)))}.gguf", tied=False,
            weights="successor", answer=answer, marks=marks, template=template,
        )  # fmt: skip

    return made


@pytest.fixture(scope="module")
def ask(session: Session) -> Callable[..., InferencingResult]:
    def asked(model: Path, **options: Any) -> InferencingResult:
        params = {"max_tokens": 40, "temperature": 0} | options.pop("params", {})
        options = {"prompt": QUESTION, "chat": True} | options
        run = session.run(Request(model=str(model), params=params, **options))
        assert run.wait(50)
        run.raise_failure()
        return run.result

    return asked


@pytest.mark.parametrize("engine", ENGINES)
def test_marks_that_are_control_tokens(engine: str, model: Any, ask: Any) -> None:
    """The reasoning and the answer are two texts, each with its tokens; both are counted."""
    result = ask(model(THINKS, ("<think>", "</think>")), engine=engine, top_logprobs=1)
    assert (result.reasoning, result.text) == ("Let me see it!!", "Paris?!")
    assert result.finish_detail is FinishDetail.EOS
    assert result.usage.generated_token_count == len(THINKS)
    assert result.usage.reasoning_token_count == len(THINKS) - 2
    assert [(token.reasoning, token.bytes) for token in result.tokens] == [
        (True, b"Let me"), (True, b" see it"), (True, b"!!"), (False, b"Paris"), (False, b"?!"),
    ]  # fmt: skip
    assert str(result) == "Paris?!"


def test_marks_that_are_text(model: Any, ask: Any) -> None:
    """A mark of several tokens works as well, also where a token is only partly a mark."""
    result = ask(model(IN_PIECES), top_logprobs=0)
    assert (result.reasoning, result.text) == ("Let me see it!!", "Paris?!")
    assert b"".join(t.bytes for t in result.tokens if t.reasoning) == b"Let me see it!!"
    assert b"".join(t.bytes for t in result.tokens if not t.reasoning) == b"Paris?!"


def test_without_chat_nothing_is_kept_apart(model: Any, ask: Any) -> None:
    """The text of a plain prompt is all that the model writes."""
    result = ask(model(THINKS, ("<think>", "</think>")), chat=False)
    assert (result.reasoning, result.text) == ("", "".join(THINKS))
    assert result.usage.reasoning_token_count == 0


def test_a_template_opens_or_closes_the_reasoning(model: Any, ask: Any) -> None:
    """Variables reach the template. A prompt that ends with an open mark is gone on with."""
    path = model(THINKS, ("<think>", "</think>"))
    opened = ask(path, chat=False, template_options={"opened": None})
    assert opened.prompt.endswith("<think>")
    assert (opened.reasoning, opened.text) == ("Let me see it!!", "Paris?!")
    closed = ask(path, template_options={"enable_thinking": False})
    assert closed.prompt == QUESTION + "<think></think>"
    assert (closed.reasoning, closed.text) == ("", "\n\t\nParis?!")
    assert ask(path, template_options={"enable_thinking": True}).prompt == QUESTION
    assert not closed.notices
    useless = ask(path, template_options={"thinking": False, "enable_thinking": True, "effort": 1})
    assert useless.notices == (
        "the model's chat template does not read thinking, effort: no effect",
    )


@pytest.mark.parametrize(
    ("params", "parts", "detail"),
    [
        ({"max_tokens": 4}, ("Let me see it", ""), FinishDetail.MAX_TOKENS),
        ({"stop": " see"}, ("Let me", ""), FinishDetail.STOP_SEQUENCE),
        ({"stop": "aris"}, ("Let me see it!!", "P"), FinishDetail.STOP_SEQUENCE),
        ({"stop": "!Paris"}, ("Let me see it!!", "Paris?!"), FinishDetail.EOS),
    ],
)
def test_reasoning_that_is_not_closed(
    params: dict[str, Any], parts: tuple[str, str], detail: FinishDetail, model: Any, ask: Any
) -> None:
    """It ends as an answer does, and then there is no answer. Nothing matches across the border."""
    result = ask(model(THINKS, ("<think>", "</think>")), params=params)
    assert ((result.reasoning, result.text), result.finish_detail) == (parts, detail)


def test_filters_hold_in_both_parts(model: Any, ask: Any) -> None:
    """A pattern and a function cut the reasoning, and end the run there."""
    path = model(THINKS, ("<think>", "</think>"))
    for item in ("s.e", lambda text: text.find("see") if "see" in text else None):
        result = ask(path, content_filters=(item,))
        assert (result.reasoning, result.text) == ("Let me ", "")
        assert result.finish_detail is FinishDetail.CONTENT_FILTER


def test_gpt_oss(model: Any, ask: Any) -> None:
    """<|end|> ends a message and not the answer, and <|return|> ends the answer."""
    marks = tuple(text for text in HARMONY if text.startswith("<|"))
    result = ask(model(HARMONY, marks, CONTENT + "{# <|channel|> <|message|> #}"))
    assert (result.reasoning, result.text) == ("Let me see it!!", "Paris?!")
    assert result.finish_detail is FinishDetail.EOS
    assert result.usage.generated_token_count == HARMONY.index("<|return|>")
    assert result.usage.reasoning_token_count == HARMONY.index("Paris")


def test_the_log_and_a_replay_have_both(session: Session, model: Any, ask: Any) -> None:
    """A run of the log is displayed as it was, and a replay compares the reasoning too."""
    options = {"opened": [1, {"a": "it's"}]}
    result = ask(model(THINKS, ("<think>", "</think>")), template_options=options, top_logprobs=0)
    row = session.log.row(-1)
    assert (row["reasoning"], row["text"]) == ("Let me see it!!", "Paris?!")
    assert row["reasoning_token_count"] == result.usage.reasoning_token_count
    assert row["template_options"] == options
    logged = session.log[-1]
    assert logged.request.template_options == options
    assert (logged.reasoning, logged.usage, logged.tokens) == (
        result.reasoning, result.usage, result.tokens,
    )  # fmt: skip
    again = session.run(replay_request(session, logged, {})[0])
    assert again.wait(50)
    assert Replay(logged, again.result).identical
    assert session.log.rows(grep="Let me", last=1)[0]["run_id"] == again.run_id


def test_a_batch_has_a_column_for_reasoning(session: Session, model: Any) -> None:
    """It is there where a row has reasoning. Resuming finds the rows by the template's options."""
    request = Request(
        model=str(model(THINKS, ("<think>", "</think>"))), prompt="", chat=True, group_id="b",
        template_options={"enable_thinking": True}, params={"temperature": 0, "seed": 1},  # type: ignore[arg-type]
    )  # fmt: skip
    frame = pandas.DataFrame({"question": [QUESTION]})
    results = [run_batch(session, frame, "{{question}}", request, progress=False) for _ in range(2)]
    for result in results:
        assert result["infer_reasoning"].tolist() == ["Let me see it!!"]
        assert result["infer_text"].tolist() == ["Paris?!"]
    assert results[0]["infer_run_id"].tolist() == results[1]["infer_run_id"].tolist()
    plain = request.model_copy(update={"chat": False, "template_options": {}})
    result = run_batch(session, frame, "{{question}}", plain, progress=False)
    assert "infer_reasoning" not in result.columns
    taken = frame.assign(infer_reasoning="x")
    with pytest.raises(InvalidInput, match="a column infer_reasoning already"):
        run_batch(session, taken, "{{question}}", request, progress=False)


def test_a_llama_server_is_split_as_a_local_engine(model: Any, ask: Any) -> None:
    """It sends the marks, though they are control tokens; its template takes the variables."""
    path = model(THINKS, ("<think>", "</think>"))
    with running_llama_server(path) as server:
        for options in ({}, {"top_logprobs": 1}, {"template_options": {"opened": 1}}):
            here = ask(path, engine="llama.cpp", **options)
            there = ask(server.url, **options)
            assert (there.reasoning, there.text) == (here.reasoning, here.text)
            assert there.reasoning == "Let me see it!!"
            assert there.usage.generated_token_count == here.usage.generated_token_count
            if "top_logprobs" not in options:  # nobody says which token is a part of what
                assert there.usage.reasoning_token_count is None
                continue
            assert there.usage.reasoning_token_count == here.usage.reasoning_token_count
            assert [(token.bytes, token.reasoning) for token in there.tokens] == [
                (token.bytes, token.reasoning) for token in here.tokens
            ]
        # The prompt may be a part of the mark that the template writes, and so may a stop sequence.
        for prompt, stop in (("hi", ()), ("think", ()), (QUESTION, ("think", "\n\t\n"))):
            options = {
                "prompt": prompt,
                "template_options": {"opened": 1},
                "params": {"stop": stop},
            }
            here, there = (ask(at, **options) for at in (path, server.url))
            assert (there.reasoning, there.text) == (here.reasoning, here.text)
            assert there.finish_detail == here.finish_detail
            assert here.prompt.endswith("<think>")


def test_a_llama_server_holds_its_first_token_to_a_constraint(model: Any, ask: Any) -> None:
    """So there is no reasoning. Where the template has opened that, the answer would stand in it."""
    choices = Constraint(kind="choices", source='["Paris?!", "London"]')
    closed, opened = {"enable_thinking": False}, {"opened": 1}
    with running_llama_server(model(THINKS, ("<think>", "</think>"))) as server:
        held = ask(server.url, constraint=choices)
        assert (held.reasoning, held.text, held.finish_detail) == ("", "Paris?!", "constraint")
        assert held.notices == (
            "llama-server holds the answer to the constraint from its first token: no reasoning",
        )
        assert ask(server.url, constraint=choices, template_options=closed).text == "Paris?!"
        with pytest.raises(ConstraintNotSupported, match="would hold the reasoning to it"):
            ask(server.url, constraint=choices, template_options=opened)
        options = {"template_options": opened, "accept": "unsupported"}
        accepted = ask(server.url, constraint=choices, **options)
        assert accepted.not_honoured == ("constraint",)
        assert accepted.reasoning == "Let me see it!!"
