"""A run again: identical on one machine, in another process, after other prompts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmwit_magic.runlog.log import RunLog
from tests.support.kernel import Kernel, running_kernel

SETUP = (
    "%load_ext llmwit_magic\n%config InferMagics.log_path = '{}'\n%config InferMagics.view = '{}'"
)
RUNS = {
    "sampled": "%%infer --max-tokens 60 --temperature 0.9\nOnce upon a time there was",
    "chat": "%%infer --chat --system 'You are a pirate.' --max-tokens 40 --top-logprobs 3 "
    "--stop '\\n\\n' --repeat-penalty 1.3\nWhere is the treasure?",
    "filtered": "%%infer --max-tokens 40 --top-k 0 --top-p 0.95 --seed 5\nThe sea",
}


def started(kernel: Kernel, log_path: Path, view: str = "text") -> Kernel:
    reply = kernel.run(SETUP.format(log_path, view))
    assert reply.status == "ok", reply.error
    return kernel


@pytest.mark.timeout(180)
def test_a_replay_is_identical(default_model_loaded: Path, tmp_path: Path) -> None:
    """In a new process, with another thread count, after other prompts; and it is logged so."""
    path = tmp_path / "runs.sqlite3"
    with running_kernel() as kernel:
        started(kernel, path)
        kernel.run(r"%config InferMagics.content_filters = [r'\bwaves?\b']")
        for cell in RUNS.values():
            assert kernel.run(cell).status == "ok"
    with running_kernel() as kernel:
        started(kernel, path)
        kernel.run("%%infer --max-tokens 20 --temperature 0\nOnce upon a time there were two")
        for run_id in range(1, len(RUNS) + 1):
            for line in (f"{run_id}", f"{run_id} --with --threads {run_id % 2 + 1}"):
                told = kernel.run(f"%infer_replay {line}")
                assert f"identical to run {run_id}" in told.text, told.text + told.error
    log = RunLog(path)
    replays = [row for row in log.rows() if row["replay_of"] is not None]
    assert [row["replay_of"] for row in replays] == [1, 1, 2, 2, 3, 3]
    for row in replays:
        original = log.row(row["replay_of"])
        for name in ("text", "seed", "finish_detail", "tokens", "rendered_prompt", "system"):
            assert row[name] == original[name], name
    assert {row["threads"] for row in replays[1::2]} == {1, 2}


def test_a_replay_with_another_option_shows_the_difference(kernel: Kernel) -> None:
    """What was changed, where the texts part, and both answers side by side."""
    kernel.run(
        "%%infer --max-tokens 12 --temperature 0 --repeat-penalty 1\nThe capital of France is"
    )
    told = kernel.run("%infer_replay 1 --with --stop Paris --seed 7")
    assert "differs from run 1: at character" in told.text
    assert "changed: stop, seed" in told.text
    assert told.html.count("<tr") == 4  # a heading, both answers, the sum
    kernel.run("replayed = _")
    assert kernel.run("print(replayed.identical, replayed.result.run_id)").stdout == "False 2\n"


def test_a_changed_model_file_is_refused(kernel: Kernel, tiny_model: Path, tmp_path: Path) -> None:
    """Both hashes are said; `--anyway` runs it with the file that is there, and says so."""
    from tests.support.tiny_models import write_llama_gguf

    path = tmp_path / "model.gguf"
    shutil.copy(tiny_model, path)
    kernel.run(f"%%infer -m {path} --max-tokens 5\nab")
    write_llama_gguf(path, vocabulary="spm")
    refused = kernel.run("%infer_replay 1")
    hashes = json.loads(
        kernel.run(
            "import json; print(json.dumps([run.model.sha256[:12] for run in __import__('llmwit_magic').runs]))"
        ).stdout
    )
    assert refused.status == "error"
    assert refused.error.count("\n") == 0
    assert "is not the one of run 1" in refused.error
    assert hashes[0] in refused.error
    assert "--anyway" in refused.error
    told = kernel.run("%infer_replay 1 --anyway")
    assert "is not the one of run 1" in told.text


@pytest.mark.parametrize("view", ["html", "text"])
def test_a_logged_run_shows_as_it_did(
    default_model_loaded: Path, tmp_path: Path, view: str
) -> None:
    """`runs[n]` has the text and the status line that the cell had, ended or failed."""
    with running_kernel() as kernel:
        started(kernel, tmp_path / "runs.sqlite3", view)
        kernel.run("from llmwit_magic import runs")
        shown = kernel.run(
            "%%infer --max-tokens 8 --seed 3 --stop xyz\nMy favourite <b>colour</b> is"
        )
        again = kernel.run("runs[1]")
        assert again.text.strip() == shown.text.strip()
        failed = kernel.run("%%infer -m nosuch-model\nx")
        assert failed.status == "error"
        assert kernel.run("runs[2]").text.strip() == failed.text.strip()
        assert kernel.run("print(runs[1] == runs[1], runs[1].request.params.stop)").stdout == (
            "True ('xyz',)\n"
        )
