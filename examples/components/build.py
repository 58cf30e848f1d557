"""Build the example components.

    python examples/components/build.py [NAME ...]

Prints the path of each. It needs `pip install componentize-py`. A component takes about ten
seconds, and is kept in the cache folder until its sources change.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from llmwit_magic.models.cache import cache_folder

HERE = Path(__file__).resolve().parent
INTERFACE = HERE.parents[1] / "wit" / "0.2.0"
NAMES = sorted(path.parent.name for path in HERE.glob("*/app.py"))


def build(name: str) -> Path:
    """The path of an example's component. Raises `ValueError` for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"there is no example {name!r}; there are {', '.join(NAMES)}")
    return component_of(HERE / name)


def component_of(folder: Path, *more: str) -> Path:
    """The path of the component that is made of `app.py` and `world.wit` in a folder.

    `more` are further options of componentize-py. Raises `RuntimeError` with what it says.
    """
    name = folder.name
    digest = hashlib.sha256(repr((version("componentize-py"), name, more)).encode())
    for path in (folder / "app.py", folder / "world.wit", INTERFACE / "llm.wit"):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    target = cache_folder() / "examples" / digest.hexdigest()[:16] / f"{name}.wasm"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        # An error is enough without its stack. componentize-py takes interfaces of the packages that
        # are installed, such as spin-sdk's; in this empty folder it finds none.
        environment = os.environ | {"RUST_BACKTRACE": "0", "VIRTUAL_ENV": scratch}
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from componentize_py import script; sys.exit(script())",
             "-q", "-d", INTERFACE, "-d", folder, "-w", f"llmwit:example-{name}/{name}-guest",
             "componentize", "-p", folder, *more, "app", "-o", made],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"componentize-py could not build {name}: {done.stderr.strip()}")
        made.replace(target)  # at once, since another process may build the same
    return target


if __name__ == "__main__":
    for wanted in sys.argv[1:] or NAMES:
        print(build(wanted))
