"""Tiny models by llama.cpp, beside ctransformers: the same contract, the same text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic import api
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.engines.backends.llamacpp.llama_sources import VARIABLE, source
from llmwit_magic.errors import (
    DeviceUnavailable,
    EngineFailed,
    InvalidInput,
    ModelNotFound,
    ModelNotSupported,
)
from llmwit_magic.models.parts import part_names
from llmwit_magic.running.replay import replay_request
from llmwit_magic.running.session import Session
from tests.support.apart import python_apart
from tests.support.gguf_parts import Tensor, take_apart
from tests.support.tiny_models import write_llama_gguf

ENGINES = ("ctransformers", "llama.cpp")
PROMPT = "Once upon a time there was a small robot that lived in a house near the sea."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    kinds: dict[str, dict[str, Any]] = {
        "bpe": {}, "spm": {"vocabulary": "spm"}, "Q8_0": {"tensor_type": "Q8_0"},
    }  # fmt: skip
    return {
        name: write_llama_gguf(folder / f"{name}.gguf", context_length=512, **options)
        for name, options in kinds.items()
    }


@pytest.fixture
def asked(session: Session) -> Any:
    def ask(model: Path, prompt: str = PROMPT, **options: Any) -> InferencingResult:
        params = {"max_tokens": 30, "seed": 3} | options.pop("params", {})
        # A GPU rounds otherwise than the processor.
        options = {"gpu_layers": 0} | options
        run = session.run(Request(model=str(model), prompt=prompt, params=params, **options))
        assert run.wait(60)
        run.raise_failure()
        return run.result

    return ask


@pytest.mark.parametrize("kind", ["bpe", "spm"])
@pytest.mark.parametrize("temperature", [0, 1.2])
def test_both_engines_say_the_same(
    kind: str, temperature: float, models: dict[str, Path], asked: Any
) -> None:
    """Of a file in F32: our sampler, seeds, stop sequences and counts are above both."""
    results = [
        asked(models[kind], engine=engine, params={"temperature": temperature})
        for engine in ENGINES
    ]
    one, other = results
    assert one.text == other.text
    assert (one.usage, one.finish_detail) == (other.usage, other.finish_detail)
    assert [result.model.engine for result in results] == list(ENGINES)


def test_auto_takes_ctransformers_where_it_runs_the_file(
    models: dict[str, Path], asked: Any
) -> None:
    """It stays the default for what it can run."""
    assert asked(models["bpe"]).model.engine == "ctransformers"


def with_rope_freqs(path: Path) -> Path:
    """A llama file with the tensor by which Llama 3.1 and later scale their positions."""
    write_llama_gguf(path, vocabulary="spm", context_length=512)
    parts = take_apart(path.read_bytes())
    tensors = [*parts.tensors, Tensor(b"rope_freqs.weight", (8,), 0, len(parts.data))]
    ones = b"\0\0\x80\x3f" * 8
    path.write_bytes(replace(parts, tensors=tensors, data=parts.data + ones).join())
    return path


def test_a_model_in_several_files(
    tmp_path: Path, models: dict[str, Path], asked: Any, session: Session
) -> None:
    """Its text is that of the same model in one file, and a replay knows it by any of its parts."""
    first = write_llama_gguf(
        tmp_path / "m.gguf", vocabulary="spm", context_length=512, tensors_per_part=8
    )
    names = part_names(first.name)
    results = [asked(tmp_path / name) for name in (names[1], names[0])]
    assert {result.text for result in results} == {asked(models["spm"], engine="llama.cpp").text}
    assert {result.model.engine for result in results} == {"llama.cpp"}
    assert len(session.local.pool.loaded_models()) == 2  # of one file, and of three
    original = session.log[results[0].run_id]
    assert replay_request(session, original, {"model": str(first)})[0].model == str(first)
    (tmp_path / names[2]).unlink()
    with pytest.raises(ModelNotFound, match=r"part 3 of 3 is missing: m-00003-of-00003\.gguf"):
        asked(first)


def test_auto_takes_llama_cpp_for_the_rest(
    tmp_path: Path, asked: Any, models: dict[str, Path], session: Session
) -> None:
    """A file like Llama 3.1's runs; with factors of one it is the same model. The log says who ran it."""
    path = with_rope_freqs(tmp_path / "llama31.gguf")
    result = asked(path)
    assert result.model.engine == "llama.cpp"
    assert result.device.library.startswith("ggml 0.")
    assert result.text == asked(models["spm"], engine="llama.cpp").text
    row = session.log.row(1)
    assert (row["engine_requested"], row["engine"]) == ("auto", "llama.cpp")


