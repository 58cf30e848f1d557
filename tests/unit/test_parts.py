"""Models in several files: how their parts are named, found, and put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmwit_magic.errors import ModelDamaged, ModelNotFound, ModelNotSupported
from llmwit_magic.models.gguf import read_header
from llmwit_magic.models.parts import files_of, model_stem, one_of_each, part_names, read_model
from tests.support import gguf_parts as gguf
from tests.support.tiny_models import write_llama_gguf

U16, I32 = 2, 5


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """The three files of a tiny model of 20 tensors."""
    first = write_llama_gguf(tmp_path / "m.gguf", tensors_per_part=8)
    found = [tmp_path / name for name in part_names(first.name)]
    assert found[0] == first
    return found


def change(path: Path, key: str, kind: int, number: int) -> None:
    """Give a number of a file another value, and perhaps another type."""
    changed = gguf.take_apart(path.read_bytes()).with_value(key, kind, gguf.scalar(kind, number))
    path.write_bytes(changed.join())


# Names --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_part_names_all(number: int) -> None:
    """The folder in front of a name, as the hub's files have it, stays."""
    names = part_names(f"sub/m-{number:05}-of-00003.gguf")
    assert names == [f"sub/m-{each:05}-of-00003.gguf" for each in (1, 2, 3)]
    assert model_stem(Path(names[number - 1]).name) == "m"


@pytest.mark.parametrize(
    "name",
    ["m.gguf", "m-00001-of-00003.bin", "m-1-of-3.gguf", "m-00004-of-00003.gguf",
     "m-00000-of-00003.gguf", "-00001-of-00003.gguf", "m-00001-of-00000.gguf"],
)  # fmt: skip
def test_a_name_of_another_form_stands_alone(name: str) -> None:
    """It is no part, whatever numbers it has."""
    assert part_names(name) == [name]
    assert model_stem(name) == Path(name).stem


def test_a_single_part() -> None:
    """A model in one file may be numbered too."""
    assert part_names("m-00001-of-00001.gguf") == ["m-00001-of-00001.gguf"]
    assert model_stem("m-00001-of-00001.gguf") == "m"


def test_one_file_stands_for_a_model() -> None:
    """The first of its parts that there is."""
    names = ["b-00002-of-00002.gguf", "a.gguf", "b-00001-of-00002.gguf", "c-00002-of-00003.gguf",
             "c-00003-of-00003.gguf"]  # fmt: skip
    found = one_of_each(map(Path, names))
    assert [path.name for path in found] == [
        "a.gguf", "b-00001-of-00002.gguf", "c-00002-of-00003.gguf",
    ]  # fmt: skip


# Putting them together ----------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2])
def test_any_part_leads_to_the_model(number: int, parts: list[Path], tmp_path: Path) -> None:
    """Its header is that of the same model in one file."""
    whole = read_header(write_llama_gguf(tmp_path / "whole.gguf"))
    found = read_model(parts[number])
    assert (found.path, found.part_count) == (parts[0], 3)
    assert {t.name: (t.shape, t.type) for t in found.tensors} == {
        t.name: (t.shape, t.type) for t in whole.tensors
    }
    own = {key: value for key, value in found.metadata.items() if not key.startswith("split.")}
    assert own == whole.metadata


@pytest.mark.parametrize("count", [0, 1, None])
def test_a_model_in_one_file(count: int | None, tmp_path: Path) -> None:
    """Also where it says so, and where its name looks like that of a part."""
    path = tmp_path / "m-00002-of-00003.gguf"
    extra = {} if count is None else {"split.count": count}
    header = read_header(write_llama_gguf(path, extra_metadata=extra))
    assert files_of(header) == (path,)
    assert read_model(path).part_count == 1


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    """With its number, and with how many more are missing."""
    parts[1].unlink()
    with pytest.raises(ModelNotFound) as caught:
        read_model(parts[0])
    assert str(caught.value) == (
        "m-00001-of-00003.gguf: part 2 of 3 is missing: m-00002-of-00003.gguf is not beside it: "
        "fetch all parts into one folder"
    )
    parts[0].unlink()
    with pytest.raises(ModelNotFound, match=r"part 1 of 3 .* beside it \(1 more are missing\): "):
        read_model(parts[2])


def test_a_part_under_another_name(parts: list[Path]) -> None:
    """Neither we nor the library would find the others."""
    renamed = parts[0].rename(parts[0].with_name("first.gguf"))
    with pytest.raises(ModelNotSupported) as caught:
        read_model(renamed)
    assert str(caught.value) == (
        "first.gguf: one of the 3 parts of a model, and its name does not say which: rename them "
        "to first-00001-of-00003.gguf and so on"
    )


def swap(parts: list[Path]) -> None:
    spare = parts[1].rename(parts[1].with_name("spare"))
    parts[2].rename(parts[1])
    spare.rename(parts[2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (swap, "m-00002-of-00003.gguf: 'split.no' is 2 and not 1: "),
        (lambda parts: change(parts[0], "split.no", U16, 1),
         "m-00001-of-00003.gguf: 'split.no' is 1 and not 0: "),
        (lambda parts: change(parts[2], "split.count", U16, 4),
         "m-00003-of-00003.gguf: 'split.count' is 4 and not 3: "),
        (lambda parts: change(parts[0], "split.tensors.count", I32, 21),
         "m-00001-of-00003.gguf: 'split.tensors.count' is 21 and not 20: "),
        (lambda parts: change(parts[1], "split.tensors.count", I32, -1),
         "m-00002-of-00003.gguf: 'split.tensors.count' is -1 and not 20: "),
        (lambda parts: (parts[1].write_bytes(parts[2].read_bytes()),
                        change(parts[1], "split.no", U16, 1)),
         "m-00003-of-00003.gguf: the tensor 'blk.1.attn_output.weight' is in an earlier part too: "),
    ],
)  # fmt: skip
def test_parts_that_contradict_one_another(
    damage: Callable[[list[Path]], object], said: str, parts: list[Path]
) -> None:
    """The part and its number are named."""
    damage(parts)
    with pytest.raises(ModelDamaged) as caught:
        read_model(parts[0])
    assert str(caught.value) == (
        f"{said}the part is damaged, or belongs to another model; fetch all parts of one model"
    )


def test_each_part_is_read_as_strictly_as_a_file(parts: list[Path]) -> None:
    """A part that was cut off is damaged, with the place."""
    parts[2].write_bytes(parts[2].read_bytes()[:-100])
    with pytest.raises(ModelDamaged, match=r"^m-00003-of-00003\.gguf: tensor .* beyond the end"):
        read_model(parts[0])
    parts[2].write_bytes(b"")
    with pytest.raises(ModelDamaged, match=r"^m-00003-of-00003\.gguf: "):
        read_model(parts[0])


@pytest.mark.parametrize("value", ["3", 2.5, True, [1, 2]])
def test_a_count_that_is_no_number(value: object, parts: list[Path]) -> None:
    """It is refused with the value."""
    header = read_header(parts[0])
    changed = replace(header, metadata={**header.metadata, "split.count": value})
    with pytest.raises(ModelDamaged, match=r"'split\.count' is "):
        files_of(changed)
