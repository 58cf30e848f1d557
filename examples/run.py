"""Execute a notebook and show its results.

    python examples/run.py examples/quickstart.ipynb [--to output]

Prints each cell with its answer, and writes the executed notebook and its HTML.
Ends with an error if a cell does.
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from traitlets.config import Config


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute a notebook for real.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--to", type=Path, default=Path("output"), help="folder of what is made")
    arguments = parser.parse_args()
    notebook = nbformat.read(arguments.notebook, as_version=4)
    arguments.to.mkdir(parents=True, exist_ok=True)
    executed = arguments.to / arguments.notebook.name
    client = NotebookClient(
        notebook,
        store_widget_state=False,  # the HTML page then needs no widget manager from the network
        config=Config({"KernelManager": private_transport()}),
        timeout=600,
        resources={"metadata": {"path": str(arguments.notebook.parent)}},
        on_cell_executed=lambda cell, cell_index, execute_reply: show(cell),
    )
    failed = False
    try:
        client.execute()
    except CellExecutionError as error:
        failed = True
        print(f"failed: {error.ename}: {error.evalue}", file=sys.stderr)
    nbformat.write(notebook, executed)
    page = executed.with_suffix(".html")
    body, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook)
    page.write_text(body, encoding="utf-8")
    print(f"\nexecuted notebook: {executed}\nas a page:         {page}")
    return int(failed)


def private_transport() -> dict[str, str]:
    """Settings for sockets that are private files, so that nobody else can listen; POSIX only."""
    if os.name != "posix":
        return {}
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"transport": "ipc", "ip": f"{folder}/kernel"}


def show(cell: nbformat.NotebookNode) -> None:
    """Print a cell and its outputs."""
    print("\n\033[1m" + cell.source + "\033[0m" if sys.stdout.isatty() else "\n" + cell.source)
    for output in cell.outputs:
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        if text:
            print("    " + text.rstrip("\n").replace("\n", "\n    "), flush=True)


if __name__ == "__main__":
    sys.exit(main())
