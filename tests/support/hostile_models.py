"""Damaged and hostile GGUF files, each from a tiny real model, always the same ones.

The long form has 2,000 files; the short one is a part of it, evenly spread.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, islice
from pathlib import Path

from tests.support.gguf_parts import Field, Parts, Region, take_apart
from tests.support.hostile_metadata import (
    arrays,
    duplicates,
    hyperparameters,
    names,
    templates,
    vocabularies,
    wrong_types,
)
from tests.support.tiny_ggml import MODEL_TYPES, write_ggml
from tests.support.tiny_models import write_falcon_gguf, write_llama_gguf

SEED = 6
NUMBERS = (0, 1, 2**31, 2**32, 2**63, 2**64 - 1)


@dataclass(frozen=True, slots=True)
class HostileModel:
    """A file as it lies on a disk; `what` tells what is wrong with it."""

    name: str
    what: str
    data: bytes
    chat: bool = False
    model_type: str | None = None


Made = Iterator[tuple[str, bytes]]
"""What is wrong, and the file."""


@cache
def bases() -> tuple[tuple[str, bytes, Parts], ...]:
    """Sound files of both llama vocabularies and of falcon, with their parts."""
    small = {"blocks": 1, "embedding": 32, "heads": 2, "kv_heads": 1, "context_length": 64}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "base.gguf"
        files = []
        for vocabulary in ("spm", "bpe"):
            write_llama_gguf(path, vocabulary=vocabulary, feed_forward=64, **small)  # type: ignore[arg-type]
            files.append((vocabulary, path.read_bytes()))
        write_falcon_gguf(path, **small)  # type: ignore[arg-type]
        files.append(("falcon", path.read_bytes()))
    return tuple((name, data, take_apart(data)) for name, data in files)


def _truncated_at_boundaries(numbers: random.Random) -> Made:
    """Where a field ends, all of them, the falcon's last."""
    for name, data, parts in bases():
        ends = [field.end for field in parts.fields] + [len(data) - len(parts.data)]
        ends += [len(data) - len(parts.data) + tensor.offset for tensor in parts.tensors]
        for end in dict.fromkeys(ends):
            yield f"{name} cut at byte {end}", data[:end]


def _truncated_anywhere(numbers: random.Random) -> Made:
    while True:
        name, data, parts = numbers.choice(bases())
        header = len(data) - len(parts.data)
        end = numbers.randrange(numbers.choice((header, len(data))))
        yield f"{name} cut at byte {end}", data[:end]


