"""`%%infer` and the `%infer_…` line magics: parse, run, show, log."""

from __future__ import annotations

import json
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from IPython.display import display
from traitlets import Any as AnyTrait
from traitlets import Dict, Enum, Float, Int, List, TraitError, Unicode, observe, validate
from traitlets.config import Configurable

from ..base.printable import on_one_line, visible
from ..contract.constraint import Constraint
from ..contract.events import Prepared
from ..contract.request import DEFAULT_MODEL, Request
from ..contract.urls import is_url
from ..contract.wit import InferencingParams, InferencingResult
from ..engines.server.addresses import names_server
from ..errors import Interrupted, InvalidInput, warn_unlogged
from ..requests.line import split_line
from ..requests.options import DEFAULTS, OPTIONS, SLIDERS
from ..requests.snippets import forms
from ..running.results import Results
from ..running.session import Session, current_session
from ..running.window import Ahead
from ..views import terminal, text
from ..views.opening import open_view, show_progress
from ..views.score_text import scored_text
from ..views.view import KINDS, RENDERINGS, View
from .cell import Cell, plain_interrupt, read_cell, usage_error, with_options
from .cell_turn import CellTurn

RESULT_NAME = "_infer"
"""The variable that always has the newest result."""

CONVERSATION_NAME = "_conversation"
"""The variable that always has the newest conversation."""


def _default_traits() -> dict[str, Any]:
    """A trait for each option whose default can be configured, with the contract's default."""
    return {
        option.dest: AnyTrait(option.field.default, help=f"{option.help} ({option.valid})").tag(
            config=True
        )
        for option in OPTIONS
        if option.field and option.dest in DEFAULTS
    }


OptionDefaults = type("OptionDefaults", (Configurable,), _default_traits())


