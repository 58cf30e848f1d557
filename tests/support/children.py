"""A program whose workers run a model, for each way to have workers.

    python -m tests.support.children WAY MODEL FOLDER

Does so three times, with the same workers where they stay: with the default
settings, with the log in memory, with a log of its own in FOLDER. Prints where
each of them logged.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Ask = Callable[[str, str], list[Any]]


def ask(model: str, prompt: str) -> list[Any]:
    """What a worker does: a run, and where it is logged."""
    from llmwit_magic import infer, runs

    text = infer(model, prompt, {"max_tokens": 1, "temperature": 0}).text
    return [runs.path, [row["prompt"] for row in runs.rows(everyone=False)], text]


@contextmanager
def pool(method: str) -> Iterator[Ask]:
    with multiprocessing.get_context(method).Pool(1) as workers:
        yield lambda *arguments: workers.apply(ask, arguments)


@contextmanager
def executor() -> Iterator[Ask]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as workers:
        yield lambda *arguments: workers.submit(ask, *arguments).result()


@contextmanager
def joblib_workers(backend: str) -> Iterator[Ask]:
    import joblib

    with joblib.Parallel(n_jobs=2, backend=backend) as workers:
        yield lambda *arguments: workers([joblib.delayed(ask)(*arguments)])[0]


@contextmanager
def dask_workers() -> Iterator[Ask]:
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        yield lambda *arguments: client.submit(ask, *arguments, pure=False).result()


@contextmanager
def script() -> Iterator[Ask]:
    code = "import sys, json; from tests.support.children import ask; print(json.dumps(ask(*sys.argv[1:])))"

    def run(*arguments: str) -> list[Any]:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return list(json.loads(done.stdout.splitlines()[-1]))

    yield run


WAYS: dict[str, Callable[[], Any]] = {
    "fork": lambda: pool("fork"),
    "forkserver": lambda: pool("forkserver"),
    "spawn": lambda: pool("spawn"),
    "executor": executor,
    "loky": lambda: joblib_workers("loky"),
    "joblib's multiprocessing": lambda: joblib_workers("multiprocessing"),
    "dask": dask_workers,
    "script": script,
}


def main(way: str, model: str, folder: str) -> None:
    if way.startswith("early "):  # workers that are there before anyone could tell them
        with WAYS[way.removeprefix("early ")]() as asked:
            asked_early = [asked(model, "a secret prompt")]
            use_log(":memory:")
            print(json.dumps([*asked_early, asked(model, "a secret prompt")]))
        return
    use_log(None)
    with WAYS[way]() as asked:
        said = [asked(model, "an open prompt")]
        use_log(":memory:", {"mine": model})
        said.append(asked("mine", "a secret prompt"))
        use_log(str(Path(folder) / "own.sqlite3"), {"mine": model})
        said.append(asked("mine", "a prompt for the file"))
    print(json.dumps(said))


def use_log(path: str | None, aliases: dict[str, str] | None = None) -> None:
    """What `%config InferMagics.log_path` and `.aliases` do."""
    from llmwit_magic.running.session import current_session

    current_session().use_log(path)
    current_session().aliases = aliases or {}


if __name__ == "__main__":
    main(*sys.argv[1:])
