"""Presets: options under a name, in a TOML file of the user's or of a project.

Both files have a table `[presets.NAME]` for each preset. Its keys are fields of a request and of its
params. The user's file is `presets.toml` in the folder for configuration. The project's file is
`llmwit.toml` in the working directory, which is the notebook's folder. A project's preset stands
before one of the user's with the same name. A project's file may come from somebody else, so it
cannot set what decides where a prompt goes and what is refused.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from ..base.filesystem import current_folder, replacing
from ..contract.constraint import Constraint
from ..contract.record import shown
from ..contract.request import DEFAULT_MODEL, Request
from ..contract.urls import is_url
from ..contract.wit import InferencingParams
from ..errors import InvalidInput, did_you_mean
from .options import BY_DEST, OPTIONS

PROJECT_FILE = "llmwit.toml"
LARGEST_FILE = 1_000_000
"""Bytes that a file of presets may have."""
SETTINGS = frozenset(
    option.dest for option in OPTIONS
    if option.field and option.dest not in ("continuation", "prompt_logprobs")
) | {"constraint"}  # fmt: skip
"""What a preset may set: the fields that have an option, but for the texts of one cell."""
NOT_OF_PROJECTS = frozenset({"accept", "control_tokens"})
"""What a project's file cannot set: these take away a protection of the person who runs it."""
_NAME = re.compile(r"\w[\w.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Preset:
    """A preset of a file. One that is not valid has no values, and a `problem`."""

    name: str
    path: Path
    is_project: bool
    values: Mapping[str, Any]
    problem: str = ""


def user_file() -> Path:
    """The file of the user's presets, which need not exist."""
    return Path(platformdirs.user_config_path("llmwit-magic", appauthor=False)) / "presets.toml"


def preset(name: str) -> dict[str, Any]:
    """The options of a preset, for `infer(prompt, **preset(name))`.

    The keys are those of `infer`, and `preset`, which is the name. Raises `InvalidInput` for a name
    that there is not, and for a preset that is not valid.
    """
    found = presets()
    for one in found:
        if one.name == name:
            if one.problem:
                raise InvalidInput(f"preset '{name}' in {one.path}: {one.problem}")
            return {**one.values, "preset": name}
    for path, is_project in _files():
        _tables(path, is_project)  # raises where the file itself cannot be read
    names = list(dict.fromkeys(one.name for one in found))
    hint = did_you_mean(name, names, f"known: {', '.join(names) or 'none'}")
    raise InvalidInput(f"there is no preset {shown(name)} ({hint}): %infer_preset makes one")


def preset_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the preset that `options["preset"]` names; none where nothing is named.

    Raises `InvalidInput`.
    """
    name = options.get("preset")
    return {} if name is None else preset(name)


def presets() -> list[Preset]:
    """All presets, the project's first. A file that cannot be read has none."""
    found: list[Preset] = []
    for path, is_project in _files():
        try:
            tables = _tables(path, is_project)
        except InvalidInput:
            continue
        for name, table in tables.items():
            try:
                found.append(Preset(name, path, is_project, _checked(table, is_project)))
            except InvalidInput as error:
                found.append(Preset(name, path, is_project, {}, str(error)))
    return found


def problems() -> list[str]:
    """Why a file of presets cannot be read, for each such file."""
    found = []
    for path, is_project in _files():
        try:
            _tables(path, is_project)
        except InvalidInput as error:
            found.append(str(error))
    return found


def keep(name: str, values: Mapping[str, Any], in_project: bool = False) -> Path:
    """Keep the values under a name, in the place of any before; the file that has them.

    Other presets and comments of the file stay. Raises `InvalidInput`.
    """
    import tomlkit

    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{shown(name)} is not valid as the name of a preset: it must be letters, digits, '_', "
            "'-' and '.'"
        )
    plain = {key: _plain(key, value) for key, value in values.items()}
    if not plain:
        raise InvalidInput(f"preset '{name}': give at least one option to keep")
    _checked(plain, in_project)
    path = _file(in_project)
    _tables(path, in_project)  # a file that cannot be read is not replaced
    document = _document(path)
    if "presets" not in document:
        document["presets"] = tomlkit.table(is_super_table=True)
    document["presets"][name] = plain
    _write(path, tomlkit.dumps(document))
    return path


