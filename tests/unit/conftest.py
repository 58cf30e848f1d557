"""What property tests share."""

from __future__ import annotations

from hypothesis import settings

# Each test has a time limit already. One example may take long where it is the first to import.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