def test_the_engine_that_would_run_it_is_named(
    tmp_path: Path, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its library is missing, one line says so, and what to do."""
    path = with_rope_freqs(tmp_path / "llama31.gguf")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere" / "libllama.so"))
    with pytest.raises(ModelNotSupported, match=r"rope_freqs.*; llama\.cpp would run it \(LLMWIT"):
        asked(path)
    with pytest.raises(EngineFailed, match=r"^LLMWIT_LLAMA_LIBRARY names "):
        asked(path, engine="llama.cpp")


def test_an_engine_that_cannot_run_the_file_is_refused(tmp_path: Path, asked: Any) -> None:
    """What was asked for is not replaced by another one."""
    path = with_rope_freqs(tmp_path / "llama31.gguf")
    with pytest.raises(ModelNotSupported, match="unknown to ctransformers"):
        asked(path, engine="ctransformers")


def test_a_replay_by_another_engine_is_refused(
    models: dict[str, Path], asked: Any, session: Session
) -> None:
    """Its text could be another. `--accept engine` takes it, and so does naming the engine."""
    result = asked(models["bpe"], engine="llama.cpp")
    original = session.log[result.run_id]
    assert replay_request(session, original, {})[0].engine == "llama.cpp"
    session.log._database.execute("UPDATE runs SET engine_requested = 'auto'")
    original = session.log[result.run_id]
    with pytest.raises(ModelNotSupported, match=r"was run by llama\.cpp, and ctransformers would"):
        replay_request(session, original, {})
    assert replay_request(session, original, {}, accept="engine")[0].engine == "auto"
    assert replay_request(session, original, {"engine": "llama.cpp"})[0].engine == "llama.cpp"


def test_vectors_of_both_engines_are_alike(
    models: dict[str, Path], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last token's state where the file names no pooling; ctransformers rounds otherwise."""
    monkeypatch.setattr(api, "current_session", lambda: session)
    found = [
        api.generate_embeddings(models["spm"], ["Hello world", "a"], engine=engine, gpu_layers=0)
        for engine in ENGINES
    ]
    assert found[0].usage == found[1].usage
    for one, other in zip(found[0].embeddings, found[1].embeddings, strict=True):
        assert one == pytest.approx(other, abs=2e-3)


@pytest.mark.parametrize("pooling", [1, 3])
def test_the_pooling_of_the_file_counts(
    pooling: int, tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of one token's states is its state; of several tokens it is another vector."""
    monkeypatch.setattr(api, "current_session", lambda: session)
    path = write_llama_gguf(
        tmp_path / "pooled.gguf", vocabulary="spm", extra_metadata={"llama.pooling_type": pooling}
    )
    plain = write_llama_gguf(tmp_path / "plain.gguf", vocabulary="spm")
    texts = ["Hello world, and more"]
    pooled, last = (
        api.generate_embeddings(model, texts, engine="llama.cpp", gpu_layers=0).embeddings[0]
        for model in (path, plain)
    )
    assert (pooled == pytest.approx(last, abs=1e-5)) == (pooling == 3)


def test_what_is_not_exact_is_said(models: dict[str, Path], asked: Any, session: Session) -> None:
    """llama.cpp's larger blocks change last bits, so another model is loaded; ctransformers stays."""
    exact = asked(models["spm"], engine="llama.cpp")
    result = asked(models["spm"], engine="llama.cpp", exact=False)
    assert (exact.device.exact, result.device.exact) == (True, False)
    assert len(result.text) > 10
    assert len(session.local.pool.loaded_models()) == 2
    row = session.log.row(result.run_id)
    assert (row["exact_requested"], row["exact"]) == (False, False)
    assert session.log[result.run_id].device == result.device
    kept = asked(models["spm"], engine="ctransformers", exact=False)
    assert kept.device.exact
    loaded = session.local.pool.loaded_models()
    asked(models["spm"], engine="ctransformers")
    assert session.local.pool.loaded_models() == loaded
    assert session.log.row(kept.run_id)["exact"] is True


# Run apart, since the library prints and would stay loaded.
LOGITS = """
import json, sys
from pathlib import Path
import numpy as np
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.registry import BACKENDS
from llmwit_magic.engines.local.model_files import resolve

path = sys.argv[1]
rows = []
for backend in BACKENDS:
    found = resolve(path, None, {}, lambda progress: None, [backend])
    loaded = backend.open(found.source, found.file, ModelSpec(model="m", gpu_layers=0), 1)
    ids = loaded.tokenizer.encode(sys.argv[2], ())
    assert loaded.evaluator.evaluate_prompt(ids, lambda: 1, lambda done: True)
    rows.append(np.array(loaded.evaluator.logits, dtype=np.float64))
print("SEEN", json.dumps([float(np.abs(rows[0] - rows[1]).max()), float(np.abs(rows[0]).max()),
                          int(rows[0].argmax()) == int(rows[1].argmax())]))
"""


@pytest.mark.parametrize(("kind", "most"), [("bpe", 0.02), ("spm", 0.02)])
def test_logits_of_both_engines_are_alike(kind: str, most: float, models: dict[str, Path]) -> None:
    """Two libraries of different years compute the same model: the likeliest token is the same."""
    done = subprocess.run(
        [sys.executable, "-c", LOGITS, str(models[kind]), PROMPT],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert "SEEN" in done.stdout, done.stderr[-2000:]
    difference, largest, same = json.loads(done.stdout.split("SEEN ")[1])
    print(f"largest difference {difference:.4f} of logits up to {largest:.1f}")
    assert difference < most * largest
    assert same


VOCABULARY = """
import json, sys
from pathlib import Path
import numpy as np
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.llamacpp import llama_loading
from llmwit_magic.engines.backends.llamacpp.llama_library import library

path, lib = Path(sys.argv[1]), library()
load, plain = llama_loading.load, llama_loading._load_model
models = []
def noted(*arguments):
    models.append(plain(*arguments))
    return models[-1]
rows = []
for takes in (noted, lambda path, device, layers, _: noted(path, device, layers)):
    llama_loading._load_model = takes
    loaded = load(path, path, ModelSpec(model="m", gpu_layers=0), 1)
    ids = loaded.tokenizer.encode(sys.argv[2], ())
    assert loaded.evaluator.evaluate_prompt(ids, lambda: 1, lambda done: True)
    rows.append(loaded.evaluator.logits.copy())
vocabularies = [lib.llama_model_get_vocab(model) for model in models]
print("SAID", json.dumps([
    [lib.llama_vocab_n_tokens(each) for each in vocabularies],
    [lib.llama_vocab_eos(each) >= 0 for each in vocabularies],
    bool(np.array_equal(*rows)),
]))
"""


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_the_library_reads_no_vocabulary_that_ours_knows(
    kind: str, models: dict[str, Path]
) -> None:
    """Which takes time. The logits are the same to the bit as with it."""
    counts, known, same = python_apart(VOCABULARY, models[kind], PROMPT)
    assert counts[0] == counts[1] > 0
    assert known == [False, True]
    assert same


TURNS = """
import json, sys
from pathlib import Path
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.llamacpp import llama_loading

sys.setswitchinterval(1e-3)
turns = {}
for name in ("_load_model", "_open_context"):
    def opened(*given, name=name, open=getattr(llama_loading, name)):
        turns[name] = sys.getswitchinterval()
        return open(*given)
    setattr(llama_loading, name, opened)
model = Path(sys.argv[1])
llama_loading.load(model, model, ModelSpec(model=str(model)), 1)
print("SAID", json.dumps([turns["_load_model"], turns["_open_context"], sys.getswitchinterval()]))
"""


def test_the_library_does_not_wait_for_the_tokenizer(models: dict[str, Path]) -> None:
    """It logs by Python, for each line of which it needs the GIL: so the turns are short."""
    loading, opening, after = python_apart(TURNS, models["bpe"])
    assert loading == opening == pytest.approx(5e-5)
    assert after == pytest.approx(1e-3)


def test_a_cell_names_the_engine(models: dict[str, Path], shell_of: Any, session: Session) -> None:
    """`--engine` for one cell, `%config InferMagics.engine` for all."""
    shell = shell_of(session)
    shell.run_cell_magic(
        "infer", f"-m '{models['bpe']}' --engine llama.cpp --max-tokens 2", "Hello"
    )
    assert shell.user_ns["_infer"].model.engine == "llama.cpp"
    shell.run_line_magic("config", "InferMagics.engine = 'llama.cpp'")
    shell.run_cell_magic("infer", f"-m '{models['bpe']}' --max-tokens 2", "Hello")
    assert shell.user_ns["_infer"].model.engine == "llama.cpp"
    shell.run_cell_magic(
        "infer", f"-m '{models['bpe']}' --max-tokens 2 --engine ctransformers", "Hello"
    )
    assert shell.user_ns["_infer"].model.engine == "ctransformers"


@pytest.fixture
def without_gpu_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of the package, without its code for GPUs."""
    if sys.platform != "linux":
        pytest.skip("elsewhere the library may not find its parts by links")
    if source().bindings:
        return  # that of llama-cpp-python has none, as it is built in its session
    for name in ("llama", "ggml", "ggml-base", "ggml-cpu"):
        found = source().find(name)
        assert found is not None
        for file in found.parent.glob(f"{found.name}*"):  # also by names with its version
            (tmp_path / file.name).symlink_to(file)
    monkeypatch.setenv(VARIABLE, str(tmp_path))


@pytest.mark.usefixtures("without_gpu_code")
def test_gpu_layers_without_a_gpu(models: dict[str, Path], asked: Any) -> None:
    """The library alone would take any number without a word. `auto` runs on the processor."""
    with pytest.raises(DeviceUnavailable, match=r"^3 GPU layers were .* no code for GPUs; --gpu-"):
        asked(models["bpe"], engine="llama.cpp", gpu_layers=3)
    with pytest.raises(DeviceUnavailable, match=r"^device 'Vulkan0' was asked for, but llama\.cpp"):
        asked(models["bpe"], engine="llama.cpp", gpu_layers="auto", device="Vulkan0")
    device = asked(models["bpe"], engine="llama.cpp", gpu_layers="auto").device
    assert (device.name, device.gpu_layers, device.memory_bytes) == ("cpu", 0, None)
    assert device.reason in (
        "this machine shows no GPU",
        "llama.cpp's library has no code for GPUs",
    )


def test_ctransformers_cannot_choose_a_device(models: dict[str, Path], asked: Any) -> None:
    """It is refused, with the engine that can."""
    with pytest.raises(InvalidInput, match=r"^device: ctransformers takes the first GPU .*llama"):
        asked(models["bpe"], engine="ctransformers", device="Vulkan0")


@pytest.fixture
def shell_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from IPython.core.interactiveshell import InteractiveShell

    from llmwit_magic.magics.infer import InferMagics

    def made(session: Session) -> Any:
        shell = InteractiveShell()
        shell.register_magics(InferMagics(shell, session))
        return shell

    yield made
    InteractiveShell.clear_instance()
