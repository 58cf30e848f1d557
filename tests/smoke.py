"""A smoke test of the installed package, without pytest: `nox -s package` runs it.

    python -I tests/smoke.py

It looks for the files that are not Python, imports each public name, and runs a cell with the
default model. `XDG_CACHE_HOME` may say where that model is; else it is fetched.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import metadata, resources
from pathlib import Path

DATA_FILES = (
    "py.typed", "llm.wit", "llm-0.2.0.wit", "views/page/answer.js", "views/page/comparison.js",
    "views/page/live.js", "views/page/page.css", "views/page/page.js", "views/page/tokens.js",
)  # fmt: skip
"""The files of the package that are not Python."""


def main() -> None:
    folder = tempfile.mkdtemp()
    os.environ["XDG_DATA_HOME"] = os.environ["IPYTHONDIR"] = folder  # never the user's own
    from IPython.core.interactiveshell import InteractiveShell

    import llmwit_magic

    home = Path(str(llmwit_magic.__file__)).resolve()
    assert home.is_relative_to(Path(sys.prefix).resolve()), f"{home} is not the installed package"
    assert llmwit_magic.__version__ == metadata.version("llmwit-magic")
    for name in DATA_FILES:
        assert resources.files("llmwit_magic").joinpath(name).is_file(), f"{name} is missing"
    for name in llmwit_magic.__all__:
        assert getattr(llmwit_magic, name) is not None

    shell = InteractiveShell.instance()
    shell.run_cell("%load_ext llmwit_magic").raise_error()
    shell.run_cell("%%infer --temperature 0 --stop .\nThe capital of France is").raise_error()
    result = shell.user_ns["_infer"]
    assert (result.text, result.finish_detail) == (" Paris", "stop_sequence"), result
    table = llmwit_magic.runs.to_frame()
    assert list(table["text"]) == [" Paris"], table
    shell.run_cell("%unload_ext llmwit_magic").raise_error()
    print(f"llmwit-magic {llmwit_magic.__version__} in {home.parent}: a cell ran")


if __name__ == "__main__":
    main()
