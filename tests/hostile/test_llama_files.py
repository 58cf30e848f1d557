"""Damaged model files, given to a session that runs them by llama.cpp.

The process of the tests stands for the kernel, and the real library runs in its children.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pytest

from llmwit_magic.engines.backends.llamacpp import llama_checks
from llmwit_magic.engines.backends.llamacpp.llama_sources import unavailable
from llmwit_magic.errors import (
    EngineDied,
    EngineFailed,
    ModelDamaged,
    ModelNotFound,
    PromptTooLong,
)
from llmwit_magic.models.gguf import read_header
from llmwit_magic.models.parts import part_names
from tests.support import gguf_parts as gguf
from tests.support.hostile_kernel import NO_END, Kernel, check_message, outcome_of
from tests.support.hostile_models import KINDS, HostileModel, bases, hostile_models
from tests.support.report import Report
from tests.support.tiny_models import write_llama_gguf

pytestmark = [
    pytest.mark.skipif(bool(unavailable()), reason=f"llama.cpp: {unavailable()}"),
    pytest.mark.timeout(600),
]

SEED = 17
CUTS = 12
FLIPS = {
    "magic and counts": 4, "metadata": 6, "token arrays": 6, "tensor infos": 6, "tensor data": 2,
}  # fmt: skip
NUMBERS = (
    "context_length", "block_count", "embedding_length", "feed_forward_length",
    "attention.head_count", "attention.head_count_kv", "rope.dimension_count", "vocab_size",
)  # fmt: skip
VALUES = {"0": 0, "-1": 2**32 - 1, "2**31": 2**31}


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file, with the kind of its damage and what exactly it is."""

    kind: str
    what: str
    data: bytes


def damaged_files(seed: int = SEED) -> list[Damaged]:
    """Sixty files, the same ones for a seed, of models with either vocabulary in turn."""
    numbers = random.Random(seed)
    files = [*_cut(numbers), *_flipped(numbers), *_numbered()]
    assert len(files) == 60
    return files


