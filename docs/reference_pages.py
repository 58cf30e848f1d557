"""The reference pages that are made from the code: options, configuration, Python."""

from __future__ import annotations

from enum import EnumType

import llmwit_magic
from llmwit_magic.contract.record import Record
from llmwit_magic.magics.infer import InferMagics
from llmwit_magic.requests.options import DEFAULTS, OPTIONS, Option

_OPTIONS_HEAD = """# The options of a cell

`%%infer OPTIONS` takes these options. `%%infer?` shows them in the notebook, and Tab completes them (with IPython 8.6 or later). A bad value gives one line that names the option, the value and what is valid.

- Most options with a default can be configured: `%config InferMagics.temperature = 0` ([configuration](configuration.md)).
- An option that is marked "sweeps" takes several values, as in `--temperature 0,0.7 --seed 1:5`. All combinations run.
- An option that is marked "again" is given once for each value.
- Python's functions take the same settings by name, such as `top_logprobs=5`. Those of the params may stand in a mapping of their own: `infer(None, prompt, {"temperature": 0})`.
- Two defaults depend on the line. With `--stop` there is no limit of tokens, and at temperature 0 the repeat penalty is off.

| option | means | default | valid | |
| --- | --- | --- | --- | --- |
"""

_CONFIGURATION_HEAD = """# Configuration

`%config InferMagics.NAME = VALUE` sets a default for the kernel, and `%config InferMagics` shows all of them. In a file such as `ipython_config.py` it is `c.InferMagics.NAME = VALUE`. A bad value is refused when it is set, and the old one stays.

"""

_TABLE = "| name | means | default |\n| --- | --- | --- |\n"

_PYTHON_HEAD = """# Python

`from llmwit_magic import infer` imports a name of this page. Each run that these functions start is a row in the log, as if a cell had started it.

"""

_GROUPS = {
    "Running a prompt": ("infer", "stream", "ainfer", "astream", "Conversation", "tune", "preset"),
    "Many prompts, and how good their answers are": (
        "infer_frame", "column", "evaluate", "Evaluation", "metric_summary",
    ),
    "Scores, vectors, long texts": (
        "score", "choose", "embed", "embed_frame", "generate_embeddings", "count_tokens", "split",
        "Passage",
    ),
    "The log": ("runs", "replay", "read_export"),
    "Servers": ("llama_server",),
    "WebAssembly components": ("Component",),
    "Requests and results": (
        "Request", "InferencingParams", "InferencingResult", "InferencingUsage", "FinishReason",
        "FinishDetail", "EmbeddingsResult",
    ),
    "Errors": (
        "InferenceError", "ModelNotSupported", "InvalidInput", "EngineFailed", "ComponentFailed", "LogError",
        "RunNotFound", "Interrupted", "LogWarning",
    ),
    "The extension": ("load_ipython_extension", "unload_ipython_extension"),
}  # fmt: skip
"""All public names, by what they are for."""


def options_page() -> str:
    """The table of the options, in the order of `%%infer?`."""
    return _OPTIONS_HEAD + "".join(_row(*_of_option(option)) for option in OPTIONS)


def configuration_page() -> str:
    """What `%config InferMagics` sets: first the magic's own settings, then defaults of options."""
    own, defaults = _TABLE, _TABLE
    for name, trait in sorted(InferMagics.class_traits(config=True).items()):
        row = _row(f"`{name}`", trait.help, f"`{trait.default_value_repr()}`")
        if name in DEFAULTS and name != "model":
            defaults += row
        else:
            own += row
    return (
        f"{_CONFIGURATION_HEAD}## Settings of the magic\n\n{own}\n"
        f"## Defaults of options\n\nThe [options](options.md) have the same names on the line.\n\n"
        f"{defaults}"
    )


def python_page() -> str:
    """The public names in their groups. Sphinx puts signatures and docstrings in."""
    listed = [name for names in _GROUPS.values() for name in names]
    if sorted(listed) != sorted(llmwit_magic.__all__):
        raise ValueError("the groups of docs/reference_pages.py are not the public names")
    parts = [_PYTHON_HEAD.rstrip()]
    for group, names in _GROUPS.items():
        parts.append(f"## {group}")
        parts += [_described(name) for name in names]
    return "\n\n".join(parts) + "\n"


def _of_option(option: Option) -> tuple[str, str, str, str, str]:
    """The cells of an option's row."""
    flags = ", ".join(f"`{flag}`" for flag in option.flags)
    metavar = f" `{option.metavar}`" if option.metavar else ""
    default = ""
    if option.dest in DEFAULTS and option.field and option.field.default not in (None, (), False):
        default = f"`{option.field.default}`"
    marks = [name for name, so in (("sweeps", option.sweeps), ("again", option.many)) if so]
    valid = "" if option.is_flag else option.valid
    return flags + metavar, option.help, default, valid, ", ".join(marks)


def _row(*cells: str) -> str:
    """A row of a table. A pipe in a cell does not end it."""
    texts = (cell.replace("|", r"\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(texts)} |\n"


def _described(name: str) -> str:
    """The section of a public name. A record has a table of its fields."""
    if name == "runs":
        return f"### `{name}`\n\n{_directive('autoclass', 'llmwit_magic.runlog.log.RunLog')}"
    value = getattr(llmwit_magic, name)
    kind = "autoclass" if isinstance(value, type) else "autofunction"
    if isinstance(value, type) and issubclass(value, BaseException):
        kind = "autoexception"
    if isinstance(value, EnumType):
        kind = "autoenum"
    text = f"### `{name}`\n\n{_directive(kind, f'llmwit_magic.{name}')}"
    if isinstance(value, type) and issubclass(value, Record):
        text += "\n\n| field | means | default |\n| --- | --- | --- |\n"
        for field, info in value.model_fields.items():
            default = "" if info.is_required() else f"`{info.get_default()!r}`"
            text += _row(f"`{field}`", info.description or "", default)
    return text.rstrip()


def _directive(kind: str, name: str) -> str:
    """A directive of Sphinx that describes a Python object."""
    members = "\n   :members:" if kind == "autoclass" else ""
    if kind == "autoenum":
        kind, members = "autoclass", "\n   :members:\n   :undoc-members:"
    return f"```{{eval-rst}}\n.. {kind}:: {name}{members}\n```"
