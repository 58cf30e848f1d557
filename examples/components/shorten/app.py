"""A guest that asks about a text, and asks again with a shorter one where the answer was cut.

Text and answer share the model's context. Where they fill it, the finish reason is `length`, and
a shorter text leaves more room for the answer.
"""

from __future__ import annotations

import wit_world
from wit_world.imports import llm


class WitWorld(wit_world.WitWorld):
    """What the component exports."""

    def ask(
        self, model: str, text: str, question: str, max_tokens: int | None, seed: int | None
    ) -> wit_world.Answer:
        paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
        params = llm.InferencingParams(
            max_tokens=max_tokens,
            repeat_penalty=None,
            repeat_penalty_last_n_token_count=None,
            stop=[],
            temperature=0.0,
            top_k=None,
            top_p=None,
            seed=seed,
        )
        while True:
            message = llm.Message(llm.Role.USER, "\n\n".join([*paragraphs, question]))
            result = llm.infer(
                llm.InferencingRequest(
                    model,
                    llm.Prompt_Chat([message]),
                    params,
                    json_schema=None,
                    logprobs=llm.Logprobs_No(),
                    echo=False,
                )
            )
            if result.finish_reason is not llm.FinishReason.LENGTH or len(paragraphs) < 2:
                return wit_world.Answer(result, len(paragraphs))
            paragraphs = paragraphs[len(paragraphs) // 2 :]
