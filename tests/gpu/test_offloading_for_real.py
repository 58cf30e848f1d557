"""What must hold wherever there is a GPU, with a tiny model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic.contract.events import Progress
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import InferencingResult
from llmwit_magic.errors import DeviceUnavailable, InvalidInput, OutOfMemory
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from llmwit_magic.views.text import plain
from tests.gpu.conftest import FOUND, PROMPT, VISIBLE, Place
from tests.support.apart import python_apart

Ask = Callable[..., InferencingResult]
pytestmark = pytest.mark.timeout(120)  # the first run of a kind compiles its programs for the GPU


@pytest.mark.parametrize(("asked", "layers"), [(1, 1), (2, 2), (3, 3), (99, 3)])
def test_layers_are_offloaded_as_asked(
    asked: int, layers: int, any_gpu: Place, ask: Ask, session: Session
) -> None:
    """Their number and the memory that they took are in the result, in its line and in the row."""
    result = ask(any_gpu, asked)
    device = result.device
    assert (device.requested_gpu_layers, device.gpu_layers) == (asked, layers)
    assert device.name.startswith(any_gpu.name)
    assert device.memory_bytes is not None
    assert device.memory_bytes > 0
    assert f"{device.name}, {layers} GPU layers" in plain(result)
    row = session.log.row(result.run_id)
    assert (row["gpu_layers_requested"], row["gpu_layers"]) == (str(asked), layers)
    assert (row["device"], row["device_memory_bytes"]) == (device.name, device.memory_bytes)
    assert row["device_requested"] == any_gpu.device.get("device")


def test_more_layers_take_more_memory(gpu: Place, ask: Ask, model: Path) -> None:
    """All of them take at least the weights, without the embedding that stays on the processor."""
    taken = [ask(gpu, layers).device.memory_bytes or 0 for layers in (1, 2, 3)]
    assert taken == sorted(set(taken))
    assert taken[-1] > model.stat().st_size // 2


def test_caches_are_on_the_gpu(gpu: Place, ask: Ask) -> None:
    """A longer context takes its keys and values there: 256 bytes a token for each kept prompt."""
    short, long = (
        ask(gpu, 3, prompt="Hello", context_length=length).device.memory_bytes or 0
        for length in (256, 4096)
    )
    assert long - short > 2 * 256 * (4096 - 256)


def test_none_on_request(any_gpu: Place, ask: Ask) -> None:
    """0 is the processor, where a GPU is there too."""
    device = ask(Place(any_gpu.engine, ""), 0, device=None).device
    assert (device.name, device.gpu_layers, device.memory_bytes) == ("cpu", 0, None)


def test_as_many_as_fit(any_gpu: Place, ask: Ask) -> None:
    """Without a number, all layers of a small model go to the GPU that is named."""
    device = ask(any_gpu).device
    assert (device.gpu_layers, device.reason) == (3, "all layers fit")


AUTO = """
import json, sys
from dataclasses import replace
from pathlib import Path
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.llamacpp import llama_devices, llama_loading
from llmwit_magic.engines.backends.offloading import SCRATCH_BYTES
from llmwit_magic.models.gguf import read_header

path, name, count = Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
order = llama_loading.offload_order(read_header(path), 256)
real = llama_devices.devices

def devices(lib):
    free = SCRATCH_BYTES + sum(order[:count])
    return [replace(device, free_bytes=free) for device in real(lib)]

llama_devices.shows_gpu = lambda: True
llama_devices.devices = devices
spec = ModelSpec(model="m", device=name, context_length=256)
device = llama_loading.load(path, path, spec, 3).device
print("SAID", json.dumps([device.name, device.gpu_layers, device.reason]))
"""


@pytest.mark.parametrize("count", [0, 1, 2])
def test_as_many_as_the_free_memory_takes(count: int, gpu: Place, model: Path) -> None:
    """Where it is short, some layers go to the GPU, and the library puts just those there."""
    name, layers, reason = python_apart(AUTO, model, gpu.name, count)
    assert (layers, reason) == (count, f"{count} of 3 layers fit")
    assert name.startswith(gpu.name) == (count > 0)


def test_auto_takes_no_processor(gpu: Place, model: Path) -> None:
    """Vulkan in software is taken only by a number of layers, or by its name."""
    name, layers, reason = python_apart(AUTO, model, "", 3)
    if gpu.real:
        assert layers == 3
    else:
        assert (name, layers) == ("cpu", 0)
        assert reason.endswith("is in software: a number of layers takes it")


@pytest.mark.parametrize("layers", [2, 3])
def test_the_same_seed_gives_the_same_text(
    layers: int, any_gpu: Place, ask: Ask, tmp_path: Path
) -> None:
    """On one device: in a process of its own, and after other prompts in the same one."""
    texts = [ask(any_gpu, layers).text]
    ask(any_gpu, layers, prompt="Something else. " * 12)
    ask(any_gpu, layers, prompt=PROMPT[:70])
    texts.append(ask(any_gpu, layers).text)
    other = Session(tmp_path / "other.sqlite3")
    try:
        texts.append(ask(any_gpu, layers, session=other).text)
    finally:
        other.close()
    assert texts == texts[:1] * 3


LOGITS = """
import json, random, sys
from pathlib import Path
import numpy as np
from llmwit_magic.contract.request import ModelSpec
from llmwit_magic.engines.backends.llamacpp.llama_loading import load

