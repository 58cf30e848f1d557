"""Compiled components: made in a child process, within limits; kept in the cache privately, and
loaded only where nothing is in doubt."""

from __future__ import annotations

import _thread
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from wasmtime import component

from llmwit_magic.components import compiled as kept
from llmwit_magic.components import compiler
from llmwit_magic.components.compiled import compiled, path_of
from llmwit_magic.components.sandbox import the_engine
from llmwit_magic.errors import ComponentFailed, InvalidInput
from tests.support.wat_guests import hard_to_compile

SOURCE = b"(component)"
DIGEST = hashlib.sha256(SOURCE).hexdigest()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The sources that were compiled, in a cache of its own. The compiler is the real one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept, "cache_folder", lambda: tmp_path)
    sources: list[bytes] = []
    compile_apart = kept.compile_apart

    def counted(source: bytes) -> bytes:
        sources.append(source)
        return compile_apart(source)

    monkeypatch.setattr(kept, "compile_apart", counted)
    return sources


def load() -> component.Component:
    return compiled(the_engine(), SOURCE, DIGEST)


def test_a_component_is_compiled_once(made: list[bytes]) -> None:
    """The second time, the compiled form comes from memory, and in another process from the cache."""
    first = load()
    assert load() is first
    del first
    load()
    assert made == [SOURCE]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes of this kind")
def test_the_compiled_form_is_this_user_s_alone(made: list[bytes]) -> None:
    """Nobody else can read or write the folder and the file, whatever the umask is."""
    before = os.umask(0)
    try:
        load()
    finally:
        os.umask(before)
    path = path_of(DIGEST)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == [path.name]  # no remains


def changed_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_another_component(path: Path) -> None:
    """The whole and right file of another component, under this one's name."""
    other = b"(component (core module))"
    digest = hashlib.sha256(other).hexdigest()
    compiled(the_engine(), other, digest)
    path.unlink()
    path_of(digest).rename(path)


def readable(path: Path) -> None:
    path.chmod(0o644)


def writable_folder(path: Path) -> None:
    path.parent.chmod(0o777)


