"""A user's program, for a type checker that knows nothing of pydantic; it is never run."""

from __future__ import annotations

import numpy
import pandas
from numpy.typing import NDArray

import llmwit_magic
from llmwit_magic import (
    Conversation,
    FinishDetail,
    FinishReason,
    InferenceError,
    InferencingParams,
    InferencingResult,
    Interrupted,
    Passage,
    Request,
    ainfer,
    astream,
    choose,
    count_tokens,
    embed,
    embed_frame,
    generate_embeddings,
    infer,
    infer_frame,
    preset,
    read_export,
    replay,
    runs,
    score,
    split,
    stream,
)

defaults = InferencingParams()
greedy = InferencingParams(max_tokens=None, temperature=0, stop=("\n", "."), seed=7)
request = Request(model="tiny", prompt="p")
talk = Conversation(system="S", params={"max_tokens": 5}, name="n", chat=True)
said: list[dict[str, str]] = talk.messages
answer: InferencingResult = infer(None, [*said, {"role": "user", "content": "p"}])
answer = Conversation.load(12).fork().ask("p", {"temperature": 0}, drop_oldest=True, model="m")
pieces: list[str] = list(talk.stream("p"))
longer = Request(model="tiny", prompt="p", params=greedy, chat=True, tags={"k": "v"})


def ask(prompt: str) -> str:
    """Every function with what it takes and gives."""
    try:
        result: InferencingResult = infer(None, prompt, {"temperature": 0, "stop": ["."]})
    except Interrupted:
        return ""
    except InferenceError as error:
        return str(error)
    count: int = (result.usage.generated_token_count or 0) + (defaults.max_tokens or 0)
    if result.finish_reason is FinishReason.LENGTH and count > 3:
        assert result.finish_detail is not FinishDetail.EOS
    scored: InferencingResult = score(prompt, " Paris", prompt_logprobs=True, top_logprobs=2)
    shares: dict[str, float] | None = choose(prompt, ["a", "b"], normalize="token").probabilities
    if shares and scored.score and scored.score.logprob > -1:
        return max(shares, key=shares.__getitem__)
    short: list[InferencingResult] = [
        infer("hi"),
        infer("hi", temperature=0),
        infer("hi", {"temperature": 0}),
        infer("hi", greedy, max_tokens=5, model="tiny"),
        infer([{"role": "user", "content": "hi"}]),
        infer(model=None, prompt="hi"),
    ]
    pieces.extend(stream("hi", temperature=0) if short else [])
    with stream(None, prompt, greedy, accept="context") as chunks:
        return "".join(chunks)


async def ask_in_a_loop(prompt: str) -> str:
    """The functions of an event loop."""
    result: InferencingResult = await ainfer(None, prompt, {"temperature": 0}, tags={"k": "v"})
    async with astream(None, prompt, greedy) as chunks:
        texts: list[str] = [chunk async for chunk in chunks]
    result = await ainfer("hi", temperature=0)
    texts += [chunk async for chunk in astream("hi", max_tokens=5)]
    last: InferencingResult = await chunks.result()
    return result.text + "".join(texts) + last.text


def table(frame: pandas.DataFrame) -> pandas.DataFrame:
    """DataFrames in, DataFrames out."""
    infer_frame(frame, "{{name}} is", params=greedy, batch="b")
    infer_frame(frame, "{{name}} is", **preset("brief"))
    name: str | None = infer("hi", preset="brief").preset
    assert name
    infer_frame(frame, "{{name}}", ["a::m", "b::m"], concurrency=64, deduplicate=False)
    runs.rate(1, -1)
    runs.annotate(1, note="n", tags={"k": "v"})
    first: InferencingResult = runs[1]
    same: bool = replay(first.run_id or 1, accept=("file", "filters")).identical
    vectors: tuple[tuple[float, ...], ...] = generate_embeddings(None, ["a"]).embeddings
    array: NDArray[numpy.float32] = embed(["a"], "lab::m", normalize=True, tags={"k": "v"})
    lengths: list[int] = [count_tokens("a"), *count_tokens(["a", "b"])]
    parts: list[Passage] = split("One. Two.", 5, overlap=1, language="en")
    column = embed_frame(frame, "text", name="vector")["vector"]
    assert same
    assert len(array) == len(lengths) == parts[0].end == len(column)
    assert vectors
    runs.export("runs.jsonl", since="2h")
    return pandas.concat([runs.to_frame(everyone=False), read_export("runs.jsonl")])


version: str = llmwit_magic.__version__
