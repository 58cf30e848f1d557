"""Real texts and the default model: labels, records, examples and metrics of a DataFrame."""

from __future__ import annotations

from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

import pandas
import pytest
from pydantic import BaseModel

from llmwit_magic import api, choose, evaluate, infer_frame
from llmwit_magic.errors import InvalidInput
from llmwit_magic.running.session import Session
from tests.support.words import LABELS, labelled_words

TEMPLATE = "{{form}}: {{sense}}\nFeeling:\n"


@pytest.fixture(autouse=True)
def own_session(
    default_model_loaded: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> Session:
    monkeypatch.setattr(api, "current_session", lambda: session)
    return session


def ask(frame: pandas.DataFrame, template: str, params: Any = None, **options: Any) -> Any:
    chosen = {"temperature": 0, "max_tokens": 60, **(params or {})}
    return infer_frame(frame, template, params=chosen, progress=False, **options)


@pytest.mark.timeout(600)
def test_no_label_is_invalid(request: pytest.FixtureRequest) -> None:
    """Each text has one of three labels. Without `choices`, some answers are none of them.

    `--long` takes 200 texts.
    """
    words = labelled_words()
    examples = words.groupby("label", observed=True).head(1)
    count = 200 if request.config.getoption("--long") else 8
    texts = words.drop(examples.index).head(count)
    warm = {"temperature": 0.8, "seed": 1, "max_tokens": 6}
    held = ask(texts, TEMPLATE, warm, choices=LABELS, few_shot=examples)
    assert held["infer_value_error"].isna().all()
    report = evaluate(held)
    assert (report.rows, report.missing, report.other) == (count, 0, 0)
    free = ask(texts, TEMPLATE, {**warm, "stop": ["\n"]}, few_shot=examples)
    free["infer_text"] = free["infer_text"].str.strip()
    found = evaluate(free, prediction="infer_text", labels=LABELS)
    print(f"\n{count} texts: 0 invalid labels; without choices {found.other + found.missing}")
    if request.config.getoption("--long"):  # a few texts may all be labelled
        assert found.other + found.missing > 0


class Currency(Enum):
    EUR = "EUR"
    USD = "USD"


class Invoice(BaseModel):
    amount: float
    currency: Currency
    due: date | None


def test_invoices_become_typed_columns(own_session: Session) -> None:
    """Numbers, dates and categories of real answers; the log gives the same; a cut one says so."""
    frame = pandas.DataFrame(
        {"text": ["Please pay 120.50 EUR by 2026-12-01.", "You owe us 89 USD until 2027-01-15."]}
    )
    examples = pandas.DataFrame({
        "text": ["Please pay 310.00 EUR by 2026-10-01.", "You owe us 55.10 USD."],
        "label": [Invoice(amount=310, currency=Currency.EUR, due=date(2026, 10, 1)),
                  Invoice(amount=55.1, currency=Currency.USD, due=None)],
    })  # fmt: skip

    def is_dear(invoice: Invoice, row: Any) -> bool:
        return invoice.amount > 100

    def records(**options: Any) -> pandas.DataFrame:
        found: pandas.DataFrame = ask(
            frame, "{{text}}\nRecord: ", returns=Invoice, few_shot=examples, **options
        )
        return found

    fresh = records(metric=is_dear)
    assert fresh["infer_amount"].tolist() == [120.5, 89]
    assert fresh["infer_currency"].tolist() == ["EUR", "USD"]
    assert fresh["infer_due"].tolist() == list(pandas.to_datetime(["2026-12-01", "2027-01-15"]))
    assert fresh["infer_is_dear"].tolist() == [True, False]
    assert [str(fresh[f"infer_{name}"].dtype) for name in Invoice.model_fields] == [
        "float64", "category", "datetime64[us]",
    ]  # fmt: skip
    before = len(own_session.log)
    pandas.testing.assert_frame_equal(records(metric=is_dear), fresh)
    assert len(own_session.log) == before
    cut = records(params={"max_tokens": 5})
    assert cut["infer_value_error"].tolist() == ["cut by max tokens"] * 2
    assert cut[["infer_amount", "infer_currency", "infer_due"]].isna().all(axis=None)


def test_probabilities_are_columns_and_calibrated(own_session: Session) -> None:
    """They sum to 1, the most probable choice is the value, and equal those of `choose`; the log
    gives the same."""
    words = labelled_words().head(5)
    asked = infer_frame(words, TEMPLATE, choices=LABELS, probabilities=True, progress=False)
    columns = [f"infer_p_{label}" for label in LABELS]
    assert asked[columns].sum(axis=1).tolist() == pytest.approx([1] * 5)
    best = asked[columns].idxmax(axis=1).str.removeprefix("infer_p_")
    assert asked["infer_value"].tolist() == best.tolist()
    assert asked["infer_value"].dtype == "category"
    row = asked.iloc[0]
    alone = choose(f"{row['form']}: {row['sense']}\nFeeling:\n", LABELS)
    assert alone.probabilities == pytest.approx(
        {label: row[f"infer_p_{label}"] for label in LABELS}, abs=1e-12
    )
    before = len(own_session.log)
    again = infer_frame(words, TEMPLATE, choices=LABELS, probabilities=True, progress=False)
    pandas.testing.assert_frame_equal(again, asked)
    assert len(own_session.log) == before
    found = evaluate(asked).calibration
    assert found is not None
    assert found.rows == 5
    with pytest.raises(InvalidInput, match="params: they have no effect on probabilities"):
        infer_frame(words, TEMPLATE, None, {"temperature": 0}, choices=LABELS, probabilities=True)
