"""An answer appears wherever a cell can run, also where updates of a display do not arrive."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.kernel import Kernel, Reply, running_kernel

PAGE = Path(__file__).parents[2] / "docs" / "displays.md"
CELL = "get_ipython().run_cell_magic('infer', {line!r}, {prompt!r})"


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with running_kernel() as kernel:
        assert kernel.run("%load_ext llmwit_magic\nimport ipywidgets as w").status == "ok"
        kernel.run("%config InferMagics.log_path = ':memory:'")
        yield kernel


@pytest.fixture(params=["auto", "html"])
def view(request: pytest.FixtureRequest, kernel: Kernel) -> Iterator[str]:
    kernel.run(f"%config InferMagics.view = {request.param!r}")
    yield request.param
    kernel.run("%config InferMagics.view = 'auto'")


def call(model: Path, options: str = "", prompt: str = "One two three") -> str:
    return CELL.format(line=f"-m {model} --max-tokens 3 {options}", prompt=prompt)


def shown(reply: Reply) -> list[dict[str, Any]]:
    """What was displayed, the widgets of the test itself left out."""
    displays = [m for m in reply.messages if m["msg_type"] == "display_data"]
    data = [message["content"]["data"] for message in displays]
    return [item for item in data if "application/vnd.jupyter.widget-view+json" not in item]


def live_messages(reply: Reply) -> list[str]:
    """The kinds of messages that a live view needs: updates, and those of its widget."""
    return [
        message["msg_type"]
        for message in reply.messages
        if message["msg_type"] == "update_display_data"
        or message["content"].get("data", {}).get("method") == "custom"
    ]


def with_output(code: str) -> str:
    return f"out = w.Output()\nwith out:\n    {code}"


def captured(code: str) -> str:
    return f"out = w.Output()\n@out.capture()\ndef work():\n    {code}\nwork()"


@pytest.mark.parametrize("inside", [with_output, captured])
@pytest.mark.parametrize("options", ["", "--temperature 0,1", "--top-logprobs 2"])
def test_an_output_widget_gets_one_display(
    kernel: Kernel, tiny_model: Path, view: str, inside: Any, options: str
) -> None:
    """The finished answer, or the finished table, and nothing before it."""
    reply = kernel.run(inside(call(tiny_model, options)))
    assert reply.status == "ok", reply.error
    [data] = shown(reply)
    assert "max tokens" in data["text/plain"]
    assert "llmwit-text" in data["text/html"]
    assert live_messages(reply) == []


def test_an_output_widget_gets_a_replay(kernel: Kernel, tiny_model: Path, view: str) -> None:
    """The answer of the repetition, once."""
    kernel.run(call(tiny_model))
    run = kernel.run("print(_infer.run_id)").stdout.strip()
    line = f"get_ipython().run_line_magic('infer_replay', '{run}')"
    reply = kernel.run(with_output(line))
    assert ["max tokens" in data["text/plain"] for data in shown(reply)] == [True]
    assert live_messages(reply) == []


def test_an_output_widget_gets_a_dry_run(kernel: Kernel, tiny_model: Path) -> None:
    """The prompt and its counts as printed text; no line of progress is left."""
    kernel.run("%infer_unload")
    reply = kernel.run(with_output(call(tiny_model, "--dry-run")))
    assert "prompt tokens" in reply.stdout
    assert shown(reply) == []


def test_a_dry_run_in_a_notebook_leaves_no_progress(kernel: Kernel, tiny_model: Path) -> None:
    """The line that says what is being loaded is empty at the end, or was never needed."""
    kernel.run("%infer_unload")
    reply = kernel.run(call(tiny_model, "--dry-run"))
    states = [
        message["content"]["data"]["text/plain"]
        for message in reply.messages
        if message["msg_type"] in ("display_data", "update_display_data")
    ]
    assert states[-1:] in ([], [""])


def test_an_output_widget_gets_an_error(kernel: Kernel, tiny_model: Path, view: str) -> None:
    """What there was of the run, once, and the error's one line."""
    reply = kernel.run(with_output(call(tiny_model, prompt="One two three " * 500)))
    assert ["failed" in data["text/plain"] for data in shown(reply)] == [True]
    assert reply.traceback[-1].startswith("PromptTooLong: ")
    assert live_messages(reply) == []


