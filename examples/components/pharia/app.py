"""A guest for Pharia: several answers from one call with their probabilities, and a stream."""

from __future__ import annotations

import wit_world
from wit_world.imports import inference
from wit_world.imports.inference import CompletionEvent_Append, CompletionParams, CompletionRequest


class WitWorld(wit_world.WitWorld):
    """What the component exports."""

    def ask_all(
        self, model: str, prompts: list[str], max_tokens: int | None, stop: list[str]
    ) -> list[wit_world.Answer]:
        completions = inference.complete(
            [request(model, prompt, max_tokens, stop) for prompt in prompts]
        )
        return [
            wit_world.Answer(
                answer.text,
                answer.finish_reason,
                answer.usage,
                [token.sampled.logprob for token in answer.logprobs],
            )
            for answer in completions
        ]

    def ask_streamed(self, model: str, prompt: str, max_tokens: int | None, chunks: int) -> str:
        text = ""
        # The end of `with` drops the stream, and a host then has nothing more to generate.
        with inference.CompletionStream(request(model, prompt, max_tokens, [])) as stream:
            while chunks and (event := stream.next()):
                if isinstance(event, CompletionEvent_Append):
                    text += event.value.text
                    chunks -= 1
        return text


def request(model: str, prompt: str, max_tokens: int | None, stop: list[str]) -> CompletionRequest:
    """A request that leaves all to the host that is not given here."""
    return CompletionRequest(
        model,
        prompt,
        CompletionParams(
            max_tokens=max_tokens,
            temperature=None,
            top_k=None,
            top_p=None,
            stop=stop,
            return_special_tokens=False,
            frequency_penalty=None,
            presence_penalty=None,
            logprobs=inference.Logprobs_Sampled(),
        ),
    )
