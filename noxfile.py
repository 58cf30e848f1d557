"""The project's commands. Each one makes its own environment, and installs all that it needs.

nox -s quickstart    run examples/quickstart.ipynb for real
nox -s pictures      take the pictures of README and docs again, light and dark
nox -s tests         all tests: lint, the folders of tests/ one after another, then the next five
nox -s lowest        the fast tests with the lowest versions that pyproject.toml allows
nox -s colab         the tests of magics and views with Google Colab's versions
nox -s newest        the fast tests on the newest Python of this machine
nox -s package       build the wheel and the sdist, install each, and run a cell with it
nox -s docs          build the documentation site into build/site; a broken link is an error
nox -s llama_cpp_python   the tests of llama.cpp by llama-cpp-python, which is built first
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True

FAST_TESTS = ("tests/unit", "tests/integration/test_hub.py")
LLAMA_CPP_TESTS = (
    "tests/integration/test_llama_cpp.py", "tests/integration/test_llama_recurrent.py",
    "tests/integration/test_llama_libraries.py", "tests/model/test_current_models.py",
)  # fmt: skip
"""The tests that run models by llama.cpp."""
SITE_TESTS = ("axe-playwright-python", "playwright", "pytest", "pytest-timeout")
"""What tests/site needs beside the site."""
SHELL_TESTS = ("tests/unit/test_completion.py", "tests/unit/test_magic.py")
"""The tests that depend most on IPython's version."""
COLAB = (
    "ipython==7.34.0", "ipykernel==6.17.1", "traitlets==5.7.1", "ipywidgets==7.7.1",
    "anywidget==0.9.21", "numpy==2.1.3", "pandas==2.2.3",
)  # fmt: skip
"""Google Colab's versions of August 2026 (github.com/googlecolab/backend-info, pip-freeze.txt)."""
FIRST_MATCHERS = ("ipython==8.12", "ipywidgets==8.1.4", "traitlets==5.9")
"""Versions of 2023, between Colab's and the newest. IPython's completion is as it is since 8.6."""


@nox.session
def quickstart(session: nox.Session) -> None:
    """Execute the quickstart notebook, fetching the default model at first use."""
    session.install("-q", "-e", ".[notebook]")
    session.run("python", "examples/run.py", "examples/quickstart.ipynb", "--to", "output")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, the fast ones first. Arguments go to pytest in the place of the folders."""
    session.install("-q", "-e", ".[test,lint]")
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    session.notify("lowest")
    session.notify("colab")
    session.notify("newest")
    session.notify("package")
    session.notify("docs")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    for platform in ("linux", "darwin", "win32"):
        # Each platform has its own cache: a shared one would be made anew each time.
        session.run("mypy", "--platform", platform, "--cache-dir", f".mypy_cache/{platform}")
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows())
    session.run(
        "check-jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff"
    )
    session.run("zizmor", "--offline", "--quiet", *workflows())
    browser = find_browser() or install_browser(session)
    install_mesa(session)
    failed = []
    for folder in ("unit", "integration", "components", "model", "hostile", "gpu", "browser"):
        try:
            session.run("pytest", f"tests/{folder}", env={"CHROMIUM": browser})
        except CommandFailed:  # the others are still worth knowing
            failed.append(folder)
    if failed:
        session.error(f"tests failed in: {', '.join(failed)}")


@nox.session
def lowest(session: nox.Session) -> None:
    """The fast tests with the lowest versions that pyproject.toml allows."""
    folder = uv_environment(session, "python", "--resolution", "lowest-direct")
    run_tests(session, folder, *FAST_TESTS)
    uv_install(session, folder, *FIRST_MATCHERS)
    run_tests(session, folder, *SHELL_TESTS)


@nox.session
def colab(session: nox.Session) -> None:
    """The tests of magics and views with Google Colab's versions, in real kernels too."""
    folder = uv_environment(session, "python", *COLAB)
    session.run("uv", "pip", "uninstall", "-q", "--python", str(folder), "jedi")  # Colab has none
    run_tests(session, folder, *SHELL_TESTS, "tests/unit/test_views.py",
              "tests/integration/test_displays.py", "tests/integration/test_tuning.py")  # fmt: skip


