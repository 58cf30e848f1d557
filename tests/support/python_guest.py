"""A component of Python, built by componentize-py and kept by the hash of its sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from llmwit_magic.models.cache import cache_folder

WIT = Path(__file__).parents[2] / "wit" / "llm.wit"
WORLD = """package tests:guest;

world guest {
    import llmwit:llm/llm@0.1.0;
    export nothing: func();
    export ask: func(model: string, prompts: list<string>);
    export run: func(code: string) -> string;
}
"""
APP = """import os, socket, sys, time

import wit_world
from wit_world.imports import llm

# One token, the likeliest.
PARAMS = llm.InferencingParams(
    max_tokens=1, repeat_penalty=1.0, repeat_penalty_last_n_token_count=0, stop=[],
    temperature=0.0, top_k=0, top_p=1.0,
)

class WitWorld(wit_world.WitWorld):
    def nothing(self):
        pass

    def ask(self, model, prompts):
        for prompt in prompts:
            llm.infer(model, prompt, PARAMS)

    def run(self, code):
        names = {"os": os, "socket": socket, "sys": sys, "time": time}
        exec(code, names)
        return str(names.get("answer"))
"""


def python_guest() -> Path:
    """The component, which is built where it is not in the cache yet. That takes ten seconds.

    It exports `nothing`, `ask`, which asks for a token after each prompt, and `run`, which carries
    code of Python out and returns its `answer`.
    """
    sources = (metadata.version("componentize-py"), WIT.read_text("utf-8"), WORLD, APP)
    digest = hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]
    kept = cache_folder() / "tests" / f"guest-{digest}.wasm"
    if kept.exists():
        return kept
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "wit" / "deps" / "llm").mkdir(parents=True)
        (folder / "wit" / "world.wit").write_text(WORLD, encoding="utf-8")
        shutil.copy(WIT, folder / "wit" / "deps" / "llm")
        (folder / "app.py").write_text(APP, encoding="utf-8")
        code = "import sys; from componentize_py import script; sys.exit(script())"
        subprocess.run(
            [sys.executable, "-c", code, "-d", "wit", "-w", "guest", "componentize", "app",
             "-o", "guest.wasm"],
            cwd=folder, check=True, capture_output=True, timeout=100,
            env=os.environ | {"VIRTUAL_ENV": name},  # no interfaces of packages that are installed
        )  # fmt: skip
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f"{folder.name}.part")  # two test runs may build it at once
        shutil.copy(folder / "guest.wasm", part)
        part.replace(kept)
    return kept
