"""Components of WebAssembly call a real engine through each interface, within their limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic import Component
from llmwit_magic.components.guest_call import MOST_STREAMS, GuestCall
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.errors import ComponentFailed, InvalidInput, ModelNotSupported
from llmwit_magic.running.session import Session
from tests.support.tiny_models import write_llama_gguf
from tests.support.wat_guests import (
    FOLDERS,
    OPTIONS,
    RUNAWAYS,
    SHARING,
    SLEEPER,
    calls_for_ever,
    forwarder,
    reader,
    runaway,
)
from tests.support.wat_interfaces import (
    ENVIRONMENT,
    FIRST,
    PHARIA_0_3,
    SECOND,
    SPIN_2,
    SPIN_UNVERSIONED,
    Interface,
)

PROMPT = "The quick brown fox"
NEUTRAL = {"repeat_penalty": 1.0, "temperature": 0.7, "top_k": 30, "top_p": 0.95, "max_tokens": 12}
SEED = 11
LONG = {"max_tokens": None, "temperature": 0.0, "repeat_penalty": 0.1}
"""The same token again and again, so that no end of text comes before the context is full."""


def component(text: str, session: Session, **options: Any) -> Component:
    return Component(text.encode(), session=session, **options)


def of_python(session: Session, model: Path, **fields: Any) -> InferencingResult:
    """What Python gets for the same request."""
    fields.setdefault("prompt", PROMPT)
    params = {**NEUTRAL, "seed": SEED, **fields.pop("params", {})}
    run = session.run(Request(model=str(model), params=params, **fields))
    run.wait(30)
    run.raise_failure()
    return run.result


def first_params(**changes: Any) -> dict[str, Any]:
    return {**NEUTRAL, "repeat_penalty_last_n_token_count": 64, "stop": [], **changes}


def second_request(**changes: Any) -> dict[str, Any]:
    params = {**NEUTRAL, "stop": [], "seed": SEED, **changes.pop("params", {})}
    return {
        "model": "m", "prompt": {"text": PROMPT}, "params": params, "logprobs": "no",
        "echo": False, **changes,
    }  # fmt: skip


def pharia_request(**changes: Any) -> dict[str, Any]:
    params = {name: NEUTRAL[name] for name in ("temperature", "top_k", "top_p", "max_tokens")}
    params |= {"stop": [], "return_special_tokens": True, "logprobs": "no"} | changes
    return {"model": "m", "prompt": PROMPT, "params": params}


def by_first(guest: Component, **changes: Any) -> Any:
    return guest.call("infer", "m", PROMPT, first_params(**changes))


def by_second(guest: Component, **changes: Any) -> Any:
    return guest.call("infer", second_request(params=changes))


def by_spin(guest: Component, **changes: Any) -> Any:
    params = first_params(**changes)
    del params["stop"]
    return guest.call("infer", "m", PROMPT, params)


def by_pharia(guest: Component, **changes: Any) -> Any:
    return guest.call("complete", [pharia_request(**changes)])[0]


WAYS: dict[str, tuple[Interface, Callable[..., Any]]] = {
    "0.1.0": (FIRST, by_first), "0.2.0": (SECOND, by_second), "spin": (SPIN_2, by_spin),
    "spin without a version": (SPIN_UNVERSIONED, by_spin), "pharia": (PHARIA_0_3, by_pharia),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_guest_gets_what_python_gets(session: Session, tiny_model: Path, way: str) -> None:
    """By each interface, the text is Python's for the same request and seed, and so are the counts.
    The run has its row, with the component's name and hash."""
    interface, ask = WAYS[way]
    guest = component(forwarder(interface), session, model=tiny_model, seed=SEED)
    answer = ask(guest)
    wanted = of_python(session, tiny_model)
    assert answer["text"] == wanted.text
    counts = list(answer["usage"].values())[:2]
    assert counts == [wanted.usage.prompt_token_count, wanted.usage.generated_token_count]
    if "spin" not in way:
        assert answer["finish_reason"] == wanted.finish_reason
    row = session.log[-2]
    assert (row.text, row.status, row.model.name) == (wanted.text, "ok", str(tiny_model))
    assert (row.params.temperature, row.params.top_p) == (0.7, 0.95)  # as 32-bit numbers in WASM
    assert row.request.tags == {"component": "component", "component_sha256": guest.sha256}