@nox.session
def newest(session: nox.Session) -> None:
    """The fast tests on the newest Python of this machine that the dependencies allow."""
    for version, interpreter in sorted(newer_pythons(), reverse=True):
        try:
            folder = uv_environment(session, interpreter)
        except CommandFailed:
            session.warn(
                f"the dependencies cannot be installed on Python {version[0]}.{version[1]}"
            )
            continue
        session.log(f"on Python {version[0]}.{version[1]}")
        run_tests(session, folder, *FAST_TESTS)
        return
    session.skip("no newer Python is installed here: nothing was tested on one")


@nox.session
def package(session: nox.Session) -> None:
    """Build the sdist, and the wheel from it. Install each in a clean environment, and run a cell.

    The two files are then in `dist/`. The smoke test is the one in the sdist.
    """
    session.install("-q", "uv")
    built = Path(session.create_tmp(), "built").absolute()
    shutil.rmtree(built, ignore_errors=True)
    settings = uv_settings(session)
    session.run("uv", "build", "-q", "--out-dir", str(built), env=settings)
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    shutil.unpack_archive(sdist, built / "sdist")
    (smoke,) = built.glob("sdist/*/tests/smoke.py")
    folder = built / "environment"
    # The model is fetched once for all tests. IPython looks at VIRTUAL_ENV.
    env = {"XDG_CACHE_HOME": str(Path(".cache").absolute()), "VIRTUAL_ENV": str(folder)}
    for what in (wheel, sdist):
        session.run("uv", "venv", "-q", "--clear", "--python", "python", str(folder), env=settings)
        uv_install(session, folder, str(what))
        session.run("uv", "pip", "check", "-q", "--python", str(folder))
        with session.chdir(built):  # a folder that has no copy of the package
            session.run(str(environment_python(folder)), "-I", str(smoke), env=env, external=True)
        Path("dist").mkdir(exist_ok=True)
        shutil.copy(what, "dist")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site, and look at it in a browser. A broken link is an error.

    Links to other sites are not asked. The notebooks are not executed: `nox -s tests` does that.
    """
    session.install("-q", "-e", ".[docs]", *SITE_TESTS)
    session.run("python", "-m", "docs.make_pages", "--check")
    shutil.rmtree("build/site", ignore_errors=True)
    session.run(
        "sphinx-build",
        "-q",
        "-W",
        "--keep-going",
        "-E",
        "-b",
        "html",
        "-c",
        "docs",
        ".",
        "build/site",
    )
    browser = find_browser() or install_browser(session)
    session.run("pytest", "tests/site", env={"CHROMIUM": browser})
    session.log("the site is build/site/index.html, and pictures of it are in output/site")


@nox.session
def llama_cpp_python(session: nox.Session) -> None:
    """The tests of llama.cpp by the library of llama-cpp-python, which is built from its source.

    The build takes a C++ compiler, and some minutes on one core. The first argument may be a
    version of llama-cpp-python, as in `-- 0.3.17`. Further ones go to pytest in the place of the
    files.
    """
    session.install("-q", "-e", ".[test]")
    versions = [word for word in session.posargs[:1] if word[:1].isdigit()]
    what = "==".join(["llama-cpp-python", *versions])
    session.install(
        "--upgrade",
        "--no-binary",
        "llama-cpp-python",
        what,
        env={"CMAKE_ARGS": "-DLLAVA_BUILD=OFF"},
    )
    session.run("pytest", *(session.posargs[len(versions) :] or LLAMA_CPP_TESTS))


@nox.session
def pictures(session: nox.Session) -> None:
    """Take the README's pictures again, in a real JupyterLab."""
    session.install("-q", "-e", ".[test]")
    browser = find_browser() or install_browser(session)
    session.run("pytest", "tests/browser/pictures.py", env={"CHROMIUM": browser})


