"""Headers that hypothesis makes: only the errors of the package come out, for any bytes.

Then metadata that can be read and disagrees with itself: the checks, the tokenizer, the choice of
a context and the chat template either take it or refuse it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmwit_magic.engines.backends.ctransformers.adapt import needs_adaptation
from llmwit_magic.engines.backends.ctransformers.checks import check_runnable
from llmwit_magic.engines.backends.ctransformers.devices import offload_order
from llmwit_magic.engines.backends.ctransformers.loading import choose_context
from llmwit_magic.errors import InferenceError, ModelNotSupported
from llmwit_magic.models.chat import render_chat
from llmwit_magic.models.gguf import Header, read_header
from llmwit_magic.models.kinds import quantisation
from llmwit_magic.models.template import template_of
from llmwit_magic.models.tokenizers.building import build_tokenizer
from tests.support import gguf_parts as gguf
from tests.support.gguf_parts import Parts, Tensor, take_apart
from tests.support.hostile_models import bases
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf

pytestmark = pytest.mark.timeout(1200)

EDGES = st.sampled_from([0, 1, 2, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
COUNTS = EDGES | st.integers(0, 2**64 - 1)
EMBEDDINGS = (b"token_embd.weight", b"output.weight")
TEXTS = ["Hello 1", "", " ", "日本 😀\n\n", "<s></s><|im_end|>", "a" * 200, "\0\x04"]


def fuzz(test: Callable[..., None], examples: int, *strategies: Any) -> None:
    """Run a test over as many examples, always the same ones."""
    limits = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    limits(given(*strategies)(test))()


def check_line(error: InferenceError) -> str:
    """The name of an error whose message is one printable line."""
    message = str(error)
    assert message
    assert message.isprintable()
    assert len(message) < 1100
    return type(error).__name__


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], str]:
    """Reads and checks a file; gives what it ended in."""
    path = tmp_path / "fuzzed.gguf"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        try:
            check_runnable(read_header(path))
        except ModelNotSupported as error:
            return f"refused ({check_line(error)})"
        return "runnable"

    return read


def small_parts() -> list[Parts]:
    """Sound files with sixteen tokens, so that a mutation hits something else."""
    small = []
    for name, _, parts in bases():
        line_end = {"spm": b"<0x0A>", "bpe": "Ċ".encode(), "falcon": b"\n"}[name]
        tokens = [*parts.strings("tokenizer.ggml.tokens")[:15], line_end]
        tensors = [
            replace(t, shape=(t.shape[0], 16)) if t.name in EMBEDDINGS else t for t in parts.tensors
        ]
        for key, payload in {
            "tokens": gguf.string_array(tokens),
            "scores": gguf.array(gguf.F32, 16, bytes(64)),
            "token_type": gguf.array(gguf.I32, 16, b"\1\0\0\0" * 16),
            "merges": gguf.string_array([b"a b", b"b c"]),
        }.items():
            parts = parts.with_value(f"tokenizer.ggml.{key}", gguf.ARRAY, payload)
        parts = parts.without("llama.vocab_size")
        small.append(replace(parts, tensors=tensors))
    return small


def test_random_bytes(read: Callable[[bytes], str], report: Report, long: bool) -> None:
    """Noise alone, and behind a sound beginning."""

    def test(noise: bytes, start: int, counts: tuple[int, int]) -> None:
        head = b"GGUF\3\0\0\0" + b"".join(count.to_bytes(8, "little") for count in counts)
        report.tried("header: random bytes", read(head[:start] + noise))

    starts = st.sampled_from([0, 4, 8, 16, 24])
    fuzz(test, 20_000 if long else 400, st.binary(max_size=300), starts, st.tuples(COUNTS, COUNTS))


def test_mutated_bytes(read: Callable[[bytes], str], report: Report, long: bool) -> None:
    """Bytes of a sound header taken out, put in and changed."""
    sources = [parts.join() for parts in small_parts()]
    lengths = [len(parts.join()) - len(parts.data) for parts in small_parts()]

    def test(which: int, edits: list[tuple[float, int, bytes]]) -> None:
        data = sources[which]
        for place, gone, new in edits:
            start = int(place * lengths[which])
            data = data[:start] + new + data[start + gone :]
        report.tried("header: mutated bytes", read(data))

    numbers = COUNTS.map(lambda number: number.to_bytes(8, "little"))
    short = EDGES.map(lambda number: (number % 2**32).to_bytes(4, "little"))
    edit = st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from([0, 1, 4, 8, 40]),
        st.binary(max_size=12) | numbers | short,
    )
    which = st.integers(0, len(sources) - 1)
    fuzz(test, 20_000 if long else 400, which, st.lists(edit, min_size=1, max_size=4))


def payloads() -> Any:
    """(type, bytes) of any value, with counts that may lie."""
    scalars = st.sampled_from(sorted(gguf.SIZES)).flatmap(
        lambda kind: st.tuples(
            st.just(kind), st.binary(min_size=gguf.SIZES[kind], max_size=gguf.SIZES[kind])
        )
    )
    texts = st.tuples(st.just(gguf.STRING), st.binary(max_size=20).map(gguf.text))
    lies = st.tuples(
        st.just(gguf.ARRAY),
        st.builds(gguf.array, st.integers(0, 14), COUNTS, st.binary(max_size=40)),
    )
    strings = st.tuples(
        st.just(gguf.ARRAY), st.lists(st.binary(max_size=9), max_size=9).map(gguf.string_array)
    )
    return scalars | texts | lies | strings


def test_any_structure(read: Callable[[bytes], str], report: Report, long: bool) -> None:
    """Files of any keys, values and tensors, well formed or nearly so."""
    names = st.binary(max_size=70) | st.sampled_from([b"general.alignment", b"a", b"t"])
    value = st.tuples(names, payloads()).map(lambda pair: (pair[0], *pair[1]))
    tensor = st.builds(
        Tensor,
        names,
        st.lists(COUNTS, max_size=5).map(tuple),
        st.integers(0, 40) | EDGES.map(lambda number: number % 2**32),
        COUNTS | st.integers(0, 8).map(lambda number: 32 * number),
    )

    def test(values: list[Any], tensors: list[Tensor], size: int) -> None:
        data = Parts(values, tensors, bytes(size)).join()
        report.tried("header: any structure", read(data))

    several = st.lists(value, max_size=5), st.lists(tensor, max_size=4)
    fuzz(test, 5_000 if long else 400, *several, st.integers(0, 400))


def typed_values(tokens: list[bytes]) -> Any:
    """(type, value) as `read_header` gives them: of any type, or nearly a vocabulary."""
    reals = st.floats(width=32)
    strings = st.lists(
        st.binary(max_size=6) | st.sampled_from([b"<0x0A>", b"<0xZZ>", b"\n", b"a b", *tokens[:9]]),
        max_size=9,
    )
    vocabulary = st.permutations(tokens[:40]).map(lambda some: [*some, *tokens[40:]])
    size = len(tokens)
    return st.one_of(
        st.tuples(st.just(4), EDGES | st.integers(0, 700)),
        st.tuples(st.sampled_from([0, 5, 10, 11]), st.integers(-(2**31), 2**31)),
        st.tuples(st.sampled_from([6, 12]), reals),
        st.tuples(st.just(7), st.booleans()),
        st.tuples(st.just(8), st.text(max_size=20) | st.sampled_from(["gpt2", "llama", "default"])),
        st.tuples(st.just(8), strings | vocabulary),
        st.tuples(st.just(5), st.integers(-1, 9).map(lambda kind: array("i", [kind] * size))),
        st.tuples(
            st.just(5), st.lists(st.integers(-9, 9), max_size=9).map(lambda v: array("i", v))
        ),
        st.tuples(st.just(6), reals.map(lambda score: array("f", [score] * size))),
        st.tuples(st.just(12), st.lists(reals, max_size=9).map(lambda v: array("d", v))),
    )


#: Keys that sound files may lack.
OPTIONAL = (
    "general.alignment", "general.name", "split.count", "tokenizer.chat_template",
    *(f"tokenizer.ggml.{name}" for name in (
        "pre", "scores", "merges", "token_type", "add_bos_token", "add_space_prefix",
        "eot_token_id", "eom_token_id", "fim_pad_token_id", "fim_pre_token_id", "added_tokens",
    )),
    *(f"llama.{name}" for name in (
        "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "expert_count",
        "attention.key_length", "vocab_size",
    )),
)  # fmt: skip


@pytest.mark.parametrize("vocabulary", ["spm", "bpe"])
def test_metadata_of_any_kind(vocabulary: Any, tmp_path: Path, report: Report, long: bool) -> None:
    """What reads metadata after the header takes it, or refuses it in one line."""
    header = read_header(write_llama_gguf(tmp_path / "m.gguf", vocabulary=vocabulary, blocks=1))
    tokens = header.metadata["tokenizer.ggml.tokens"]

    def test(changes: dict[str, tuple[int, Any]]) -> None:
        metadata = dict(header.metadata) | {key: value for key, (_, value) in changes.items()}
        types = dict(header.types) | {key: kind for key, (kind, _) in changes.items()}
        try:
            use(replace(header, metadata=metadata, types=types))
        except InferenceError as error:
            report.tried("metadata: any values", f"refused ({check_line(error)})")
        else:
            report.tried("metadata: any values", "used")

    keys = st.sampled_from([*header.metadata, *OPTIONAL])
    changes = st.dictionaries(keys, typed_values(tokens), min_size=1, max_size=3)
    fuzz(test, 5_000 if long else 250, changes)


def use(header: Header) -> None:
    """All that is done with a header and its metadata before the native library has its turn."""
    check_runnable(header)
    needs_adaptation(header)
    quantisation(header)
    offload_order(header, choose_context(header, None))
    tokenizer = build_tokenizer(header.metadata)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert all(0 <= token < len(tokenizer) for token in ids)
    assert b"".join(map(tokenizer.token_bytes, range(len(tokenizer)))) is not None
    assert all(0 <= token < len(tokenizer) for token in tokenizer.end_ids)
    template = template_of(header.metadata)
    messages = [("system", "Be brief"), ("user", "Hi")]
    prompt = render_chat(template, messages, tokenizer.template_variables())
    ids = tokenizer.encode(prompt.text, prompt.data)
    assert all(0 <= token < len(tokenizer) for token in ids)


def test_sound_files_are_used(read: Callable[[bytes], str]) -> None:
    """What the tests above begin with is not refused."""
    assert [read(parts.join()) for parts in small_parts()] == ["runnable"] * 3
    for _, data, parts in bases():
        assert take_apart(parts.join()) == parts
        assert parts.join() == data
