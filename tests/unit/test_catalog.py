"""How a name becomes a file, and what is said where it does not."""

from __future__ import annotations

import builtins
import errno
import hashlib
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotSupported
from llmwit_magic.models import catalog
from llmwit_magic.models.catalog import LocalModel, local_models, resolve
from llmwit_magic.models.checks import OLD_FORMATS
from llmwit_magic.models.fetch import DEFAULT_NAME
from llmwit_magic.protocol import Progress
from tests.support.tiny_ggml import write_ggml
from tests.support.tiny_models import write_llama_gguf


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched, the cache is new, and the working directory is empty."""

    def fetched(*arguments: object) -> Path:
        raise AssertionError(f"went to the network for {arguments[:-1]}")

    monkeypatch.setattr(catalog, "fetch_from_hub", fetched)
    monkeypatch.setattr(catalog, "fetch_default", fetched)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return write_llama_gguf(tmp_path / "models" / "tiny.gguf", vocabulary="spm")


def find(
    name: str, model_type: str | None = None, aliases: Mapping[str, str] | None = None
) -> LocalModel:
    return resolve(name, model_type, aliases or {}, lambda progress: None)


def refusal(
    name: str,
    expected: type[InferenceError] = ModelNotFound,
    model_type: str | None = None,
    aliases: Mapping[str, str] | None = None,
) -> str:
    """The message of the refusal, which is one line."""
    with pytest.raises(InferenceError) as caught:
        find(name, model_type, aliases)
    assert type(caught.value) is expected
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_path(model: Path) -> None:
    """A path is the file that it leads to, with what is known of it."""
    found = find(str(model))
    assert found.source == found.loaded == model
    assert found.info.name == str(model)
    assert found.info.path == str(model)
    assert found.info.architecture == "llama"
    assert found.info.quantisation == "F32"
    assert len(found.info.sha256) == 64
    assert found.model_type is None


def test_relative_path(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is relative to the working directory, and what comes of it is not."""
    assert find(os.path.relpath(model)).source.samefile(model)
    monkeypatch.chdir(model.parent)
    assert find("tiny.gguf").source == model


