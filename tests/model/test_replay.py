"""A run of the log again: identical is the rule on one machine."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.engines.threads import usable_cores
from llmwit_magic.runlog.log import RunLog
from tests.support.kernel import Kernel
from tests.support.tiny_models import write_llama_gguf

STORY = (
    "%%infer --max-tokens 60 --temperature 0.9 --seed 5\nOnce upon a time, in a village by the sea,"
)
CHAT = (
    "%%infer --chat --system 'You are a pirate. Be brief.' --temperature 1 --max-tokens 60 "
    "--stop 'The End' --stop '\\n\\n\\n' --top-logprobs 3 --context-length 512 --seed 2\n"
    "Tell me about your ship and your parrot."
)
FILTERED = "%%infer --max-tokens 60 --temperature 0.5 --seed 1\nThe capital of France is"
DRAWN = "%%infer --max-tokens 60 --temperature 1.5\nMy favourite season is"


def ran(kernel: Kernel, cell: str) -> Any:
    reply = kernel.run(cell, timeout=120)
    assert reply.status == "ok", reply.error
    return reply


@pytest.fixture
def recorded(new_kernel: Callable[[], Kernel], log_path: Path) -> list[dict[str, Any]]:
    """Sampled runs of a kernel that is no more: text, a chat with all options, a filtered one, and
    one whose seed was drawn."""
    kernel = new_kernel()
    for cell in (STORY, CHAT, DRAWN, "%config InferMagics.content_filters = ['Pari.']", FILTERED):
        ran(kernel, cell)
    kernel.close()
    rows = RunLog(log_path).rows()
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert rows[0]["generated_token_count"] > 30
    assert len(rows[1]["tokens"]) > 20
    assert rows[3]["finish_detail"] == "content_filter"
    return rows


@pytest.mark.timeout(300)
def test_a_replay_is_identical(
    recorded: list[dict[str, Any]], new_kernel: Callable[[], Kernel], log_path: Path
) -> None:
    """In a new process, after other prompts, with one thread and with all: to the bit."""
    kernel = new_kernel()
    # A cache that holds the beginning of one of the prompts, and of none.
    ran(kernel, "%%infer --max-tokens 7 --seed 1\nOnce upon a time, in a village far away")
    ran(kernel, "%%infer --max-tokens 5\nAnother prompt altogether, which spoils the cache")
    for row in recorded:
        number = row["run_id"]
        for line in ("", "--with --threads 1", f"--with --threads {usable_cores()}"):
            reply = ran(kernel, f"%infer_replay {number} {line}")
            said = f"identical to run {number}" + (" · changed: threads" if line else "")
            assert reply.text == f"── {said}"
            assert said in reply.html
            again = RunLog(log_path).row(-1)
            assert again["replay_of"] == number
            assert again["session_id"] != row["session_id"]
            for name in ("text", "finish_reason", "finish_detail", "stop_sequence", "tokens",
                         "seed", "rendered_prompt", "generated_token_count"):  # fmt: skip
                assert again[name] == row[name], name
    told = ran(kernel, "print((_infer.text, _.identical, _infer.run_id))").stdout
    assert told.startswith(f"({recorded[3]['text']!r}, True, ")


@pytest.mark.timeout(200)
def test_a_change_makes_a_difference(
    recorded: list[dict[str, Any]], new_kernel: Callable[[], Kernel], log_path: Path
) -> None:
    """Another temperature: where the texts part, both side by side, and what was changed."""
    kernel = new_kernel()
    reply = ran(kernel, "%infer_replay 1 --with --temperature 0.1")
    assert reply.text.startswith("── differs from run 1: at character ")
    assert reply.text.endswith(" · changed: temperature")
    row = RunLog(log_path).row(-1)
    assert (row["replay_of"], row["temperature"], row["seed"]) == (1, 0.1, recorded[0]["seed"])
    assert row["text"] != recorded[0]["text"]
    assert 'what differs from <b class="llmwit-base">run 1</b>' in reply.html
    for text in (row["text"], recorded[0]["text"]):
        assert escape(text.strip("\n")[:30]) in reply.html
    ran(kernel, "from llmwit_magic import replay\nagain = replay(1, {'max_tokens': 10})")
    told = ran(kernel, "print(again.identical, len(again.result.text), again.verdict)").stdout
    assert told.startswith("False ")
    assert "now the end · changed: max tokens" in told
    assert recorded[0]["text"].startswith(RunLog(log_path).row(-1)["text"])


def test_a_changed_model_file_is_refused(kernel: Kernel, log_path: Path, tmp_path: Path) -> None:
    """The refusal is one line with both hashes and runs nothing; `--anyway` runs it and says so."""
    path, other, kept = (tmp_path / f"{name}.gguf" for name in ("model", "other", "kept"))
    write_llama_gguf(path, seed=1)
    write_llama_gguf(other, seed=2)
    shutil.copy(path, kept)
    was, now = (hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in (path, other))
    ran(kernel, f"%%infer -m {path} --max-tokens 20 --seed 3\nA language model")
    os.replace(other, path)
    said = f"the model file {path} is not the one of run 1 (sha256 {now}…, was {was}…)"
    reply = kernel.run("%infer_replay 1")
    assert reply.error == (
        f"ModelNotSupported: {said}: --accept file runs it with the file that is there now"
    )
    assert len(reply.traceback) == 1
    assert len(RunLog(log_path)) == 1
    reply = ran(kernel, "%infer_replay 1 --anyway")
    assert reply.text.startswith("── differs from run 1: at character ")
    assert reply.text.endswith(said)
    assert RunLog(log_path).row(-1)["replay_of"] == 1
    os.replace(kept, path)
    assert ran(kernel, "%infer_replay 1").text == "── identical to run 1"


def test_a_replay_that_cannot_be_is_one_line(kernel: Kernel) -> None:
    """No such run, no number, a bad option: what is wrong, and nothing is run."""
    for line, said in {
        "%infer_replay 7": "RunNotFound: there is no run 7 in the log: it is empty",
        "%infer_replay": "UsageError: give a run's number",
        "%infer_replay x": "UsageError: 'x' is not the number of a run",
        "%infer_replay 1 --with --heat 3": "UsageError: unknown option --heat",
    }.items():
        reply = kernel.run(line)
        assert (reply.error or reply.stdout).startswith(said), reply
        assert len(reply.traceback) <= 1