@pytest.mark.parametrize("way", ["0.1.0", "0.2.0", "pharia"])
def test_a_guest_sees_all_finish_reasons(session: Session, tiny_model: Path, way: str) -> None:
    """A stop sequence, a limit and a content filter: the guest gets each reason in its own words,
    and the text that Python gets."""
    interface, ask = WAYS[way]
    guest = component(forwarder(interface), session, model=tiny_model, seed=SEED)
    whole = of_python(session, tiny_model).text
    sign = whole[len(whole) // 2]
    stopped = ask(guest, stop=[sign])
    assert (stopped["text"], stopped["finish_reason"]) == (whole[: whole.index(sign)], "stop")
    assert ask(guest, max_tokens=3)["finish_reason"] == "length"
    filtered = component(
        forwarder(interface), session, model=tiny_model, seed=SEED,
        content_filters=(lambda text: text.find(sign) if sign in text else None,),
    )  # fmt: skip
    answer = ask(filtered)
    assert (answer["text"], answer["finish_reason"]) == (stopped["text"], "content-filter")


def test_without_a_limit_a_guest_gets_all(session: Session, tiny_model: Path) -> None:
    """`max-tokens: none` is no limit; params that are left out whole have the limit of a cell."""
    guest = component(forwarder(FIRST), session, model=tiny_model, seed=SEED)
    unlimited = by_first(guest, **LONG)
    assert unlimited["usage"]["generated_token_count"] > 100
    assert guest.call("infer", "m", PROMPT, None)["usage"]["generated_token_count"] <= 100
    second = component(forwarder(SECOND), session, model=tiny_model, seed=SEED)
    assert by_second(second, **LONG)["text"] == unlimited["text"]
    defaults = second.call("infer", second_request(params={}) | {"params": None})
    assert defaults["usage"]["generated_token_count"] <= 100
    assert [row.params.max_tokens for row in session.log] == [None, 100, None, 100]


def test_errors_are_the_variants(session: Session, tiny_model: Path, tmp_path: Path) -> None:
    """Each kind of failure is its case. What an error says of a file here is not told."""
    broken = write_llama_gguf(tmp_path / "nan.gguf", weights="nan")
    models = {"m": tiny_model, "broken": broken, "gone": str(tmp_path / "gone.gguf")}
    guest = component(forwarder(SECOND), session, model=models, seed=SEED)
    long = {"text": "word " * 3000}
    outcomes = guest.call("infer-many", [
        second_request(), second_request(model="other"), second_request(model="gone"),
        second_request(params={"temperature": -1}), second_request(prompt=long),
        second_request(model="broken"), second_request(json_schema="{"),
        second_request(echo=True, prompt={"chat": [{"role": "user", "content": "a"}]}),
    ])  # fmt: skip
    cases = [next(iter(each.items())) for each in outcomes]
    assert [each if kind == "err" and isinstance(each, str) else next(iter(each))
            for kind, each in cases] == [
        "text", "model-not-supported", "model-not-supported", "invalid-input", "invalid-input",
        "runtime-error", "invalid-input", "invalid-input",
    ]  # fmt: skip
    assert cases[0][1]["text"] == of_python(session, tiny_model).text
    assert cases[3][1]["invalid-input"].startswith("temperature: -1.0 is not valid")
    assert str(tmp_path) not in str(outcomes)
    for interface, ask in (WAYS["0.1.0"], WAYS["spin"]):
        other = component(forwarder(interface), session, model=models)
        with pytest.raises(ComponentFailed, match=r"'invalid-input': 'top_p: 2\.0"):
            ask(other, top_p=2.0)
        with pytest.raises(
            ComponentFailed, match="returns an error: 'model-not-supported'"
        ) as error:
            other.call("infer", "other", PROMPT, None)
        assert error.value.value == "model-not-supported"


def test_pharia_has_no_errors_so_the_caller_gets_them(session: Session, tiny_model: Path) -> None:
    """A request that cannot be carried out ends a guest of Pharia, and the caller gets the error."""
    guest = component(forwarder(PHARIA_0_3), session, model=["m"])
    with pytest.raises(InvalidInput, match="frequency_penalty: this host does not have it"):
        component(forwarder(PHARIA_0_3), session, model=tiny_model).call(
            "complete", [pharia_request(frequency_penalty=0.5)]
        )
    with pytest.raises(ModelNotSupported):
        guest.call("complete", [pharia_request()])


def test_what_the_second_version_adds(session: Session, tiny_model: Path) -> None:
    """Chat, log-probabilities, echo and seeds are those of Python."""
    guest = component(forwarder(SECOND), session, model=tiny_model)
    messages = [
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Me."}, {"role": "user", "content": "Why?"},
    ]  # fmt: skip
    request = second_request(prompt={"chat": messages}, logprobs={"top": 2})
    answer = guest.call("infer", request)
    run = session.run(Request(
        model=str(tiny_model), messages=messages, top_logprobs=2, params={**NEUTRAL, "seed": SEED},
    ))  # fmt: skip
    run.wait(30)
    wanted = run.result
    assert (answer["text"], answer["seed"]) == (wanted.text, SEED)
    names = ("id", "bytes", "logprob", "rank")
    assert wanted.tokens
    assert [tuple(token[name] for name in names) for token in answer["tokens"]] == [
        tuple(getattr(token, name) for name in names) for token in wanted.tokens
    ]
    assert [len(token["top"]) for token in answer["tokens"]] == [2] * len(wanted.tokens)
    echoed = guest.call("infer", second_request(echo=True, logprobs="sampled"))
    assert echoed["text"] == PROMPT + of_python(session, tiny_model).text
    assert all(token["top"] == [] for token in echoed["tokens"])
    drawn = guest.call("infer", second_request(params={"seed": None}))
    again = guest.call("infer", second_request(params={"seed": drawn["seed"]}))
    assert again["text"] == drawn["text"]


def test_an_answer_follows_its_schema(session: Session, tiny_model: Path) -> None:
    """With a JSON schema, the answer is what the schema allows."""
    guest = component(forwarder(SECOND), session, model=tiny_model)
    schema = '{"enum": ["yes", "no"]}'
    answer = guest.call("infer", second_request(json_schema=schema))
    assert answer["text"] in ('"yes"', '"no"')
    assert answer["finish_reason"] == "stop"


def test_embeddings_are_python_s(session: Session, tiny_model: Path) -> None:
    """Each interface that has embeddings gives the vectors of Python, in the order of the texts.
    Options that are about generated texts keep none from it."""
    wanted = session.embed(Request(model=str(tiny_model), prompt=""), ["one", "two words"])
    for interface in (FIRST, SECOND, SPIN_2):
        guest = component(
            forwarder(interface), session, model=tiny_model, content_filters=("x",), exact=True
        )
        found = guest.call("generate-embeddings", "m", ["one", "two words"])
        assert found["usage"]["prompt_token_count"] == wanted.usage.prompt_token_count
        for ours, theirs in zip(found["embeddings"], wanted.embeddings, strict=True):
            assert ours == pytest.approx(theirs)
        assert session.log[-1].kind == "embedding"


# Streams -------------------------------------------------------------------------------


def test_a_stream_gives_the_text_chunk_by_chunk(session: Session, tiny_model: Path) -> None:
    """The chunks make up Python's text. After them come the end with its reason, and nothing."""
    guest = component(
        reader(SECOND, "infer-stream", "inferencing-stream"), session, model=tiny_model
    )
    events = [each["ok"] for each in guest.call("read", 400, second_request(logprobs="sampled"))]
    assert events.pop() is None
    end = events.pop()["end"]
    wanted = of_python(session, tiny_model, top_logprobs=0)
    chunks = [each["chunk"] for each in events]
    assert len(chunks) > 1
    assert "".join(each["text"] for each in chunks) == wanted.text
    assert wanted.tokens
    assert sum(len(each["tokens"]) for each in chunks) == len(wanted.tokens)
    assert (end["finish_reason"], end["seed"]) == (wanted.finish_reason, SEED)
    assert end["usage"]["generated_token_count"] == wanted.usage.generated_token_count
    echoed = [each["ok"] for each in guest.call("read", 1, second_request(echo=True))]
    assert echoed[0]["chunk"]["text"] == PROMPT


def test_streams_of_pharia(session: Session, tiny_model: Path) -> None:
    """A completion is chunks, the end and the usage; a chat says before them who speaks."""
    stream = reader(PHARIA_0_3, "[constructor]completion-stream", "completion-stream")
    events = component(stream, session, model=tiny_model, seed=SEED).call(
        "read", 400, pharia_request(logprobs={"top": 1})
    )
    wanted = of_python(session, tiny_model, top_logprobs=1)
    assert "".join(each["append"]["text"] for each in events[:-3]) == wanted.text
    tokens = [each for event in events[:-3] for each in event["append"]["logprobs"]]
    assert wanted.tokens
    assert [each["sampled"]["logprob"] for each in tokens] == [t.logprob for t in wanted.tokens]
    usage = wanted.usage
    assert events[-3:] == [
        {"end": wanted.finish_reason},
        {"usage": {"prompt": usage.prompt_token_count, "completion": usage.generated_token_count}},
        None,
    ]
    chat = reader(PHARIA_0_3, "[constructor]chat-stream", "chat-stream")
    request = {
        "model": "m", "messages": [{"role": "user", "content": "Who?"}],
        "params": {"max_tokens": 4, "logprobs": "no"},
    }  # fmt: skip
    events = component(chat, session, model=tiny_model, seed=SEED).call("read", request)
    assert events[0] == {"message-begin": "assistant"}
    assert events[-3] == {"message-end": "length"}
    assert events[-1] is None


def test_a_dropped_stream_ends_its_run(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that drops a stream before its end goes on within 0.3 s, and the row is `interrupted`."""
    slow = write_llama_gguf(tmp_path / "slow.gguf", context_length=4096, embedding=256, blocks=4)
    took: list[float] = []
    drop = GuestCall.drop

    def timed(self: GuestCall, number: int) -> None:
        began = time.monotonic()
        drop(self, number)
        took.append(time.monotonic() - began)

    monkeypatch.setattr(GuestCall, "drop", timed)
    guest = component(reader(SECOND, "infer-stream", "inferencing-stream"), session, model=slow)
    events = guest.call("read", 3, second_request(params=LONG))
    assert len(events) == 3
    assert took[0] < 0.3
    assert session.log[-1].status == "interrupted"
    assert session.log[-1].text.startswith(events[0]["ok"]["chunk"]["text"])


def test_streams_that_nobody_drops_are_bounded_and_end(session: Session, tiny_model: Path) -> None:
    """A guest has a bounded number of streams open at once. What it leaves open ends with the call."""
    core = """
        (func (export "open") (param i32) (result i32) (local $to i32) (local $count i32)
          (local.set $to (call $realloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 64)))
          (block $full (loop $more
            (call $infer_stream (local.get 0) (local.get $to))
            (br_if $full (i32.load8_u (local.get $to)))
            (local.set $count (i32.add (local.get $count) (i32.const 1)))
            (br $more)))
          (local.get $count))"""
    lift = (
        f'(func (export "open") (param "request" {SECOND.wat("inferencing-request")}) (result u32) '
        f'(canon lift (core func $main "open") {OPTIONS}))'
    )
    guest = component(forwarder(SECOND, lift, core), session, model=tiny_model)
    assert guest.call("open", second_request(params=LONG)) == MOST_STREAMS
    assert all(row.status in ("interrupted", "ok") for row in session.log)
    assert len(session.log) == MOST_STREAMS


# Limits --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["loop", "memory"])
def test_a_runaway_guest_is_ended_by_its_time(session: Session, kind: str) -> None:
    """An endless loop ends when its time is over. A memory bomb gets no more than it may have."""
    guest = component(runaway(RUNAWAYS[kind]), session, seconds=0.5, memory=2**24)
    before = psutil.Process().memory_info().rss
    began = time.monotonic()
    with pytest.raises(ComponentFailed, match=r"the call was ended after 0\.5 s"):
        guest.call("go")
    assert time.monotonic() - began < 5
    assert psutil.Process().memory_info().rss - before < 2**26


def test_endless_recursion_and_traps_are_one_line(session: Session) -> None:
    """A full stack, a trap and too many memories are told in one line, and the process lives."""
    for text, said in (
        (runaway(RUNAWAYS["recursion"]), "its stack is full"),
        (runaway(RUNAWAYS["trap"]), "unreachable"),
        (runaway(RUNAWAYS["trap"], 9), "resource limit exceeded"),
    ):
        with pytest.raises(ComponentFailed, match=said) as error:
            component(text, session).call("go")
        assert "\n" not in str(error.value)
    with pytest.raises(ComponentFailed, match="more memory than it may have"):
        component(runaway(RUNAWAYS["trap"]), session, memory=2**12).call("go")


def test_host_calls_in_an_endless_loop_end(session: Session, tiny_model: Path) -> None:
    """The time of host calls counts too. Each of the runs has its row, and none is left open."""
    guest = component(calls_for_ever(FIRST), session, model=tiny_model, seconds=1)
    with pytest.raises(ComponentFailed, match="ended after 1 s"):
        guest.call("go", "m", PROMPT)
    rows = list(session.log)
    assert len(rows) > 3
    assert {row.status for row in rows} <= {"ok", "interrupted"}


def test_a_run_that_is_too_long_ends_with_the_call(session: Session, tmp_path: Path) -> None:
    """A run that goes on when the time is over is interrupted."""
    slow = write_llama_gguf(tmp_path / "slow.gguf", context_length=8192, embedding=512, blocks=6)
    guest = component(forwarder(FIRST), session, model=slow, seconds=1.5)
    began = time.monotonic()
    with pytest.raises(ComponentFailed, match=r"ended after 1\.5 s"):
        by_first(guest, **LONG)
    assert time.monotonic() - began < 10
    assert session.log[-1].status == "interrupted"


def test_a_guest_that_sleeps_in_the_system_is_left_behind(session: Session) -> None:
    """Where no tick reaches a guest, the caller goes on all the same."""
    began = time.monotonic()
    with pytest.raises(ComponentFailed, match=r"ended after 0\.2 s"):
        component(SLEEPER, session, seconds=0.2).call("go")
    assert time.monotonic() - began < 10


# The sandbox ---------------------------------------------------------------------------


def test_nothing_is_there_that_is_not_granted(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest sees no variable and no folder of this process, and then those that it is granted."""
    monkeypatch.setenv("LLMWIT_SECRET", "secret")
    environment, folders = forwarder(ENVIRONMENT), FOLDERS
    assert component(environment, session).call("get-environment") == []
    granted = component(environment, session, env={"NAME": "value"})
    assert granted.call("get-environment") == [("NAME", "value")]
    assert component(folders, session).call("count") == 0
    assert component(folders, session, dirs={"/data": tmp_path}).call("count") == 1
    with pytest.raises(InvalidInput, match="is no folder"):
        component(folders, session, dirs={"/data": tmp_path / "gone"})


def test_an_interface_that_is_not_served_is_refused_when_it_is_called(
    session: Session, tiny_model: Path
) -> None:
    """A component with other imports starts, and the call of one says which it is."""
    guest = component(forwarder(PHARIA_0_3), session, model=tiny_model)
    assert guest.call("complete", []) == []
    with pytest.raises(ComponentFailed, match=r"calls explain of pharia:skill/inference@0\.3\.11"):
        guest.call("explain", [])
    tools = Interface(
        "pharia:skill/tool@0.3.11", "interface tool { names: func() -> list<string>; }"
    )
    with pytest.raises(ComponentFailed, match=r"calls names of pharia:skill/tool@0\.3\.11"):
        component(forwarder(tools), session).call("names")
    shares = component(SHARING, session)
    shares.call("go")
    with pytest.raises(ComponentFailed, match=r"calls get of wasi:http/types@0\.2\.0"):
        shares.call("ask")


def test_only_granted_models_answer(session: Session, tiny_model: Path) -> None:
    """A guest cannot name any file or server: by default it has the default model's name alone."""
    guest = component(forwarder(FIRST), session)
    for name in (str(tiny_model), "http://127.0.0.1:9/v1#m"):
        with pytest.raises(ComponentFailed, match="model-not-supported"):
            guest.call("infer", name, PROMPT, None)
    assert len(session.log) == 0


# Many at once, and interrupts -----------------------------------------------------------


def test_a_hundred_components_at_once(session: Session, tiny_model: Path) -> None:
    """A hundred calls over one engine give a hundred texts, each Python's for its seed, and leave
    neither memory nor threads behind."""
    texts = [forwarder(FIRST), forwarder(FIRST) + " "]  # two components, which are not equal
    found: dict[int, str] = {}
    wanted = {
        seed: of_python(session, tiny_model, params={"seed": seed}).text for seed in range(10)
    }

    def call(number: int) -> None:
        guest = component(texts[number % 2], session, model=tiny_model, seed=number % 10)
        found[number] = by_first(guest)["text"]

    component(texts[0], session, model=tiny_model)
    before = psutil.Process().memory_info().rss
    threads = [threading.Thread(target=call, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert found == {number: wanted[number % 10] for number in range(100)}
    assert psutil.Process().memory_info().rss - before < 200 * 2**20
    assert len(session.log) == 110


def test_one_call_ends_without_the_others(session: Session) -> None:
    """Calls of one component each have their own time."""
    ended: dict[float, float] = {}

    def call(seconds: float) -> None:
        began = time.monotonic()
        with pytest.raises(ComponentFailed):
            component(runaway(RUNAWAYS["loop"]), session, seconds=seconds).call("go")
        ended[seconds] = time.monotonic() - began

    threads = [threading.Thread(target=call, args=(seconds,)) for seconds in (0.2, 1.2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert ended[0.2] < ended[1.2] > 1.1
