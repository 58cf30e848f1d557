"""Processes in an odd state: a run works there, or an error of one line says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.running import shared_settings as settings

ROOT = Path(__file__).parents[2]
CODE = """
import json, os, sys, tempfile
model = sys.argv[1]
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
{before}
import pandas
import llmwit_magic
from llmwit_magic import *
from llmwit_magic.runlog.log import RunLog
shell.run_line_magic("load_ext", "llmwit_magic")

def magic(kind, *arguments):
    getattr(shell, "run_" + kind + "_magic")(*arguments)
    return "ok"

looks = {
    "cell": lambda: magic("cell", "infer", "--quiet --max-tokens 2 -m " + model, "p"),
    "infer": lambda: infer(model, "p", {"max_tokens": 2}).status,
    "stream": lambda: stream(model, "p", {"max_tokens": 2}).result.status,
    "embeddings": lambda: "ok" if generate_embeddings(model, "p").embeddings else "none",
    "frame": lambda: infer_frame(pandas.DataFrame({"a": ["x"]}), "{{a}}", model,
                                 {"max_tokens": 1}, progress=False).infer_status[0],
    "replay": lambda: magic("line", "infer_replay", "1 --quiet"),
    "log": lambda: magic("line", "infer_log", "--columns text"),
    "models": lambda: magic("line", "infer_models", ""),
    "help": lambda: "ok" if "--top-k" in shell.find_cell_magic("infer").__doc__ else "none",
    "no such model": lambda: infer("nope", "p").status,
    "no such file": lambda: infer("./nope.gguf", "p").status,
    "relative export": lambda: magic("line", "infer_log", "--export no/runs.csv"),
    "relative log": lambda: "ok" if len(RunLog("own.sqlite3")) == 0 else "runs",
    "unload": lambda: magic("line", "infer_unload", ""),
}
said = {}
for name, look in looks.items():
    try:
        said[name] = look()
    except InferenceError as error:
        said[name] = [type(error).__name__, str(error)]
    except BaseException as error:
        said[name] = "BARE " + repr(error)
print(json.dumps(said))
"""


def said(model: Path, folder: Path, before: str = "", **environment: str) -> dict[str, Any]:
    """The outcome of each look: its word, or the class and message of our error."""
    inherited = {name: text for name, text in os.environ.items() if name != settings.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", CODE.replace("{before}", before), str(model)],
        cwd=folder, capture_output=True, text=True, timeout=100,
        env=inherited | {"PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(folder / "data"),
                         "IPYTHONDIR": str(folder / "ipython")} | environment,
    )  # fmt: skip
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for name, word in found.items():
        assert not str(word).startswith("BARE"), (name, word)
        if isinstance(word, list):
            assert len(word[1].splitlines()) == 1
    return found


ALWAYS_REFUSED = {"no such model", "no such file", "relative export"}


def refused(found: dict[str, Any]) -> set[str]:
    return {name for name, word in found.items() if word != "ok"} - ALWAYS_REFUSED


@pytest.mark.timeout(120)
def test_a_deleted_folder_stops_no_run(tiny_model: Path, tmp_path: Path) -> None:
    """Without the working folder, only relative paths cannot be found or written."""
    gone = "folder = tempfile.mkdtemp(); os.chdir(folder); os.rmdir(folder)"
    found = said(tiny_model, tmp_path, gone)
    assert refused(found) == {"relative log"}
    assert found["no such model"][0] == found["no such file"][0] == "ModelNotFound"
    assert found["relative log"][0] == "LogError"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("level", ["1", "2"])
def test_optimised_python_runs_models(tiny_model: Path, tmp_path: Path, level: str) -> None:
    """PYTHONOPTIMIZE removes assertions, and the docstrings that ctransformers writes into."""
    found = said(tiny_model, tmp_path, PYTHONOPTIMIZE=level)
    assert refused(found) == set()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("value", ["None", "''"])
def test_python_that_does_not_know_its_program_says_so(
    tiny_model: Path, tmp_path: Path, value: str
) -> None:
    """No engine can be started. The error says what to set, and everything else works."""
    found = said(tiny_model, tmp_path, f"sys.executable = {value}")
    started = {"cell", "infer", "stream", "embeddings", "replay"}
    assert refused(found) == started | {"frame"}
    for name in started:
        assert found[name] == [
            "EngineFailed",
            "the engine could not be started: Python does not know its own program "
            "(sys.executable is empty): set it to the path of python",
        ]
    assert found["frame"] == "error"  # of its row
