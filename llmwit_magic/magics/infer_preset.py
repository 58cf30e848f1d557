"""`%infer_preset`: options under a name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand

from ..base.printable import number_text, on_one_line
from ..contract.constraint import Constraint
from ..errors import InvalidInput
from ..requests import presets
from ..requests.line import in_words_of_the_line, split_line
from ..views.terminal import say
from ..views.text import constraint_text
from .cell import read_changes, usage_error

FLAGS = ("--project", "--delete")
"""The options that are not of `%%infer`."""


@magics_class
class PresetMagics(Magics):
    """The line magic of presets."""

    @no_var_expand
    @line_magic
    def infer_preset(self, line: str) -> None:
        """Keep options of %%infer under a name, or show what is kept.

        ::

          %infer_preset                                all presets
          %infer_preset NAME                           what one of them sets
          %infer_preset NAME --temperature 0 --stop .  keep these options; %%infer --preset NAME
          %infer_preset NAME --project OPTIONS         keep them in llmwit.toml, beside the notebook
          %infer_preset NAME --delete                  remove it; --project: that of llmwit.toml
        """
        try:
            words = split_line(line)
            if "--help" in words:
                say(self.infer_preset.__doc__)
            elif not words:
                self._show(presets.presets())
            else:
                self._of_name(words[0], words[1:])
        except InvalidInput as error:
            raise usage_error(in_words_of_the_line(str(error))) from None

    def _of_name(self, name: str, words: Sequence[str]) -> None:
        if name.startswith("-"):
            raise InvalidInput(f"the preset's name stands first: %infer_preset NAME {name} …")
        in_project, delete = (flag in words for flag in FLAGS)
        rest = [word for word in words if word not in FLAGS]
        if delete and rest:
            raise InvalidInput(f"--delete takes no options: leave out {rest[0]}")
        if delete:
            say(on_one_line(f"preset {name} removed from {presets.forget(name, in_project)}"))
        elif rest:
            values = read_changes(rest, self.shell.user_ns)
            values.pop("preset", None)  # the options of another one were the beginning
            path = presets.keep(name, values, in_project)
            say(on_one_line(f"preset {name} kept in {path}: {_settings(presets.preset(name))}"))
        else:
            found = [one for one in presets.presets() if one.name == name]
            if not found:
                presets.preset(name)  # says what there is
            self._show(found)

    def _show(self, found: Sequence[presets.Preset]) -> None:
        seen: set[str] = set()
        for one in found:
            hidden = ", hidden by the project's" if one.name in seen else ""
            seen.add(one.name)
            place = f"{presets.PROJECT_FILE}, beside the notebook" if one.is_project else "yours"
            what = f"not valid: {one.problem}" if one.problem else _settings(one.values)
            say(on_one_line(f"{one.name}  {what}  ({place}{hidden})"))
        for problem in presets.problems():
            say(on_one_line(problem))
        if not found:
            say("no presets: %infer_preset NAME OPTIONS keeps options under a name")


def _settings(values: Any) -> str:
    """The settings of a preset for people."""
    said = []
    for name, value in values.items():
        if isinstance(value, Constraint):
            said.append(constraint_text(value))
        elif name != "preset":
            if isinstance(value, float):
                word = number_text(value)
            else:
                given = "none" if value is None else value
                word = json.dumps(given, ensure_ascii=False, default=dict)
            said.append(f"{name} {word}")
    return ", ".join(said)