def _flipped(region: Region | None) -> Callable[[random.Random], Made]:
    """Bits flipped in a region of the header, or (None) in the tensor data."""

    def make(numbers: random.Random) -> Made:
        while True:
            name, data, parts = numbers.choice(bases())
            spans = [(f.start, f.end) for f in parts.fields if f.region == region]
            spans = spans or [(len(data) - len(parts.data), len(data))]
            flipped, what = bytearray(data), []
            for _ in range(numbers.choice((1, 1, 1, 2, 8))):
                start, end = numbers.choices(spans, [end - start for start, end in spans])[0]
                bit = numbers.randrange(start * 8, end * 8)
                flipped[bit // 8] ^= 1 << bit % 8
                what.append(bit)
            yield f"{name} with the bits {what} flipped", bytes(flipped)

    return make


def _numbers(numbers: random.Random) -> Made:
    """Counts, lengths, types, dimensions and offsets."""
    places: list[tuple[str, bytes, Field, int]] = [
        (name, data, field, number)
        for name, data, parts in bases()
        for field in parts.fields
        for number in NUMBERS
        if field.role == "number" and number < 256 ** (field.end - field.start)
    ]
    numbers.shuffle(places)
    for name, data, field, number in places:
        new = number.to_bytes(field.end - field.start, "little")
        what = f"{name} with {number} at byte {field.start} ({field.region})"
        yield what, data[: field.start] + new + data[field.end :]


def _moved_tensors(numbers: random.Random) -> Made:
    """Tensors that overlap, stand in another order, lie elsewhere or have another shape."""
    while True:
        name, _, parts = numbers.choice(bases())
        tensors = list(parts.tensors)
        how = numbers.choice(("shuffled", "swapped", "moved", "named", "reshaped", "typed", "gone"))
        first, second = numbers.sample(range(len(tensors)), 2)
        one, other = tensors[first], tensors[second]
        if how == "shuffled":
            numbers.shuffle(tensors)
        elif how == "swapped":
            tensors[first] = replace(one, offset=other.offset)
            tensors[second] = replace(other, offset=one.offset)
        elif how == "moved":
            step = numbers.choice((-32, 32, 1, 64, 2**31, 2**40))
            tensors[first] = replace(one, offset=max(0, one.offset + step))
        elif how == "named":
            tensors[first] = replace(one, name=other.name)
        elif how == "reshaped":
            shapes = (one.shape[::-1], (*one.shape, 1), (*one.shape, 2), one.shape[:1], (1,))
            tensors[first] = replace(one, shape=numbers.choice(shapes))
        elif how == "typed":
            tensors[first] = replace(one, kind=numbers.choice((1, 2, 4, 8, 14, 24, 30, 31, 99)))
        else:
            del tensors[first]
        yield f"{name}, tensors {first} and {second} {how}", replace(parts, tensors=tensors).join()


def _from_parts(
    change: Callable[[int, random.Random, Parts], tuple[str, Parts]],
) -> Callable[[random.Random], Made]:
    """Files whose parts are changed."""

    def made(numbers: random.Random) -> Made:
        for index in count():
            name, _, parts = numbers.choice(bases())
            what, changed = change(index, numbers, parts)
            yield f"{name}, {what}", changed.join()

    return made


#: Each kind with how many of it the long form has.
KINDS: dict[str, tuple[Callable[[random.Random], Made], int]] = {
    "truncated at a boundary": (_truncated_at_boundaries, 480),
    "truncated anywhere": (_truncated_anywhere, 120),
    "bits flipped in magic and counts": (_flipped("magic and counts"), 80),
    "bits flipped in the metadata": (_flipped("metadata"), 140),
    "bits flipped in the token arrays": (_flipped("token arrays"), 140),
    "bits flipped in the tensor infos": (_flipped("tensor infos"), 140),
    "bits flipped in the tensor data": (_flipped(None), 60),
    "numbers at their limits": (_numbers, 360),
    "tensors moved": (_moved_tensors, 80),
    "wrong types": (_from_parts(wrong_types), 80),
    "duplicate keys": (_from_parts(duplicates), 30),
    "huge and nested arrays": (_from_parts(arrays), 50),
    "vocabulary and merges": (_from_parts(vocabularies), 90),
    "hyperparameters": (_from_parts(hyperparameters), 80),
    "chat templates": (_from_parts(templates), 30),
    "names": (_from_parts(names), 40),
}
#: How many files of the formats before GGUF the long form has beside them.
OLD_COUNT = 120
#: Names of the files themselves.
FILE_NAMES = (
    "a\nb.gguf", "...gguf", "..\\..\\x.gguf", "\x1b[2J.gguf", "'; DROP TABLE runs; --.gguf",
    "<img src=x onerror=alert(1)>.gguf", "\u202egguf.txt.gguf", "é" * 120 + ".gguf",
    "x:y@z.gguf", "~root.gguf", "%s{0}.gguf",
)  # fmt: skip


def hostile_models(kind: str, long: bool) -> Iterator[HostileModel]:
    """The files of a kind: all of them, or some sixteen that are evenly spread among them."""
    make, total = KINDS[kind]
    # No step has a factor in common with the lists that some kinds go through.
    step = 1 if long else next(n for n in (1, 3, 7, 9, 11, 23, 31) if n * 16 >= total)
    file_names = FILE_NAMES if kind == "names" else ("hostile.gguf",)
    for index, (what, data) in islice(
        enumerate(make(random.Random(f"{SEED} {kind}"))), 0, total, step
    ):
        name = file_names[index // step % len(file_names)]
        yield HostileModel(name, f"{kind} {index}: {what}", data, chat=kind == "chat templates")


def hostile_old_models(long: bool) -> Iterator[HostileModel]:
    """Files of the formats before GGUF, whose headers the native library alone reads."""
    numbers = random.Random(f"{SEED} old")
    whole: list[tuple[str, bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        for model_type in MODEL_TYPES:
            path = Path(folder) / model_type
            write_ggml(path, model_type)
            whole.append((model_type, path.read_bytes()))
    for index in range(OLD_COUNT if long else 18):
        model_type, data = whole[index % len(whole)]
        how = numbers.choice(("cut", "flipped", "number"))
        place = 4 * numbers.randrange(1, 12)
        number = numbers.choice([number for number in NUMBERS if number < 2**32])
        if how == "cut":
            place = numbers.randrange(numbers.choice((48, 4000, len(data))))
            data = data[:place]
        elif how == "flipped":
            place = numbers.randrange(4, numbers.choice((48, 4000)))
            flipped = data[place] ^ 1 << numbers.randrange(8)
            data = data[:place] + bytes([flipped]) + data[place + 1 :]
        else:
            data = data[:place] + number.to_bytes(4, "little") + data[place + 4 :]
        what = f"{model_type} {index}, {how} at byte {place} ({number})"
        yield HostileModel("hostile.bin", what, data, model_type=model_type)
