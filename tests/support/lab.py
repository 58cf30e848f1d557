"""A JupyterLab server with folders of its own, and a browser, for as long as they are needed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from llmwit_magic.runlog.log import RunLog
from tests.support.browser import Lab, wait_until

START_SECONDS = 60
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false"},
    # All cells are in the page, also those below its end.
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}


@contextmanager
def running_lab(base: Path) -> Iterator[Lab]:
    """A server whose files are below `base`."""
    folders = {
        name: base / name.lower()
        for name in (
            "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "XDG_DATA_HOME",
            "XDG_CONFIG_HOME", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
        )
    }  # fmt: skip
    root = base / "root"
    for folder in (root, *folders.values()):
        folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = os.urandom(12).hex()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
        "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    environment = os.environ | {name: str(folder) for name, folder in folders.items()}
    with (base / "server.log").open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    log = RunLog(folders["XDG_DATA_HOME"] / "llmwit-magic" / "runs.sqlite3")
    lab = Lab(
        process,
        f"http://127.0.0.1:{port}",
        token,
        root,
        folders["JUPYTERLAB_SETTINGS_DIR"],
        log,
    )
    try:
        wait_until(lab.ready, START_SECONDS, "JupyterLab answers")
        for plugin, values in SETTINGS.items():
            lab.set(plugin, values)
        yield lab
        lab.shut_kernels_down()
    finally:
        log.close()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _chromium() -> str | None:
    """The browser to use; None is Playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()
