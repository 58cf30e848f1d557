"""The four example components get what Python gets, for the same request and the same seed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import psutil
import pytest

from llmwit_magic import Component, api
from llmwit_magic.contract.request import DEFAULT_MODEL, Request
from llmwit_magic.contract.wit import InferencingParams, InferencingResult
from llmwit_magic.engines.local.outbox import GATHERING_SECONDS
from llmwit_magic.errors import ComponentFailed
from llmwit_magic.running.session import Session

ANNA = "Hello, Ben! What is your favourite fruit?"
TURNS = [
    {"speaker": "Anna", "text": ANNA},
    {"speaker": "Ben", "text": "I like apples best."},
    {"speaker": "Anna", "text": "Which ones?"},
]
CHAT = f"Anna: {ANNA}\nBen: I like apples best.\nAnna: Which ones?\nBen:"
NEXT = ("\nAnna:", "\nBen:")
STOPS_AT_ANNA = 4
"""A seed with which the model goes on with Anna."""
PARAGRAPHS = (
    "The lighthouse stands on a rock before the coast. It was built in 1859, after three ships "
    "were lost in one winter.",
    "Its lamp burned oil at first. Two keepers carried the oil up 112 steps every evening.",
    "In 1921 the lamp became electric. One keeper was enough from then on, and he had time to "
    "paint.",
    "Since 1987 nobody lives in the lighthouse. A computer turns the lamp on, and tourists climb "
    "the steps.",
)
SUMMARIZE = "Summarize this text."
Example = Callable[..., Component]


def python(session: Session, prompt: str | None, **fields: Any) -> InferencingResult:
    """What Python gets. Fields of params are among `fields`."""
    params = {name: fields.pop(name) for name in InferencingParams.model_fields if name in fields}
    run = session.run(
        Request(model=DEFAULT_MODEL, prompt=prompt, params=InferencingParams(**params), **fields)
    )
    assert run.wait(60)
    run.raise_failure()
    return run.result


def rows(session: Session) -> list[dict[str, Any]]:
    """The rows of the log, the newest first."""
    return session.log.rows()[::-1]


def seen(result: dict[str, Any]) -> tuple[Any, ...]:
    """What is the same in a guest and in Python. Cached tokens depend on the runs before."""
    usage = result["usage"]
    return (
        result["text"], result["finish_reason"],
        usage["prompt_token_count"], usage["generated_token_count"],
    )  # fmt: skip


def told(result: InferencingResult) -> tuple[Any, ...]:
    """The same of a result of Python."""
    assert result.finish_reason is not None
    usage = result.usage
    return (
        result.text, result.finish_reason.value.replace("_", "-"),
        usage.prompt_token_count, usage.generated_token_count,
    )  # fmt: skip


def reply(chat: Component, seed: int = STOPS_AT_ANNA, limit: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = chat.call("reply", DEFAULT_MODEL, TURNS, "Ben", limit, seed)
    return found


def test_a_chat_stops_at_the_next_speaker(session: Session, example: Example) -> None:
    """Text, reason and usage are Python's. The row has the component's name and hash."""
    chat = example("chat")
    assert chat.exports == ("reply", "reply-streamed")
    found = reply(chat)
    row = rows(session)[0]
    assert row["stop_sequence"] == "\nAnna:"
    assert row["tags"] == {"component": "chat", "component_sha256": chat.sha256}
    assert found["usage"]["cached_token_count"] == row["cached_token_count"]
    assert found["seed"] == STOPS_AT_ANNA
    wanted = python(session, CHAT, max_tokens=None, stop=NEXT, seed=STOPS_AT_ANNA)
    assert seen(found) == told(wanted)
    assert "Anna" not in found["text"]


def test_a_guest_sees_all_three_reasons(session: Session, example: Example) -> None:
    """Each is that of Python, with the text that belongs to it."""
    filters = ("(?i)banana",)
    plain, filtered = example("chat"), example("chat", content_filters=filters)
    given: dict[str, Any] = {"stop": NEXT, "seed": STOPS_AT_ANNA, "max_tokens": None}
    expected = [
        ("stop", reply(plain), python(session, CHAT, **given)),
        ("length", reply(plain, limit=1), python(session, CHAT, **given | {"max_tokens": 1})),
        (
            "content-filter",
            reply(filtered),
            python(session, CHAT, **given, content_filters=filters),
        ),
    ]
    for reason, found, wanted in expected:
        assert found["finish_reason"] == reason
        assert seen(found) == told(wanted)


def test_a_guest_gets_the_three_errors(session: Session, example: Example) -> None:
    """An unknown model, a seed out of its range, and an engine that dies."""
    chat = example("chat")
    with pytest.raises(ComponentFailed, match="reply returns an error: 'model-not-supported'"):
        chat.call("reply", "no-such-model", TURNS, "Ben", None, 1)
    with pytest.raises(ComponentFailed, match=r"reply returns an error: .*'invalid-input': 'seed"):
        reply(chat, seed=2**63)
    python(session, CHAT, max_tokens=1, stop=NEXT, seed=1)  # the engine has its model
    before = len(session.log)
    killer = threading.Thread(target=kill_the_engine, args=(session, before))
    killer.start()
    with pytest.raises(ComponentFailed, match=r"returns an error: .*'runtime-error': .*EngineDied"):
        chat.call("reply", DEFAULT_MODEL, [{"speaker": "A", "text": "Go on."}], "B", 1500, 3)
    killer.join()
    assert rows(session)[0]["status"] == "error"
    assert seen(reply(chat)) == told(
        python(session, CHAT, max_tokens=None, stop=NEXT, seed=STOPS_AT_ANNA)
    )


def kill_the_engine(session: Session, before: int) -> None:
    """End the processes of the local engine once the log has more than `before` runs."""
    while len(session.log) == before:
        time.sleep(0.01)
    time.sleep(0.3)  # an engine that dies before it begins is replaced
    for child in psutil.Process().children():
        child.kill()


def test_a_stream_gives_the_text_bit_by_bit(session: Session, example: Example) -> None:
    """The parts make Python's text, and come while it is written; the end has the usage."""
    seed = 3  # with it the answer is long
    wanted = python(session, CHAT, max_tokens=None, stop=NEXT, seed=seed)  # loads the model
    found = example("chat").call("reply-streamed", DEFAULT_MODEL, TURNS, "Ben", None, seed, None)
    arrivals, end = found["arrivals"], found["end"]
    assert "".join(each["text"] for each in arrivals) == wanted.text
    assert seen({"text": wanted.text, **end}) == told(wanted)
    assert end["seed"] == seed
    times = [each["seconds"] for each in arrivals]
    assert len(arrivals) > max(3, times[-1] / GATHERING_SECONDS / 2)
    assert times == sorted(times)
    assert times[0] < times[-1] / 4  # the first one came long before the last one
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert sum(gap > GATHERING_SECONDS / 2 for gap in gaps) > len(gaps) / 2  # not all at once


