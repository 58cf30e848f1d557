"""A notebook cell that runs a local language model.

    %load_ext llmwit_magic

    %%infer --max-tokens 50
    The capital of France is

The functions of the package do the same in Python:

- `infer(prompt)` or `infer(model, prompt, params)` returns the result, and `stream(...)` gives it
  chunk by chunk.
- `await ainfer(...)` and `async for chunk in astream(...)` do so in an event loop.
- `score(prompt, continuation)` returns the log-probability of a text, token by token.
- `choose(prompt, choices)` returns the probability of each choice.
- `embed(texts)` returns the vectors of texts as an array, and `embed_frame(df, column)` a DataFrame
  with a column of them. `generate_embeddings(model, texts)` returns them as Spin does.
- `count_tokens(text)` counts, and `split(text, tokens=…)` makes parts of a long text.
- `infer_frame(df, template)` runs a template for each row of a DataFrame.
- `evaluate(df)` compares a column of answers with the right ones.
- `metric_summary({name: df})` says which setting a metric says the best of.
- `Conversation(model).ask(text)` keeps the messages of a chat together.
- `preset(name)` gives the options that `%infer_preset` has kept, for `infer(prompt, **preset(name))`.
- `tune(prompt)` shows sliders over a prompt.
- `llama_server(model)` starts a server that writes several answers at once.
- `Component(path).call(export)` calls a WebAssembly component, which may call models in turn.
- `runs` is the log of all runs, and `replay(run_id)` runs one of them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .analysis.embeddings import embed, embed_frame
    from .analysis.evaluation import Evaluation, evaluate
    from .analysis.metrics import metric_summary
    from .analysis.splitting import Passage, count_tokens, split
    from .api import (
        ainfer,
        astream,
        choose,
        generate_embeddings,
        infer,
        infer_frame,
        llama_server,
        replay,
        score,
        stream,
        tune,
    )
    from .components.component import Component
    from .contract.request import Request
    from .contract.wit import (
        EmbeddingsResult,
        FinishDetail,
        FinishReason,
        InferencingParams,
        InferencingResult,
        InferencingUsage,
    )
    from .errors import (
        ComponentFailed,
        EngineFailed,
        InferenceError,
        Interrupted,
        InvalidInput,
        LogError,
        LogWarning,
        ModelNotSupported,
        RunNotFound,
    )
    from .requests.presets import preset
    from .runlog.export import read_export
    from .runlog.log import RunLog
    from .running.conversations import Conversation
    from .running.row_settings import column

    runs: RunLog

# The module of each public name. It is imported when the name is first used, so that loading the
# extension stays light.
_HOMES = {
    "score": "api", "choose": "api", "infer": "api", "stream": "api", "ainfer": "api", "astream": "api",
    "generate_embeddings": "api",
    "embed": "analysis.embeddings", "embed_frame": "analysis.embeddings",
    "count_tokens": "analysis.splitting", "split": "analysis.splitting", "Passage": "analysis.splitting",
    "tune": "api", "infer_frame": "api", "column": "running.row_settings", "llama_server": "api", "replay": "api",
    "evaluate": "analysis.evaluation", "Evaluation": "analysis.evaluation",
    "metric_summary": "analysis.metrics",
    "read_export": "runlog.export",
    "preset": "requests.presets",
    "Conversation": "running.conversations",
    "Component": "components.component",
    "Request": "contract.request",
    "InferenceError": "errors", "ModelNotSupported": "errors", "InvalidInput": "errors",
    "EngineFailed": "errors", "ComponentFailed": "errors", "LogError": "errors", "RunNotFound": "errors",
    "LogWarning": "errors", "Interrupted": "errors",
    "InferencingParams": "contract.wit", "InferencingResult": "contract.wit", "InferencingUsage": "contract.wit",
    "FinishReason": "contract.wit", "FinishDetail": "contract.wit", "EmbeddingsResult": "contract.wit",
}  # fmt: skip

__all__ = [
    "Component",
    "ComponentFailed",
    "Conversation",
    "EmbeddingsResult",
    "EngineFailed",
    "Evaluation",
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
    "Passage",
    "Request",
    "RunNotFound",
    "ainfer",
    "astream",
    "choose",
    "column",
    "count_tokens",
    "embed",
    "embed_frame",
    "evaluate",
    "generate_embeddings",
    "infer",
    "infer_frame",
    "llama_server",
    "load_ipython_extension",
    "metric_summary",
    "preset",
    "read_export",
    "replay",
    "runs",
    "score",
    "split",
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
    """All public names, including those that are not imported yet."""
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """Load the extension into a shell; `%load_ext llmwit_magic` calls this."""
    from .engines.local.pipe import start_child

    # The child process of the first run starts now, and imports its modules while this process
    # imports the rest. None is started where a kernel's configuration loads the extension: it
    # would stand by in every kernel, used or not.
    by_cell = getattr(shell, "kernel", None) is not None and bool(shell.get_parent())
    standby = start_child() if by_cell else None
    from .magics.extension import load

    load(shell, standby)


def unload_ipython_extension(shell: Any) -> None:
    """Take the extension out of a shell; `%unload_ext llmwit_magic` calls this."""
    from .magics.extension import unload

    unload(shell)
