"""The results of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, SupportsIndex, overload

from ..contract.wit import InferencingParams, InferencingResult
from ..errors import InvalidInput
from ..runlog.rows import Row, as_read
from .run import Run

if TYPE_CHECKING:
    import pandas

    from ..runlog.plots import RunPlot


class Results(Sequence[InferencingResult]):
    """The results of a sweep, in the order of its runs. A notebook shows them as a comparison.

    They are a value: they do not change, and can be copied and pickled. A slice or a sum is
    `Results` again, with its own table. `sorted(results, key=…)` is a list.
    """

    by: tuple[str, str] | None = None
    """The two settings by which the runs are shown: one down, the other across. None: as a list."""

    def __init__(self, runs: Iterable[Run] = (), group_id: str | None = None) -> None:
        ended = [(run.result, row_of(run)) for run in runs]
        self._results = tuple(result for result, _ in ended)
        self._rows = tuple(row for _, row in ended)
        self.group_id = group_id

    def _part(self, results: Iterable[InferencingResult], rows: Iterable[Row]) -> Results:
        part = Results(group_id=self.group_id)
        part._results, part._rows, part.by = tuple(results), tuple(rows), self.by
        return part

    @overload
    def __getitem__(self, place: SupportsIndex) -> InferencingResult: ...
    @overload
    def __getitem__(self, place: slice) -> Results: ...
    def __getitem__(self, place: SupportsIndex | slice) -> InferencingResult | Results:
        if isinstance(place, slice):
            return self._part(self._results[place], self._rows[place])
        return self._results[place]

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[InferencingResult]:
        return iter(self._results)

    def __add__(self, other: object) -> Results:
        if not isinstance(other, Results):
            return NotImplemented
        both = self._part(self._results + other._results, self._rows + other._rows)
        both.group_id = self.group_id if self.group_id == other.group_id else None
        return both

    def __eq__(self, other: object) -> bool:
        """Whether the other, `Results` or a list, has the same results in the same order."""
        if not isinstance(other, Results | list):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Results({list(self._results)!r})"

    def pivot(self, rows: str, columns: str) -> Results:
        """The same results, shown as a table by two settings of the sweep.

        A setting is `prompt`, `model` or one of the params. A cell of the table has the mean of each
        metric and its standard deviation, or the answers where there are no metrics. Raises
        `InvalidInput` for what is no setting.
        """
        part = self._part(self._results, self._rows)
        part.by = pivot_settings(rows, columns)
        return part

    def plot(self, kind: str | None = None, by: str | None = None) -> RunPlot:
        """A figure of the runs, as `RunLog.plot` makes it; by the settings of the table if it has two."""
        from ..runlog.plots import plot

        return plot(self.to_frame(), kind, by or (",".join(self.by) if self.by else None))

    def to_frame(self) -> pandas.DataFrame:
        """The runs as rows of a DataFrame, with the columns of the log."""
        from ..runlog.frame import frame_of_rows

        return frame_of_rows(self._rows)


def pivot_settings(rows: str, columns: str) -> tuple[str, str]:
    """The settings by their names in a result. Raises `InvalidInput` for other words, or one twice."""
    known = {"prompt": "prompt_name", "model": "model"}
    known |= {name: name for name in InferencingParams.model_fields}
    found = []
    for word in (rows, columns):
        name = word.strip().replace("-", "_")
        if name not in known and name not in known.values():
            raise InvalidInput(
                f"pivot: '{word}' is not valid: it must be one of {', '.join(known)}"
            )
        found.append(known.get(name, name))
    if found[0] == found[1]:
        raise InvalidInput(f"pivot: {rows} is there twice: name two different settings")
    return found[0], found[1]


def row_of(run: Run) -> Row:
    """The row of an ended run in the form that the log reads, whether or not the run is logged."""
    return as_read(run.row() | {"run_id": run.run_id})
