"""The arguments of `infer`, `stream`, `ainfer` and `astream`, as people write them at first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic import api
from llmwit_magic.contract.request import DEFAULT_MODEL, Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.errors import InvalidInput
from tests.support.fake import FakeEngine, FakeSession
from tests.support.tiny_models import write_llama_gguf


def _ainfer(*given: Any, **options: Any) -> None:
    asyncio.run(api.ainfer(*given, **options))


def _astream(*given: Any, **options: Any) -> None:
    async def read() -> None:
        async for _ in api.astream(*given, **options):
            pass

    asyncio.run(read())


def _stream(*given: Any, **options: Any) -> None:
    list(api.stream(*given, **options))


Asked = Callable[..., Request]


@pytest.fixture(
    params=[api.infer, _stream, _ainfer, _astream], ids=["infer", "stream", "ainfer", "astream"]
)
def asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """Calls a function, and returns the request that the engine gets."""
    engine = FakeEngine()
    session = FakeSession(engine)
    session.aliases = {"mine": "x.gguf"}
    session.servers = {"lab": {"url": "http://127.0.0.1:9/v1"}}
    monkeypatch.setattr(api, "current_session", lambda: session)
    monkeypatch.chdir(tmp_path)

    def call(*given: Any, **options: Any) -> Request:
        request.param(*given, **options)
        return engine.requests[-1]

    return call


def test_one_text_is_the_prompt(asked: Asked) -> None:
    """`infer('hi')` asks the default model."""
    request = asked("hi")
    assert (request.model, request.prompt) == (DEFAULT_MODEL, "hi")


def test_params_as_options(asked: Asked) -> None:
    """A param may stand as an option. At temperature 0 the penalty is off, as in `params`."""
    request = asked("hi", temperature=0, stop=["."])
    assert request.params.temperature == 0
    assert request.params.repeat_penalty == 1
    assert request.params.stop == (".",)


def test_an_option_counts_before_params(asked: Asked) -> None:
    """The other params stay. A default that depends on the option follows it."""
    params = asked("m", "hi", InferencingParams(top_k=3, max_tokens=9), max_tokens=5).params
    assert (params.top_k, params.max_tokens) == (3, 5)
    assert asked("hi", InferencingParams(top_k=3), temperature=0).params.repeat_penalty == 1
    assert asked("hi", {"repeat_penalty": 1.2}, temperature=0).params.repeat_penalty == 1.2


def test_params_after_the_prompt(asked: Asked) -> None:
    """Params in the second place are params."""
    assert asked("hi", {"temperature": 0}).params.temperature == 0
    assert asked("hi", InferencingParams(top_k=2)).params.top_k == 2


def test_two_texts_keep_their_order(asked: Asked) -> None:
    """The first of two texts is the model, whatever they say."""
    request = asked("hi", "mine")
    assert (request.model, request.prompt) == ("hi", "mine")
    assert asked(None, "hi").model == DEFAULT_MODEL


def test_the_model_by_its_name(asked: Asked) -> None:
    """`model=` stands beside a prompt in the first place or by its name."""
    for request in (asked("hi", model="m"), asked(model="m", prompt="hi"), asked(Path("m"), "hi")):
        assert (request.model, request.prompt) == ("m", "hi")
    assert asked(prompt="hi").model == DEFAULT_MODEL


def test_messages_alone(asked: Asked) -> None:
    """Messages are a prompt, too."""
    request = asked([{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}])
    assert (request.model, request.system, request.prompt) == (DEFAULT_MODEL, "s", "hi")


@pytest.mark.parametrize("text", [DEFAULT_MODEL, "mine", "lab::m", "local::", "http://h/v1#m",
                                  "tiny.gguf", "folder", "./tiny.gguf"])  # fmt: skip
def test_a_model_alone_is_refused(asked: Asked, text: str) -> None:
    """The name of a model that is there is no prompt, unless `model=` stands beside it."""
    Path("folder").mkdir()
    for path in ("tiny.gguf", "folder/one.gguf"):
        write_llama_gguf(Path(path))
    with pytest.raises(InvalidInput, match="is the name of a model: give a prompt after it"):
        asked(text)
    assert asked(text, model=None).prompt == text


@pytest.mark.parametrize("text", ["", " ", "std::vector", "lab:: m", "no.gguf", "notes.txt", "empty",
                                  "and/or", "a\0b", "x" * 5000, "~nobody-here/x", "http://h is"])  # fmt: skip
def test_other_texts_are_prompts(asked: Asked, text: str) -> None:
    """What names no model that is there is a prompt, also where a file has that name."""
    Path("empty").mkdir()
    Path("notes.txt").write_text("notes")
    assert asked(text).prompt == text


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((), {}, "prompt: there is none"),
        ((None,), {"model": "m"}, "prompt: there is none"),
        ((Path("m"),), {}, "'m' is the name of a model"),
        (("m", "hi"), {"model": "n"}, "model: it is given twice"),
        (("hi", {"top_k": 1}, {"top_k": 2}), {}, "prompt: .* must be a text"),
        ((5, "hi"), {}, "model: 5 is not valid: it must be a name or a path"),
        ((5,), {}, "prompt: 5 is not valid"),
        (("hi",), {"temperature": -1}, "temperature: -1.0 is not valid"),
        (("hi",), {"xyzzy": 0}, "no option 'xyzzy': docs/options.md lists them"),
        (("hi",), {"temprature": 0}, "no option 'temprature': did you mean temperature"),
    ],
)  # fmt: skip
def test_what_is_refused(
    asked: Asked, given: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    """Each error says in one line which argument is wrong."""
    with pytest.raises(InvalidInput, match=message) as error:
        asked(*given, **options)
    assert "\n" not in str(error.value)