def test_home(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the user's home."""
    monkeypatch.setenv("HOME", str(model.parent))
    monkeypatch.setenv("USERPROFILE", str(model.parent))
    assert find("~/tiny.gguf").source == model
    assert "did you mean" in refusal("~/tini.gguf")


def test_home_of_nobody() -> None:
    """The home of a user who is not there is no accident."""
    refusal("~no-such-user-here/tiny.gguf")


def test_alias(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alias goes before a file of the same name, and may begin with `~`."""
    write_llama_gguf(Path("short"), vocabulary="spm", seed=1)
    assert find("short", aliases={"short": str(model)}).source == model
    monkeypatch.setenv("HOME", str(model.parent))
    found = find("home", aliases={"home": "~/tiny.gguf"})
    assert found.source == model
    assert found.info.name == "home"
    assert "no file" in refusal("gone", aliases={"gone": str(model) + "x.gguf"})


def test_alias_of_itself(model: Path) -> None:
    """An alias is looked up once, so one that leads to itself ends."""
    refusal("loop", aliases={"loop": "loop"})


def test_default(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default's name fetches it, by an alias too."""
    monkeypatch.setattr(catalog, "fetch_default", lambda report: model)
    assert find(DEFAULT_NAME).source == model
    assert find("it", aliases={"it": DEFAULT_NAME}).source == model


def test_folder(model: Path) -> None:
    """A folder with one model is that model."""
    (model.parent / "README.md").touch()
    assert find(str(model.parent)).source == model
    assert find(str(model.parent) + os.sep).source == model


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe, whose reader waits for a writer, in a folder of its own."""
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "x.gguf")
    return tmp_path / "pipes" / "x.gguf"


posix = pytest.mark.skipif(sys.platform == "win32", reason="such files are POSIX's")


@posix
def test_named_pipe(pipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never opened, however it is named, and the message says what it is."""
    expected = f"{pipe} is a named pipe, and a model is a regular file: name one"
    for name in (str(pipe), str(pipe.parent), str(pipe.parent) + os.sep):
        assert refusal(name) == expected
        assert refusal("short", aliases={"short": name}) == expected
        assert refusal(name, model_type="gpt2") == expected
    link = tmp_path / "link.gguf"
    link.symlink_to(pipe)
    assert refusal(str(link)).startswith(f"{link} is a named pipe")
    monkeypatch.setattr(catalog, "fetch_default", lambda report: pipe)
    assert refusal(DEFAULT_NAME) == expected


@posix
def test_named_pipe_beside_a_model(pipe: Path, model: Path) -> None:
    """In a folder, only a regular file is taken for a model."""
    found = model.rename(pipe.parent / "model.gguf")
    (pipe.parent / "folder.gguf").mkdir()
    assert find(str(pipe.parent)).source == found


@posix
def test_other_files_that_are_none(tmp_path: Path) -> None:
    """A device, a socket and a folder with a model's ending are told as what they are."""
    assert refusal("/dev/zero").startswith("/dev/zero is a device, and a model is")
    assert refusal("/dev/null").startswith("/dev/null is a device, and a model is")
    path = Path("s.gguf")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        assert "s.gguf is a socket, and a model is a regular file" in refusal("s.gguf")
    Path("f.gguf").mkdir()
    assert refusal("f.gguf") == "the folder f.gguf has no model file"
    Path("g.gguf/h.gguf").mkdir(parents=True)
    assert "h.gguf is a folder, and a model is a regular file" in refusal("g.gguf")


@posix
def test_links_that_lead_nowhere(model: Path) -> None:
    """A link to nothing, and links that lead to one another, are told as what they are."""
    Path("gone.gguf").symlink_to("nowhere.gguf")
    assert refusal("gone.gguf") == "gone.gguf is a link to nowhere.gguf, which is not there"
    Path("a.gguf").symlink_to("b.gguf")
    Path("b.gguf").symlink_to("a.gguf")
    assert refusal("a.gguf") == f"a.gguf: {os.strerror(errno.ELOOP)}"
    Path("good.gguf").symlink_to(model)
    assert find("good.gguf").info.sha256 == find(str(model)).info.sha256


def test_folder_with_none(tmp_path: Path) -> None:
    """One without a model says so."""
    (tmp_path / "work" / "README.md").touch()
    assert refusal(".") == "the folder . has no model file"


def test_folder_with_several(model: Path) -> None:
    """One with several names one of them, in a form that can be given."""
    for name in ("b.bin", "c.gguf"):
        (model.parent / name).touch()
    message = refusal(str(model.parent))
    assert "has 3 model files" in message
    assert f"such as {model.parent / 'b.bin'}" in message


@pytest.mark.parametrize("ending", ["", "x"])
@pytest.mark.parametrize("form", ["{folder}/tinny.gguf", "../models/tinny.gguf", "./tinny.gguf"])
def test_mistyped_path(form: str, ending: str, model: Path) -> None:
    """It never goes to the network, and the file that may have been meant is named."""
    name = form.format(folder=model.parent) + ending
    message = refusal(name)
    assert f"there is no file {name}" in message
    assert ("did you mean" in message) == (not form.startswith("./"))


@pytest.mark.parametrize(
    "name",
    [
        "models/tinny.gguf", "tinny.gguf", "models/old.bin", "MODELS/TINY.GGUF", "~/a/b",
        "./owner/repo", "../owner/repo", "/owner/repo", "a/b/c/d", "C:\\models\\x.gguf", ".hidden",
    ],
)  # fmt: skip
def test_what_looks_like_a_path(name: str) -> None:
    """A name with a model's ending, a path's beginning or several folders is no repository."""
    refusal(name)


def test_mistyped_path_of_two_parts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name like that of a file beside it is a path, whatever its ending."""
    monkeypatch.chdir(model.parent.parent)
    assert f"did you mean {Path('models/tiny.gguf')}" in refusal("models/tiny")


@pytest.mark.parametrize("name", ["", "\0", "a\0b", "\ud800", "x" * 5000, "\n", "a\nb", " ", "{}"])
def test_names_that_are_none(name: str) -> None:
    """Anything that is no name is refused in one line."""
    refusal(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/repo", ("owner/repo", None, None)),
        ("owner/repo-GGUF:m.Q4_0.gguf", ("owner/repo-GGUF", "m.Q4_0.gguf", None)),
        ("owner/repo@main", ("owner/repo", None, "main")),
        ("owner/repo:m.gguf@v1.0", ("owner/repo", "m.gguf", "v1.0")),
        ("owner/repo:sub/m.gguf@refs/pr/1", ("owner/repo", "sub/m.gguf", "refs/pr/1")),
        ("o-w_n.er/r.e-p_o:m.bin", ("o-w_n.er/r.e-p_o", "m.bin", None)),
    ],
)
def test_repositories(
    name: str, expected: tuple[Any, ...], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Owner, repository, file and revision are told apart."""
    asked: list[tuple[Any, ...]] = []

    def fetch(*arguments: Any) -> Path:
        asked.append(arguments[:-1])
        return model

    monkeypatch.setattr(catalog, "fetch_from_hub", fetch)
    assert find(name).source == model
    assert asked == [expected]
    assert find("alias", aliases={"alias": name}).source == model


def test_files_go_before_repositories(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there as a file is not looked for on the hub."""
    monkeypatch.chdir(model.parent.parent)
    (model.parent / "repo").write_bytes(model.read_bytes())
    assert find("models/repo").source == model.parent / "repo"


@pytest.fixture
def spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of Spin, two folders above the working directory."""
    models = tmp_path / ".spin" / "ai-models"
    (models / "llama").mkdir(parents=True)
    below = tmp_path / "work" / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    return write_llama_gguf(models / "llama" / "llama2-chat.gguf", vocabulary="spm")


def test_spin_models(spin: Path) -> None:
    """Spin's models are found by their file's name, with and without its ending."""
    assert find("llama2-chat").source == spin
    assert find("llama2-chat.gguf").source == spin
    assert find("chat", aliases={"chat": "llama2-chat"}).source == spin


@posix
def test_named_pipe_among_spin_models(spin: Path) -> None:
    """It is told as what it is, and is no model of the list."""
    os.mkfifo(spin.parent / "pipe.gguf")
    assert "pipe.gguf is a named pipe" in refusal("pipe")
    assert [row[0] for row in local_models({})] == [DEFAULT_NAME, "llama2-chat"]


def test_nearest_spin_folder(spin: Path, tmp_path: Path) -> None:
    """The nearest folder counts alone."""
    (tmp_path / "work" / ".spin" / "ai-models").mkdir(parents=True)
    refusal("llama2-chat")


def test_unknown_names(spin: Path) -> None:
    """What is known by a name like that is suggested, or else all that is known."""
    aliases = {"mistral": "x"}
    assert f"did you mean {DEFAULT_NAME}?" in refusal("smollm2-135m")
    assert "did you mean mistral?" in refusal("mistrol", aliases=aliases)
    assert "did you mean llama2-chat?" in refusal("llama2_chat")
    assert f"known here: {DEFAULT_NAME}, mistral, llama2-chat" in refusal("zzz", aliases=aliases)


@pytest.mark.parametrize("contents", [b"", b"GGU", b"PK\3\4", b"# readme\n" * 50, bytes(100)])
def test_not_a_model(contents: bytes, tmp_path: Path) -> None:
    """A file of another kind is refused by its name, --model-type or not."""
    path = tmp_path / "file.gguf"
    path.write_bytes(contents)
    for model_type in (None, "gpt2"):
        message = refusal(str(path), ModelNotSupported, model_type)
        assert message == "file.gguf is no GGUF and no GGML file: it cannot be run"


@pytest.mark.parametrize("kind", OLD_FORMATS)
def test_old_files(kind: Any, tmp_path: Path) -> None:
    """They run with --model-type, and without it are refused with all that it can be."""
    path = write_ggml(tmp_path / "old.bin", kind)
    found = find(str(path), kind)
    assert found.source == found.loaded == path
    assert (found.model_type, found.info.architecture) == (kind, kind)
    message = refusal(str(path), ModelNotSupported)
    assert message.startswith("old.bin is an old GGML file")
    assert "--model-type" in message
    for name in OLD_FORMATS:
        assert re.search(rf"\b{name}\b", message)


@pytest.mark.parametrize("kind", ["", "gpt-2", "LLAMA", "x"])
def test_wrong_model_type(kind: str, tmp_path: Path) -> None:
    """Another --model-type is refused with those that there are."""
    path = write_ggml(tmp_path / "old.bin", "gpt2")
    message = refusal(str(path), InvalidInput, kind)
    assert f"model_type: {kind!r} is not valid" in message
    assert "gptneox" in message


def test_unreadable_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without permission to read is one line with its name."""
    open_file: Callable[..., Any] = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == model:
            raise PermissionError(13, "Permission denied")
        return open_file(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    message = refusal(str(model))
    assert "tiny.gguf" in message
    assert "Permission denied" in message


def test_file_that_goes_away(model: Path) -> None:
    """A file that vanishes between two looks is one line too."""

    def vanish(progress: Progress) -> None:
        model.unlink(missing_ok=True)

    adapted = write_llama_gguf(model)
    with pytest.raises(InferenceError, match=r"tiny\.gguf"):
        resolve(str(adapted), None, {}, vanish)


def test_changed_source(model: Path) -> None:
    """A model is unchanged as long as its file is the same."""
    found = find(str(model))
    assert found.unchanged()
    os.utime(model, ns=(1, 1))
    assert not found.unchanged()
    again = find(str(model))
    assert again.info.sha256 == found.info.sha256
    model.unlink()
    assert not again.unchanged()


def test_hash_is_remembered(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that stays as it is is hashed once; a changed one is hashed again."""
    first = find(str(model)).info.sha256
    reports: list[Progress] = []
    resolve(str(model), None, {}, reports.append)
    assert not [report for report in reports if "hashing" in report.note]
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    assert find(str(model)).info.sha256 != first


def test_hash_is_that_of_the_bytes(model: Path) -> None:
    """A changed file whose size and time were set back is hashed again."""
    first, before = find(str(model)), model.stat()
    with model.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert model.stat().st_size == before.st_size
    assert not first.unchanged()
    assert find(str(model)).info.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert find(str(model)).info.sha256 != first.info.sha256


def test_local_models(spin: Path) -> None:
    """What can be named without a network: the default, the aliases and Spin's models."""
    assert local_models({"short": "x.gguf"}) == [
        (DEFAULT_NAME, "default", None),
        ("short", "alias", Path("x.gguf")),
        ("llama2-chat", "spin", spin),
    ]


def test_listing_loads_nothing(spin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are listed without opening any of them."""
    monkeypatch.setattr(builtins, "open", lambda *arguments: pytest.fail("opened a file"))
    assert len(local_models({})) == 2