def test_a_dropped_stream_ends_its_run(session: Session, example: Example) -> None:
    """The guest leaves a long answer; its run ends within 0.3 s, and the row says interrupted."""
    chat = example("chat")
    found = chat.call("reply-streamed", DEFAULT_MODEL, TURNS, "Ben", 1500, 3, 20)
    assert found["end"] is None
    row = rows(session)[0]
    assert row["total_seconds"] - found["arrivals"][-1]["seconds"] < 0.3
    assert row["status"] == "interrupted"
    assert row["finish_reason"] is None
    assert row["text"].startswith("".join(each["text"] for each in found["arrivals"]))


def shortened(session: Session, **params: Any) -> Iterator[tuple[InferencingResult, Sequence[str]]]:
    """What `shorten` does, by Python's functions."""
    left: Sequence[str] = PARAGRAPHS
    while True:
        messages = [{"role": "user", "content": "\n\n".join([*left, SUMMARIZE])}]
        result = python(session, None, messages=messages, temperature=0.0, **params)
        yield result, left
        if result.finish_reason != "length" or len(left) < 2:
            return
        left = left[len(left) // 2 :]


def test_a_cut_answer_is_asked_for_again_with_less_text(session: Session, example: Example) -> None:
    """In a small context the first answer is cut; the last one fits, and is Python's."""
    context = {"context_length": 208}
    before = len(rows(session))
    found = example("shorten", **context).call(
        "ask", DEFAULT_MODEL, "\n\n".join(PARAGRAPHS), SUMMARIZE, None, 1
    )
    ours = rows(session)[::-1][before:]
    python_s = list(shortened(session, max_tokens=None, seed=1, **context))
    last, left = python_s[-1]
    assert seen(found["outcome"]) == told(last)
    assert found["paragraphs"] == len(left) < len(PARAGRAPHS)
    assert [row["text"] for row in ours] == [result.text for result, _ in python_s]
    assert ours[0]["finish_detail"] == "context_full"
    assert ours[-1]["finish_reason"] == "stop"


def test_a_guest_for_spin_gets_what_python_gets(session: Session, example: Example) -> None:
    """Spin's interface has no seed: the row has the one that was drawn. Params are exact."""
    spin = example("spin")
    params = {
        "max_tokens": 12, "repeat_penalty": 1.3, "repeat_penalty_last_n_token_count": 32,
        "temperature": 0.7, "top_k": 30, "top_p": 0.85,
    }  # fmt: skip
    for given in (params, None):
        found = spin.call("ask", DEFAULT_MODEL, "The capital of France is", given)
        row = rows(session)[0]
        wanted = python(session, "The capital of France is", seed=row["seed"], **(given or {}))
        assert seen({**found, "finish_reason": row["finish_reason"]}) == told(wanted)
        assert {name: row[name] for name in given or {}} == (given or {})
    assert row["max_tokens"] == 100  # Spin's default
    with pytest.raises(ComponentFailed, match="ask returns an error: 'model-not-supported'"):
        spin.call("ask", "llama2-chat", "Hi", None)


def test_a_guest_for_spin_gets_vectors(
    session: Session, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two texts that are most alike are those that Python finds."""
    monkeypatch.setattr(api, "current_session", lambda: session)
    texts = ["The dog barks.", "A cat sleeps.", "The dog barks loudly.", "Taxes rise."]
    vectors = np.asarray(api.generate_embeddings(DEFAULT_MODEL, texts).embeddings)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = list(combinations(range(len(texts)), 2))
    wanted = max(pairs, key=lambda pair: float(vectors[pair[0]] @ vectors[pair[1]]))
    assert example("spin").call("most-alike", DEFAULT_MODEL, texts) == wanted
    assert rows(session)[0]["kind"] == "embedding"


def test_a_guest_for_pharia_gets_what_python_gets(session: Session, example: Example) -> None:
    """Several answers of one call, in their order, with the probability of each token.

    Pharia's interface has no repeat penalty, so it is off.
    """
    given: dict[str, Any] = {"max_tokens": 8, "stop": (".",), "seed": 7, "repeat_penalty": 1.0}
    prompts = ["The capital of France is", "The opposite of hot is"]
    found = example("pharia", seed=7).call("ask-all", DEFAULT_MODEL, prompts, 8, ["."])
    assert len(found) == len(prompts)
    for answer, prompt in zip(found, prompts, strict=True):
        wanted = python(session, prompt, **given, top_logprobs=0)
        assert answer["text"] == wanted.text
        assert answer["finish_reason"] == wanted.finish_reason
        assert answer["usage"] == {
            "prompt": wanted.usage.prompt_token_count,
            "completion": wanted.usage.generated_token_count,
        }
        assert answer["logprobs"] == [token.logprob for token in wanted.tokens or ()]
        assert answer["logprobs"]


def test_a_guest_for_pharia_can_leave_a_stream(session: Session, example: Example) -> None:
    text = example("pharia", seed=3).call(
        "ask-streamed", DEFAULT_MODEL, "Once upon a time", None, 5
    )
    assert rows(session)[0]["status"] == "interrupted"
    whole = python(session, "Once upon a time", max_tokens=60, seed=3, repeat_penalty=1.0)
    assert text
    assert whole.text.startswith(text)