@magics_class
class InferMagics(Magics, OptionDefaults):  # type: ignore[misc, valid-type]
    """`%%infer` runs a local language model.

    `%config InferMagics.temperature = 0` sets the default of an option.
    """

    model = Unicode(DEFAULT_MODEL, help="model of cells that give no -m").tag(config=True)
    content_filters = List(
        help="regular expressions, or functions from the text so far to where it must be cut "
        "(None: nowhere): the match and what follows are left out"
    ).tag(config=True)
    aliases = Dict(help="your own names for models: {'tiny': '~/models/tiny.gguf'}").tag(
        config=True
    )
    servers = Dict(
        help="servers of models, by name: {'lab': {'url': 'http://gpu-box:8000/v1', "
        "'api_key_env': 'LAB_KEY'}}; then -m lab::MODEL"
    ).tag(config=True)
    server_connect_seconds = Float(
        10.0, min=0.1, help="how long connecting to a server may take"
    ).tag(config=True)
    server_silence_seconds = Float(300.0, min=0.1, help="how long a server may say nothing").tag(
        config=True
    )
    log_path = Unicode(None, allow_none=True, help="file of the run log, or :memory:").tag(
        config=True
    )
    view = Enum(
        KINDS, "auto", help="how runs are shown: auto, widget, html (no widgets), or text"
    ).tag(config=True)
    render = Enum(
        RENDERINGS,
        "auto",
        help="how finished answers are shown on a page: markdown, text, or auto (Markdown with "
        "--chat, unless log-probabilities are recorded)",
    ).tag(config=True)
    max_loaded_models = Int(2, min=1, help="models kept in memory").tag(config=True)
    kept_prompts = Int(
        3, min=1,
        help="prompts that a model loaded from now on keeps evaluated, so that going back to one "
        "is instant; each may take the memory of a context",
    ).tag(config=True)  # fmt: skip
    idle_unload_minutes = Float(
        None, allow_none=True, min=0,
        help="give a model's memory back after so many minutes without a run; None: never",
    ).tag(config=True)  # fmt: skip

    llama_library = Unicode(
        None, allow_none=True,
        help="path of the library of llama.cpp, or of its folder, for models loaded from now on; "
        "None: that of an installed package",
    ).tag(config=True)  # fmt: skip

    def __init__(self, shell: Any, session: Session | None = None) -> None:
        self.session = session or current_session()
        self._ready = False
        super().__init__(shell)
        self._ready = True
        self._configure_session({"name": "log_path"} if self.log_path else {"name": ""})
        self._configure_servers({})

    @validate(*DEFAULTS)
    def _check_default(self, proposal: Any) -> Any:
        """Refuse a bad default when it is set, in the contract's words. The old one stays."""
        name, value = proposal["trait"].name, proposal["value"]
        try:
            if name in InferencingParams.model_fields:
                return getattr(InferencingParams(**{name: value}), name)
            return getattr(Request(model=DEFAULT_MODEL, prompt="", **{name: value}), name)
        except InvalidInput as error:
            raise TraitError(str(error)) from None

    @validate("content_filters")
    def _check_filters(self, proposal: Any) -> Any:
        """Refuse a bad content filter when it is set, and not only when a run needs it."""
        from ..engines.content_filters import PatternFilter

        for item in proposal["value"]:
            if not isinstance(item, str) and not callable(item):
                raise TraitError(f"content filter {item!r} is neither a pattern nor a function")
            if isinstance(item, str):
                try:
                    PatternFilter(item)
                except InvalidInput as error:
                    raise TraitError(str(error)) from None
        return proposal["value"]

    @validate("llama_library")
    def _check_library(self, proposal: Any) -> str | None:
        """Refuse a path without a library when it is set. What is kept is the absolute path.

        One in a configuration file refuses no cell that does not need it. The run that does says so.
        """
        from ..engines.backends.llamacpp.llama_sources import source

        path: str | None = proposal["value"]
        if not path:
            return None
        found = source(path)
        if found.problem and self._ready:
            raise TraitError(found.problem)
        return found.name

    @validate("servers")
    def _check_servers(self, proposal: Any) -> Any:
        """Refuse a server that cannot be used when it is set. The old ones stay."""
        from ..engines.server.addresses import configured

        try:
            configured(proposal["value"])
        except InvalidInput as error:
            raise TraitError(str(error)) from None
        return proposal["value"]

    @observe("servers", "server_connect_seconds", "server_silence_seconds")
    def _configure_servers(self, change: Any) -> None:
        self.session.servers = self.servers
        self.session.remote.http.connect_seconds = self.server_connect_seconds
        self.session.remote.http.silence_seconds = self.server_silence_seconds

    @observe(
        "aliases", "max_loaded_models", "kept_prompts", "idle_unload_minutes", "log_path",
        "llama_library",
    )  # fmt: skip
    def _configure_session(self, change: Any) -> None:
        if change["name"] in ("aliases", "", "log_path"):
            self.session.aliases = dict(self.aliases)
        if change["name"] == "llama_library" or self.llama_library:
            self.session.llama_library = self.llama_library or ""
        self.session.local.pool.max_loaded_models = self.max_loaded_models
        self.session.local.pool.kept_prompts = self.kept_prompts
        self.session.local.pool.idle_unload_minutes = self.idle_unload_minutes
        if change["name"] == "log_path":
            self.session.use_log(self.log_path)

    @no_var_expand
    @cell_magic
    @with_options
    def infer(self, line: str, cell: str) -> Any:
        """Run the prompt in this cell with a local language model."""
        with plain_interrupt():
            turn = CellTurn(self.session)
            read = read_cell(line, cell, self.shell.user_ns, self._defaults(), turn.fields)
            if read.drop_oldest:
                with show_progress(self.shell) as show:
                    read = turn.shortened(read, show)
            if read.dry_run:
                self._show_dry_run(read)
            elif read.tune:
                self._tune(read)
            else:
                self._run(turn.of(read), turn)

    def _run(self, cell: Cell, turn: CellTurn) -> None:
        """Run the cell's requests: one after another, or side by side on a server.

        The results so far are kept in any case.
        """
        view: View | None = None
        # Runs to be compared share a seed, unless the seed is what varies.
        ahead = Ahead(self.session, cell.requests, self.session.draw_seed())
        try:
            with ahead:
                for run in ahead:
                    turn.take(cell, run)
                    if view is None and not cell.quiet:
                        # Only now, so that widgets are imported while the engine starts.
                        view = self.open_view(len(cell.requests), cell.varying, cell.render)
                    run.follow(view.draw if view else lambda run: None)
                    if cell.metrics:
                        from ..analysis.run_metrics import judge

                        judge(run, cell.metrics)
        except Interrupted as stop:
            if not cell.is_sweep:
                raise
            begun = f"{len(ahead.runs):,} of {len(cell.requests):,} runs were begun"
            raise Interrupted(f"{stop}; {begun}") from None
        finally:
            runs = ahead.runs
            if runs:  # there are none after an interrupt before the first run
                results = Results(runs, cell.requests[0].group_id)
                results.by = cell.pivot
                self._keep(cell, results if cell.is_sweep else results[-1])
                if turn.conversation:
                    self.shell.push({CONVERSATION_NAME: turn.conversation}, interactive=False)
                if view:
                    view.finish(results)
                elif problems := [run.log_problem for run in results if run.log_problem]:
                    warn_unlogged(problems[-1])

    def open_page(self) -> None:
        """Let this kernel handle the buttons in the outputs that a notebook was saved with."""
        from ..views.live import page_for

        page_for(self.session.log)

    def open_view(
        self, total: int = 1, varying: tuple[str, ...] = (), rendering: str | None = None
    ) -> View:
        """The view that the settings of the notebook choose. `rendering` is what the line says."""
        return open_view(
            self.view,
            self.shell,
            self.session.log,
            self.forms,
            total=total,
            varying=varying,
            rendering=rendering or self.render,
        )

    def _keep(self, cell: Cell, value: InferencingResult | Results) -> None:
        """Put the newest result into `_infer`, and into the variable of `-o`."""
        names = [RESULT_NAME] + ([cell.output] if cell.output else [])
        self.shell.push(dict.fromkeys(names, value), interactive=False)

    def _tune(self, cell: Cell) -> None:
        """Show the tuning panel of the cell's first request; `-o` keeps the panel."""
        from ..views.tuning import TuningPanel

        if cell.is_sweep:
            raise UsageError("--tune takes one value for each option: the sliders do the rest")
        panel = TuningPanel(self.session, cell.requests[0], self.forms, SLIDERS)
        if cell.output:
            self.shell.push({cell.output: panel}, interactive=False)
        display(panel)

    def forms(self, request: Request) -> dict[str, str]:
        """The forms of a request that a person can copy: cell, Python, JSON and WAVE."""
        return forms(request, self._defaults())

    def _show_dry_run(self, cell: Cell) -> None:
        for request in cell.requests:
            with show_progress(self.shell) as show:
                prepared = self.session.prepare(request, show)
            scored = scored_text(request)
            terminal.say(dry_run_text(prepared, request.params, request.constraint, scored))

    def _defaults(self) -> dict[str, Any]:
        """The values, by field of params and request, of what a cell leaves open."""
        return {name: getattr(self, name) for name in DEFAULTS} | {
            "model": self.model,
            "content_filters": tuple(self.content_filters),
        }

    @line_magic
    def infer_models(self, line: str) -> None:
        """The models that can be named without a network, and which of them are in memory.

        With a server's name, such as `lab::`, or its URL: the models of that server.
        """
        if names_server(line.strip()):
            self._show_server_models(line.strip())
            return
        if line.strip():
            raise usage_error(
                f"%infer_models takes a server, such as lab::, and '{line.strip()}' is none"
            )
        loaded = {name for name, _ in self.session.local.pool.loaded_models()}
        models = self.session.local_models()
        for name, kind, path in models:
            place = str(path) if path else "fetched at first use"
            memory = ", in memory" if name in loaded else ""
            terminal.say(on_one_line(f"{name}  ({kind}{memory})  {place}"))
        for name in sorted(loaded - {row[0] for row in models}):
            terminal.say(on_one_line(f"{name}  (in memory)"))

    def _show_server_models(self, name: str) -> None:
        with show_progress(self.shell) as show:
            models = self.session.server_models(name, show)
        sign = "#" if is_url(name) else "::"
        if not models:
            terminal.say(f"{name} has no models now")
        for model in models:
            terminal.say(on_one_line(f"{name.partition(sign)[0]}{sign}{model}"))

    @line_magic
    def infer_unload(self, line: str) -> None:
        """Give the memory of a model back, or of all models."""
        try:
            model = " ".join(split_line(line))
        except InvalidInput as error:
            raise usage_error(str(error)) from None
        names = self.session.local.pool.unload(model or None)
        if model and not names:
            loaded = (
                ", ".join(name for name, _ in self.session.local.pool.loaded_models()) or "none"
            )
            raise usage_error(f"the model {model} is not in memory (loaded: {loaded})")
        terminal.say(on_one_line(f"unloaded: {', '.join(names) or 'nothing was loaded'}"))