path, name = Path(sys.argv[1]), sys.argv[2]
chance = random.Random(1)

def logits(model, tokens, cut):
    evaluator = model.contexts.best_for(tokens[:cut])
    shared = evaluator.shared_prefix(tokens[:cut])
    assert evaluator.evaluate_prompt(tokens[:cut], lambda: 1, lambda done: True)
    rows = [evaluator.logits.copy()]
    for token in tokens[cut:]:
        evaluator.evaluate_next(token, 1)
        rows.append(evaluator.logits.copy())
    return shared, np.array(rows)

on_gpu, on_cpu = (
    ModelSpec(model="m", context_length=200, gpu_layers=3, device=name),
    ModelSpec(model="m", context_length=200, gpu_layers=0),
)
used, plain = load(path, path, on_gpu, 3), load(path, path, on_cpu, 3)
text = [chance.randrange(600) for _ in range(190)]
reused, other, away = 0, 0, []
for trial in range(12):
    kept, cut = chance.randrange(190), chance.choice([1, 31, 32, 33, 64, 65, 96, 150])
    tokens = (text[:kept] + [(token + 1) % 600 for token in text[kept:]])[: cut + 2]
    shared, found = logits(used, tokens, cut)
    reused += shared > 0
    fresh = load(path, path, on_gpu, 1)
    other += not np.array_equal(logits(fresh, tokens, cut)[1], found)
    cpu = logits(plain, tokens, cut)[1]
    away.append(float(np.abs(cpu - found).max() / np.abs(cpu).max()))
print("SAID", json.dumps([reused, other, max(away)]))
"""


def test_logits_are_the_same_to_the_bit(gpu: Place, model: Path) -> None:
    """Whatever was evaluated before, as in a fresh context; and near those of the processor."""
    reused, other, away = python_apart(LOGITS, model, gpu.name)
    assert reused > 3
    assert other == 0
    assert away < 0.02


def test_out_of_device_memory(
    gpu: Place, ask: Ask, monkeypatch: pytest.MonkeyPatch, session: Session
) -> None:
    """Where the device gives no memory, one line says how much was asked; the next run works."""
    if not gpu.name.startswith("Vulkan"):
        pytest.skip("only Vulkan's code can be told to give less memory than there is")
    with monkeypatch.context() as patch:
        patch.setenv("GGML_VK_FORCE_MAX_BUFFER_SIZE", "100000")
        with pytest.raises(OutOfMemory, match=r"did not give [\d.]+ MiB .* lower --gpu-layers"):
            ask(gpu, 3)
    assert ask(gpu, 3).device.gpu_layers == 3


def test_more_than_the_device_has(gpu: Place, model: Path) -> None:
    """A number of layers that does not fit is refused before anything is loaded."""
    said = python_apart(REFUSED, model, gpu.name, 1)
    assert "3 GPU layers need " in said
    assert said.endswith("MiB of device memory can be used: --gpu-layers 1 fits")


REFUSED = AUTO.replace(
    'spec = ModelSpec(model="m", device=name, context_length=256)\n',
    'spec = ModelSpec(model="m", device=name, context_length=256, gpu_layers=3)\n',
).replace(
    "device = llama_loading.load(path, path, spec, 3).device\n"
    'print("SAID", json.dumps([device.name, device.gpu_layers, device.reason]))',
    "try:\n    llama_loading.load(path, path, spec, 3)\n"
    'except llama_loading.DeviceUnavailable as error:\n    print("SAID", json.dumps(str(error)))',
)


def test_stop_in_a_prompt(any_gpu: Place, model: Path, session: Session) -> None:
    """A GPU cannot give an evaluation up, so the prompt ends with the block that goes on."""
    run = session.run(
        Request(
            model=str(model), prompt="a b c d e f g h " * 150, engine=any_gpu.engine,
            gpu_layers=3, params={"max_tokens": 1500, "seed": 1}, **any_gpu.device,
        )
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not _blocks(run) and time.monotonic() < deadline:
        time.sleep(0.001)
    run.cancel()
    start = time.monotonic()
    assert run.wait(20)
    assert time.monotonic() - start < 10
    assert run.status == "interrupted"
    assert run.prepared is not None
    # A real GPU may have read such a prompt before the cancellation comes.
    assert any_gpu.real or _blocks(run) < (run.prepared.prompt_token_count or 0) // 32


def _blocks(run: Run) -> int:
    """How many blocks of the prompt were evaluated."""
    return sum(isinstance(event, Progress) and event.stage == "prompt" for event in run.events)


FREE = """
import json, sys
from llmwit_magic.engines.backends.llamacpp.llama_devices import choose_device
from llmwit_magic.engines.backends.llamacpp.llama_library import library

