"""Temperature 0 with the default model: the likeliest token, each time."""

from __future__ import annotations

import pytest

from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.running.session import Session

MODEL = "smollm2-135m-instruct"
ASKED = [
    ("2, 4, 6, 8, 10, 12, 14, 16, 18,", False, " 20, 22, 24, 26"),
    ("What is 7 + 5?", True, "12"),
    ("| a | b |\n| - | - |\n| 1 | ", False, ""),
    ('{"name": "Ada", "age": 36, "name": "Bob", "age": ', False, ""),
]


@pytest.mark.parametrize(("prompt", "chat", "expected"), ASKED)
def test_every_token_is_the_likeliest(
    session: Session, prompt: str, chat: bool, expected: str
) -> None:
    """No penalty spoils counting, arithmetic, tables and records."""
    params = InferencingParams(temperature=0, max_tokens=80)
    request = Request(model=MODEL, prompt=prompt, params=params, chat=chat, top_logprobs=0)
    run = session.run(request)
    assert run.wait(50)
    run.raise_failure()
    assert run.result.tokens
    assert {token.rank for token in run.result.tokens} == {0}
    assert expected in run.text
    assert session.log.rows()[-1]["repeat_penalty"] == 1


def test_a_penalty_that_is_given_is_honoured(session: Session) -> None:
    """With 1.1, a list of even numbers does not go on with the likeliest tokens alone."""
    params = InferencingParams(temperature=0, max_tokens=24, repeat_penalty=1.1)
    run = session.run(Request(model=MODEL, prompt=ASKED[0][0], params=params, top_logprobs=0))
    assert run.wait(50)
    assert run.result.tokens
    assert {token.rank for token in run.result.tokens} != {0}
