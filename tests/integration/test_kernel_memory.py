"""What runs leave behind in a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kernel import running_kernel

LEFT = """
import gc
from ipywidgets import Widget
from llmwit_magic.views.live import LiveWidget
gc.collect()
print([type(thing).__name__ for thing in gc.get_objects()
       if isinstance(thing, Widget) and not type(thing).__name__ == "PageWidget"])
"""


@pytest.mark.timeout(90)
def test_no_widget_outlives_its_run(tiny_model: Path) -> None:
    """All that is left of views is the page's own widget and its layout."""
    with running_kernel() as kernel:
        kernel.run("%load_ext llmwit_magic")
        for number in range(5):
            reply = kernel.run(f"%%infer -m {tiny_model} --max-tokens 2\n{number} is")
            assert reply.status == "ok", reply.error
        assert kernel.run(LEFT).stdout.strip() == "['Layout']"


COUNT = "\nimport gc; gc.collect(); from ipywidgets.widgets import widget as home; print(len(getattr(home, '_instances', None) or home.Widget.widgets))"
PANEL = "from llmwit_magic import tune\np = tune('One two', model={model!r}, params={{'max_tokens': 2}})\n"


@pytest.mark.timeout(90)
@pytest.mark.parametrize("last", ["", "p", "display(p)"])
def test_a_panel_made_again_leaves_no_widgets(tiny_model: Path, last: str) -> None:
    """Its cell run again, named, shown at its end or displayed: the old panel's widgets are closed."""
    with running_kernel() as kernel:
        kernel.run("%load_ext llmwit_magic\n%config InferMagics.log_path = ':memory:'")
        counts = []
        for _ in range(4):
            reply = kernel.run(PANEL.format(model=str(tiny_model)) + last, cell_id="panel")
            assert reply.status == "ok", reply.error
            kernel.run("p.wait()")
            counts.append(int(kernel.run(COUNT).stdout))
        assert counts[0] > 20
        assert counts[1:] == counts[:1] * 3


@pytest.mark.timeout(90)
def test_a_folded_panel_is_shown_again(tiny_model: Path) -> None:
    """One that a variable has kept works where it is displayed, though its first cell ran again."""
    with running_kernel() as kernel:
        kernel.run("%load_ext llmwit_magic\n%config InferMagics.log_path = ':memory:'")
        made = PANEL.format(model=str(tiny_model))
        kernel.run(made + "old = p\ndisplay(p)", cell_id="panel")
        kernel.run(made + "display(p)", cell_id="panel")
        assert kernel.run("print(old.box.comm)").stdout.strip() == "None"
        reply = kernel.run("display(old)", cell_id="another")
        assert reply.status == "ok", reply.error
        [shown] = [m for m in reply.messages if m["msg_type"] == "display_data"]
        view = shown["content"]["data"]["application/vnd.jupyter.widget-view+json"]
        opened = [m["content"]["comm_id"] for m in reply.messages if m["msg_type"] == "comm_open"]
        assert opened[-1] == view["model_id"]
        told = kernel.run(
            "n = len(old.runs); old.controls['top_k'].value = 7; old.wait()\n"
            "print(len(old.runs) - n, old.runs[-1].request.params.top_k)"
        )
        assert told.stdout.split() == ["1", "7"], told
