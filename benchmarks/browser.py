"""The speed of decoding while JupyterLab in a browser draws the text on the same machine."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.browser import Notebook
from tests.support.lab import running_browser, running_lab

from .compare import Figures, Say, Size
from .ways import Way


def browser(ways: Sequence[Way], size: Size, say: Say) -> Figures:
    """Tokens per second of each way, measured in turn, in one notebook that a browser shows."""
    paces: dict[str, list[float]] = {way.name: [] for way in ways}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_lab(Path(folder)) as lab,
        running_browser() as chromium,
    ):
        notebook = Notebook(lab, chromium.new_context(), "benchmark.ipynb")
        cells = [way.answer("Once upon a time", 2 * size.tokens) for way in ways]
        notebook.write("%load_ext llmwit_magic", *cells)
        notebook.open()
        notebook.setup()
        notebook.run(1, 120)
        for number in range(size.rounds):
            say(f"in a browser, round {number + 1} of {size.rounds}")
            for index, way in enumerate(ways, 1):
                notebook.run(index, 120)
                paces[way.name].append(lab.log.rows(last=1)[0]["tokens_per_second"])
        lab.shut_kernels_down()
    return {"decode in JupyterLab, tokens/s": paces}