def forget(name: str, in_project: bool = False) -> Path:
    """Remove a preset; the file that had it. Raises `InvalidInput` where there is none."""
    import tomlkit

    path = _file(in_project)
    if name not in _tables(path, in_project):
        raise InvalidInput(f"there is no preset {shown(name)} in {path}")
    document = _document(path)
    del document["presets"][name]
    _write(path, tomlkit.dumps(document))
    return path


def _file(in_project: bool) -> Path:
    if not in_project:
        return user_file()
    here = current_folder()
    if here is None:
        raise InvalidInput(f"the working directory was deleted: {PROJECT_FILE} has no place")
    return here / PROJECT_FILE


def _files() -> list[tuple[Path, bool]]:
    """The files, each with whether it is the project's."""
    here = current_folder()
    return ([(here / PROJECT_FILE, True)] if here else []) + [(user_file(), False)]


def _tables(path: Path, is_project: bool) -> dict[str, Any]:
    """The tables of a file, by the presets' names. Raises `InvalidInput`."""
    text = _text(path)
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InvalidInput(f"{path} is not valid TOML: {error or 'too deep'}") from None
    tables = content.pop("presets", {})
    if content and is_project:
        raise InvalidInput(
            f"{path} has '{next(iter(content))}': a project's file holds presets only, as in "
            "[presets.NAME]; set anything else by %config InferMagics"
        )
    if content or not isinstance(tables, dict):
        raise InvalidInput(
            f"{path}: each preset is a table [presets.NAME], and nothing else counts"
        )
    return tables


def _text(path: Path) -> str:
    try:
        if not path.exists():
            return ""
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            raise InvalidInput(f"{path} is no file of at most {LARGEST_FILE:,} bytes")
        return path.read_text(encoding="utf-8-sig")  # editors may write a mark
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InvalidInput(f"{path} cannot be read: {why}") from None


def _document(path: Path) -> Any:
    import tomlkit

    return tomlkit.parse(_text(path))


def _write(path: Path, text: str) -> None:
    try:
        path = path.resolve()  # a link stays one
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}") from None


def _checked(table: Any, is_project: bool) -> dict[str, Any]:
    """The values of a table as the contract has them. Raises `InvalidInput`."""
    if not isinstance(table, dict):
        raise InvalidInput("it is no table of settings")
    for key in table:
        if key not in SETTINGS:
            hint = did_you_mean(key, SETTINGS, "docs/presets.md says what it may set")
            raise InvalidInput(f"{shown(key)} is no setting of a preset: {hint}")
        if is_project and key in NOT_OF_PROJECTS:
            raise InvalidInput(
                f"{key}: a project's file cannot set it: keep it in a preset of yours"
            )
    values = {key: _with_words(key, value) for key, value in table.items()}
    if is_project and is_url(str(values.get("model"))):
        raise InvalidInput(
            "model: a project's file cannot name a server by its address: name it by "
            "InferMagics.servers, and keep name::model"
        )
    ours = {key: value for key, value in values.items() if key in InferencingParams.model_fields}
    others = {key: value for key, value in values.items() if key not in ours}
    params = InferencingParams(**ours)
    request = Request(**{"model": DEFAULT_MODEL, "prompt": "", **others})
    return {key: getattr(params if key in ours else request, key) for key in values}


def _with_words(key: str, value: Any) -> Any:
    """The value that a word of the line such as `none` stands for; TOML has no word for None."""
    option = BY_DEST.get(key)
    if option is None or not isinstance(value, str):
        return value
    return option.words.get(value, value)


def _plain(key: str, value: Any) -> Any:
    """The value as TOML has it."""
    if value is None and BY_DEST[key].words.get("none", "") is None:
        return "none"
    if isinstance(value, Constraint):
        return value.model_dump()
    if isinstance(value, Mapping):
        return {name: _plain(key, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if value is None:
        raise InvalidInput(f"{key}: a preset cannot keep null")
    return value
