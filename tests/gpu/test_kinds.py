"""Which kinds of GPU the other tests of this folder have run on."""

from __future__ import annotations

import pytest

from tests.gpu.conftest import place_for


def test_a_kind_of_gpu(kind: tuple[str, str]) -> None:
    """It is here and was tested, or it is not, and this says why."""
    place = place_for(*kind)
    if isinstance(place, str):
        pytest.skip(f"{' on '.join(kind)}: {place}")
    print(place, place.description)
