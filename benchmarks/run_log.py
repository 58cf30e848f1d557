"""How long operations of the run log take, at 1,000, 10,000 and 100,000 rows.

    python -m benchmarks.run_log

Prints the median times of logging a run (its row is begun and completed), of
`to_frame()`, and of a filter on the newest 100 runs, and how they grow. Ends
with an error if one is above its limit.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llmwit_magic.contract.events import Chunk, End, Prepared
from llmwit_magic.contract.request import Request
from llmwit_magic.contract.wit import (
    DeviceInfo,
    FinishDetail,
    InferencingParams,
    InferencingUsage,
    ModelInfo,
)
from llmwit_magic.runlog.log import RunLog
from llmwit_magic.running.run import Run

SIZES = (1_000, 10_000, 100_000)
REPEATS = 200
LIMITS = {"log a run": 0.001, "to_frame()": 2.0, "newest 100": 0.05}
"""The most seconds that each operation may take at 100,000 rows."""

PROMPT = "Summarise the following paragraph in one sentence. " * 6
ANSWER = "The answer of a small model is some hundred characters long. " * 8


def a_run(number: int) -> Run:
    """A run that has ended, with texts of ordinary length."""
    request = Request(
        model="smollm2-135m-instruct",
        prompt=f"{number}: {PROMPT}",
        params=InferencingParams(stop=("\n\n",), temperature=number % 10 / 10, seed=number),
        tags={"try": str(number % 7)},
        group_id=f"group-{number // 100}",
    )
    run = Run(request)

    def work(run: Run, cancel: threading.Event) -> None:
        model = ModelInfo(
            name=request.model, path="/models/model.gguf", sha256="0" * 64,
            architecture="llama", quantisation="Q4_0",
        )  # fmt: skip
        run.emit(
            Prepared(request.prompt, 60, 32, 2048, request.params, model, DeviceInfo(threads=1))
        )
        run.emit(Chunk(ANSWER, 100))
        usage = InferencingUsage(prompt_token_count=60, generated_token_count=100)
        run.emit(End(FinishDetail.MAX_TOKENS, usage, None, {"prompt": 0.1, "decode": 2.0}))

    run.start(work)
    run.wait()
    return run


def measure(sizes: Sequence[int], repeats: int) -> dict[int, dict[str, float]]:
    """Median seconds of each operation, by the number of rows that the log has."""
    figures: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        log = RunLog(Path(folder) / "runs.sqlite3")
        for size in sizes:
            fill(log, size)
            few = max(1, repeats // 40)
            figures[size] = {
                "log a run": append_seconds(log, repeats),
                "to_frame()": median(lambda: log.to_frame(), few),
                "newest 100": median(
                    lambda: log.to_frame(last=100, status="ok", grep="SUMMARISE"), few * 4
                ),
            }
        log.close()
    return figures


def fill(log: RunLog, size: int) -> None:
    """Add rows until the log has that many. Each row has its own prompt."""
    while (count := len(log)) < size:
        if count < 1_000:
            append_seconds(log, min(1_000, size) - count)
            continue
        names = ", ".join(name for name in log.rows(last=1)[0] if name not in ("run_id", "prompt"))
        log._database.execute(
            f"INSERT INTO runs (prompt, {names}) SELECT run_id || prompt, {names} FROM runs "
            f"LIMIT {size - count}"
        )
        log._database.execute("COMMIT")


def append_seconds(log: RunLog, repeats: int) -> float:
    """The median seconds that it takes to begin and complete a run's row."""
    seconds = []
    for number in range(repeats):
        run = a_run(number)
        began = time.perf_counter()
        run.run_id = log.begin(run.row("running"))
        log.complete(run.run_id, run.row("ok"))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def median(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> int:
    figures = measure(SIZES, REPEATS)
    first, last = min(figures), max(figures)
    sizes = "".join(f"{size:>12,}" for size in figures)
    print(f"{'rows':<12}{sizes}{'growth':>10}{'limit':>12}")
    late = False
    for name, limit in LIMITS.items():
        values = "".join(f"{1000 * row[name]:>9.2f} ms" for row in figures.values())
        growth = figures[last][name] / figures[first][name]
        late |= figures[last][name] > limit
        print(f"{name:<12}{values}{growth:>9.1f}×{1000 * limit:>9.0f} ms")
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
