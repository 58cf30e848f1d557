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
