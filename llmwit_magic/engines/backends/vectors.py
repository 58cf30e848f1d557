"""The numbers of a vector, looked at before anyone computes with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import EngineFailed


def checked(data: Any, size: int) -> list[float]:
    """The vector of `size` numbers at a pointer. Raises `EngineFailed` where they are no vector."""
    vector = np.ctypeslib.as_array(data, (size,))
    if not np.isfinite(vector).all():
        raise EngineFailed(
            "the model computed NaN or infinite numbers: its file is damaged; fetch it again"
        )
    if not vector.any():
        raise EngineFailed(
            "the model computed an embedding of zeros only: its weights are zeros or its "
            "header is wrong, as in an unfinished download; fetch the file again"
        )
    values: list[float] = vector.tolist()
    return values
