"""A session whose engine takes any constraint and answers what a test says; shapes for tests."""

from __future__ import annotations

import dataclasses
from datetime import date
from enum import Enum
from typing import Any

from pydantic import BaseModel, field_validator

from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.engine import Capabilities
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail
from llmwit_magic.running.run import Run
from tests.support.fake import FakeEngine, FakeSession, end

KINDS = frozenset({"choices", "regex", "json_schema", "grammar"})


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Invoice(BaseModel):
    name: str
    amount: float
    due: date | None = None

    @field_validator("amount")
    @classmethod
    def _is_owed(cls, amount: float) -> float:
        if amount < 0:
            raise ValueError("nobody owes that")
        return amount


@dataclasses.dataclass
class Point:
    x: int
    y: int


class ObedientEngine(FakeEngine):
    """Says one answer and how it ended, whatever the constraint is."""

    capabilities = Capabilities(constraints=KINDS)

    def __init__(
        self, answer: str = "", detail: FinishDetail | None = FinishDetail.CONSTRAINT,
        **more: Any,
    ) -> None:  # fmt: skip
        super().__init__([answer] if answer else [], end(1, detail), **more)


def finished(answer: str, constraint: Constraint | None, **how: Any) -> Run:
    """The run of a request with that constraint that got that answer."""
    session = FakeSession(ObedientEngine(answer, **how))
    run = session.finish(Request(model="fake", prompt="p", constraint=constraint))
    run.log = session.log  # which the caller closes with `session.close`, if it reads it
    return run
