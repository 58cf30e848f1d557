"""Each text of `docs/troubleshooting.md` is provoked here, and is the one that a person sees."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic import Component, api
from llmwit_magic.analysis import splitting
from llmwit_magic.components import compiler
from llmwit_magic.contract.constraint import Constraint
from llmwit_magic.contract.request import ModelSpec, Request
from llmwit_magic.contract.wit import InferencingParams
from llmwit_magic.engines.backends.ctransformers import builds
from llmwit_magic.engines.backends.ctransformers.builds import Platform
from llmwit_magic.engines.local import conversation
from llmwit_magic.engines.server import own_servers
from llmwit_magic.engines.server.own_servers import OwnServerSpec
from llmwit_magic.errors import InferenceError
from llmwit_magic.running.replay import replay_request
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.gguf_parts import Tensor, take_apart
from tests.support.tiny_ggml import write_ggml
from tests.support.tiny_models import QUESTION, write_llama_gguf
from tests.support.wat_guests import RUNAWAYS, forwarder, hard_to_compile, runaway
from tests.support.wat_interfaces import FIRST, PHARIA_0_3

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


def told(text: str) -> str:
    """The text without its numbers, which vary by machine, and without the moment of a death."""
    return re.sub(r"[\d,]*\d", "0", re.sub(r" while [^:]*:", " while:", text))


def ask(session: Session, model: str | Path, prompt: str = "A", **options: Any) -> Run:
    params = InferencingParams(**({"max_tokens": 3, "seed": 1} | options.pop("params", {})))
    run = session.run(Request(model=str(model), prompt=prompt, params=params, **options))
    assert run.wait(50)
    run.raise_failure()
    return run


def call(session: Session, guest: str, export: str, *values: Any, **options: Any) -> None:
    Path("guest.wasm").write_text(guest, encoding="utf-8")
    Component("guest.wasm", session=session, **options).call(export, *values)


def compile_too_long(session: Session) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "SECONDS", 1)
        call(session, hard_to_compile(30), "go")


def compile_too_large(session: Session) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux limits memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "MEMORY", 100 * 2**20)
        call(session, hard_to_compile(30), "go")


def cut(path: str, size: int) -> Path:
    data = write_llama_gguf("whole.gguf").read_bytes()
    Path(path).write_bytes(data[:size])
    return Path(path)


def with_tensor(path: str, name: bytes) -> Path:
    """A tiny model with one more tensor."""
    parts = take_apart(write_llama_gguf(path).read_bytes())
    tensors = [*parts.tensors, Tensor(name, (8,), 0, len(parts.data))]
    Path(path).write_bytes(replace(parts, tensors=tensors, data=parts.data + bytes(32)).join())
    return Path(path)


def with_embeddings(path: str, **changes: Any) -> Path:
    """A tiny model in which the first tensor, the token embeddings, has another description."""
    parts = take_apart(write_llama_gguf(path).read_bytes())
    first, *others = parts.tensors
    assert first.name == b"token_embd.weight"
    data = parts.data + bytes(2**16)
    moved = replace(first, offset=len(parts.data), **changes)
    Path(path).write_bytes(replace(parts, tensors=[moved, *others], data=data * 2).join())
    return Path(path)


def embed(session: Session, *arguments: Any, **options: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "current_session", lambda: session)
        api.generate_embeddings(*arguments, **options)


def on(place: Platform, session: Session) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builds, "here", lambda: place)
        ask(session, "smollm2-135m-instruct")


def killed(session: Session) -> None:
    write_llama_gguf("tiny.gguf")
    ask(session, "tiny.gguf")
    ((_, pid),) = session.local.pool.loaded_models()

    def kill(text: str) -> None:  # in the middle of the run, after its prompt
        psutil.Process(pid).kill()

    ask(session, "tiny.gguf", content_filters=(kill,))


def start_server(session: Session, model: str = "tiny.gguf", **spec: Any) -> Any:
    write_llama_gguf("tiny.gguf")
    spec = {"model": model, "context_length": 64} | spec
    own = OwnServerSpec(slots=1, port=spec.pop("port", None))
    return session.start_llama_server(ModelSpec(**spec), own)


def without_servers(session: Session) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_servers, "find_spec", lambda name: None)
        patch.setenv("PATH", "")
        start_server(session)


def on_a_killed_server(session: Session) -> None:
    psutil.Process(start_server(session).pid).kill()
    ask(session, "local::")


def too_small(session: Session) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "current_session", lambda: session)
        splitting.split("😀", 1, model=write_llama_gguf("m.gguf"))


def on_a_taken_port(session: Session) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        start_server(session, port=taken.getsockname()[1])


def constrained(session: Session, kind: str, source: str) -> None:
    constraint = Constraint(kind=kind, source=source)  # type: ignore[arg-type]
    ask(session, write_llama_gguf("m.gguf"), constraint=constraint)


def slow_constraint(session: Session) -> None:
    patterns = [{"pattern": f"a.{{{number}}}b"} for number in range(40)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversation, "CONSTRAINT_SECONDS", 2.0)
        constrained(session, "json_schema", json.dumps({"type": "string", "allOf": patterns}))


def without_llguidance(session: Session) -> None:
    """A child that finds another module in its place."""
    Path("llguidance.py").write_text("raise ImportError")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path.cwd()))
        constrained(session, "regex", "a")


def cf(text: str) -> float:
    return 1 / 0


PROVOKED: dict[str, tuple[str, Callable[[Session], object]]] = {
    "architecture": ("ModelNotSupported", lambda s: ask(s, write_llama_gguf(
        "qwen.gguf", extra_metadata={
            "general.architecture": "qwen2", "qwen2.context_length": 256, "qwen2.block_count": 2,
            "qwen2.embedding_length": 64, "qwen2.attention.head_count": 4,
            "qwen2.attention.head_count_kv": 2}))),
    "tensor type": ("ModelNotSupported", lambda s: ask(
        s, write_llama_gguf("bf16.gguf", tensor_type="BF16"))),
    "Llama 3.1": ("ModelNotSupported", lambda s: ask(
        s, with_tensor("llama31.gguf", b"rope_freqs.weight"))),
    "bias": ("ModelNotSupported", lambda s: ask(
        s, with_tensor("bias.gguf", b"blk.0.attn_q.bias"))),
    "new type": ("ModelNotSupported", lambda s: ask(s, with_embeddings("new.gguf", kind=40))),
    "adapter": ("ModelNotSupported", lambda s: ask(s, write_llama_gguf(
        "lora.gguf", extra_metadata={"general.type": "adapter"}))),
    "causal": ("ModelNotSupported", lambda s: ask(s, write_llama_gguf(
        "m.gguf", extra_metadata={"llama.attention.causal": False}))),
    "rows": ("ModelNotSupported", lambda s: ask(s, with_embeddings("m.gguf", shape=(64, 608)))),
    "merges": ("ModelNotSupported", lambda s: ask(s, write_llama_gguf(
        "m.gguf", extra_metadata={"tokenizer.ggml.merges": ["nospace"]}))),
    "pooling": ("ModelNotSupported", lambda s: embed(s, write_llama_gguf(
        "m.gguf", extra_metadata={"llama.pooling_type": 1}), "a")),
    "old file": ("ModelNotSupported", lambda s: ask(s, write_ggml("gpt2.bin", "gpt2"))),
    "no model": ("ModelNotSupported", lambda s: (
        Path("text.gguf").write_text("hello"), ask(s, "text.gguf"))),
    "template": ("ModelNotSupported", lambda s: ask(s, write_llama_gguf(
        "t.gguf", template="{{ ''.__class__.__mro__ }}"), chat=True)),
    "several files": ("ModelNotSupported", lambda s: ask(
        s, write_llama_gguf("m.gguf", tensors_per_part=8))),
    "renamed part": ("ModelNotSupported", lambda s: ask(
        s, write_llama_gguf("m.gguf", tensors_per_part=8).rename("first.gguf"))),
    "missing part": ("ModelNotFound", lambda s: (
        write_llama_gguf("m.gguf", tensors_per_part=8), Path("m-00002-of-00003.gguf").unlink(),
        ask(s, "m-00001-of-00003.gguf"))),
    "wrong part": ("ModelDamaged", lambda s: (
        write_llama_gguf("m.gguf", tensors_per_part=8),
        Path("m-00002-of-00003.gguf").write_bytes(Path("m-00003-of-00003.gguf").read_bytes()),
        ask(s, "m-00001-of-00003.gguf"))),
    "path": ("ModelNotFound", lambda s: (write_llama_gguf("tiny.gguf"), ask(s, "./tny.gguf"))),
    "name": ("ModelNotFound", lambda s: ask(s, "smolm2")),
    "half": ("ModelDamaged", lambda s: ask(s, cut("half.gguf", 233_072))),
    "header": ("ModelDamaged", lambda s: ask(s, cut("head.gguf", 3000))),
    "contradiction": ("ModelDamaged", lambda s: ask(
        s, write_llama_gguf("m.gguf", drop=["output_norm.weight"]))),
    "no effect": ("InvalidInput", lambda s: embed(s, "m.gguf", "a", chat=True)),
    "vectors again": ("InvalidInput", lambda s: (
        s.embed(Request(model=str(write_llama_gguf("m.gguf")), prompt="a"), ["a"]),
        replay_request(s, s.log[1], {}))),
    "one character": ("InvalidInput", too_small),
    "parameter": ("InvalidInput", lambda s: InferencingParams(temperature=-1)),
    "context": ("InvalidInput", lambda s: ask(s, write_llama_gguf("m.gguf"), context_length=10**6)),
    "threads": ("InvalidInput", lambda s: ask(s, write_llama_gguf("m.gguf"), threads=64)),
    "no template": ("InvalidInput", lambda s: ask(
        s, write_llama_gguf("m.gguf", template=None), chat=True)),
    "surrogate": ("InvalidInput", lambda s: Request(model="m", prompt="a\ud800")),
    "pattern": ("InvalidInput", lambda s: ask(
        s, write_llama_gguf("m.gguf"), content_filters=("(",))),
    "function": ("InvalidInput", lambda s: ask(
        s, write_llama_gguf("m.gguf"), content_filters=(cf,))),
    "prompt": ("PromptTooLong", lambda s: ask(
        s, write_llama_gguf("m.gguf"), "word " * 500, context_length=16)),
    "text": ("PromptTooLong", lambda s: embed(
        s, write_llama_gguf("m.gguf"), ["a", "It is " * 200], context_length=32)),
    "no llguidance": ("ConstraintNotSupported", without_llguidance),
    "keyword": ("ConstraintNotSupported", lambda s: constrained(
        s, "json_schema", '{"not": {"type": "string"}}')),
    "another file": ("ConstraintNotSupported", lambda s: constrained(
        s, "json_schema", '{"items": {"$ref": "other.json"}}')),
    "look-ahead": ("ConstraintNotSupported", lambda s: constrained(s, "regex", "a(?=b)")),
    "slow constraint": ("ConstraintNotSupported", slow_constraint),
    "grammar": ("ConstraintNotSupported", lambda s: constrained(s, "grammar", "root ::= word")),
    "large grammar": ("ConstraintFailed", lambda s: constrained(
        s, "grammar", 'start: ("a" "b"){1000000}')),
    "score effect": ("InvalidInput", lambda s: api.score("a", "b", temperature=0)),
    "nothing in front": ("InvalidInput", lambda s: ask(
        s, write_llama_gguf("m.gguf"), "", continuation="a")),
    "long score": ("PromptTooLong", lambda s: ask(
        s, write_llama_gguf("m.gguf"), "word", continuation=" word" * 200)),
    "backtracking": ("EngineFailed", lambda s: ask(
        s, write_llama_gguf("m.gguf", tied=False, weights="successor",
                            answer=("a" * 12, "a" * 12, "a" * 12, "!")), QUESTION,
        params={"temperature": 0, "repeat_penalty": 1, "max_tokens": 4},
        content_filters=("(a{1,9}){1,99}b",))),
    "NaN": ("EngineFailed", lambda s: ask(s, write_llama_gguf("m.gguf", weights="nan"))),
    "zeros": ("EngineFailed", lambda s: ask(s, write_llama_gguf("m.gguf", weights="zero"))),
    "Linux on Arm": ("EngineFailed", lambda s: on(Platform("linux", "aarch64", (2, 36)), s)),
    "Windows on Arm": ("EngineFailed", lambda s: on(Platform("win32", "Arm (arm64)"), s)),
    "library": ("EngineFailed", lambda s: (
        setattr(s, "llama_library", "/opt/llama"),
        ask(s, write_llama_gguf("m.gguf"), engine="llama.cpp"))),
    "killed": ("EngineDied", killed),
    "no server": ("ModelNotFound", lambda s: ask(s, "local::")),
    "server of a server": ("InvalidInput", lambda s: start_server(s, "local::")),
    "server's name": ("InvalidInput", lambda s: setattr(
        s, "servers", {"local": {"url": "http://lab/v1"}})),
    "password": ("InvalidInput", lambda s: ask(s, "http://me:secret@gpu-box:8000/v1#m")),
    "query": ("InvalidInput", lambda s: ask(s, "http://gpu-box:8000/v1?api_key=secret#m")),
    "address": ("InvalidInput", lambda s: ask(s, "http://gpu-box:port/v1#m")),
    "key as a name": ("InvalidInput", lambda s: setattr(
        s, "servers", {"lab": {"url": "http://gpu-box/v1", "api_key_env": "sk-secret"}})),
    "no key": ("InvalidInput", lambda s: (
        setattr(s, "servers", {"lab": {"url": "http://gpu-box/v1", "api_key_env": "LAB_KEY"}}),
        ask(s, "lab::m"))),
    "no llama-server": ("EngineFailed", without_servers),
    "port": ("EngineFailed", on_a_taken_port),
    "killed server": ("EngineDied", on_a_killed_server),
    "GPU of a server": ("DeviceUnavailable", lambda s: start_server(s, gpu_layers=3)),
    "export": ("LogError", lambda s: s.log.export("/proc/x.csv")),
    "no run": ("RunNotFound", lambda s: (
        write_llama_gguf("m.gguf"), ask(s, "m.gguf"), ask(s, "m.gguf"), s.log[99])),
    "component's compiling": ("InvalidInput", compile_too_long),
    "memory of compiling": ("InvalidInput", compile_too_large),
    "component's error": ("ComponentFailed", lambda s: call(
        s, forwarder(FIRST), "infer", "other", "", None)),
    "component's trap": ("ComponentFailed", lambda s: call(s, runaway(RUNAWAYS["trap"]), "go")),
    "component's stack": ("ComponentFailed", lambda s: call(
        s, runaway(RUNAWAYS["recursion"]), "go")),
    "component's memory": ("ComponentFailed", lambda s: call(
        s, runaway(RUNAWAYS["trap"]), "go", memory=1)),
    "component's time": ("ComponentFailed", lambda s: call(
        s, runaway(RUNAWAYS["loop"]), "go", seconds=1)),
    "component's import": ("ComponentFailed", lambda s: call(
        s, forwarder(PHARIA_0_3), "explain", [])),
    "no number": ("RunNotFound", lambda s: s.log["x"]),  # type: ignore[index]
}  # fmt: skip


@pytest.mark.usefixtures("without_llama_cpp")
@pytest.mark.parametrize("name", PROVOKED)
def test_the_page_has_the_text(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """The section of the error's class has the text, to the letter except for numbers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAB_KEY", raising=False)
    kind, provoke = PROVOKED[name]
    with pytest.raises(InferenceError) as caught:
        provoke(session)
    assert type(caught.value).__name__ == kind
    section = PAGE.read_text(encoding="utf-8").partition(f"### `{kind}`")[2].partition("\n##")[0]
    texts = [told(text) for text in re.findall(r"^\| `(.*?)` \|", section, re.MULTILINE)]
    assert told(str(caught.value)) in texts