def dry_run_text(
    prepared: Prepared, params: InferencingParams, constraint: Constraint | None = None,
    scored: str = "",
) -> str:  # fmt: skip
    """What `--dry-run` shows: prompt, notices, tokens, model, params, what the answer must be.

    `scored` says what is scored in the place of an answer. It stands in the place of the params.
    """
    count, cached, room = (
        prepared.prompt_token_count, prepared.cached_token_count, prepared.context_length,
    )  # fmt: skip
    counted = (
        "prompt tokens are not known before the run"
        if count is None
        else (f"{count:,} prompt tokens" + ("" if cached is None else f" ({cached:,} cached)"))
    )
    left = ""
    if count is not None and room is not None and not scored:
        left = f", {room - count:,} of {room:,} left for the answer"
        if count >= room:
            left = (
                f": the context holds {room:,}, answer included, so it would be refused: shorten the "
                "prompt or raise --context-length"
            )
    words = {name: "none" if value is None else json.dumps(value, ensure_ascii=False)
             for name, value in params.model_dump().items()}  # fmt: skip
    if params.seed is None:
        words["seed"] = "drawn when it runs"
    how = scored or ", ".join(f"{name} {word}" for name, word in words.items())
    lines = [
        *(f"── {notice}" for notice in prepared.notices),
        f"── {counted}{left}",
        f"── {prepared.model.name} on {prepared.device.name}, "
        + ("" if prepared.device.is_server else f"{prepared.device.gpu_layers} GPU layers ")
        + f"({prepared.device.reason})",
        f"── {how}",
        *([f"── {text.constraint_text(constraint)}"] if constraint else []),
    ]  # fmt: skip
    return "\n".join([visible(prepared.prompt), *map(on_one_line, lines)])
