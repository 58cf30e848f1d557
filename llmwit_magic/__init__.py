"""A notebook cell that runs a local language model.

    %load_ext llmwit_magic

    %%infer --max-tokens 50
    The capital of France is

The same in Python: `infer(model, prompt, params)`, `stream(...)`,
`generate_embeddings(model, texts)`, `infer_frame(df, template)` for each row of
a DataFrame; `runs` is the log of all runs, `replay(run_id)` runs one again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .api import generate_embeddings, infer, infer_frame, replay, stream, tune
    from .errors import (
        EngineFailed,
        InferenceError,
        Interrupted,
        InvalidInput,
        LogError,
        LogWarning,
        ModelNotSupported,
        RunNotFound,
    )
    from .protocol import Request
    from .runlog.export import read_export
    from .runlog.log import RunLog
    from .wit import (
        EmbeddingsResult,
        FinishDetail,
        FinishReason,
        InferencingParams,
        InferencingResult,
        InferencingUsage,
    )

    runs: RunLog

# Where each public name lives. They are imported when they are first used, so
# that loading the extension stays light.
_HOMES = {
    "infer": "api", "stream": "api", "generate_embeddings": "api", "tune": "api",
    "infer_frame": "api", "replay": "api", "read_export": "runlog.export",
    "Request": "protocol",
    "InferenceError": "errors", "ModelNotSupported": "errors", "InvalidInput": "errors",
    "EngineFailed": "errors", "LogError": "errors", "RunNotFound": "errors",
    "LogWarning": "errors", "Interrupted": "errors",
    "InferencingParams": "wit", "InferencingResult": "wit", "InferencingUsage": "wit",
    "FinishReason": "wit", "FinishDetail": "wit", "EmbeddingsResult": "wit",
}  # fmt: skip

__all__ = [
    "EmbeddingsResult",
    "EngineFailed",
    "FinishDetail",
    "FinishReason",
    "InferenceError",
    "InferencingParams",
    "InferencingResult",
    "InferencingUsage",
    "Interrupted",
    "InvalidInput",
    "LogError",
    "LogWarning",
    "ModelNotSupported",
    "Request",
    "RunNotFound",
    "generate_embeddings",
    "infer",
    "infer_frame",
    "load_ipython_extension",
    "read_export",
    "replay",
    "runs",
    "stream",
    "tune",
    "unload_ipython_extension",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "runs":
        from .api import log

        return log()
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All public names, those not imported yet too."""
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext llmwit_magic` calls."""
    from .engines.pipe import start_child

    # The engine of the first run starts while this process imports all else. Loaded by a kernel's
    # configuration and by no cell, it would stand by in every kernel, used or not.
    by_cell = getattr(shell, "kernel", None) is not None and bool(shell.get_parent())
    standby = start_child() if by_cell else None
    from .magics.extension import load

    load(shell, standby)


def unload_ipython_extension(shell: Any) -> None:
    """What `%unload_ext llmwit_magic` calls."""
    from .magics.extension import unload

    unload(shell)