def linked(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


def linked_twice(path: Path) -> None:
    os.link(path, path.parent.parent / "again")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


DOUBTS = [changed_byte, shortened, emptied, of_another_component]
POSIX_DOUBTS = [readable, writable_folder, linked, linked_twice, pipe]


@pytest.mark.parametrize("doubt", DOUBTS + ([] if sys.platform == "win32" else POSIX_DOUBTS))
def test_a_doubtful_form_is_made_again(made: list[bytes], doubt: Callable[[Path], None]) -> None:
    """Where file, owner, mode or bytes are not as they were written, the component is compiled again,
    and what is kept then is right."""
    load()
    path = path_of(DIGEST)
    doubt(path)
    load()
    assert made.count(SOURCE) == 2
    load()
    assert made.count(SOURCE) == 2
    if sys.platform != "win32":
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert stat.S_ISREG(path.lstat().st_mode)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no owners of this kind")
def test_a_form_of_another_user_is_not_loaded(
    made: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file or folder that another user owns is left alone, and the component is compiled."""
    load()
    user = os.geteuid()
    monkeypatch.setattr(kept.os, "geteuid", lambda: user + 1)
    load()
    load()
    assert made == [SOURCE] * 3
    assert path_of(DIGEST).exists()


def test_the_form_that_was_not_used_for_longest_goes_first(
    made: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache holds a bounded number of forms."""
    monkeypatch.setattr(kept, "MOST_KEPT", 3)
    sources = [b"(component" + b" " * number + b")" for number in range(5)]
    digests = [hashlib.sha256(source).hexdigest() for source in sources]
    for number, (source, digest) in enumerate(zip(sources, digests, strict=True)):
        compiled(the_engine(), source, digest)
        os.utime(path_of(digest), (number, number))
        if number == 2:
            compiled(the_engine(), sources[0], digests[0])  # it is used again
    there = [path_of(digest).exists() for digest in digests]
    assert there == [True, False, False, True, True]


def test_where_nothing_can_be_kept_it_is_compiled_each_time(
    made: list[bytes], tmp_path: Path
) -> None:
    """A cache that cannot be written keeps no component from running."""
    (tmp_path / "components").write_text("a file in the place of the folder", encoding="utf-8")
    load()
    load()
    assert made == [SOURCE] * 2


# The compiler ----------------------------------------------------------------------------


@pytest.fixture
def children(made: list[bytes], monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The children that were started to compile."""
    found: list[subprocess.Popen[bytes]] = []
    start = compiler.start

    def seen(*command: object, **how: object) -> subprocess.Popen[bytes]:
        found.append(start(*command, **how))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(compiler, "start", seen)
    return found


def load_hostile(levels: int = 30) -> component.Component:
    source = hard_to_compile(levels).encode()
    return compiled(the_engine(), source, hashlib.sha256(source).hexdigest())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
def test_a_component_that_takes_too_much_memory_is_refused(
    children: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child ends for lack of memory. This process goes on, and has taken none of it."""
    import resource

    monkeypatch.setattr(compiler, "MEMORY", 100 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidInput, match=r"^compiling it takes more than 100 MiB of memory"):
        load_hostile()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 2**10  # KiB
    assert children[0].wait(5) != 0
    load()


def test_a_component_that_takes_too_long_is_refused(
    children: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child is ended at the deadline."""
    monkeypatch.setattr(compiler, "SECONDS", 0.5)
    with pytest.raises(InvalidInput, match=r"^compiling it takes more than 0\.5 s"):
        load_hostile()
    assert children[0].wait(5) != 0


def test_an_interrupt_ends_the_compiling(children: list[subprocess.Popen[bytes]]) -> None:
    """The child is ended at once, and who comes next does not wait for it."""

    def interrupt() -> None:
        while not children:
            time.sleep(0.001)
        time.sleep(0.3)
        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        load_hostile()
    assert children[0].wait(5) != 0
    assert time.monotonic() - begun < 5
    assert not any(lock.locked() for lock in kept._locks.values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no forks")
def test_a_fork_while_another_thread_compiles_can_compile(
    children: list[subprocess.Popen[bytes]],
) -> None:
    """The forked process lacks the thread that held the lock of this component."""
    thread = threading.Thread(target=load_hostile, args=(18,))
    thread.start()
    while not children:
        time.sleep(0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside other threads
        forked = os.fork()
    if not forked:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            load_hostile(18)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(forked, 0)
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_compiler_that_crashes_is_said_in_one_line(
    made: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the exit code and the last words."""
    crash = "import os, sys\nsys.stderr.write('panicked\\n')\nsys.stderr.flush()\nos.abort()\n"
    monkeypatch.setattr(compiler, "_CODE", crash)
    with pytest.raises(InvalidInput, match=r"it ended with code -?\d+; its last words: panicked;"):
        load()


def test_what_a_child_prints_first_is_no_answer(
    made: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sitecustomize of the user's may print."""
    monkeypatch.setattr(compiler, "_CODE", "print('hello', flush=True)\n" + compiler._CODE)
    load()


def test_where_no_child_can_be_started_nothing_is_compiled(
    made: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process never compiles itself. The error says why there is no child."""
    with monkeypatch.context() as patch:
        patch.setattr(compiler.sys, "executable", "/nowhere/python")
        with pytest.raises(ComponentFailed, match=r"^it could not be compiled: No such file"):
            load()
    monkeypatch.setattr(compiler.sys, "executable", "")
    with pytest.raises(ComponentFailed, match=r"^it could not be compiled: Python does not know"):
        load()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"not wasm", "it is no WebAssembly component"),
        (b"\0asm\x01\0\0\0", "it is a core module"),
        (b"(component (import", "it is no WebAssembly component: expected a string"),
        (b"\0asm\x0d\0\1\0cut", "it is no WebAssembly component: failed to parse"),
    ],
)
def test_what_is_no_component_is_refused_in_one_line(source: bytes, said: str) -> None:
    """Other files are refused, a core module with what to do."""
    with pytest.raises(InvalidInput, match=said) as error:
        compiled(the_engine(), source, hashlib.sha256(source).hexdigest())
    assert not {"\n", "\\"} & set(str(error.value))
