"""A guest for Spin: a prompt continued, and the two texts that are most alike.

It calls a model by Spin's own interface. An app for Spin does the same, and exports a handler of
HTTP requests in the place of these two functions.
"""

from __future__ import annotations

from itertools import combinations
from math import hypot

import wit_world
from wit_world.imports import llm


class WitWorld(wit_world.WitWorld):
    """What the component exports."""

    def ask(
        self, model: str, prompt: str, params: llm.InferencingParams | None
    ) -> llm.InferencingResult:
        # Where the host refuses, `llm.infer` raises `Err`, which goes on to whoever called.
        return llm.infer(model, prompt, params)

    def most_alike(self, model: str, texts: list[str]) -> tuple[int, int]:
        vectors = llm.generate_embeddings(model, texts).embeddings
        pairs = combinations(range(len(vectors)), 2)
        return max(pairs, key=lambda pair: cosine(vectors[pair[0]], vectors[pair[1]]))


def cosine(one: list[float], other: list[float]) -> float:
    """The cosine of the angle between two vectors: 1 where they point the same way."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (hypot(*one) * hypot(*other))
