"""What `docs/wit.md` and the examples' README say of interfaces is WIT that a parser takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples.components.build import INTERFACE, NAMES
from tests.support.wit_bindings import bindings_of

ROOT = Path(__file__).parents[2]


def test_the_proposal_is_an_interface(tmp_path: Path) -> None:
    """It can be parsed, and has all of Spin's functions beside the new one."""
    page = (ROOT / "docs" / "wit.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```wit\n(.*?)```", page, re.DOTALL)
    (tmp_path / "wit").mkdir()
    (tmp_path / "wit" / "llm.wit").write_text(
        f"{text}\nworld client {{ import llm; }}", encoding="utf-8"
    )
    with bindings_of(tmp_path / "wit", tmp_path / "out") as llm:
        for name in ("infer", "infer_stream", "generate_embeddings", "InferencingStream"):
            assert hasattr(llm, name)
        assert [case.name for case in llm.FinishReason] == ["STOP", "LENGTH", "CONTENT_FILTER"]


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_says_how_each_is_built(name: str) -> None:
    """Its command names the folders that are there, and the script that builds all of them."""
    readme = (ROOT / "examples" / "components" / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(rf"^componentize-py .* -o {name}\.wasm$", readme, re.MULTILINE)
    folders = re.findall(r"-[dp] (\S+)", command)
    assert all((ROOT / folder).is_dir() for folder in folders)
    interface = (ROOT / "examples" / "components" / name / "world.wit").read_text(encoding="utf-8")
    assert (str(INTERFACE.relative_to(ROOT)) in folders) == ("llmwit:llm" in interface)
    assert f"world {name}-guest " in interface
