"""The models that clients may name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..contract.request import DEFAULT_MODEL, Request
from ..errors import InferenceError, InvalidInput
from ..models.parts import model_stem
from ..running.session import Session
from .refusal import Refusal


class ServedModels:
    """The names that clients know, each with the model's name here. No other model is ever run."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = dict(names)
        self.found = False
        """Whether the files of all models are here."""

    def target(self, name: object) -> tuple[str, str]:
        """The name that clients know, and the model's name here. None is the first model.

        Raises `Refusal` for any other name.
        """
        if name is None:
            return next(iter(self.names.items()))
        if not isinstance(name, str):
            raise Refusal(400, "model: it must be a text")
        if name not in self.names:
            known = ", ".join(self.names)
            raise Refusal(404, f"model: there is no such model here; there are {known}",
                          "model_not_found")  # fmt: skip
        return name, self.names[name]

    def find(self, session: Session, say: Callable[[str], None]) -> None:
        """Fetch and check the models in a thread. `say` gets a line for each that fails."""

        def work() -> None:
            failed = False
            for public, target in self.names.items():
                try:
                    session.find(Request(model=target, prompt=""))
                except InferenceError as error:
                    failed = True
                    say(f"the model {public} cannot be run: {error}")
            self.found = not failed

        threading.Thread(target=work, name="llmwit-find-served", daemon=True).start()


def served_models(words: Sequence[str]) -> ServedModels:
    """The models of the command line: `NAME`, or `PUBLIC=NAME`. Without any, the default model.

    A file without a public name has its own name without folder and suffix. Raises `InvalidInput`
    for two models of one name.
    """
    names: dict[str, str] = {}
    for word in words or (DEFAULT_MODEL,):
        public, sign, target = word.partition("=")
        if not sign:
            target = word
            path = Path(word).expanduser()
            public = model_stem(path.name) if path.exists() else word
        if not public or not target:
            raise InvalidInput(f"--model {word}: write NAME, or PUBLIC=NAME")
        if public in names:
            raise InvalidInput(f"--model: {public} stands for two models: write PUBLIC=NAME")
        names[public] = Request(model=target, prompt="").model
    return ServedModels(names)
