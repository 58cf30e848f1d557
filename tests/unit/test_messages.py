"""What the child says and what the parent understands are the same."""

import json
import math

import pytest

from llmwit_magic.engines.messages import event_of, message
from llmwit_magic.protocol import Chunk, End, Event, Prepared, Progress
from llmwit_magic.wit import (
    DeviceInfo,
    FinishDetail,
    InferencingParams,
    InferencingUsage,
    ModelInfo,
    TokenAlternative,
    TokenInfo,
)

UNDECODABLE = b"caf\xe9.gguf".decode(errors="surrogateescape")
TOKEN = TokenInfo(
    id=1,
    bytes=b"\xff\xc3",
    logprob=-1.5,
    rank=0,
    top=(TokenAlternative(id=2, bytes=b"\n", logprob=-math.inf),),
)


@pytest.mark.parametrize(
    "event",
    [
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
        End(None, InferencingUsage()),
        End(FinishDetail.EOS, InferencingUsage(prompt_token_count=7), seconds={"prompt": 0.5}),
        End(FinishDetail.STOP_SEQUENCE, InferencingUsage(), stop_sequence="\n"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_arrives_as_it_was(event: Event) -> None:
    """One line of ASCII, whatever stands in it, and the same event at the other end."""
    line = message(type(event).__name__, event)
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    answer = json.loads(line)
    assert event_of(answer["kind"], answer["value"]) == event


def test_other_messages_are_plain_values() -> None:
    """Strings, numbers, None and mappings: what is no event crosses as it is."""
    for value in (None, True, "text", {"type": "EngineFailed", "message": "why"}):
        assert json.loads(message("error", value)) == {"kind": "error", "value": value}
