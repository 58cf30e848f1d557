"""A real llama-server, by the package xllamacpp, in a child process: it logs, and may abort."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CHILD = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.hostnames = ["127.0.0.1"]
params.port = int(sys.argv[2])
params.n_parallel = int(sys.argv[3])
params.n_ctx = 512 * params.n_parallel
params.endpoint_slots = True
params.warmup = False
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
# Threads of several engines that share the cores would wait for each other.
params.cpuparams.n_threads = 1
if sys.argv[4]:
    params.api_keys = [sys.argv[4]]
if sys.argv[5]:
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    params.embd_normalize = -1
server = xllamacpp.Server(params)
print(f"\\nREADY {server.listening_address}", flush=True)
sys.stdin.read()
"""


class LlamaServerChild:
    """A server of a model with contexts of 512 tokens."""

    def __init__(
        self, model: Path, port: int = 0, slots: int = 1, key: str = "", embeddings: bool = False
    ) -> None:
        self.key, self.model = key, model
        arguments = (str(model), str(port), str(slots), key, "yes" if embeddings else "")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.root = ""

    def wait(self) -> LlamaServerChild:
        """Wait until it is ready."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("READY "):
                self.root = line.split()[1]
                return self
        raise RuntimeError(f"llama-server ended with {self.process.wait()}")

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def get(self, path: str) -> Any:
        """What it answers, past proxies and past the code under test."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = urllib.request.Request(self.root + path, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as response:
            return json.load(response)

    @property
    def busy(self) -> int:
        """How many of its slots work."""
        return sum(slot["is_processing"] for slot in self.get("/slots"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()


@contextmanager
def running_llama_server(model: Path, **options: Any) -> Iterator[LlamaServerChild]:
    """A server that is ready, for as long as it is needed."""
    child = LlamaServerChild(model, **options)
    try:
        yield child.wait()
    finally:
        child.kill()
