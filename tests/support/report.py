"""What was tried against the promises of the project, and what it ended in."""

from __future__ import annotations

from collections import Counter

PROMISES = (
    "kernel deaths",
    "orphan processes",
    "half files taken for whole",
    "log rows lost",
    "unreadable databases",
)


class Report:
    """Counts outcomes by kind of trial, and the promises that were looked at and broken."""

    def __init__(self) -> None:
        self._outcomes: dict[str, Counter[str]] = {}
        self._checked: Counter[str] = Counter()
        self._broken: Counter[str] = Counter()

    def tried(self, kind: str, outcome: str, count: int = 1) -> None:
        """`count` trials of a kind, such as "model file: bit flips", ended in an outcome."""
        self._outcomes.setdefault(kind, Counter())[outcome] += count

    def promise(self, name: str, held: bool, what: str = "") -> None:
        """A promise was looked at after a trial; one that was not held fails the test."""
        assert name in PROMISES, name
        self._checked[name] += 1
        self._broken[name] += not held
        assert held, f"{name}: {what}"

    def lines(self) -> list[str]:
        """A line for each kind and for each promise; none where nothing was tried."""
        if not self._outcomes:
            return []
        width = max(len(kind) for kind in self._outcomes)
        lines = []
        for kind, outcomes in sorted(self._outcomes.items()):
            ends = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
            lines.append(f"{kind:<{width}}  {sum(outcomes.values()):>7,}  {ends}")
        lines.append("")
        for name in PROMISES:
            checked = (
                f"looked at {self._checked[name]:,} times"
                if self._checked[name]
                else "not looked at"
            )
            lines.append(f"{name:<{width}}  {self._broken[name]:>7,}  {checked}")
        return lines
