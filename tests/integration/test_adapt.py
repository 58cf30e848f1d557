"""The rewritten form of a model file, held against the real ctransformers.

Native code that dislikes a file can end the process, so it runs in processes apart.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from llmwit_magic.contract.events import Progress
from llmwit_magic.engines.backends.ctransformers import adapt as module
from llmwit_magic.engines.backends.ctransformers import adapted_files
from llmwit_magic.engines.backends.ctransformers.adapt import adapt, needs_adaptation, raw_tokens
from llmwit_magic.engines.local.model_files import LocalModel, resolve
from llmwit_magic.errors import InferenceError, ModelDamaged
from llmwit_magic.models import cache as files
from llmwit_magic.models.cache import cache_folder
from llmwit_magic.models.gguf import Header, read_header
from tests.support.gguf_parts import take_apart
from tests.support.tiny_models import write_falcon_gguf, write_llama_gguf

pytestmark = pytest.mark.timeout(30)

EVALUATE = """
import hashlib, json, math, sys
from llmwit_magic.engines.backends.ctransformers.evaluator import CTransformersEvaluator

for path in sys.argv[2:]:
    model = CTransformersEvaluator(path, model_type=None, context_length=64, gpu_layers=0)
    model.evaluate_prompt(json.loads(sys.argv[1]), lambda: 1, lambda done: True)
    assert all(map(math.isfinite, model.logits.tolist()))
    print("SEEN", hashlib.sha256(model.logits.tobytes()).hexdigest(), flush=True)
"""

RESOLVE = """
import sys
from llmwit_magic.engines.local.model_files import resolve

print("ready", flush=True)
sys.stdin.readline()
print(resolve(sys.argv[1], None, {}, lambda progress: None).file)
"""


class GivenUp(Exception):
    """What a cancelled run raises out of `progress`."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_llama_gguf(tmp_path / "tiny.gguf")


def find(name: Path, report: Callable[[Progress], None] = lambda progress: None) -> LocalModel:
    return resolve(str(name), None, {}, report)


def evaluated(*paths: Path, tokens: Sequence[int] = (5, 200, 17)) -> list[str]:
    """The hash of each file's logits as a process of ctransformers saw it, up to its failure."""
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE, json.dumps(tokens), *paths],
        capture_output=True,
        text=True,
        timeout=20,
    )
    return [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]


def contents(header: Header) -> dict[str, bytes]:
    """The bytes of each tensor."""
    data = header.path.read_bytes()[header.data_offset :]
    return {t.name: data[t.offset : t.offset + t.nbytes] for t in header.tensors}


