"""Messages with roles: where they are taken, what they become, and which are refused."""

from __future__ import annotations

from typing import Any

import pandas
import pytest

from llmwit_magic import api, infer, infer_frame
from llmwit_magic.contract.messages import Message, conversation_name
from llmwit_magic.contract.request import Request
from llmwit_magic.engines.local.wire import Run as RunCommand
from llmwit_magic.engines.local.wire import decoded, encoded
from llmwit_magic.engines.server.dialects.dialect import messages_of, refuse_marks
from llmwit_magic.errors import InvalidInput, ModelNotSupported
from llmwit_magic.models.chat import render_chat
from llmwit_magic.requests.snippets import forms
from llmwit_magic.runlog.export import read_export
from llmwit_magic.running.batch import run_batch
from tests.support.fake import FakeEngine, FakeSession
from tests.unit.test_chat import LLAMA2, PARTS, SMOLLM2, TOKENS

LIST = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content "
    "+ '<|im_end|>\n' }}{% endfor %}"
)


def test_a_list_is_the_long_form_of_prompt_and_system() -> None:
    """The first system message and the last message are `system` and `prompt`; the rest is kept."""
    request = Request.model_validate({"model": "m", "messages": LIST})
    history = (Message(role="user", content="one"), Message(role="assistant", content="two"))
    assert (request.system, request.prompt, request.history) == ("S", "three", history)
    assert [message.model_dump() for message in request.messages] == LIST
    assert request.is_chat
    assert messages_of(request) == LIST
    assert decoded(encoded(RunCommand(request, 0))).request == request
    short = Request.model_validate({"model": "m", "messages": LIST[-1:]})
    assert short == Request(model="m", prompt="three", chat=True)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "the list is empty"),
        (LIST[:3], r"prefill.*end the list with a message of the user"),
        (LIST[:1], "the last one is the system's"),
        ([{"role": "tool", "content": "x"}], r"message 1: the role 'tool' .* system, user, assist"),
        (
            [LIST[1], {"role": "user"}],
            "message 2: .* must have role and content, and nothing else$",
        ),
        (["one", "two"], "message 1: 'one' .*nothing else: infer_frame runs several prompts$"),
        ([{"role": "user", "content": ["x"]}], "message 1: the content is list: it must be text"),
        ([{"role": "user", "content": "\ud800"}], "message 1: content: a lone surrogate"),
        ([LIST[1] | {"name": "Ada"}], "message 1: .* nothing else"),
        (["hello"], "message 1: 'hello'"),
    ],
)
def test_bad_messages_are_refused_in_a_line(messages: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        infer(None, messages)
    assert len(str(caught.value).splitlines()) == 1


def test_a_message_is_given_once() -> None:
    """`system` beside a list that has one is refused; beside a list without one it is taken."""
    with pytest.raises(InvalidInput, match=r"^system: it is among the messages already"):
        infer(None, LIST, system="T")
    with pytest.raises(InvalidInput, match=r"^history: it is among"):
        infer(None, LIST[-1:], history=LIST[1:3])
    request = Request.model_validate({"model": "m", "messages": LIST[1:], "system": "T"})
    assert request.system == "T"


def test_infer_takes_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine, the log and a replay get them; the Python form gives them back."""
    session = FakeSession(FakeEngine())
    monkeypatch.setattr(api, "current_session", lambda: session)
    assert infer("fake", LIST, {"seed": 1}).text == "Hello world"
    (request,) = session.engine.requests
    assert messages_of(request) == LIST
    row = session.log.row(1)
    assert (row["system"], row["prompt"], row["history"]) == ("S", "three", LIST[1:3])
    assert session.log[1].request == request
    assert api.replay(1).identical
    assert messages_of(session.engine.requests[-1]) == LIST
    made = forms(request, {})
    assert "cell" not in made  # a cell has no place for them
    scope: dict[str, Any] = {}
    code = made["Python"].replace("from llmwit_magic import infer\n", "")
    exec(code, {"infer": lambda *given, **more: scope.update(given=given, more=more)})
    assert scope["given"][1] == LIST
    assert scope["more"] == {}
    assert '"history": [' in made["JSON"]
    session.close()


def test_the_tuning_panel_has_one_prompt() -> None:
    with pytest.raises(InvalidInput, match="the tuning panel has one prompt"):
        api.tune(LIST)


def test_histories_survive_an_export(tmp_path: Any) -> None:
    pytest.importorskip("pyarrow")
    session = FakeSession(FakeEngine())
    session.finish(Request.model_validate({"model": "fake", "messages": LIST}))
    for name in ("runs.parquet", "runs.jsonl"):
        session.log.export(tmp_path / name)
        pandas.testing.assert_frame_equal(read_export(tmp_path / name), session.log.to_frame())
    session.close()


def test_a_batch_fills_every_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """`{{column}}` may stand in each message of a list, and rows are found again by all of them."""
    session = FakeSession(FakeEngine())
    frame = pandas.DataFrame({"x": ["a", "b"], "y": ["c", "c"]})
    request = Request(
        model="fake", prompt="", chat=True, group_id="g",
        history=[{"role": "user", "content": "{{x}}"}, {"role": "assistant", "content": "ok"}],
    )  # fmt: skip
    for _ in range(2):
        run_batch(session, frame, "{{y}}", request, progress=False)
    assert [asked.history[0].content for asked in session.engine.requests] == ["a", "b"]
    session.engine.requests.clear()
    monkeypatch.setattr(api, "current_session", lambda: session)
    template = [{"role": "system", "content": "S {{x}}"}, {"role": "user", "content": "{{y}}"}]
    assert infer_frame(frame, template, "fake", progress=False)["infer_text"].nunique() == 1
    assert [asked.system for asked in session.engine.requests] == ["S a", "S b"]
    bad = request.model_copy(update={"history": (Message(role="user", content="{{z}}"),)})
    with pytest.raises(InvalidInput, match=r"\{\{z}}: that is no column"):
        run_batch(session, frame, "{{y}}", bad, progress=False)
    session.close()


def test_every_message_is_data() -> None:
    """The text of each message is a span; only what the template writes has control tokens."""
    messages = [("user", "<|im_end|> a"), ("assistant", "b <|im_start|>"), ("user", "c")]
    rendered = render_chat(CHATML, messages, {})
    spans = [rendered.text[start:end] for start, end in rendered.data]
    assert spans == [text for _, text in messages]
    request = Request.model_validate({
        "model": "m", "messages": [{"role": role, "content": text} for role, text in messages],
    })  # fmt: skip
    with pytest.raises(InvalidInput, match="may take for a control token"):
        refuse_marks(request)


#: What the template of Llama 2 writes of the assistant's messages, which that of the other tests
#: leaves out.
LLAMA2_TURNS = LLAMA2.replace(
    "{% endif %}{% endfor %}",
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
)
#: As Qwen 3 does: the reasoning of earlier turns is cut off, where there is any.
QWEN3 = CHATML.replace(
    "+ message.content ",
    "+ (message.content.split('</think>')[-1].lstrip('\n') if '</think>' in message.content "
    "else message.content) ",
)


@pytest.mark.parametrize("template", [CHATML, SMOLLM2, LLAMA2_TURNS, PARTS, QWEN3])
def test_all_turns_stand_in_the_prompt(template: str) -> None:
    """In their order and as data, though two turns say the same."""
    said = ["Be brief.", "One more.", "Yes <s>", "One more.", "Yes <s>", "One more."]
    roles = ["system", *["user", "assistant"] * 2, "user"]
    rendered = render_chat(template, list(zip(roles, said, strict=True)), TOKENS)
    assert [rendered.text[start:end] for start, end in rendered.data] == said


def test_a_template_that_loses_answers_is_refused_in_a_line() -> None:
    messages = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]
    with pytest.raises(ModelNotSupported, match="leaves out the assistant message: leave out"):
        render_chat(LLAMA2, messages, TOKENS)


def test_an_id_may_have_a_name() -> None:
    assert conversation_name("a-poem-0123abcd") == "a-poem"
    assert conversation_name("0123456789ab") == ""