def test_a_button_shows_its_answer(kernel: Kernel, tiny_model: Path, view: str) -> None:
    """Its callback runs in no cell: whatever it displays is displayed once."""
    for inside in ("", "with out:\n        "):
        told = kernel.run(
            f"out, b = w.Output(), w.Button()\ndef work(b):\n    {inside}{call(tiny_model)}\n"
            "b.on_click(work)\nprint(b.comm.comm_id)"
        )
        content = {
            "comm_id": told.stdout.strip(),
            "data": {"method": "custom", "content": {"event": "click"}},
        }
        message = kernel.client.session.msg("comm_msg", content)
        kernel.client.shell_channel.send(message)
        reply = kernel.wait(message["header"]["msg_id"])
        assert ["max tokens" in data["text/plain"] for data in shown(reply)] == [True]
        assert live_messages(reply) == []


def test_captured_output_is_the_answer(kernel: Kernel, tiny_model: Path, view: str) -> None:
    """`%%capture` holds one finished display, which shows again as it is."""
    kernel.run(f"%%capture held\n{call(tiny_model)}")
    told = kernel.run(
        "print(len(held.outputs), 'max tokens' in held.outputs[0].data['text/plain'])"
    )
    assert told.stdout.strip() == "1 True"
    assert ["max tokens" in data["text/plain"] for data in shown(kernel.run("held()"))] == [True]


def test_a_cell_is_drawn_live(kernel: Kernel, tiny_model: Path) -> None:
    """A request that names its cell is a notebook's: one display, which its updates reach."""
    reply = kernel.run(call(tiny_model))
    assert live_messages(reply)
    assert "max tokens" in reply.text


def test_a_console_gets_the_text_as_it_comes(kernel: Kernel, tiny_model: Path) -> None:
    """Where no cell is named and input is taken, answer and status line are printed."""
    reply = kernel.run(call(tiny_model), cell_id="")
    assert "── length · max tokens" in reply.stdout
    assert shown(reply) == []
    reply = kernel.run(call(tiny_model, "--temperature 0,1"), cell_id="")
    assert reply.stdout.count("max tokens") == 4
    assert live_messages(reply) == []


def test_a_client_whose_page_has_spoken_is_drawn_live(tiny_model: Path) -> None:
    """A page with widgets says so when it gets ours; what its client runs is drawn live."""
    with running_kernel() as kernel:
        kernel.run("%load_ext llmwit_magic\nfrom llmwit_magic.views.live import _pages", cell_id="")
        told = kernel.run(
            "get_ipython().find_cell_magic('infer').__self__.open_page()\n"
            "print(*(page.comm.comm_id for page in _pages.values()))"
        )
        content = {
            "comm_id": told.stdout.strip(),
            "data": {"method": "custom", "content": {"hello": True}},
        }
        message = kernel.client.session.msg("comm_msg", content)
        kernel.client.shell_channel.send(message)
        kernel.wait(message["header"]["msg_id"])
        assert live_messages(kernel.run(call(tiny_model), cell_id=""))


COLAB = {"colab": {"cell_id": "abc"}}
"""What Colab's own history reads from a request."""
PAGES = "\nimport sys; print([*getattr(sys.modules.get('llmwit_magic.views.live'), '_pages', ())])"


def test_colab_updates_html(tiny_model: Path) -> None:
    """Each output is a frame: no widget needs a script in it, and the updates are displays.

    Ours would have Colab load its own manager of widgets from another host, for all widgets.
    """
    with running_kernel() as kernel:
        loading = "%load_ext llmwit_magic\n%config InferMagics.log_path = ':memory:'"
        assert kernel.wait(kernel.start(loading, metadata=COLAB)).status == "ok"
        for options in ("", "--temperature 0,1"):
            code = f"{call(tiny_model, options)}\nfrom llmwit_magic import runs\nruns[1]"
            reply = kernel.wait(kernel.start(code, metadata=COLAB))
            assert reply.status == "ok", reply.error
            assert set(live_messages(reply)) == {"update_display_data"}
            assert not [m for m in reply.messages if m["msg_type"].startswith("comm")]
            [data] = shown(reply)
            assert "text/html" in data
            assert "max tokens" in reply.html
        assert kernel.wait(kernel.start(PAGES, metadata=COLAB)).stdout.strip() == "[]"