def files_below(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_loads_after_adapting(source: Path) -> None:
    """ctransformers refuses the file as it is and evaluates its adapted form."""
    assert not evaluated(source)
    model = find(source)
    assert model.file != source
    assert evaluated(model.file)


@pytest.mark.parametrize("tensor_type", ["F16", "Q8_0", "Q4_1"])
def test_tensors_stay_as_they_are(tensor_type: str, tmp_path: Path) -> None:
    """Each tensor is there byte for byte, with its name, shape and type; the output is a copy."""
    path = write_llama_gguf(tmp_path / "tiny.gguf", tensor_type=tensor_type)
    before = read_header(path)
    after = read_header(find(path).file)
    described = {t.name: (t.shape, t.type) for t in before.tensors}
    described["output.weight"] = described["token_embd.weight"]
    assert {t.name: (t.shape, t.type) for t in after.tensors} == described
    expected = contents(before)
    expected["output.weight"] = expected["token_embd.weight"]
    assert contents(after) == expected


def test_metadata_stays_as_it_is(tmp_path: Path) -> None:
    """All but the tokens and the scores keep their values and types, whatever these are."""
    extra = {"a.bool": True, "a.float": 0.1, "a.negative": -3, "a.list": ["é", "b"], "a.text": "ü"}
    path = write_llama_gguf(
        tmp_path / "tiny.gguf", extra_metadata={**extra, "a.numbers": [1.5, 2.5]}
    )
    before, after = read_header(path), read_header(find(path).file)
    changed = {"tokenizer.ggml.tokens", "tokenizer.ggml.scores"}
    for key in before.metadata.keys() - changed:
        assert after.metadata[key] == before.metadata[key]
        assert after.types[key] == before.types[key]
    assert after.metadata.keys() == before.metadata.keys() | changed


def test_tokens_are_unique_raw_bytes(source: Path) -> None:
    """No token occurs twice or holds a NUL, and the loader's own bytes are among them."""
    after = read_header(find(source).file).metadata
    tokens = after["tokenizer.ggml.tokens"]
    assert len(set(tokens)) == len(tokens)
    assert not any(b"\0" in token for token in tokens)
    assert {bytes([byte]) for byte in range(1, 256)} < set(tokens)
    assert tokens[:3] == [b"<|endoftext|>", b"<|im_start|>", b"<|im_end|>"]
    assert after["tokenizer.ggml.scores"].tolist() == [0.0] * len(tokens)


def test_raw_tokens() -> None:
    """Byte-level tokens become bytes; a NUL, a duplicate and a foreign character do no harm."""
    normal, control = 1, 3
    tokens = [
        "Ġa",
        "Ċ",
        "é",
        "Ā",
        "<s>",
        "x",
        "<s>",
        "日",
        "<placeholder 3>",
        "<placeholder 9>",
        "Ā",
    ]
    types = [
        normal,
        normal,
        normal,
        normal,
        control,
        normal,
        normal,
        normal,
        control,
        normal,
        normal,
    ]
    raw = raw_tokens([token.encode() for token in tokens], types)
    assert raw[:3] == [b" a", b"\n", b"\xe9"]
    assert raw[4:6] == [b"<s>", b"x"]
    assert raw[7] == "日".encode()
    assert raw[8] == b"<placeholder 3>"
    assert len(set(raw)) == len(raw)
    assert not any(b"\0" in token for token in raw)


def test_raw_tokens_take_any_bytes() -> None:
    """Tokens that are no UTF-8 or empty stay unique too."""
    raw = raw_tokens([b"\xff", b"", b"", b"a\0b", b"a\0b"], [1] * 5)
    assert raw[:2] == [b"\xff", b""]
    assert len(set(raw)) == 5
    assert not any(b"\0" in token for token in raw)


@pytest.mark.parametrize("drop", ["tokenizer.ggml.token_type", "tokenizer.ggml.bos_token_id"])
def test_missing_types(drop: str, tmp_path: Path) -> None:
    """A file without token types gets them, one without a special id does without it."""
    path = write_llama_gguf(tmp_path / "tiny.gguf", drop=[drop])
    assert evaluated(find(path).file)


@pytest.mark.parametrize("vocabulary", ["bpe", "spm"])
@pytest.mark.parametrize("name", ["bos", "eos", "unknown", "seperator", "padding"])
def test_special_ids_outside_the_vocabulary(name: str, vocabulary: Any, tmp_path: Path) -> None:
    """llama.cpp ignores them; ctransformers, which would look them up, gets others and computes."""
    key = f"tokenizer.ggml.{name}_token_id"
    paths = [write_llama_gguf(tmp_path / "plain.gguf", vocabulary=vocabulary)]
    paths += [
        write_llama_gguf(
            tmp_path / f"{value}.gguf", vocabulary=vocabulary, extra_metadata={key: value}
        )
        for value in (600, 2**32 - 1)
    ]
    plain, *others = evaluated(*(find(path).file for path in paths))
    assert others == [plain, plain]


def test_small_vocabulary_without_special_ids(tmp_path: Path) -> None:
    """Where a file names none, the loader takes token 11, which such a vocabulary lacks."""
    path = write_llama_gguf(
        tmp_path / "small.gguf",
        extra_metadata={
            "tokenizer.ggml.tokens": ["<|endoftext|>", "Ċ", "a"],
            "tokenizer.ggml.token_type": [3, 1, 1],
            "tokenizer.ggml.merges": ["a a"],
        },
        drop=["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"],
    )
    parts = take_apart(path.read_bytes())
    tensors = [
        replace(t, shape=(64, 3)) if t.name == b"token_embd.weight" else t for t in parts.tensors
    ]
    path.write_bytes(replace(parts, tensors=tensors).join())
    loaded = read_header(find(path).file)
    assert loaded.metadata["tokenizer.ggml.bos_token_id"] == 0
    assert loaded.types["tokenizer.ggml.bos_token_id"] == 4
    assert evaluated(loaded.path, tokens=[0, 2, 1])


def test_untied_output_is_kept(tmp_path: Path) -> None:
    """An output that is there is not copied over."""
    path = write_llama_gguf(tmp_path / "tiny.gguf", tied=False)
    loaded = find(path).file
    assert contents(read_header(loaded)) == contents(read_header(path))
    assert evaluated(loaded)


def test_falcon_with_tied_embeddings(tmp_path: Path) -> None:
    """A falcon without an output gets it as a llama does."""
    path = write_falcon_gguf(tmp_path / "falcon.gguf", drop=["output.weight"])
    loaded = find(path).file
    tensors = contents(read_header(loaded))
    assert tensors["output.weight"] == tensors["token_embd.weight"]
    assert evaluated(loaded)


@pytest.mark.parametrize("kind", ["linear", None])
def test_linear_scaling(kind: str | None, tmp_path: Path) -> None:
    """A scaling under its new key computes what it does under the key of the loader's time.

    A file that gives a factor and no type means the linear one, as llama.cpp reads it; the old key
    beside it, and beside the type `none`, counts for nothing.
    """
    new = {"llama.rope.scaling.factor": 4.0}
    if kind:
        new["llama.rope.scaling.type"] = kind  # type: ignore[assignment]
    paths = [
        write_llama_gguf(tmp_path / f"{name}.gguf", vocabulary="spm", extra_metadata=extra)
        for name, extra in {
            "new": new,
            "old": {"llama.rope.scale_linear": 4.0},
            "none": {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},
            "plain": {},
            "both": {**new, "llama.rope.scale_linear": 2.0},
            "old none": {"llama.rope.scaling.type": "none", "llama.rope.scale_linear": 2.0},
            "old off": {"llama.rope.scale_linear": 0.0},
        }.items()
    ]
    adapted = [find(path).file for path in paths]
    assert not any(needs_adaptation(read_header(path)) for path in adapted)
    scaled, expected, none, plain, both, old_none, old_off = evaluated(*adapted)
    assert scaled == expected == both
    assert none == plain == old_none == old_off
    assert scaled != plain


def test_alignment_is_kept(tmp_path: Path) -> None:
    """Data of another alignment is read and written with it."""
    from gguf import GGUFWriter

    plain = read_header(write_llama_gguf(tmp_path / "plain.gguf"))
    target = tmp_path / "aligned.gguf"
    writer = GGUFWriter(target, "llama")
    writer.add_custom_alignment(256)
    for key, value in plain.metadata.items():
        if key != "general.architecture":
            kind = GGUFReader(plain.path).fields[key].types
            items = list(value) if len(kind) > 1 else value
            writer.add_key_value(key, items, kind[0], kind[1] if len(kind) > 1 else None)
    for tensor in GGUFReader(plain.path).tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    after = read_header(find(target).file)
    assert after.alignment == 256
    assert contents(after).items() >= contents(plain).items()
    aligned, expected = evaluated(after.path, find(plain.path).file)
    assert aligned == expected


def test_files_that_need_nothing(tmp_path: Path) -> None:
    """Llama 2's form and falcon's are loaded as they are, and nothing is written."""
    for path in (
        write_llama_gguf(tmp_path / "spm.gguf", vocabulary="spm"),
        write_falcon_gguf(tmp_path / "falcon.gguf"),
    ):
        assert not needs_adaptation(read_header(path))
        assert find(path).file == path
    assert not (cache_folder() / "adapted").exists()


def test_adapted_form_is_stable(source: Path) -> None:
    """An adapted file needs no adapting, and a second resolve takes the first one's."""
    first = find(source)
    assert not needs_adaptation(read_header(first.file))
    state = first.file.stat()
    stages: list[str] = []
    assert find(source, lambda progress: stages.append(progress.stage)) == first
    assert "adapt" not in stages
    assert first.file.stat() == state


def test_progress(source: Path) -> None:
    """It goes up from nothing to everything, in bytes."""
    seen: list[tuple[int, int]] = []
    adapt(read_header(source), cache_folder() / "x.gguf", lambda *numbers: seen.append(numbers))
    done, totals = zip(*seen, strict=True)
    assert done[0] == 0
    assert done[-1] == totals[0] == totals[-1]
    assert list(done) == sorted(done)
    assert len(set(totals)) == 1


def test_tensors_are_written_in_blocks(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large a tensor is, no more than a block of it is in memory; the file is the same."""
    header, steps = read_header(source), []
    whole, pieces = cache_folder() / "whole.gguf", cache_folder() / "pieces.gguf"
    adapt(header, whole, lambda done, total: None)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1000)
    adapt(header, pieces, lambda done, total: steps.append(done))
    assert max(later - earlier for earlier, later in pairwise(steps)) == 1000
    assert pieces.read_bytes() == whole.read_bytes()


def test_given_up_at_every_step(source: Path) -> None:
    """A cancellation leaves neither a whole file nor a part, and the next resolve does it all."""
    steps: list[Progress] = []
    find(source, steps.append)
    total = len(steps)
    assert total > 20
    for step in range(total):
        for path in cache_folder().rglob("*.gguf"):
            path.unlink()
        calls = 0

        def give_up(progress: Progress, last: int = step) -> None:
            nonlocal calls
            calls += 1
            if calls > last:
                raise GivenUp

        try:
            find(source, give_up)
        except GivenUp:
            names = files_below(cache_folder())
            assert not [name for name in names if name.endswith((".part", ".gguf"))]
        else:
            # The hash is remembered, so there are fewer steps than the first time.
            assert calls <= step
    loaded = find(source).file
    assert evaluated(loaded)


def test_killed_while_writing(source: Path) -> None:
    """A process that is killed leaves nothing that is taken for whole."""
    code = (
        "import sys\n"
        "import psutil\n"
        "from llmwit_magic.engines.local.model_files import resolve\n"
        "def report(progress):\n"
        "    if progress.stage == 'adapt' and progress.done:\n"
        "        psutil.Process().kill()\n"
        "resolve(sys.argv[1], None, {}, report)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(source)], timeout=20)
    assert done.returncode
    assert not list(cache_folder().rglob("*.gguf"))
    assert evaluated(find(source).file)
    assert not [name for name in files_below(cache_folder()) if name.endswith(".part")]


def test_source_truncated_while_it_is_read(source: Path) -> None:
    """It is damaged, by name, and leaves nothing."""
    half = source.stat().st_size // 2

    def truncate(progress: Progress) -> None:
        if progress.stage == "adapt":
            os.truncate(source, half)

    with pytest.raises(ModelDamaged, match=r"tiny\.gguf"):
        find(source, truncate)
    assert not [name for name in files_below(cache_folder()) if name.endswith((".part", ".gguf"))]


def test_copy_that_is_not_what_was_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that a failing disk spoilt is not kept."""
    write = module._write

    def spoilt(header: Header, path: Path, progress: Callable[[int, int], None]) -> None:
        write(header, path, progress)
        os.truncate(path, path.stat().st_size // 2)

    monkeypatch.setattr(module, "_write", spoilt)
    with pytest.raises(ModelDamaged):
        find(source)
    assert not [name for name in files_below(cache_folder()) if name.endswith((".part", ".gguf"))]


def test_two_processes_at_once(source: Path) -> None:
    """Both end with one whole file."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RESOLVE, str(source)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    loaded = [Path(process.communicate(timeout=20)[0].strip()) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert loaded[0] == loaded[1] == find(source).file
    left = [name for name in files_below(loaded[0].parent) if not name.endswith(".lock")]
    assert sorted(left) == [loaded[0].name, f"{loaded[0].name}.sha256"]
    assert evaluated(loaded[0])


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    assert str(error.value).isprintable()
    return str(error.value)


def test_cache_that_cannot_be_made(source: Path, tmp_path: Path) -> None:
    """A file where the cache should be is one line that names what cannot be written."""
    (tmp_path / "cache").write_text("")
    with pytest.raises(InferenceError) as caught:
        find(source)
    message = one_line(caught)
    assert "tiny.gguf" in message
    assert str(cache_folder()) in message


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="permissions stop neither root nor Windows"
)
def test_read_only_cache(source: Path, tmp_path: Path) -> None:
    """A cache without permission to write is one line that names it."""
    folder = tmp_path / "cache" / "llmwit-magic"
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    try:
        with pytest.raises(InferenceError) as caught:
            find(source)
        assert "Permission denied" in one_line(caught)
    finally:
        folder.chmod(0o700)


def test_full_disk(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space left is one line, and no part stays."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(InferenceError) as caught:
        find(source)
    assert os.strerror(errno.ENOSPC) in one_line(caught)
    assert not [name for name in files_below(cache_folder()) if name.endswith((".part", ".gguf"))]


def test_long_and_foreign_names(source: Path) -> None:
    """The name of the source, as long as a name can be, leaves room for what is added to it."""
    for name in ("x" * 250 + ".gguf", "日" * 80 + ".gguf", "a b'é.gguf"):
        path = source.rename(source.with_name(name))
        assert find(path).file.is_file()
        source = path


def test_another_file_of_the_same_name(source: Path, tmp_path: Path) -> None:
    """The adapted form belongs to the contents, not to the name."""
    first = find(source)
    write_llama_gguf(source, seed=1)
    assert not first.unchanged()
    second = find(source)
    assert second.unchanged()
    assert second.file != first.file
    assert len(set(evaluated(first.file, second.file))) == 2


def test_remembered_hash_is_json(source: Path) -> None:
    """A memory of hashes that is spoilt is made again."""
    digest = find(source).info.sha256
    memories = list((cache_folder() / "hashes").iterdir())
    assert len(memories) == 2  # of the source and of its copy
    for spoilt in ("", "[]", "{}", "nonsense", json.dumps({"state": 1, "sha256": "x"})):
        for memory in memories:
            memory.write_text(spoilt)
        assert find(source).info.sha256 == digest


def flipped(path: Path) -> None:
    """Change one byte in the middle; size and time of modification stay as they were."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        (byte,) = file.read(1)
        file.seek(before.st_size // 2)
        file.write(bytes([byte ^ 0x40]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.with_name("other").write_bytes(data)
    os.replace(path.with_name("other"), path)


SPOILT: dict[str, Callable[[Path], object]] = {
    "a byte": flipped,
    "another file": replaced,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "no hash": lambda path: path.with_name(path.name + ".sha256").unlink(),
    "another hash": lambda path: path.with_name(path.name + ".sha256").write_text("x"),
    "no text": lambda path: path.with_name(path.name + ".sha256").write_bytes(b"\xff"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_changed_copy_is_made_again(source: Path, how: str) -> None:
    """What is loaded has the bytes that were made of the file whose hash is told."""
    first = find(source)
    intact = first.file.read_bytes()
    SPOILT[how](first.file)
    second = find(source)
    assert second.file.read_bytes() == intact
    assert second.info.sha256 == first.info.sha256
    assert evaluated(second.file)
    assert find(source).state == second.state


def test_a_copy_is_looked_through_once(source: Path) -> None:
    """A copy that stays as it is costs no reading of all of it, in a new process too."""
    find(source)
    reports: list[Progress] = []
    find(source, reports.append)
    assert reports == []


def test_a_moved_cache_is_still_good(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the cache, which may be read-only, is looked through and not made again."""
    intact = find(source).file.read_bytes()
    shutil.copytree(tmp_path / "cache", tmp_path / "image")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "image"))

    def refused(*arguments: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files, "write_whole", refused)
    monkeypatch.setattr(adapted_files, "exclusive", refused)
    assert find(source).file.read_bytes() == intact
    flipped(find(source).file)
    with pytest.raises(InferenceError, match="Read-only file system"):
        find(source)


def test_source_changed_between_hash_and_copy(source: Path) -> None:
    """No copy is kept of other bytes than were hashed."""

    def change(progress: Progress) -> None:
        if progress.stage == "adapt":
            flipped(source)

    with pytest.raises(ModelDamaged, match=r"tiny\.gguf: the file has changed"):
        find(source, change)
    assert not list(cache_folder().rglob("*.gguf"))
