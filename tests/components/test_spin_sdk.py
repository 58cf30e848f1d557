"""A component that is built with Spin's own SDK, and imports all that Spin has, runs here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from examples.components.build import component_of
from llmwit_magic import Component
from llmwit_magic.contract.request import DEFAULT_MODEL, Request
from llmwit_magic.errors import ComponentFailed
from llmwit_magic.running.session import Session

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def component(session: Session, default_model_loaded: Path) -> Component:
    spec = find_spec("spin_sdk")
    assert spec is not None
    assert spec.origin is not None
    packages = str(Path(spec.origin).parents[1])
    world = "spin_sdk=fermyon:spin/spin-imports@2.0.0"
    return Component(
        component_of(Path(__file__).parent / "sdk", "-p", packages, "-m", world), session=session
    )


def test_it_gets_what_python_gets(session: Session, component: Component) -> None:
    """With params of the SDK, and with the SDK's defaults, which are ours."""
    text = component.call("ask", DEFAULT_MODEL, PROMPT, 8)
    params = {"max_tokens": 8, "temperature": 0.0, "repeat_penalty": 1.0}
    run = session.run(Request(model=DEFAULT_MODEL, prompt=PROMPT, params=params))
    assert run.wait(30)
    assert text == run.result.text
    text = component.call("ask-plainly", DEFAULT_MODEL, PROMPT)
    row = session.log.rows()[-1]
    assert row["tags"]["component"] == "sdk"
    run = session.run(Request(model=DEFAULT_MODEL, prompt=PROMPT, params={"seed": row["seed"]}))
    assert run.wait(30)
    assert text == run.result.text


def test_what_is_not_served_is_refused_by_name(component: Component) -> None:
    """The component starts all the same: the refusal is of the call."""
    with pytest.raises(ComponentFailed, match=r"fermyon:spin/key-value@2\.0\.0"):
        component.call("store", "a")
