"""Terminals that cannot show all, or are gone: the run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmwit_magic.runlog.log import RunLog
from tests.support.tiny_models import QUESTION, write_llama_gguf

PIECES = ("caf", "é", " 🙂", " ж", " 日本", " end")
ANSWER = "".join(PIECES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model that answers with what few encodings have."""
    path = tmp_path_factory.mktemp("models") / "signs.gguf"
    return write_llama_gguf(path, tied=False, weights="successor", answer=PIECES)


def ipython(
    model: Path, folder: Path, lines: str, encoding: str
) -> subprocess.CompletedProcess[bytes]:
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell()\n"
        "shell.run_line_magic('load_ext', 'llmwit_magic')\n"
        f'shell.run_line_magic("config", "InferMagics.log_path = {str(folder / "runs.sqlite3")!r}")\n'
        f"options = '-m {model} --max-tokens {len(PIECES)} --repeat-penalty 1 --temperature 0 '\n"
        f"prompt = {QUESTION!r}\n{lines}"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=50,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip


EVERYTHING = """
shell.run_cell_magic('infer', options, prompt)
shell.run_cell_magic('infer', options + ' --seed 1:2', prompt)
shell.run_cell_magic('infer', options + ' --dry-run', prompt + ' é🙂')
shell.run_cell('_infer')
shell.run_line_magic('infer_models', '')
shell.run_line_magic('infer_log', '--info')
print(shell.run_line_magic('infer_replay', '1').identical)
"""


@pytest.mark.parametrize("encoding", ["cp932", "latin-1", "ascii"])
def test_an_encoding_without_the_answer_s_signs(model: Path, tmp_path: Path, encoding: str) -> None:
    """What it does not have is a `?`; runs, sweeps, dry runs and replays end as they would."""
    done = ipython(model, tmp_path, EVERYTHING, encoding)
    out = done.stdout.decode(encoding)
    assert done.stderr.decode(encoding, "replace").strip() == ""
    assert out.rstrip().endswith("True")
    assert "-- length - max tokens" in out or "── length" in out
    assert out.startswith(ANSWER.encode(encoding, "replace").decode(encoding))
    log = RunLog(tmp_path / "runs.sqlite3")
    assert [(row["status"], row["text"]) for row in log.rows()] == [("ok", ANSWER)] * 4
    log.close()


def test_a_closed_pipe_cancels_no_run(model: Path, tmp_path: Path) -> None:
    """The run ends in its own time, its row is whole, and the cell raises nothing."""
    lines = """
import io, os
reader, writer = os.pipe()
os.close(reader)
out, sys.stdout = sys.stdout, io.TextIOWrapper(io.FileIO(writer, 'w'), write_through=True)
try:
    shell.run_cell_magic('infer', options, prompt)
finally:
    sys.stdout = out
print(shell.user_ns['_infer'].status)
"""
    done = ipython(model, tmp_path, "import sys\n" + lines, "utf-8")
    assert done.stdout.decode().split() == ["ok"], done.stderr.decode()
    assert "the run cannot be shown, and goes on: BrokenPipeError" in done.stderr.decode()
    log = RunLog(tmp_path / "runs.sqlite3")
    assert [(row["status"], row["text"]) for row in log.rows()] == [("ok", ANSWER)]
    log.close()
