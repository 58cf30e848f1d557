"""Models in several files, as llama.cpp's `llama-gguf-split` and the package gguf write them.

The parts lie in one folder, and are named `NAME-00001-of-00003.gguf` and so on. Each is a GGUF file
with some of the tensors; the first one has the model's metadata. In each, `split.no` is its number,
from 0 on, `split.count` the number of parts, and `split.tensors.count` the number of tensors of
all parts together (`llama_model_loader` in llama.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TypeVar

from ..errors import ModelDamaged, ModelNotFound, ModelNotSupported
from .gguf import MAX_TENSORS, Header, TensorInfo, read_header

AnyPath = TypeVar("AnyPath", bound=PurePath)
_PART = re.compile(r"(?P<model>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"


def part_names(name: str) -> list[str]:
    """The names of all parts of a model, by that of one. A name of another form stands alone."""
    match = _part(name)
    if match is None:
        return [name]
    return [
        f"{match['model']}-{number:05}-of-{match['count']}.gguf"
        for number in range(1, int(match["count"]) + 1)
    ]


def model_stem(name: str) -> str:
    """The name of a file without its suffix, and without the number of its part."""
    match = _part(name)
    return match["model"] if match else Path(name).stem


def _part(name: str) -> re.Match[str] | None:
    match = _PART.fullmatch(name)
    return match if match and 1 <= int(match["number"]) <= int(match["count"]) else None


def one_of_each(paths: Iterable[AnyPath]) -> list[AnyPath]:
    """One file of each model: the first of its parts that there is."""
    found: dict[PurePath, AnyPath] = {}
    for path in sorted(paths):
        found.setdefault(path.with_name(part_names(path.name)[0]), path)
    return list(found.values())


def files_of(header: Header) -> tuple[Path, ...]:
    """All files of the model of which a header was read, the first part first.

    Raises `ModelNotFound` for a missing part, `ModelNotSupported` for a part under another name,
    and `ModelDamaged` for numbers that are none.
    """
    count = header.metadata.get(_COUNT, 0)
    if type(count) is not int:
        raise _damaged(header, f"'{_COUNT}' is {count}")
    if count <= 1:
        return (header.path,)
    names = part_names(header.path.name)
    if len(names) != count:
        raise ModelNotSupported(
            f"{header.path.name}: one of the {count} parts of a model, and its name does not say "
            f"which: rename them to {model_stem(names[0])}-00001-of-{count:05}.gguf and so on"
        )
    files = tuple(header.path.with_name(name) for name in names)
    missing = [number for number, file in enumerate(files, 1) if not file.exists()]
    if missing:
        more = f" ({len(missing) - 1} more are missing)" if missing[1:] else ""
        raise ModelNotFound(
            f"{header.path.name}: part {missing[0]} of {count} is missing: "
            f"{names[missing[0] - 1]} is not beside it{more}: fetch all parts into one folder"
        )
    return files


def read_model(path: Path) -> Header:
    """The header of a model of one file, or of all its parts; `path` is that of any part.

    Raises what `read_header`, `files_of` and `joined` raise.
    """
    header = read_header(path)
    files = files_of(header)
    return header if len(files) == 1 else joined(files)


def joined(files: Sequence[Path]) -> Header:
    """The header of a model in several parts: the metadata of the first, the tensors of all.

    Raises `ModelDamaged` where the parts contradict one another, and what `read_header` raises.
    """
    tensors: dict[str, TensorInfo] = {}
    headers = [read_header(file) for file in files]
    for number, header in enumerate(headers):
        _check_number(header, _NUMBER, number)
        _check_number(header, _COUNT, len(files), needed=number == 0)
        for tensor in header.tensors:
            if tensor.name in tensors:
                raise _damaged(header, f"the tensor '{tensor.name}' is in an earlier part too")
            tensors[tensor.name] = tensor
        if len(tensors) > MAX_TENSORS:
            raise _damaged(header, f"the parts have more than {MAX_TENSORS:,} tensors")
    for number, header in enumerate(headers):
        _check_number(header, _TENSORS, len(tensors), needed=number == 0)
    return replace(headers[0], tensors=list(tensors.values()), part_count=len(files))


def _check_number(header: Header, key: str, expected: int, *, needed: bool = True) -> None:
    value = header.metadata.get(key, None if needed else expected)
    if type(value) is not int or value != expected:
        raise _damaged(header, f"'{key}' is {value} and not {expected}")


def _damaged(header: Header, why: str) -> ModelDamaged:
    return ModelDamaged(
        f"{header.path.name}: {why}: the part is damaged, or belongs to another model; fetch all "
        "parts of one model"
    )
