"""How a name becomes a file, and what is said if it does not."""

from __future__ import annotations

import builtins
import errno
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.contract.request import DEFAULT_MODEL
from llmwit_magic.errors import ModelNotSupported
from llmwit_magic.models import catalog
from llmwit_magic.models.catalog import local_models
from tests.support.found import find, model, no_network, refusal
from tests.support.tiny_models import write_llama_gguf

__all__ = ["model", "no_network"]


def test_path(model: Path) -> None:
    """A path names the file that it leads to, and the file's facts are known."""
    found = find(str(model))
    assert found.source == found.file == model
    assert found.info.name == str(model)
    assert found.info.path == str(model)
    assert found.info.architecture == "llama"
    assert found.info.quantisation == "F32"
    assert len(found.info.sha256) == 64
    assert found.backend == "ctransformers"


def test_relative_path(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path starts at the working directory. The path that is found is absolute."""
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
    """The home of an unknown user is refused in one line."""
    refusal("~no-such-user-here/tiny.gguf")


def test_alias(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alias has precedence over a file of the same name. Its path may begin with `~`."""
    write_llama_gguf(Path("short"), vocabulary="spm", seed=1)
    assert find("short", aliases={"short": str(model)}).source == model
    monkeypatch.setenv("HOME", str(model.parent))
    found = find("home", aliases={"home": "~/tiny.gguf"})
    assert found.source == model
    assert found.info.name == "home"
    assert "no file" in refusal("gone", aliases={"gone": str(model) + "x.gguf"})


def test_alias_of_a_url(model: Path) -> None:
    """A password in the URL is not repeated: the error is logged."""
    said = refusal("lab", aliases={"lab": "http://me:secret@x/v1#m"})
    assert "the alias 'lab' stands for a server's model" in said
    assert "secret" not in said
    assert "stands for a server's model" in refusal("q", aliases={"q": "lab::Qwen3-8B"})


def test_alias_of_itself(model: Path) -> None:
    """An alias of itself is refused, because only one alias is followed."""
    refusal("loop", aliases={"loop": "loop"})


def test_default(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the default model fetches it, and so does an alias of that name."""
    monkeypatch.setattr(catalog, "fetch_default", lambda report: model)
    assert find(DEFAULT_MODEL).source == model
    assert find("it", aliases={"it": DEFAULT_MODEL}).source == model


def test_folder(model: Path) -> None:
    """A folder with one model file names that file."""
    (model.parent / "README.md").touch()
    assert find(str(model.parent)).source == model
    assert find(str(model.parent) + os.sep).source == model


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe in a folder of its own. To read it would wait for a writer."""
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "x.gguf")
    return tmp_path / "pipes" / "x.gguf"


posix = pytest.mark.skipif(sys.platform == "win32", reason="such files are POSIX's")


@posix
def test_named_pipe(pipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named pipe is never opened, however it is named. The message says what it is."""
    expected = f"{pipe} is a named pipe, and a model is a regular file: name one"
    for name in (str(pipe), str(pipe.parent), str(pipe.parent) + os.sep):
        assert refusal(name) == expected
        assert refusal("short", aliases={"short": name}) == expected
        assert refusal(name, model_type="gpt2") == expected
    link = tmp_path / "link.gguf"
    link.symlink_to(pipe)
    assert refusal(str(link)).startswith(f"{link} is a named pipe")
    monkeypatch.setattr(catalog, "fetch_default", lambda report: pipe)
    assert refusal(DEFAULT_MODEL) == expected


@posix
def test_named_pipe_beside_a_model(pipe: Path, model: Path) -> None:
    """Only a regular file counts as the model of a folder."""
    found = model.rename(pipe.parent / "model.gguf")
    (pipe.parent / "folder.gguf").mkdir()
    assert find(str(pipe.parent)).source == found


@posix
def test_other_files_that_are_none(tmp_path: Path) -> None:
    """The message calls a device, a socket and a folder what they are."""
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
    """The message calls a link to nothing, and a loop of links, what they are."""
    Path("gone.gguf").symlink_to("nowhere.gguf")
    assert refusal("gone.gguf") == "gone.gguf is a link to nowhere.gguf, which is not there"
    Path("a.gguf").symlink_to("b.gguf")
    Path("b.gguf").symlink_to("a.gguf")
    assert refusal("a.gguf") == f"a.gguf: {os.strerror(errno.ELOOP)}"
    Path("good.gguf").symlink_to(model)
    assert find("good.gguf").info.sha256 == find(str(model)).info.sha256


def test_folder_with_none(tmp_path: Path) -> None:
    """The message for a folder without a model file says so."""
    (tmp_path / "work" / "README.md").touch()
    assert refusal(".") == "the folder . has no model file"


def test_folder_with_several(model: Path) -> None:
    """The message for a folder with several model files names one of them by a path that works."""
    for name in ("b.bin", "c.gguf"):
        (model.parent / name).touch()
    message = refusal(str(model.parent))
    assert "has 3 model files" in message
    assert f"such as {model.parent / 'b.bin'}" in message


@pytest.mark.parametrize("ending", ["", "x"])
@pytest.mark.parametrize("form", ["{folder}/tinny.gguf", "../models/tinny.gguf", "./tinny.gguf"])
def test_mistyped_path(form: str, ending: str, model: Path) -> None:
    """A mistyped path is not asked of the hub. The message names the file that may be meant."""
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
    """A name with a model's suffix, with a beginning like a path's, or with several folders is not
    asked of the hub.
    """
    refusal(name)


def test_mistyped_path_of_two_parts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is similar to a file's is taken for a path, whatever its suffix."""
    monkeypatch.chdir(model.parent.parent)
    assert f"did you mean {Path('models/tiny.gguf')}" in refusal("models/tiny")


@pytest.mark.parametrize("name", ["", "\0", "a\0b", "\ud800", "x" * 5000, "\n", "a\nb", " ", "{}"])
def test_names_that_are_none(name: str) -> None:
    """A text that cannot be a name is refused in one line."""
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
    """A name is parted into repository, file and revision."""
    asked: list[tuple[Any, ...]] = []

    def fetch(*arguments: Any) -> Path:
        asked.append(arguments[:-1])
        return model

    monkeypatch.setattr(catalog, "fetch_from_hub", fetch)
    assert find(name).source == model
    assert asked == [expected]
    assert find("alias", aliases={"alias": name}).source == model


def test_files_go_before_repositories(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is also a file's is not asked of the hub."""
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
    """Spin's models are found by their file's name, with and without its suffix."""
    assert find("llama2-chat").source == spin
    assert find("llama2-chat.gguf").source == spin
    assert find("chat", aliases={"chat": "llama2-chat"}).source == spin


@posix
def test_named_pipe_among_spin_models(spin: Path) -> None:
    """A named pipe among Spin's models is refused, and is not in the list of models."""
    os.mkfifo(spin.parent / "pipe.gguf")
    assert "pipe.gguf is a named pipe" in refusal("pipe")
    assert [row[0] for row in local_models({})] == [DEFAULT_MODEL, "llama2-chat"]


def test_nearest_spin_folder(spin: Path, tmp_path: Path) -> None:
    """Only the nearest `.spin/ai-models` folder is searched."""
    (tmp_path / "work" / ".spin" / "ai-models").mkdir(parents=True)
    refusal("llama2-chat")


def test_unknown_names(spin: Path) -> None:
    """The message suggests a similar name, or else lists all known ones."""
    aliases = {"mistral": "x"}
    assert f"did you mean {DEFAULT_MODEL}?" in refusal("smollm2-135m")
    assert "did you mean mistral?" in refusal("mistrol", aliases=aliases)
    assert "did you mean llama2-chat?" in refusal("llama2_chat")
    assert f"or one of: {DEFAULT_MODEL}, mistral, llama2-chat" in refusal("zzz", aliases=aliases)


@pytest.mark.parametrize("contents", [b"", b"GGU", b"PK\3\4", b"# readme\n" * 50, bytes(100)])
def test_not_a_model(contents: bytes, tmp_path: Path) -> None:
    """A file of another kind is refused by its name, with and without --model-type."""
    path = tmp_path / "file.gguf"
    path.write_bytes(contents)
    for model_type in (None, "gpt2"):
        message = refusal(str(path), ModelNotSupported, model_type)
        assert message == "file.gguf is no GGUF and no GGML file: it cannot be run"


def test_unreadable_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be read is refused in one line with its name and the reason."""
    open_file: Callable[..., Any] = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == model:
            raise PermissionError(13, "Permission denied")
        return open_file(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    message = refusal(str(model))
    assert "tiny.gguf" in message
    assert "Permission denied" in message


def test_local_models(spin: Path) -> None:
    """The list has the models that need no network to be named: the default, aliases, and Spin's."""
    assert local_models({"short": "x.gguf"}) == [
        (DEFAULT_MODEL, "default", None),
        ("short", "alias", Path("x.gguf")),
        ("llama2-chat", "spin", spin),
    ]


def test_listing_loads_nothing(spin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are listed without opening any of them."""
    monkeypatch.setattr(builtins, "open", lambda *arguments: pytest.fail("opened a file"))
    assert len(local_models({})) == 2


def test_a_model_in_several_files_is_one_model(spin: Path, tmp_path: Path) -> None:
    """In a folder, and in the list of Spin's models, whose name has no number of a part."""
    first = write_llama_gguf(spin.parent / "big.gguf", tensors_per_part=8)
    assert [row[::2] for row in local_models({})][1:] == [("big", first), ("llama2-chat", spin)]
    for name in ("big", "big-00002-of-00003", "big-00002-of-00003.gguf"):
        assert catalog.locate(name, {}, lambda progress: None).parent == first.parent
    assert catalog.locate("big", {}, lambda progress: None) == first
    alone = tmp_path / "alone"
    alone.mkdir()
    for part in first.parent.glob("big-*"):
        part.rename(alone / part.name)
    assert catalog.locate(str(alone), {}, lambda progress: None) == alone / first.name
    write_llama_gguf(alone / "a.gguf")
    assert f"the folder {alone} has 2 model files: name one" in refusal(str(alone))
