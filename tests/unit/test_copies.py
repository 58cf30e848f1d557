"""Which copy of a model evaluates a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from llmwit_magic.engines.backends.blocks import WORTH_KEEPING
from llmwit_magic.engines.backends.ctransformers.copies import Copies


class FakeModel:
    """A model that remembers the prompt that it evaluated last."""

    def __init__(self) -> None:
        self.context: list[int] = []

    @property
    def reusable_length(self) -> int:
        return len(self.context)

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        pairs = zip(tokens[:-1], self.context, strict=False)
        return next(
            (i for i, (a, b) in enumerate(pairs) if a != b), min(len(tokens) - 1, len(self.context))
        )


class Prompts:
    """Evaluates prompts, and tells how many of their tokens were already evaluated."""

    def __init__(self, most: int, memory: bool = True) -> None:
        self.opened = 1

        def open_another() -> FakeModel | None:
            self.opened += memory
            return FakeModel() if memory else None

        self.contexts = Copies(FakeModel(), open_another, most)  # type: ignore[arg-type]

    def known(self, tokens: list[int]) -> int:
        model = self.contexts.best_for(tokens)
        count = model.shared_prefix(tokens)
        model.context = tokens  # type: ignore[attr-defined]
        return count


def prompt(number: int, length: int = 400) -> list[int]:
    return [number] * length


def test_going_back_costs_a_token() -> None:
    """Going back to a kept prompt costs one token.

    Beyond the number kept, the least recently used one is lost.
    """
    prompts = Prompts(most=3)
    assert [prompts.known(prompt(number)) for number in (1, 2, 3)] == [0, 0, 0]
    assert [prompts.known(prompt(number)) for number in (1, 2, 3, 2, 1)] == [399] * 5
    assert prompts.known(prompt(4)) == 0
    assert prompts.known(prompt(3)) == 0
    assert [prompts.known(prompt(number)) for number in (4, 1, 2)] == [399, 399, 0]
    assert prompts.opened == len(prompts.contexts) == 3


def test_one_prompt_needs_one_copy() -> None:
    """One copy serves other questions after one system prompt.

    It also serves longer and shorter forms of a prompt, and short prompts.
    """
    prompts = Prompts(most=3)
    system = prompt(1)
    for number in range(5):
        prompts.known(system + prompt(10 + number, WORTH_KEEPING))
        prompts.known(system + prompt(10 + number, WORTH_KEEPING // 2))
    assert prompts.known(system + prompt(99, 5)) == 400
    assert prompts.known(prompt(1, 900)) == 400
    assert prompts.opened == 1
    short = Prompts(most=3)
    assert [short.known(prompt(number, WORTH_KEEPING)) for number in (1, 2, 3, 1)] == [0] * 4
    assert short.opened == 1


def test_how_long_a_prompt_is_worth_keeping() -> None:
    """A prompt is kept from 65 tokens on.

    64 are evaluated in the time that opening a file takes.
    """
    for length, opened in ((64, 1), (65, 2)):
        prompts = Prompts(most=3)
        prompts.known(prompt(1, length))
        prompts.known(prompt(2, length))
        assert prompts.opened == opened, length
    prompts = Prompts(most=3)
    for number, length in enumerate((65, 64, 65)):
        prompts.known(prompt(number, length))
    assert prompts.opened == 2  # the second prompt was given up for the third


def test_a_copy_with_nothing_to_lose_is_used_first() -> None:
    """It is used before another copy is opened, and before a prompt worth keeping is lost."""
    prompts = Prompts(most=2)
    prompts.known(prompt(1))
    prompts.known(prompt(2))
    prompts.known(prompt(2)[:-1])
    prompts.known(prompt(1) + prompt(3))
    assert prompts.known(prompt(2)) == 399
    assert prompts.opened == 2


def test_one_copy_where_no_more_is_allowed_or_fits() -> None:
    """One copy keeps the newest prompt."""
    for prompts in (Prompts(most=1), Prompts(most=3, memory=False)):
        assert [prompts.known(prompt(number)) for number in (1, 2, 1, 1)] == [0, 0, 0, 399]
        assert len(prompts.contexts) == 1
