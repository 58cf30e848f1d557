"""The child and the kernel understand each other's messages."""

import math
from typing import Any, get_args

import pytest

from llmwit_magic.contract.events import Chunk, End, Prepared, Progress
from llmwit_magic.contract.request import ModelSpec, Request
from llmwit_magic.contract.wit import (
    DeviceInfo,
    FinishDetail,
    InferencingParams,
    InferencingUsage,
    ModelInfo,
    TokenAlternative,
    TokenInfo,
)
from llmwit_magic.engines.local import wire
from llmwit_magic.engines.local.wire import (
    Broken,
    Cancel,
    Constraining,
    Done,
    Embed,
    Exit,
    Failed,
    Judge,
    Load,
    Prepare,
    Rendering,
    Run,
    Started,
    Vectors,
    Verdict,
    decoded,
    encoded,
)

UNDECODABLE = b"caf\xe9.gguf".decode(errors="surrogateescape")
TOKEN = TokenInfo(
    id=1,
    bytes=b"\xff\xc3",
    logprob=-1.5,
    rank=0,
    top=(TokenAlternative(id=2, bytes=b"\n", logprob=-math.inf),),
)


REQUEST = Request(
    model="m", prompt="é{{x}}", system="s", data_spans=((1, 6),), params={"stop": ["\n"]},  # type: ignore[arg-type]
    content_filters=("a+",), top_logprobs=2, threads=1,
)  # fmt: skip
SPEC = ModelSpec(model="m", context_length=8, accept=("context",), gpu_layers=3)


@pytest.mark.parametrize(
    "message",
    [
        Load(ModelInfo(name=UNDECODABLE), "b", UNDECODABLE, "/f", SPEC, 3, {"A": "b"}),
        Prepare(REQUEST),
        Run(REQUEST, 2),
        Embed(("a", "é"), True, "auto"),
        Cancel(),
        Verdict(None),
        Verdict(3),
        Exit(),
        Started(),
        Rendering(True),
        Constraining(True),
        Judge(1, "é\n"),
        Vectors([[0.5, -1.0], []], 7),
        Done(),
        Failed("EngineFailed", "why\nnot"),
        Broken(UNDECODABLE),
        Progress("prompt", 3, 17, "two\nlines"),
        Prepared(
            "é\u2028\0",
            1,
            0,
            8,
            InferencingParams(stop="x", seed=2**63 - 1),  # type: ignore[arg-type]
            ModelInfo(name=UNDECODABLE, path="/m", sha256="0", architecture="a", quantisation="q"),
            DeviceInfo(threads=2),
        ),
        Chunk("", 1),
        Chunk("é\u2028\r\n\0\x7f😀", 2, (TOKEN, TOKEN)),
        Chunk("", 3, (TOKEN.model_copy(update={"reasoning": True}),), "é\n", 3),
        End(None, InferencingUsage()),
        End(FinishDetail.EOS, InferencingUsage(prompt_token_count=7), seconds={"prompt": 0.5}),
        End(FinishDetail.STOP_SEQUENCE, InferencingUsage(), stop_sequence="\n"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_arrives_as_it_was(message: Any) -> None:
    """A message is one line of ASCII, whatever is in it.

    It is the same message at the other end.
    """
    line = encoded(message)
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    assert decoded(line) == message


def test_every_kind_of_message_is_tried() -> None:
    """The test above has every kind of message."""
    (mark,) = test_a_message_arrives_as_it_was.pytestmark  # type: ignore[attr-defined]
    assert {type(message) for message in mark.args[1]} == {
        *get_args(wire.Command), *get_args(wire.Answer),
    }  # fmt: skip


@pytest.mark.parametrize("line", [b"hello\n", b"5\n", b"{}\n", b'{"kind": "Done"}\n', b'{"kind"\n'])
def test_other_lines_are_no_messages(line: bytes) -> None:
    """A line that is no message raises another error than a damaged message."""
    with pytest.raises(ValueError, match=r".") as caught:
        decoded(line)
    assert not isinstance(caught.value, TypeError)
    with pytest.raises(TypeError):
        decoded(b'{"kind": "Chunk", "value": {"text": 5}}\n')
