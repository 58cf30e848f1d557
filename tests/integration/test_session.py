"""A session over real child processes, with tiny real models."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmwit_magic.contract.events import Prepared
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import FinishDetail, InferencingParams, InferencingResult
from llmwit_magic.engines.local.model_files import resolve
from llmwit_magic.errors import (
    DeviceUnavailable,
    EngineFailed,
    InvalidInput,
    ModelNotSupported,
    PromptTooLong,
)
from llmwit_magic.running.run import Run
from llmwit_magic.running.session import Session
from tests.support.tiny_ggml import write_ggml
from tests.support.tiny_models import write_falcon_gguf, write_llama_gguf

PROMPT = "A language model reads"
LONG = InferencingParams(seed=1)
"""With these, the answer has many tokens; with a drawn seed it may end at once."""


def ask(session: Session, model: Path, prompt: str = PROMPT, **options: Any) -> Run:
    params = InferencingParams(**({"max_tokens": 8, "seed": 1} | options.pop("params", {})))
    run = session.run(Request(model=str(model), prompt=prompt, params=params, **options))
    assert run.wait(50)
    return run


def answer(session: Session, model: Path, **options: Any) -> InferencingResult:
    run = ask(session, model, **options)
    run.raise_failure()
    return run.result


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str | None]]:
    folder = tmp_path_factory.mktemp("kinds")
    write_llama_gguf(folder / "bpe.gguf")
    write_llama_gguf(folder / "spm.gguf", vocabulary="spm")
    write_falcon_gguf(folder / "falcon.gguf")
    made: dict[str, tuple[Path, str | None]] = {
        name: (folder / f"{name}.gguf", None) for name in ("bpe", "spm", "falcon")
    }
    for model_type in ("gpt2", "gptj", "gptneox", "mpt", "starcoder", "dollyv2", "replit"):
        write_ggml(folder / f"{model_type}.bin", model_type)
        made[model_type] = (folder / f"{model_type}.bin", model_type)
    return made


@pytest.mark.parametrize(
    "name",
    ["bpe", "spm", "falcon", "gpt2", "gptj", "gptneox", "mpt", "starcoder", "dollyv2", "replit"],
)
def test_every_kind_of_model_answers(
    session: Session, kinds: dict[str, tuple[Path, str | None]], name: str
) -> None:
    """Each gives eight tokens, counted exactly, and the same ones in a new process."""
    path, model_type = kinds[name]
    first = answer(session, path, model_type=model_type)
    assert first.usage.prompt_token_count > 0
    assert first.usage.generated_token_count == 8 or first.finish_detail is FinishDetail.EOS
    session.local.pool.unload()
    again = answer(session, path, model_type=model_type)
    assert (again.text, again.usage.generated_token_count) == (
        first.text,
        first.usage.generated_token_count,
    )


def test_an_old_file_needs_its_type(
    session: Session, kinds: dict[str, tuple[Path, str | None]]
) -> None:
    """The message says which option to give."""
    with pytest.raises(ModelNotSupported, match="--model-type"):
        answer(session, kinds["gpt2"][0])


def test_no_tokens_cost_nothing(session: Session, tiny_model: Path) -> None:
    """`max_tokens` 0 counts the prompt, generates nothing and ends with the reason length."""
    result = answer(session, tiny_model, params={"max_tokens": 0})
    assert result.text == ""
    assert result.finish_detail is FinishDetail.MAX_TOKENS
    assert result.usage.prompt_token_count > 0
    assert result.timings.prompt is None


def test_the_context_is_never_passed(session: Session, tiny_model: Path) -> None:
    """Without a limit, prompt and answer fill the context exactly, or the text ends earlier."""
    result = answer(session, tiny_model, params={"max_tokens": None}, context_length=48)
    total = result.usage.prompt_token_count + result.usage.generated_token_count
    assert (result.finish_detail, total) == (FinishDetail.CONTEXT_FULL, 48) or (
        result.finish_detail is FinishDetail.EOS and total < 48
    )


def test_a_prompt_as_long_as_the_context_is_refused(session: Session, tiny_model: Path) -> None:
    """The message has both numbers and what to do, and the engine goes on."""
    with pytest.raises(PromptTooLong, match=r"context holds 16.*raise --context-length"):
        answer(session, tiny_model, prompt=PROMPT * 20, context_length=16)
    assert answer(session, tiny_model, context_length=16).status == "ok"


def test_the_same_prompt_costs_one_token(session: Session, tiny_model: Path) -> None:
    """All tokens but one of a repeated prompt are cached by the run before."""
    first = answer(session, tiny_model, prompt=PROMPT * 5)
    again = answer(session, tiny_model, prompt=PROMPT * 5)
    assert first.usage.cached_token_count == 0
    assert again.usage.cached_token_count == again.usage.prompt_token_count - 1
    assert again.text == first.text


@pytest.mark.parametrize("name", ["bpe", "falcon"])
def test_going_back_to_an_earlier_prompt(
    name: str, session: Session, kinds: dict[str, tuple[Path, str | None]]
) -> None:
    """Each kept prompt costs one token and gives the same text. With one kept, all is evaluated."""
    prompts = [f"{word} {'one ' * 120}" for word in ("A", "I", "O")]
    texts = []
    for kept, known in ((3, True), (1, False)):
        session.local.pool.unload()
        session.local.pool.kept_prompts = kept
        first, again = (
            [answer(session, kinds[name][0], prompt=prompt) for prompt in prompts] for _ in range(2)
        )
        for result in again:
            left = result.usage.prompt_token_count - result.usage.cached_token_count
            assert (left == 1) == known
        texts.append([result.text for result in first + again])
    assert texts[0] == texts[1] == texts[0][:3] * 2


def test_gpu_layers_that_cannot_be_had_are_refused(session: Session, tiny_model: Path) -> None:
    """A number is an error with its reason. `auto` runs on the CPU and says why."""
    with pytest.raises(DeviceUnavailable, match=r"5 GPU layers were asked for, but .*CPU"):
        answer(session, tiny_model, gpu_layers=5)
    device = answer(session, tiny_model).device
    assert (device.name, device.gpu_layers, device.requested_gpu_layers) == ("cpu", 0, "auto")
    assert device.reason
    assert answer(session, tiny_model, gpu_layers=0).device.gpu_layers == 0


def test_too_many_threads_are_refused(session: Session, tiny_model: Path) -> None:
    """With more threads than cores, ctransformers would never end."""
    with pytest.raises(InvalidInput, match=r"threads: 999 is not valid"):
        answer(session, tiny_model, threads=999)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_the_child_ignores_interrupts(session: Session, tiny_model: Path) -> None:
    """SIGINT does nothing to a child. A child that SIGSEGV ended while idle costs no run."""
    answer(session, tiny_model)
    ((_, pid),) = session.local.pool.loaded_models()
    os.kill(pid, signal.SIGINT)
    assert answer(session, tiny_model).status == "ok"
    assert session.local.pool.loaded_models()[0][1] == pid
    os.kill(pid, signal.SIGSEGV)
    assert answer(session, tiny_model).status == "ok"
    assert session.local.pool.loaded_models()[0][1] != pid


def test_runs_on_one_engine_wait_their_turn(session: Session, tiny_model: Path) -> None:
    """Several threads use one model: each run is whole, and the same as alone."""
    alone = answer(session, tiny_model, params={"max_tokens": 40}).text
    runs: list[Run] = []
    threads = [
        threading.Thread(
            target=lambda: runs.append(ask(session, tiny_model, params={"max_tokens": 40}))
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert [run.text for run in runs] == [alone] * 6
    assert len(session.local.pool.loaded_models()) == 1


def test_a_waiting_run_can_be_cancelled(session: Session, tiny_model: Path) -> None:
    """A run that waits for the engine ends at once when cancelled. The other one goes on."""
    busy = session.run(Request(
        model=str(tiny_model), prompt=PROMPT, params=InferencingParams(max_tokens=None, seed=2),
    ))  # fmt: skip
    waiting = session.run(Request(model=str(tiny_model), prompt=PROMPT))
    waiting.cancel()
    assert waiting.wait(5)
    assert waiting.status in ("interrupted", "ok")
    assert busy.wait(50)
    assert busy.status == "ok"


def test_models_beyond_the_limit_are_unloaded(
    session: Session, kinds: dict[str, tuple[Path, str | None]]
) -> None:
    """The model that was unused for longest is unloaded, and its process ends."""
    session.local.pool.max_loaded_models = 2
    pids = []
    for name in ("bpe", "spm", "falcon"):
        answer(session, kinds[name][0])
        pids.append(session.local.pool.loaded_models()[-1][1])
    assert len(session.local.pool.loaded_models()) == 2
    assert not psutil.pid_exists(pids[0])
    assert psutil.pid_exists(pids[2])


def test_a_changed_file_is_another_model(session: Session, tmp_path: Path) -> None:
    """A model file that was replaced between two runs is loaded again."""
    path = tmp_path / "model.gguf"
    write_llama_gguf(path, seed=1)
    first = answer(session, path)
    write_llama_gguf(tmp_path / "other.gguf", seed=2)
    os.replace(tmp_path / "other.gguf", path)
    second = answer(session, path)
    assert first.model is not None
    assert second.model is not None
    assert first.model.sha256 != second.model.sha256
    assert first.text != second.text


def test_a_changed_copy_does_not_run(session: Session, tiny_model: Path) -> None:
    """A byte of the adapted copy changes, but not its time: the text is still that of the file."""
    first = answer(session, tiny_model)
    loaded = resolve(str(tiny_model), None, {}, lambda progress: None).file
    data, before = bytearray(loaded.read_bytes()), loaded.stat()
    data[-len(data) // 2 :] = bytes(len(data) // 2 + len(data) % 2)
    loaded.write_bytes(data)
    os.utime(loaded, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = answer(session, tiny_model)
    assert again.text == first.text
    assert again.usage.cached_token_count == 0


def test_preparing_evaluates_nothing(session: Session, tiny_model: Path) -> None:
    """`prepare` renders the chat and counts its tokens. Nothing is cached afterwards."""
    request = Request(model=str(tiny_model), prompt="Hi", chat=True, system="Be brief.")
    prepared = session.prepare(request)
    assert isinstance(prepared, Prepared)
    assert prepared.prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert session.prepare(request).cached_token_count == 0
    assert len(session.log) == 0


def test_embeddings_do_not_depend_on_what_came_before(session: Session, tiny_model: Path) -> None:
    """A text has the same vector alone and among others, with the embedding length."""
    request = Request(model=str(tiny_model), prompt="")
    alone = session.embed(request, ["some words"])
    among = session.embed(request, ["other words", "some words", "some words and more"])
    assert len(alone.embeddings[0]) == 64
    assert among.embeddings[1] == alone.embeddings[0]
    assert len(set(among.embeddings)) == 3
    with pytest.raises(InvalidInput):
        session.embed(request, [""])


def test_unloading_ends_the_process(session: Session, tiny_model: Path) -> None:
    """When `unload` returns, the memory is given back. The next run loads again."""
    answer(session, tiny_model)
    ((name, pid),) = session.local.pool.loaded_models()
    assert session.local.pool.unload() == [name]
    assert not psutil.pid_exists(pid)
    assert answer(session, tiny_model).status == "ok"


def test_nan_logits_are_an_error(session: Session, tmp_path: Path) -> None:
    """A model that computes NaN raises an error, and gives no answer."""
    path = tmp_path / "nan.gguf"
    write_llama_gguf(path, vocabulary="spm", weights="nan")
    run = ask(session, path)
    assert run.status == "error"
    assert "NaN" in str(run.error)


def unfinished(path: Path, share: float) -> Path:
    """An unfinished download in its full size: after that share of its bytes, all are zero."""
    size = path.stat().st_size
    os.truncate(path, int(share * size))
    os.truncate(path, size)
    return path


@pytest.mark.parametrize("vocabulary", ["bpe", "spm"])
@pytest.mark.parametrize("share", [0.1, 0.3, None])
def test_an_unfinished_download_is_an_error(
    session: Session, tmp_path: Path, share: float | None, vocabulary: Any
) -> None:
    """A file with zeros at its end, or with no weights at all, raises an error."""
    path = write_llama_gguf(
        tmp_path / "m.gguf", vocabulary=vocabulary, weights="random" if share else "zero"
    )
    run = ask(session, unfinished(path, share) if share else path)
    assert run.status == "error"
    assert "equally likely" in str(run.error)
    assert "fetch the file again" in str(run.error)
    assert run.generated_token_count == 0
    with pytest.raises(EngineFailed, match="fetch the file again"):
        session.embed(Request(model=str(path), prompt=""), ["some words"])


@pytest.mark.parametrize("epsilon", [1e12, 1e30])
def test_an_epsilon_that_drowns_everything_is_an_error(
    session: Session, tmp_path: Path, epsilon: float
) -> None:
    """A header that makes all logits equal gives the same error as weights of zero."""
    path = write_llama_gguf(
        tmp_path / "m.gguf",
        extra_metadata={"llama.attention.layer_norm_rms_epsilon": epsilon},
    )
    assert "equally likely" in str(ask(session, path).error)


def test_nan_embeddings_are_an_error(session: Session, tmp_path: Path) -> None:
    """A vector with NaN is refused."""
    path = write_llama_gguf(tmp_path / "nan.gguf", weights="nan")
    with pytest.raises(EngineFailed, match="NaN"):
        session.embed(Request(model=str(path), prompt=""), ["some words"])


def test_a_killed_child_is_not_waited_for(session: Session, tiny_model: Path) -> None:
    """A stopped child does not react to a cancellation, and is killed after the grace period."""
    from llmwit_magic.engines.local import conversation

    answer(session, tiny_model)
    ((_, pid),) = session.local.pool.loaded_models()
    psutil.Process(pid).suspend()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversation, "CANCEL_SECONDS", 0.5)
        run = session.run(Request(model=str(tiny_model), prompt=PROMPT))
        time.sleep(0.3)
        run.cancel()
        assert run.wait(10)
    assert run.status == "interrupted"
    assert not psutil.pid_exists(pid)
    assert answer(session, tiny_model).status == "ok"


def test_unloading_during_a_run_is_said(session: Session, tiny_model: Path) -> None:
    """The run soon ends with an error that says so, and the next run works."""
    for _ in range(3):
        run = session.run(Request(
            model=str(tiny_model), prompt=PROMPT, params=LONG,
            content_filters=(lambda text: time.sleep(0.05),),
        ))  # fmt: skip
        while run.generated_token_count < 3:
            time.sleep(0.01)
        began = time.monotonic()
        session.local.pool.unload()
        assert run.wait(5)
        assert time.monotonic() - began < 3
        assert "was unloaded while it was generating" in str(run.error)
    assert answer(session, tiny_model).status == "ok"


def test_another_log_does_not_disturb_a_run(
    session: Session, tiny_model: Path, tmp_path: Path
) -> None:
    """A run is completed in its own log. The rows of the other log stay as they are."""
    from llmwit_magic.runlog.log import RunLog

    first_path = session.log.path
    session.use_log(tmp_path / "other.sqlite3")
    precious = answer(session, tiny_model)
    session.use_log(first_path)
    run = session.run(Request(
        model=str(tiny_model), prompt=PROMPT, params=LONG,
        content_filters=(lambda text: time.sleep(0.02),),
    ))  # fmt: skip
    while run.generated_token_count < 3:
        time.sleep(0.01)
    session.use_log(tmp_path / "other.sqlite3")
    run.stop()
    (other,) = RunLog(tmp_path / "other.sqlite3").rows()
    assert (other["status"], other["text"]) == ("ok", precious.text)
    assert [row["status"] for row in RunLog(first_path).rows()] == ["interrupted"]


def test_models_at_once_are_never_taken_away(session: Session, tiny_model: Path) -> None:
    """With four threads, four contexts and room for one model, every run is whole."""
    session.local.pool.max_loaded_models = 1
    failures: list[BaseException] = []

    def work(length: int) -> None:
        try:
            for _ in range(3):
                assert answer(session, tiny_model, context_length=length).status == "ok"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(length,)) for length in (32, 48, 64, 96)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert failures == []


def test_a_failed_load_ends_no_model_that_has_room(session: Session, tiny_model: Path) -> None:
    """A load with wrong options does not count as a loaded model, though it may make room."""
    answer(session, tiny_model)
    loaded = session.local.pool.loaded_models()
    for length in (99_999, 88_888, 77_777):
        with pytest.raises(InvalidInput):
            answer(session, tiny_model, context_length=length)
    assert session.local.pool.loaded_models() == loaded


@pytest.mark.parametrize("how", [SystemExit, KeyboardInterrupt, ValueError])
def test_a_filter_that_raises_costs_one_run(
    session: Session, tiny_model: Path, how: type[BaseException]
) -> None:
    """Whatever a content filter raises, the run ends with its name, and the engine goes on."""

    def broken(text: str) -> None:
        raise how("no")

    run = ask(session, tiny_model, content_filters=(broken,))
    assert f"the content filter broken raised {how.__name__}: no" in str(run.error)
    assert answer(session, tiny_model).status == "ok"


def test_a_filter_that_hangs_can_be_interrupted(session: Session, tiny_model: Path) -> None:
    """A cancelled run does not wait for ever for its content filter."""
    from llmwit_magic.engines.local import conversation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversation, "CANCEL_SECONDS", 0.5)
        run = session.run(Request(
            model=str(tiny_model), prompt=PROMPT, content_filters=(lambda text: time.sleep(8),),
        ))  # fmt: skip
        while run.prepared is None:
            time.sleep(0.01)
        time.sleep(0.2)
        run.cancel()
        assert run.wait(3)
    assert run.status == "interrupted"
    assert answer(session, tiny_model).status == "ok"


def test_waiting_for_the_engine_is_said(session: Session, tiny_model: Path) -> None:
    """A run behind another one on the same model shows that it waits for it."""
    first = session.run(Request(
        model=str(tiny_model), prompt=PROMPT, params=LONG,
        content_filters=(lambda text: time.sleep(0.05),),
    ))  # fmt: skip
    while first.generated_token_count < 1:
        time.sleep(0.01)
    second = session.run(Request(model=str(tiny_model), prompt=PROMPT))
    stage = next(iter(second)).stage
    assert stage == "wait"
    first.stop()
    assert second.wait(30)
    assert second.status == "ok"


def test_streams(session: Session, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream is an iterator. If it is left early, its run is cancelled and keeps its text."""
    from llmwit_magic import api

    monkeypatch.setattr(api, "current_session", lambda: session)
    whole = api.infer(tiny_model, PROMPT, {"seed": 3, "max_tokens": 30})
    with api.stream(tiny_model, PROMPT, {"seed": 3, "max_tokens": 30}) as stream:
        assert next(stream) + "".join(stream) == whole.text
    assert stream.result.text == whole.text
    slow = {"content_filters": (lambda text: time.sleep(0.02),)}
    stream = api.stream(tiny_model, PROMPT, {"max_tokens": 200}, **slow)
    run = stream.run
    del stream
    assert run.wait(5)
    assert run.status == "interrupted"
    five = api.infer(tiny_model, PROMPT, {"seed": 3, "max_tokens": 9}, max_tokens=5)
    assert five.usage.generated_token_count == 5
    with pytest.raises(InvalidInput, match="text 2 is int, not text"):
        api.generate_embeddings(tiny_model, ["a", 5])
    assert len(api.generate_embeddings(tiny_model, "one text").embeddings) == 1
