"""What is read from the header of an undamaged GGUF file."""

from __future__ import annotations

import struct
import time
from array import array
from pathlib import Path

import pytest
from gguf import GGUFReader

from llmwit_magic.errors import ModelNotFound
from llmwit_magic.models.gguf import is_gguf, read_header
from llmwit_magic.models.tensor_types import TENSOR_TYPES
from tests.support.gguf_bytes import (
    STRING,
    U32,
    items,
    raw,
    tensor,
    text,
    u32,
    value,
)
from tests.support.tiny_models import write_falcon_gguf, write_llama_gguf


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


@pytest.mark.parametrize(
    ("writer", "options"),
    [
        (write_llama_gguf, {}),
        (write_llama_gguf, {"vocabulary": "spm", "tensor_type": "Q8_0"}),
        (write_llama_gguf, {"vocabulary": "spm", "tensor_type": "F16"}),
        (write_falcon_gguf, {"kv_heads": 2, "parallel_norm": True}),
    ],
)
def test_reads_what_was_written(writer: object, options: dict[str, object], path: Path) -> None:
    """Every value, and every tensor's name, shape, type and place, is what the gguf package reads."""
    writer(path, extra_metadata={"a.bool": True, "a.float": 0.5, "a.negative": -7}, **options)  # type: ignore[operator]
    header, reader = read_header(path), GGUFReader(path)

    fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert list(header.metadata) == list(fields)
    for key, field in fields.items():
        ours = header.metadata[key]
        if isinstance(ours, list):
            assert ours == [bytes(field.parts[index]) for index in field.data]
        elif isinstance(ours, array):
            assert ours.tolist() == field.contents()
        else:
            assert (type(ours), ours) == (type(field.contents()), field.contents())
        assert header.types[key] == field.types[-1]

    assert header.data_offset == reader.data_offset
    assert (header.version, header.alignment) == (3, 32)
    assert len(header.tensors) == len(reader.tensors) > 10
    for ours, theirs in zip(header.tensors, reader.tensors, strict=True):
        assert ours.name == theirs.name
        assert ours.shape == tuple(theirs.shape.tolist())
        assert ours.type.name == theirs.tensor_type.name
        assert header.data_offset + ours.offset == theirs.data_offset
        assert ours.nbytes == theirs.n_bytes


def test_tensor_types_are_those_of_gguf() -> None:
    """Each tensor type has the number, name, block and size that the gguf package has for it."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    known = {theirs.value: theirs for theirs in GGMLQuantizationType}
    assert len(known.keys() & TENSOR_TYPES.keys()) > 28  # an older package lacks the newest
    for number in known.keys() & TENSOR_TYPES.keys():
        kind, theirs = TENSOR_TYPES[number], known[number]
        assert (kind.name, kind.block, kind.size) == (theirs.name, *GGML_QUANT_SIZES[theirs])


def test_every_type_has_one_place() -> None:
    """Each number below 43 stands in one table: read, given up, or new. The gguf package agrees."""
    from gguf.constants import GGMLQuantizationType

    from llmwit_magic.models.tensor_types import NEWEST_TYPES, RETIRED_TYPES

    assert sorted([*TENSOR_TYPES, *NEWEST_TYPES, *RETIRED_TYPES]) == list(range(43))
    named = {n: kind.name for n, kind in TENSOR_TYPES.items()} | NEWEST_TYPES
    theirs = {int(kind): kind.name for kind in GGMLQuantizationType}
    assert {number: named.get(number) for number in theirs if number < 43} == {
        number: name for number, name in theirs.items() if number < 43
    }


def test_reads_scalars_of_every_type(path: Path) -> None:
    """Each scalar type keeps a value at the end of its range, in version 2 and in version 3."""
    numbers = {0: ("B", 255), 1: ("b", -128), 2: ("H", 65535), 3: ("h", -32768)}
    numbers |= {4: ("I", 2**32 - 1), 5: ("i", -(2**31)), 6: ("f", -0.5), 7: ("B", 1)}
    numbers |= {10: ("Q", 2**64 - 1), 11: ("q", -(2**63)), 12: ("d", 1e300)}
    values = [value(f"k{n}", n, struct.pack("<" + f, v)) for n, (f, v) in numbers.items()]
    values += [value("text", STRING, text("né")), items("none", U32, 0)]
    values += [items(f"a{n}", n, 2, struct.pack("<2" + f, v, v)) for n, (f, v) in numbers.items()]
    for version in (2, 3):
        path.write_bytes(raw(values, version=version))
        header = read_header(path)
        assert {n: header.metadata[f"k{n}"] for n in numbers} == {
            n: v for n, (_, v) in numbers.items()
        }
        assert {n: header.metadata[f"a{n}"].tolist() for n in numbers} == {
            n: [v, v] for n, (_, v) in numbers.items()
        }
        assert header.metadata["k7"] is True
        assert header.metadata["text"] == "né"
        assert len(header.metadata["none"]) == 0
        assert header.version == version


def test_strings_need_not_be_utf8(path: Path) -> None:
    """An array of strings keeps its bytes, whether or not they are UTF-8."""
    tokens = [b"", b"\xff\xfe", b"a\0b", "é".encode()]
    path.write_bytes(raw([items("tokens", STRING, 4, b"".join(map(text, tokens)))]))
    assert read_header(path).metadata["tokens"] == tokens


def test_alignment_of_the_file_is_used(path: Path) -> None:
    """The data begins at a multiple of `general.alignment`."""
    head = raw([u32("general.alignment", 256)], [tensor()], data=0)
    path.write_bytes(head + bytes(-len(head) % 256) + bytes(32))
    header = read_header(path)
    assert header.alignment == 256
    assert header.data_offset == 256


@pytest.mark.parametrize("count", [0, 1])
def test_small_counts(count: int, path: Path) -> None:
    """Zero and one are valid counts."""
    path.write_bytes(raw([items("k", U32, count, bytes(4 * count))], [tensor()] * count))
    header = read_header(path)
    assert len(header.metadata["k"]) == len(header.tensors) == count


def test_tensors_may_lie_in_any_order(path: Path) -> None:
    """The data of the tensors may lie in another order than their infos."""
    path.write_bytes(raw((), [tensor("b", offset=32), tensor("a")]))
    assert [t.name for t in read_header(path).tensors] == ["b", "a"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and a folder are no GGUF files. To read their header raises ModelNotFound."""
    for path in (tmp_path / "missing.gguf", tmp_path):
        assert not is_gguf(path)
        with pytest.raises(ModelNotFound, match=path.name):
            read_header(path)


def test_is_gguf(path: Path) -> None:
    """A file is a GGUF file if it begins with the magic number."""
    path.write_bytes(b"GGUF")
    assert is_gguf(path)
    path.write_bytes(b"GGU")
    assert not is_gguf(path)


def test_a_header_is_read_fast(path: Path) -> None:
    """A header with 200,000 tokens is read in less than a second."""
    tokens = b"".join(text(b"%d" % index) for index in range(200_000))
    path.write_bytes(raw([items("tokens", STRING, 200_000, tokens)]))
    begin = time.perf_counter()
    header = read_header(path)
    assert time.perf_counter() - begin < 1
    assert header.metadata["tokens"][-1] == b"199999"
