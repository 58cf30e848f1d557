"""`python -m benchmarks`: how fast our cells are, as ratios to other ways.

    python -m benchmarks                 all parts, about 20 minutes; nothing else should run
    python -m benchmarks speed cold      some parts
    python -m benchmarks --tiny          all parts once, with very little work

The figures and facts about the machine go to `benchmarks/results.json`. From
this file `python -m docs.make_pages` makes the tables of the README and of
`docs/performance.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmwit_magic.contract.request import DEFAULT_MODEL
from llmwit_magic.engines.backends.ctransformers.builds import choose_build
from llmwit_magic.engines.local.model_files import LocalModel, resolve
from llmwit_magic.engines.threads import usable_cores
from llmwit_magic.models.gguf import read_header

from . import (
    browser,
    compare,
    components,
    filling,
    http_serving,
    loop,
    machine,
    report,
    shapes,
    ways,
)
from .compare import FULL, TINY, Figures, Size

RESULTS = Path(__file__).with_name("results.json")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--tiny", action="store_true", help="a trial: its figures mean nothing")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.parts) - PARTS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))} (there are: {', '.join(PARTS)})")
    results = _known(chosen.json) if chosen.parts else {"figures": {}}
    size = TINY if chosen.tiny else FULL
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_DATA_HOME"] = folder  # the runs are not for the user's log
        for part in chosen.parts or PARTS:
            figures = PARTS[part](size, _say)
            results = {
                "machine": machine.facts(), "figures": results["figures"] | figures
            }  # fmt: skip
            chosen.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            _say("")
            print(report.table(figures), flush=True)
    return 0


def _say(text: str) -> None:
    print(f"\r{text:<60}\r", end="", file=sys.stderr, flush=True)


def _known(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"figures": {}}


def _default_model() -> LocalModel:
    return resolve(DEFAULT_MODEL, None, {}, lambda progress: None)


def _speed(size: Size, say: compare.Say) -> Figures:
    models = _default_model()
    read = machine.bytes_read_per_token(read_header(models.file)) / 1e6
    all_ways = [ways.infer(), _by_llamacpp(), ways.ctransformers(models.file),
                ways.llamacpp(models.source)]  # fmt: skip
    return (
        compare.speed(all_ways, size, say)
        | compare.bandwidth(size, say)
        | {"weights read for a token, MB": {"%%infer": [read]}}
    )


def _cold(size: Size, say: compare.Say) -> Figures:
    models = _default_model()
    bare = ways.bare(models.file, choose_build())
    all_ways = [ways.infer(), _by_llamacpp(), ways.ctransformers(models.file), bare,
                ways.llamacpp(models.source)]  # fmt: skip
    return compare.cold(all_ways, size, say) | compare.load_ext(size, say)


def _library(size: Size, say: compare.Say) -> Figures:
    model = _default_model().source
    groups = {
        f"llama.cpp{more and ' '}{more}": [
            _by_llamacpp(more),
            ways.library_writing(model, exact),
            ways.library_alone(model, exact),
        ]
        for more, exact in (("", True), ("--no-exact", False))
    }
    return compare.beside_library(groups, size.prompts[-2], size, say)


def _by_llamacpp(more: str = "") -> ways.Way:
    return ways.infer(name=report.OURS_BY_LLAMACPP, engine="llama.cpp", more=more)


def _fixed() -> list[ways.Way]:
    return [ways.infer(str(n), f"--threads {n}") for n in range(1, min(usable_cores(), 4) + 1)]


def _contention(size: Size, say: compare.Say) -> Figures:
    theirs = [ways.ctransformers(_default_model().file)]
    return compare.contention([ways.infer(), *_fixed()], theirs, size, say)


PARTS: dict[str, Callable[[Size, compare.Say], Figures]] = {
    "speed": _speed,
    "library": _library,
    "loop": lambda size, say: loop.loop(_default_model(), size, say),
    "growth": lambda size, say: loop.growth(_default_model(), size, say),
    "constraint": lambda size, say: shapes.constraint(_default_model(), size, say),
    "latency": lambda size, say: compare.latency(ways.infer(), size, say),
    "cold": _cold,
    "contention": _contention,
    "browser": lambda size, say: browser.browser([ways.infer(), *_fixed()], size, say),
    "server": lambda size, say: filling.filling(_default_model().source, size, say),
    "http": http_serving.http,
    "components": components.components,
    "memory": lambda size, say: compare.kernel_memory(ways.infer(), size, say),
}

if __name__ == "__main__":
    sys.exit(main())
