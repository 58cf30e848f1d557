"""Notebooks and kernels with a real llama-server of the default model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from examples.run import private_transport
from llmwit_magic.runlog.log import RunLog
from tests.support.kernel import Kernel, Once, still_alive

EXAMPLES = Path(__file__).parents[2] / "examples"
START = "%infer_llama_server smollm2-135m-instruct --slots 2 --context-length 512"
UNKNOWN = {
    "model_sha256", "architecture", "tokenizer", "threads", "requested_gpu_layers", "gpu_layers",
    "device_memory_bytes", "cached_token_count",
}  # fmt: skip
"""Columns of a local run that a server need not tell."""


def outputs(notebook: Any, cell_id: str) -> str:
    """The text of a cell's outputs."""
    cell = next(cell for cell in notebook.cells if cell.id == cell_id)
    texts = [
        item.get("text") or item.get("data", {}).get("text/plain", "") for item in cell.outputs
    ]
    return "\n".join(texts)


@pytest.mark.timeout(300)
def test_the_quickstart_runs_on_a_llama_server(default_model_loaded: Path, log_path: Path) -> None:
    """Only the model's name is another one: every cell is right, and the log has its columns."""
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    first = [START, f"%config InferMagics.log_path = {str(log_path)!r}",
             "%config InferMagics.model = 'local::'"]  # fmt: skip
    place = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith("%load_ext"))
    local = "%%infer -m smollm2-135m-instruct --max-tokens 2\nThe capital of France is"
    for number, source in enumerate(first):
        notebook.cells.insert(place + 1 + number, nbformat.v4.new_code_cell(source))
    notebook.cells.append(nbformat.v4.new_code_cell(local))
    NotebookClient(
        notebook, timeout=200, store_widget_state=False, resources={"metadata": {"path": EXAMPLES}},
        config=Config({"KernelManager": private_transport()}),
    ).execute()  # fmt: skip

    assert "' Paris'\nstop - stop_sequence '.'" in outputs(notebook, "cell-07")
    assert "eos" in outputs(notebook, "cell-09") or "end of text" in outputs(notebook, "cell-09")
    rows = RunLog(log_path).rows()
    *served, local_row = rows
    assert len(served) == 9
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["engine"] for row in served} == {"llama-server"}
    assert [(row["finish_reason"], row["finish_detail"]) for row in served[:5]] == [
        ("length", "max_tokens"), ("stop", "stop_sequence"), ("stop", "eos"),
        ("length", "max_tokens"), ("content_filter", "content_filter"),
    ]  # fmt: skip
    assert served[0]["text"].startswith(" Paris")
    assert served[1]["text"] == " Paris"
    assert served[1]["generated_token_count"] == local_row["generated_token_count"] == 2
    assert served[1]["prompt_token_count"] == local_row["prompt_token_count"] == 5
    assert served[2]["text"].strip() == "The capital of Italy is Rome."
    assert "aris" not in served[4]["text"]
    assert "owl" in served[5]["prompt"]
    assert {row["tags"]["try"] for row in served[6:]} == {"temperature"}
    missing = {name for name, value in local_row.items() if value is not None}
    missing -= {name for name, value in served[0].items() if value is not None}
    assert missing <= UNKNOWN
    frame = RunLog(log_path).to_frame()
    assert list(frame["engine"])[-1] == "ctransformers"


def servers_of(kernel: Kernel) -> list[psutil.Process]:
    """The llama-servers of this kernel, and the programs that they look after."""
    return [child for child in psutil.Process(kernel.pid).children(recursive=True)
            if any("server_child" in part for part in child.cmdline())]  # fmt: skip


def test_a_kernel_and_its_server(kernel: Kernel, log_path: Path) -> None:
    """It is started, listed, used and stopped by cells; its key is in no message and no row."""
    assert "no llama-server runs here" in kernel.run("%infer_llama_server").stdout
    reply = kernel.run(START)
    assert re.search(r"local::smollm2-135m-instruct  2 slots of 512 tokens each", reply.stdout)
    key_code = "print(get_ipython().find_line_magic('infer_llama_server').__self__.infer.session.llama_servers[0].api_key)"
    key = kernel.run(key_code).stdout.strip()
    assert len(key) > 30
    replies = [
        reply,
        kernel.run("%%infer -m local:: --temperature 0 --stop .\nThe capital of France is"),
        kernel.run("%%infer -m local:: --dry-run\nHello"),
        kernel.run("%%infer -m local::nosuch\nHello"),
        kernel.run("%infer_llama_server"),
        kernel.run("%config InferMagics.servers"),
        kernel.run("get_ipython().find_line_magic('infer_llama_server').__self__.infer.session.llama_servers"),
        kernel.run("import os; dict(os.environ)"),
    ]  # fmt: skip
    assert replies[1].text.startswith(" Paris\n── stop")
    assert replies[3].error.startswith("ModelNotFound: no llama-server local::nosuch runs here")
    said = [str(reply.messages) for reply in replies] + [str(RunLog(log_path).rows())]
    (server,) = servers_of(kernel)
    said.append(str(server.cmdline()))
    assert not [text for text in said if key in text]
    assert not [path for path in log_path.parent.iterdir() if key.encode() in path.read_bytes()]
    assert kernel.run("%infer_llama_server --stop").stdout.strip() == (
        "stopped: local::smollm2-135m-instruct"
    )
    assert not still_alive([server])


def test_servers_end_with_their_kernel(new_kernel: Callable[[], Kernel]) -> None:
    """They end when the kernel is killed or the extension is unloaded."""
    for end in (Kernel.kill, lambda kernel: kernel.run("%unload_ext llmwit_magic")):
        kernel = new_kernel()
        assert kernel.run(START).status == "ok"
        servers = servers_of(kernel)
        assert len(servers) == 1
        end(kernel)
        assert not still_alive(servers)


def test_a_start_is_interrupted(kernel: Kernel) -> None:
    """The kernel's Stop ends a start at once, and leaves nothing behind."""
    kernel.run(
        "from llmwit_magic.engines.server import own_server\n"
        "wait = own_server.OwnServer.wait\n"
        "def slowly(server, cancel):\n"
        "    cancel.wait(30)\n"
        "    wait(server, cancel)\n"
        "own_server.OwnServer.wait = slowly"
    )
    once = Once(lambda reply: "llama-server" in str(reply.messages[-1:]), kernel.interrupt)
    reply = kernel.run(START, when=once)
    assert reply.error == "Interrupted: stopped; nothing was run"
    assert len(reply.traceback) == 1
    assert not still_alive(servers_of(kernel))
    assert kernel.run("1 + 1").text.endswith("2")