def uv_environment(session: nox.Session, python: str, *how: str) -> Path:
    """Make a new environment with what the fast tests need. Returns its folder."""
    session.install("-q", "uv")
    folder = Path(session.create_tmp(), "environment")
    session.run(
        "uv", "venv", "-q", "--clear", "--python", python, str(folder), env=uv_settings(session)
    )
    uv_install(session, folder, *how, "-e", ".[unit]")
    return folder


def uv_install(session: nox.Session, folder: Path, *what: str) -> None:
    """Install packages into the environment in that folder."""
    session.run(
        "uv", "pip", "install", "-q", "--python", str(folder), *what, env=uv_settings(session)
    )


def run_tests(session: nox.Session, folder: Path, *arguments: str) -> None:
    """Run pytest in the environment in that folder, and not in the session's own."""
    env = {"VIRTUAL_ENV": str(folder.absolute())}
    session.run(str(environment_python(folder)), "-m", "pytest", *arguments, env=env, external=True)


def environment_python(folder: Path) -> Path:
    """The interpreter of the environment in that folder."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def uv_settings(session: nox.Session) -> dict[str, str]:
    """The package index of pip's settings, for uv, which does not read them."""
    if os.environ.keys() & {"UV_DEFAULT_INDEX", "UV_INDEX_URL"}:
        return {}
    said = session.run("python", "-m", "pip", "config", "list", silent=True) or ""
    settings = dict(line.split("=", 1) for line in str(said).splitlines() if "=" in line)
    # pip lists its files first and its variables after them: the last value counts.
    found = [settings[key] for key in settings if key.endswith(".index-url")]
    return {"UV_DEFAULT_INDEX": found[-1].strip("'")} if found else {}


def newer_pythons() -> list[tuple[tuple[int, int], str]]:
    """Version and path of the interpreters that are newer than this one, one of each version."""
    names = [shutil.which(f"python3.{minor}") for minor in range(12, 30)]
    folders = (os.environ.get("PYENV_ROOT", "~/.pyenv"), "~/.local/share/uv/python")
    for folder in folders:
        for pattern in ("versions/*/bin/python", "*/bin/python"):
            names += map(str, Path(folder).expanduser().glob(pattern))
    code = "import json, sys; print(json.dumps([*sys.version_info[:4], sys.implementation.name]))"
    found: dict[tuple[int, int], str] = {}
    for name in filter(None, names):
        done = subprocess.run([name, "-I", "-c", code], capture_output=True, text=True)
        if done.returncode:
            continue  # it does not run, such as pyenv's stand-in for a missing version
        major, minor, _, level, kind = json.loads(done.stdout)
        if (kind, level) == ("cpython", "final") and (major, minor) > sys.version_info[:2]:
            found.setdefault((major, minor), name)
    return list(found.items())


def workflows() -> list[str]:
    """The workflow files of GitHub."""
    return [str(path) for path in Path(".github/workflows").glob("*.yml")]


def find_browser() -> str | None:
    """The path of a Chromium that is installed already; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def install_browser(session: nox.Session) -> str:
    """Install Debian's Chromium where apt-get can, or else the browser that Playwright brings.

    Returns the path; empty where Playwright finds its browser itself.
    """
    if shutil.which("apt-get"):
        apt_install(session, "chromium", "fonts-noto-core", "fonts-noto-color-emoji")
        if found := find_browser():
            return found
    session.run("playwright", "install", "chromium")
    return ""


def install_mesa(session: nox.Session) -> None:
    """Install Mesa's Vulkan in software where apt-get can: it is a GPU that every machine has."""
    if not shutil.which("apt-get"):
        return  # tests/gpu says that there is no GPU
    try:
        apt_install(session, "mesa-vulkan-drivers", "libvulkan1")
    except CommandFailed:
        session.warn("apt-get could not install Mesa's Vulkan: tests/gpu may find no GPU")


def apt_install(session: nox.Session, *packages: str) -> None:
    """Install packages of the system. Raises `CommandFailed` where that takes a password."""
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    session.run(*root, "apt-get", "update", "-qq", external=True)
    session.run(
        *root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages,
        external=True, silent=True,
    )  # fmt: skip
