"""Where two settings disagree: a cross table, Cohen's kappa, and McNemar's exact test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from .class_labels import NO_VALUE


@dataclass(frozen=True, slots=True)
class Agreement:
    """The answers of two settings to the same rows.

    `table` counts the rows by both answers: a row for each of the first setting's, a column for
    each of the second's. `agreed` is the share of rows with the same valid label, among the
    `rows` for which both settings have one.

    `kappa` is Cohen's kappa over those rows: 1 is full agreement, 0 is what chance would give (Cohen
    1960, doi:10.1177/001316446002000104). It is NaN where both settings say one label only.

    `only_first` and `only_second` count the rows that one setting alone has right. `p_value` is that
    of McNemar's exact test, two-sided: how probable a difference at least as large is where both
    settings are equally good (McNemar 1947, doi:10.1007/BF02295996). An answer that is not valid is
    wrong there.
    """

    first: Any
    second: Any
    table: pandas.DataFrame
    rows: int
    agreed: float
    kappa: float
    only_first: int
    only_second: int
    p_value: float
    second_accuracy: float


def agreement_of(
    names: tuple[Any, Any],
    rights: Sequence[str | None],
    one: Sequence[str | None],
    other: Sequence[str | None],
    labels: Sequence[str],
) -> Agreement:
    """Compare the answers of two settings. None stands for an answer that is not valid."""
    from scipy.stats import binomtest
    from sklearn.metrics import cohen_kappa_score

    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    # scikit-learn divides 0 by 0 where all answers are one label.
    varied = len({answer for pair in both for answer in pair}) > 1
    judged = [
        (right == a, right == b)
        for right, a, b in zip(rights, one, other, strict=True)
        if right is not None
    ]
    only_first = sum(a and not b for a, b in judged)
    only_second = sum(b and not a for a, b in judged)
    differing = only_first + only_second
    return Agreement(
        first=names[0], second=names[1],
        table=cross_table(one, other, labels),
        rows=len(both),
        agreed=sum(a == b for a, b in both) / len(both) if both else float("nan"),
        kappa=float(cohen_kappa_score(*zip(*both, strict=True))) if varied else float("nan"),
        only_first=only_first, only_second=only_second,
        p_value=float(binomtest(only_first, differing).pvalue) if differing else 1.0,
        second_accuracy=sum(b for _, b in judged) / len(judged),
    )  # fmt: skip


def cross_table(
    rows: Sequence[str | None], columns: Sequence[str | None], labels: Sequence[str]
) -> pandas.DataFrame:
    """How many rows have which two labels. `NO_VALUE` stands last, where a row has it."""

    def names(values: Sequence[str | None]) -> list[str]:
        return [*labels, NO_VALUE] if None in values else list(labels)

    table = pandas.DataFrame(0, index=names(rows), columns=names(columns), dtype="int64")
    counts: dict[tuple[str, str], int] = {}
    for one, other in zip(rows, columns, strict=True):
        pair = (NO_VALUE if one is None else one, NO_VALUE if other is None else other)
        counts[pair] = counts.get(pair, 0) + 1
    for (one, other), count in counts.items():
        table.loc[one, other] = count
    return table
