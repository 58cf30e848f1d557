"""Which sessions have runs that can never end, because their kernels are gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from .database import Database
from .processes import is_alive

UNKNOWN_FOR = timedelta(days=2)
"""How long a run counts as running whose kernel this process cannot look for, as on another
machine. No run takes that long."""


def gone_sessions(database: Database) -> list[str]:
    """The sessions that have rows with the status `running` and whose processes are gone."""
    sessions = database.read(
        "SELECT session_id, host, pid, process_started, max(started_at) FROM runs "
        "LEFT JOIN sessions USING (session_id) WHERE status = 'running' GROUP BY session_id"
    )
    long_ago = (datetime.now(UTC) - UNKNOWN_FOR).isoformat(timespec="microseconds")
    gone = []
    for session_id, host, pid, process_began, run_began in sessions:
        if session_id == database.session_id:
            continue
        alive = is_alive(host, pid, process_began)
        if alive is None:
            alive = not isinstance(run_began, str) or run_began > long_ago
        if not alive:
            gone.append(session_id)
    return gone
