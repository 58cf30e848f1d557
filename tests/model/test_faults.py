"""What must survive: a killed engine, an interrupt, a killed kernel."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest

from llmwit_magic.runlog.log import RunLog
from tests.support.kernel import Kernel, Once, Reply

LONG_RUN = "%%infer --max-tokens 2000 --temperature 0.9 --seed 9\nOnce upon a time"
SHORT_RUN = "%%infer --temperature 0 --stop .\nThe capital of France is"


def generated(reply: Reply) -> bool:
    """Whether some twenty tokens are on the screen and more are to come."""
    count = re.search(r"running … .* \+ (\d+) tokens", reply.text)
    return count is not None and int(count[1]) >= 20


def test_a_killed_engine_costs_one_run(kernel: Kernel, log_path: Path) -> None:
    """SIGKILL in the middle: a clear error, the partial text in the row, the next cell works."""
    kernel.run(SHORT_RUN)
    kill = Once(generated, lambda: kernel.engines()[0].kill())
    reply = kernel.run(LONG_RUN, when=kill)
    assert kill.time is not None
    assert reply.error.startswith("EngineDied: the engine of smollm2-135m-instruct was ended by "
                                  "SIGKILL while generating token")  # fmt: skip
    assert len(reply.traceback) == 1
    row = RunLog(log_path).rows()[-1]
    assert row["status"] == "error"
    assert row["error_type"] == "EngineDied"
    assert len(row["text"]) > 20
    assert kernel.run("from llmwit_magic import runs\nruns[-1]").text == reply.text
    assert kernel.run(SHORT_RUN).text.startswith(" Paris")


def test_an_interrupt_keeps_the_text(kernel: Kernel, log_path: Path) -> None:
    """Ctrl-C between tokens: one line, the text on the screen and in the log, the next cell works."""
    kernel.run(SHORT_RUN)
    stop = Once(generated, kernel.interrupt)
    reply = kernel.run(LONG_RUN, when=stop)
    assert stop.time is not None
    assert reply.error.startswith("Interrupted: stopped after")
    assert len(reply.traceback) == 1
    row = RunLog(log_path).rows()[-1]
    assert row["status"] == "interrupted"
    assert row["generated_token_count"] < 1000  # of 2,000: interrupted at some twenty
    assert row["finish_reason"] is None
    assert len(row["text"]) > 20
    assert reply.text.startswith(row["text"])
    assert "interrupted" in reply.text
    assert kernel.run("from llmwit_magic import runs\nruns[-1]").text == reply.text
    assert len(kernel.engines()) == 1
    assert kernel.run(SHORT_RUN).text.startswith(" Paris")


def test_an_interrupt_of_a_long_prompt_is_heeded_at_once(kernel: Kernel, log_path: Path) -> None:
    """Ctrl-C during a 4,000-token prompt leaves most of it unread; the next cell works."""
    kernel.run(SHORT_RUN)
    kernel.run("prompt = 'The quick brown fox jumps over the lazy dog. ' * 400")
    read: list[int] = []

    def look(reply: Reply) -> None:
        if progress := re.search(r"reading the prompt: ([\d,]+) of", reply.text):
            read.append(int(progress[1].replace(",", "")))

    stop = Once(lambda reply: "reading the prompt" in reply.text, kernel.interrupt)
    reply = kernel.run(
        "%%infer --max-tokens 5\n{{prompt}}", when=lambda reply: (look(reply), stop(reply))
    )
    assert stop.time is not None
    assert reply.error.startswith("Interrupted: stopped after 0 tokens")
    row = RunLog(log_path).rows()[-1]
    assert row["status"] == "interrupted"
    assert row["prompt_token_count"] > 3900
    print(f"read of the prompt before the end: {read}")
    assert read
    assert max(read) < row["prompt_token_count"] / 2, read
    assert kernel.run(SHORT_RUN).text.startswith(" Paris")


def test_a_killed_kernel_leaves_no_engine_and_loses_no_row(kernel: Kernel, log_path: Path) -> None:
    """SIGKILL of the kernel in the middle: its engine ends within 5 s, the row reads lost."""
    kernel.run(SHORT_RUN)
    engine = kernel.engines()[0]
    started = kernel.start(LONG_RUN)
    kill = Once(generated, kernel.kill)
    with pytest.raises(TimeoutError):
        kernel.wait(started, timeout=20, when=lambda reply: _until_killed(kill, reply))
    assert kill.time is not None
    _, alive = psutil.wait_procs([engine], timeout=5)
    assert not alive
    row = RunLog(log_path).rows()[-1]
    assert row["status"] == "lost"
    assert row["prompt"] == "Once upon a time"
    assert row["seed"] == 9


def _until_killed(kill: Once, reply: Reply) -> None:
    if kill.time is not None:
        raise TimeoutError
    kill(reply)


def test_an_unfinished_download_is_an_error(
    kernel: Kernel, default_model_source: Path, tmp_path: Path
) -> None:
    """The default model with zeros after 30% of its bytes is told in one line, and says nothing."""
    path = tmp_path / "unfinished.gguf"
    size = default_model_source.stat().st_size
    with default_model_source.open("rb") as source, path.open("wb") as file:
        file.write(source.read(int(0.3 * size)))
        file.truncate(size)
    reply = kernel.run(f"%%infer -m {path}\nThe capital of France is")
    assert "equally likely" in reply.error
    assert "fetch the file again" in reply.error
    assert len(reply.traceback) == 1
