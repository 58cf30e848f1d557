"""Cells read as `%%infer` reads them, and their requests or their error."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.error import UsageError

from llmwit_magic.contract.request import Request
from llmwit_magic.magics.cell import Cell, read_cell


def read(
    line: str = "",
    cell: str = "prompt\n",
    namespace: dict[str, Any] | None = None,
    **defaults: Any,
) -> Cell:
    return read_cell(line, cell, namespace or {}, {"model": "default"} | defaults)


def one(line: str = "", cell: str = "prompt\n", **more: Any) -> Request:
    requests = read(line, cell, **more).requests
    assert len(requests) == 1
    return requests[0]


def refused(line: str = "", cell: str = "prompt\n", **more: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read(line, cell, **more)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message