print("SAID", json.dumps(choose_device(library(), 1, sys.argv[1]).free_bytes))
"""


def test_unloading_gives_the_memory_back(any_gpu: Place, ask: Ask, session: Session) -> None:
    """The model's process ends, and the driver takes back what it had."""
    ask(any_gpu, 3)
    (name, pid), *others = session.local.pool.loaded_models()
    assert not others
    free = _free(any_gpu)
    assert session.local.pool.unload() == [name]
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)
    if any_gpu.real and free is not None:
        after = _free(any_gpu)
        assert after is not None
        assert after > free
    else:  # a device in software has the memory of its process, which is gone
        assert _free(any_gpu) == free


def _free(place: Place) -> int | None:
    """Free memory of the device, as another process sees it."""
    if place.engine == "ctransformers":
        from llmwit_magic.engines.backends.ctransformers.devices import free_memory

        return free_memory()
    found: int | None = python_apart(FREE, place.name)
    return found


def test_a_device_by_its_name(gpu: Place, ask: Ask) -> None:
    """Its name in any case, or a part of its description, leads to it."""
    for asked in (gpu.name.upper(), gpu.description[:6].upper()):
        result = ask(gpu, 1, device=asked)
        assert result.device.name == f"{gpu.name} {gpu.description}"


def test_one_of_several_devices(gpu: Place, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole model goes to the one that is named, and no other one gets a part of it."""
    if not gpu.real:
        monkeypatch.setenv(VISIBLE, "0,0")  # the same device twice
    found = [each for each in python_apart(FOUND)["devices"] if each[0][:4] == gpu.name[:4]]
    if len(found) < 2:
        pytest.skip(f"there is no other {gpu.name[:-1]} device")
    taken = []
    for name, description, _ in found[:2]:
        device = ask(gpu, 3, device=name).device
        assert device.name == f"{name} {description}"
        taken.append(device.memory_bytes)
    assert taken[0] == taken[1]
    assert ask(gpu, 3, device=None).device.memory_bytes == taken[0]
    if found[0][1] == found[1][1]:
        with pytest.raises(DeviceUnavailable, match=r"fits several devices: give one of \w+0 \("):
            ask(gpu, 3, device=found[0][1])


def test_an_unknown_device(gpu: Place, ask: Ask) -> None:
    """One line lists the devices that there are; and no layers on a device is a contradiction."""
    with pytest.raises(DeviceUnavailable, match=r"^device 'Vulkan77' is none of .*: give one of "):
        ask(gpu, 1, device="Vulkan77")
    with pytest.raises(InvalidInput, match="gpu_layers is 0: leave one out"):
        ask(gpu, 0)


def test_vectors_on_a_gpu(gpu: Place, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are near those of the processor."""
    from llmwit_magic import api

    session = Session(":memory:")
    monkeypatch.setattr(api, "current_session", lambda: session)
    try:
        vectors: list[Any] = [
            api.generate_embeddings(str(model), ["Hello world"], engine="llama.cpp", **options)
            .embeddings[0]
            for options in ({"gpu_layers": 3, "device": gpu.name}, {"gpu_layers": 0})
        ]  # fmt: skip
    finally:
        session.close()
    assert vectors[0] == pytest.approx(vectors[1], abs=2e-3)