def test_databricks_gets_one_display(tiny_model: Path) -> None:
    """The finished answer, and no widget before it."""
    with running_kernel() as kernel:
        kernel.run("import os; os.environ['DATABRICKS_RUNTIME_VERSION'] = '15.4'")
        kernel.run("%load_ext llmwit_magic\n%config InferMagics.log_path = ':memory:'")
        for view in ("auto", "html"):
            kernel.run(f"%config InferMagics.view = {view!r}")
            reply = kernel.run(call(tiny_model))
            assert reply.status == "ok", reply.error
            [data] = shown(reply)
            assert "max tokens" in data["text/plain"]
            assert "llmwit-text" in data["text/html"]
            assert live_messages(reply) == []
        assert kernel.run(PAGES).stdout.strip() == "[]"
        kernel.run("%config InferMagics.view = 'text'")
        assert "── length · max tokens" in kernel.run(call(tiny_model)).stdout


def test_the_functions_need_no_ipython(tiny_model: Path, tmp_path: Path) -> None:
    """What `docs/displays.md` shows for marimo runs in plain Python, and imports no widgets."""
    code = PAGE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert code.count("(None, ") == 2
    code = code.replace("(None, ", f"({str(tiny_model)!r}, ")
    code += "import sys; print('\\nruns:', len(runs), *sys.modules.keys() & {'ipywidgets'})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", timeout=50,
        env=os.environ | {"XDG_DATA_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.endswith("\nruns: 2\n"), done.stderr + done.stdout


@pytest.mark.parametrize("lab", [True, False])
def test_a_live_view_says_where_the_answer_is(kernel: Kernel, tiny_model: Path, lab: bool) -> None:
    """What a notebook keeps of a run that goes on; in JupyterLab without a widget that would be lost."""
    for options, place in (("", r"runs\[\d+\]"), ("--seed 1,2", r"%infer_log --all --group \w+")):
        metadata = None if lab else {"cellId": "a-cell"}
        reply = kernel.wait(kernel.start(call(tiny_model, options), metadata=metadata))
        [shown] = [m["content"]["data"] for m in reply.messages if m["msg_type"] == "display_data"]
        for form in ("text/plain", "text/html"):
            assert re.search(
                rf"running … · if this line stays, the answer is in {place}", shown[form]
            )
        assert ("application/vnd.jupyter.widget-view+json" in shown) is not lab
        assert ("data-live" in shown["text/html"]) is lab
        assert "max tokens" in reply.text or "length" in reply.text


def test_whoever_asks_for_widgets_gets_them(kernel: Kernel, tiny_model: Path) -> None:
    """`view = 'widget'` vouches for a front end that is not known, and for no `Output`."""
    kernel.run("%config InferMagics.view = 'widget'")
    assert live_messages(kernel.run(call(tiny_model), cell_id=""))
    assert not live_messages(kernel.run(with_output(call(tiny_model))))
    kernel.run("%config InferMagics.view = 'auto'")


@pytest.mark.parametrize("view", ["auto", "html"])
def test_jupyter_run_prints_the_answer(tiny_model: Path, tmp_path: Path, view: str) -> None:
    """`jupyter run FILE` shows answer and status line, and never that something runs."""
    path = tmp_path / "cells.py"
    path.write_text(
        f"%load_ext llmwit_magic\n%config InferMagics.view = {view!r}\n{call(tiny_model)}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_client.runapp", str(path)],
        capture_output=True, text=True, encoding="utf-8", timeout=50,
    )  # fmt: skip
    assert "── length · max tokens" in done.stdout, done.stderr
    assert "running" not in done.stdout


@pytest.mark.parametrize("view", ["auto", "html"])
def test_nbclient_keeps_the_answer(tiny_model: Path, view: str) -> None:
    """Executed by a program, a cell and an `Output` hold the finished answer, once each."""
    cells = [
        f"%load_ext llmwit_magic\n%config InferMagics.view = {view!r}",
        f"import ipywidgets as w\nout = w.Output()\ndisplay(out)\nwith out:\n    {call(tiny_model)}",
        call(tiny_model),
    ]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    NotebookClient(notebook, timeout=50, kernel_name="python3").execute()
    [answer] = notebook.cells[2].outputs
    assert "max tokens" in answer.data["text/plain"]
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    [held] = [s["state"]["outputs"] for s in states.values() if s["model_name"] == "OutputModel"]
    assert ["max tokens" in output["data"]["text/plain"] for output in held] == [True]
