"""Values as lines and tables show them."""

from __future__ import annotations

import pytest

from llmwit_magic.base.printable import setting_value


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "none"), (0.0, "0"), (1.0, "1"), (0.75, "0.75"), (1e-7, "1e-07"), (40, "40"),
     ("a\nb", "a⏎b"), ((".",), "('.',)")],
)  # fmt: skip
def test_a_setting_is_shown_as_it_is_typed(value: object, said: str) -> None:
    """Of a sweep, a pivot table and a preset."""
    assert setting_value(value) == said
