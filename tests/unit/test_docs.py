"""Pages that are made from the code agree with it, and the benchmark of the log runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import llmwit_magic
from benchmarks import run_log
from llmwit_magic import errors

ROOT = Path(__file__).parents[2]


def test_the_pages_are_what_the_code_says() -> None:
    """`python -m docs.make_pages --check` finds nothing to write."""
    done = subprocess.run(
        [sys.executable, "-m", "docs.make_pages", "--check"],
        cwd=ROOT, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def error_classes() -> list[str]:
    """The errors and warnings of `errors.py`."""
    return [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException | Warning)
    ]


def test_every_error_has_its_cause_and_remedy() -> None:
    """Each has a section in `docs/troubleshooting.md`, with texts, causes and remedies."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    parts = page.partition("## Puzzles")[0].split("\n### ")
    sections = {part.partition("\n")[0].strip("`"): part for part in parts[1:]}
    assert sorted(sections) == sorted(error_classes())
    for name, section in sections.items():
        if name != "InferenceError":  # the others' base, which is never raised
            assert "| you see | cause | remedy |" in section, name
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert all(row.count(" | ") == 2 for row in rows), name


def test_the_readme_leads_to_both_pages() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(docs/troubleshooting.md)" in readme
    assert "(SECURITY.md)" in readme


def test_commands_are_quoted_for_every_shell() -> None:
    """In cmd.exe a single quote is a letter: `pip install '.[gpu]'` finds no such package."""
    for name in (*map(str, ROOT.glob("*.md")), "docs", "llmwit_magic", "examples"):
        found = [ROOT / name] if (ROOT / name).is_file() else sorted((ROOT / name).rglob("*"))
        for path in (path for path in found if path.suffix in (".md", ".py", ".ipynb")):
            text = path.read_text(encoding="utf-8")
            assert not re.findall(r"'[\w.-]+\[[\w,-]+\]'", text), path
    assert "`.venv\\Scripts\\`" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_benchmark_of_the_run_log_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs in a small form, with every operation at every size."""
    monkeypatch.setattr(run_log, "SIZES", (5, 1_500))
    monkeypatch.setattr(run_log, "REPEATS", 3)
    monkeypatch.setattr(run_log, "LIMITS", dict.fromkeys(run_log.LIMITS, 1e9))
    assert run_log.main() == 0
    table = capsys.readouterr().out
    for name in run_log.LIMITS:
        assert name in table


def test_the_architecture_names_files_that_are_there() -> None:
    """Each path on the page is a file of the package, and each room is in its table."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "llmwit_magic"
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py|(?:[a-z_]+/)+)`", page)
    assert len(set(named)) > 40
    assert [name for name in named if not (package / name).exists()] == [
        "tests/unit/test_imports.py",
        "tests/unit/test_fields.py",
    ]
    table = page.split("## The rooms")[1].split("## Where")[0]
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(re.findall(r"`([a-z]+)`", table))


def test_the_code_for_many_servers_is_python() -> None:
    """Each block of `docs/scale.md` can be compiled, and what it takes from here is there."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 7
    for block in blocks:
        code = "\n".join(line for line in block.splitlines() if not line.startswith("%config"))
        tree = compile(
            code, "docs/scale.md", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "llmwit_magic":
                assert {alias.name for alias in node.names} <= {*llmwit_magic.__all__}


def test_the_page_for_contributors_names_what_is_there() -> None:
    """Each path in CONTRIBUTING.md is a file or a folder, and each command a session of nox."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"(?<![\w.])(?:docs|llmwit_magic|tests)/[\w/.]+", page)
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path.rstrip(".")).exists()] == []
    sessions = re.findall(r"@nox.session\ndef (\w+)", (ROOT / "noxfile.py").read_text("utf-8"))
    named = set(re.findall(r"nox -s (\w+)", page))
    assert "tests" in named
    assert named <= set(sessions)


def test_the_pictures_are_there_in_light_and_dark() -> None:
    """Sphinx does not look at `<picture>` tags: their files exist, and each has a dark one."""
    tags = []
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for light in re.findall(r'<img alt="[^"]{40,}" src="([^"]+)">', page.read_text("utf-8")):
            dark = light.replace(".png", "-dark.png")
            assert (page.parent / light).is_file(), light
            assert (page.parent / dark).is_file(), dark
            assert f'srcset="{dark}"' in page.read_text("utf-8")
            tags.append(light)
    assert {"docs/first-cell.png", "comparison.png", "tuning.png"} <= set(tags)


def test_the_citation_and_the_package_have_one_version() -> None:
    """`nox -s tests` checks the rest of CITATION.cff by its schema."""
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = dict(re.findall(r"^(version|license): (.+)$", citation, re.MULTILINE))
    assert said == {"version": project["version"], "license": project["license"]}
    assert project["version"] == llmwit_magic.__version__
