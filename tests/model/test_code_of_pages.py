"""The code of README and docs runs as it stands, page after page, in one real kernel.

Left out are pages about servers, clusters and GPUs, which have tests of their own, and what is no
code for a notebook: commands of a shell, outputs, files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kernel import Kernel, running_kernel

ROOT = Path(__file__).parents[2]
LABELS = """
import pandas
df = pandas.DataFrame({
    "text": ["I like it.", "It is bad.", "It is a cup.", "Awful!", "Great!", "A pen."],
    "label": ["positive", "negative", "neutral", "negative", "positive", "neutral"],
    "limit": 40,
})
template = "{{text}}\\nLabel: "
choices = ["negative", "neutral", "positive"]
cold = infer_frame(df, template, choices=choices, temperature=0).assign(model="a", temperature=0)
cold["infer_short_enough"] = 1
warm = cold.assign(temperature=1)
runs_of_all = pandas.concat([cold, warm])
"""
COMPONENT = f"""
import shutil
%run {ROOT}/examples/components/build.py chat
shutil.copy(build("chat"), "chat.wasm")
"""
PAGES = {
    "README.md": "",
    "docs/in_python.md": "",
    "docs/displays.md": "",
    "docs/batches.md": "import pandas\ndf = pandas.DataFrame({'country': ['France', 'Peru']})",
    "docs/comparing.md": "land = 'France'\ndef short_enough(result):\n    return len(result.text) < 40",
    "docs/conversations.md": "",
    "docs/embeddings.md": "",
    "docs/labels.md": "from llmwit_magic import infer_frame" + LABELS,
    "docs/long_texts.md": "",
    "docs/presets.md": "",
    "docs/scores.md": "",
    "docs/models_in_memory.md": "",
    "docs/wit.md": COMPONENT,
    "docs/run_log.md": "",  # at last: it asks for run 12
}
"""The pages, and what the reader of each is supposed to have already."""
INSTEAD = {
    # Answers of a record's own type have no column `infer_value`: the report is about labels.
    'report = evaluate(answers, truth="label", prediction="infer_value")':
        'report = evaluate(cold, truth="label", prediction="infer_value")',
}  # fmt: skip


def cells_of(page: str) -> Iterator[str]:
    """The blocks of code of a page as cells of a notebook."""
    language: str | None = None
    block: list[str] = []
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if not line.startswith("```"):
            block.append(line)
        elif language is None:
            language, block = line.strip("`"), []
        else:
            code, kind, language = "\n".join(block), language, None
            if kind == "python" or code.startswith("%%infer"):
                yield code
            elif not kind and code.startswith("%"):
                for command in block:  # what it does stands behind it, after some spaces
                    yield re.split(r"\s{2,}", command)[0]


@pytest.fixture(scope="module")
def kernel(
    default_model_loaded: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("pages")
    with running_kernel() as kernel:
        reply = kernel.run(
            f"import os\nos.environ['XDG_CONFIG_HOME'] = os.environ['HOME'] = {str(folder)!r}\n"
            f"%cd -q {folder}\n%load_ext llmwit_magic\n"
            f"%config InferMagics.log_path = {str(folder / 'runs.sqlite3')!r}\n"
        )
        assert reply.status == "ok", reply.error
        yield kernel


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(kernel: Kernel, page: str) -> None:
    if PAGES[page]:
        reply = kernel.run(PAGES[page])
        assert reply.status == "ok", reply.error
    cells = list(cells_of(page))
    assert cells
    for code in cells:
        for written, other in INSTEAD.items():
            code = code.replace(written, other)
        reply = kernel.run(code, timeout=90)
        assert reply.status == "ok", f"{code}\n{reply.error}"