def _cut(numbers: random.Random) -> Iterator[Damaged]:
    """Files that end in each sixth of the header, and in each sixth of the data."""
    for index in range(CUTS):
        name, data, parts = bases()[index % 2]
        start, size = len(data) - len(parts.data), len(parts.data)
        if index % 4 < 2:
            start, size = 0, start
        end = start + int(size * (index // 2 + numbers.random()) / (CUTS // 2))
        yield Damaged("cut", f"{name} cut at byte {end}", data[:end])


def _flipped(numbers: random.Random) -> Iterator[Damaged]:
    """One byte, or eight of them: of lengths, counts and types, or of values and texts."""
    for region, count in FLIPS.items():
        for index in range(count):
            name, data, parts = bases()[index % 2]
            fields = [field for field in parts.fields if field.region == region]
            # The counts of a file are all numbers, so there may be no other fields.
            kind = [field for field in fields if (field.role == "number") == (index % 3 == 0)]
            spans = [(field.start, field.end) for field in kind or fields]
            spans = spans or [(len(data) - len(parts.data), len(data))]
            flipped, places = bytearray(data), []
            for _ in range(numbers.choice((1, 8))):
                places.append(numbers.randrange(*numbers.choice(spans)))
                flipped[places[-1]] ^= numbers.randrange(1, 256)
            what = f"{name} with other bytes at {places}"
            yield Damaged(f"bytes of {region}", what, bytes(flipped))


def _numbered() -> Iterator[Damaged]:
    """Each number that the engine computes with, at each limit."""
    for index, key in enumerate(NUMBERS):
        for value, number in VALUES.items():
            name, _, parts = bases()[index % 2]
            changed = parts.with_value(f"llama.{key}", gguf.U32, gguf.scalar(gguf.U32, number))
            yield Damaged("numbers", f"{name} with {key} = {value}", changed.join())


@pytest.fixture(scope="module")
def kernel(llama_kernel: Kernel) -> Kernel:
    return llama_kernel


def test_the_sound_model_runs(kernel: Kernel) -> None:
    """What the other tests compare with is an answer, and llama.cpp's."""
    run = kernel.run(kernel.good)
    assert run.status == "ok", run.error
    assert run.text == kernel.answer != ""
    assert run.result.device is not None
    assert run.result.model.engine == "llama.cpp"


@pytest.mark.parametrize("number", [0, 1], ids=["spm", "bpe"])
def test_what_is_damaged_was_sound(number: int, kernel: Kernel) -> None:
    """The files run before they are damaged: what is refused below is the damage."""
    name, data, _ = bases()[number]
    path = kernel.models / f"{name}.gguf"
    path.write_bytes(data)
    run = kernel.run(path)
    assert run.status == "ok", run.error


def test_a_damaged_file_costs_at_most_the_engine(
    kernel: Kernel, report: Report, long: bool
) -> None:
    """Every file runs or ends in one line within its time; the kernel lives, and so does the rest."""
    for seed in range(SEED, SEED + (10 if long else 1)):
        for model in damaged_files(seed):
            outcome = _try(kernel, model, report)
            assert outcome != NO_END, model.what
            report.tried(f"llama.cpp: {model.kind}", outcome)
        kernel.check_good_model(report)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files_cost_at_most_the_engine(
    kind: str, kernel: Kernel, report: Report, long: bool
) -> None:
    """Those that ctransformers is given: one of each kind, and all of them in the long form."""
    models = hostile_models(kind, long)
    for model in models if long else islice(models, 1):
        outcome = _try(kernel, model, report)
        assert outcome != NO_END, model.what
        report.tried(f"llama.cpp: {kind}", outcome)
    kernel.check_good_model(report)


@pytest.mark.parametrize("region", ["header", "data", "cut", "swapped", "gone"])
def test_a_model_in_several_files(region: str, kernel: Kernel, report: Report) -> None:
    """Damage in any part of it ends in one line or in an answer, as in one file."""
    folder = kernel.models / region
    folder.mkdir()
    numbers = random.Random(SEED)
    for number in range(3):
        first = write_llama_gguf(folder / "m.gguf", tensors_per_part=8)
        parts = [folder / name for name in part_names(first.name)]
        data = bytearray(parts[number].read_bytes())
        data_start = read_header(parts[number]).data_offset
        if region == "gone":
            parts[number].unlink()
        elif region == "swapped":
            parts[number].write_bytes(parts[number - 1].read_bytes())
        elif region == "cut":
            parts[number].write_bytes(data[: numbers.randrange(len(data))])
        else:
            start, end = (0, data_start) if region == "header" else (data_start, len(data))
            for _ in range(8):
                data[numbers.randrange(start, end)] ^= numbers.randrange(1, 256)
            parts[number].write_bytes(data)
        run = kernel.run(first)
        check_message(run, f"{region} of part {number + 1}")
        outcome = outcome_of(run)
        assert outcome != NO_END, (region, number)
        report.tried("llama.cpp: several files", outcome)
        if region in ("cut", "swapped", "gone"):
            assert isinstance(run.error, ModelNotFound if region == "gone" else ModelDamaged)
        kernel.session.local.pool.unload(str(first))
    kernel.check_good_model(report)


def test_the_library_itself_refuses_some(kernel: Kernel) -> None:
    """A file whose numbers contradict its tensors passes our checks; the library's cause is told."""
    _, _, parts = bases()[0]
    changed = parts.with_value("llama.block_count", gguf.U32, gguf.scalar(gguf.U32, 2))
    path = kernel.models / "two blocks.gguf"
    path.write_bytes(changed.join())
    run = kernel.run(path)
    assert isinstance(run.error, EngineFailed)
    assert str(run.error).startswith(
        "llama.cpp could not load two blocks.gguf: error loading model"
    )
    assert "blk.1.attn_norm.weight" in str(run.error)


@pytest.mark.parametrize("tokens", [(b"", b""), (b"\0", b"", b"a\0b")])
def test_tokens_that_are_empty(tokens: tuple[bytes, ...], kernel: Kernel) -> None:
    """Several of them do not end the library: it gives them names of their own."""
    _, _, parts = bases()[0]
    all_tokens = parts.strings("tokenizer.ggml.tokens")
    all_tokens[-len(tokens) :] = tokens
    all_tokens = [token if token != b"a" else b"unused" for token in all_tokens]
    changed = parts.with_value("tokenizer.ggml.tokens", gguf.ARRAY, gguf.string_array(all_tokens))
    path = kernel.models / "empty.gguf"
    path.write_bytes(changed.join())
    run = kernel.run(path)
    assert run.status == "ok", run.error


@pytest.mark.parametrize(
    ("key", "kind", "value", "said"),
    [
        ("block_count", gguf.U32, 513, "LLAMA_MAX_LAYERS"),
        ("attention.layer_norm_rms_epsilon", gguf.F32, -1.0, "eps >= 0"),
    ],
)
def test_what_ends_the_library_is_told(
    key: str, kind: int, value: float, said: str, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where our checks let something pass, the engine's last words are the library's reason."""
    monkeypatch.setattr(llama_checks, "objection", lambda header: None)
    _, _, parts = bases()[0]
    path = kernel.models / "deadly.gguf"
    path.write_bytes(parts.with_value(f"llama.{key}", kind, gguf.scalar(kind, value)).join())
    run = kernel.run(path)
    check_message(run, key)
    assert isinstance(run.error, EngineDied)
    assert said in str(run.error)
    assert kernel.run(kernel.good).text == kernel.answer


@pytest.mark.parametrize("length", range(1, 7))
def test_contexts_of_few_tokens(length: int, kernel: Kernel) -> None:
    """The engine says that a prompt is too long for them, or that the context is full."""
    run = kernel.run(kernel.good, context_length=length)
    check_message(run, str(length))
    assert run.status == "ok" or isinstance(run.error, PromptTooLong), run.error


def test_nothing_is_left(kernel: Kernel, report: Report) -> None:
    """After the session there is no process."""
    kernel.session.close()
    report.promise("orphan processes", not kernel.children(), "after session.close()")


def _try(kernel: Kernel, model: Damaged | HostileModel, report: Report) -> str:
    """Run a file; what it ended in."""
    other = isinstance(model, HostileModel)
    path = kernel.models / (model.name if other else "damaged.gguf")
    path.write_bytes(model.data)
    run = kernel.run(path, chat=other and model.chat)
    check_message(run, model.what)
    kernel.check_row(run, report, model.what)
    kernel.check_children(report, model.what)
    kernel.session.local.pool.unload(str(path))
    path.unlink()
    return outcome_of(run)
