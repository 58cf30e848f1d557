"""A guest that writes the next message of a chat, and stops at the next speaker's name."""

from __future__ import annotations

import time

import wit_world
from wit_world.imports import llm


class WitWorld(wit_world.WitWorld):
    """What the component exports."""

    def reply(
        self,
        model: str,
        turns: list[wit_world.Turn],
        speaker: str,
        max_tokens: int | None,
        seed: int | None,
    ) -> llm.InferencingResult:
        # Where the host refuses, `llm.infer` raises `Err`, which goes on to whoever called.
        return llm.infer(request(model, turns, speaker, max_tokens, seed))

    def reply_streamed(
        self,
        model: str,
        turns: list[wit_world.Turn],
        speaker: str,
        max_tokens: int | None,
        seed: int | None,
        enough: int | None,
    ) -> wit_world.StreamedReply:
        arrivals: list[wit_world.Arrival] = []
        read = 0
        began = time.monotonic()
        # The end of `with` drops the stream, and the host then ends the run.
        with llm.infer_stream(request(model, turns, speaker, max_tokens, seed)) as stream:
            while enough is None or read < enough:
                event = stream.next()
                if event is None:
                    break
                if isinstance(event, llm.StreamEvent_End):
                    return wit_world.StreamedReply(arrivals, event.value)
                arrivals.append(wit_world.Arrival(event.value.text, time.monotonic() - began))
                read += len(event.value.text)
        return wit_world.StreamedReply(arrivals, None)


def request(
    model: str,
    turns: list[wit_world.Turn],
    speaker: str,
    max_tokens: int | None,
    seed: int | None,
) -> llm.InferencingRequest:
    """The chat as a text that `speaker` goes on with, until any of the speakers begins."""
    speakers = dict.fromkeys([*(turn.speaker for turn in turns), speaker])
    lines = [f"{turn.speaker}: {turn.text}" for turn in turns]
    return llm.InferencingRequest(
        model,
        llm.Prompt_Text("\n".join([*lines, f"{speaker}:"])),
        llm.InferencingParams(
            max_tokens=max_tokens,
            repeat_penalty=None,
            repeat_penalty_last_n_token_count=None,
            stop=[f"\n{name}:" for name in speakers],
            temperature=None,
            top_k=None,
            top_p=None,
            seed=seed,
        ),
        json_schema=None,
        logprobs=llm.Logprobs_No(),
        echo=False,
    )
