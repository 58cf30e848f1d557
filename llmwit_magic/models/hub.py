"""A model file fetched from a repository of the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from ..base.background import in_background
from ..base.filesystem import is_held
from ..contract.events import Progress, Report
from ..errors import DownloadFailed, ModelNotFound
from .cache import IN_USE
from .parts import one_of_each, part_names

HUB_SECONDS = 4.0
"""How long the hub may take to answer a first request."""
# What the hub's client raises for an answer that is no JSON, is nested too deeply, or has other
# fields than the client expects.
_NOT_UNDERSTOOD = (
    json.JSONDecodeError, UnicodeDecodeError, RecursionError, AssertionError, AttributeError,
    LookupError, TypeError,
)  # fmt: skip


def fetch_from_hub(repo: str, file: str | None, revision: str | None, report: Report) -> Path:
    """The path of a file of a Hugging Face repository, downloaded if the hub's cache lacks it.

    The name of one part of a model means all of them: the path is that of the first. `file` None
    means the only model of the repository in GGUF files. Raises `ModelNotFound` for a
    repository, revision or file that does not exist, and `DownloadFailed` for other failures.
    """
    import huggingface_hub
    from huggingface_hub import errors

    latest = Progress("fetch", note=repo)
    has_bars = "tqdm_class" in inspect.signature(huggingface_hub.hf_hub_download).parameters

    def remember(progress: Progress) -> None:
        nonlocal latest
        latest = progress
        report(progress)

    def fetch() -> str:
        nonlocal latest
        with _quiet_hub():
            name = file
            if name is None:
                name = _only_model_file(repo, _files_of(repo, revision, here_alone))
            commit, paths = revision, []
            for part in part_names(name):
                latest = Progress("fetch", note=part)
                bar = {"tqdm_class": _progress_bar(remember, part)} if has_bars else {}
                path = huggingface_hub.hf_hub_download(
                    repo, part, revision=commit, local_files_only=here_alone, **bar
                )
                paths.append(str(path))
                # The further parts are those of the same commit, in whose folder this one lies.
                commit = Path(path).parents[part.count("/")].name
        return paths[0]

    def say() -> None:
        report(latest if has_bars else dataclasses.replace(latest, done=_fetched_bytes(repo)))

    try:
        report(latest)
        here_alone = not _hub_answers(lambda: report(latest))
        # In the background, because the hub's client retries for long and may have to be abandoned.
        path = in_background(fetch, say, 0.5, "llmwit-hub")
    except errors.GatedRepoError:
        raise DownloadFailed(
            f"{repo} is gated: accept its terms on the hub and log in (hf auth login)"
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise ModelNotFound(
            f"there is no repository '{repo}' on the hub (or it is private)"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelNotFound(f"{repo} has no revision '{revision}'") from None
    except errors.LocalEntryNotFoundError:
        raise DownloadFailed(
            f"{repo}{f':{latest.note}' if file else ''} is not in the hub's cache and the hub cannot be "
            "reached: check the network"
        ) from None
    except errors.EntryNotFoundError:
        raise ModelNotFound(f"{repo} has no file '{latest.note}'") from None
    except _NOT_UNDERSTOOD as error:
        raise DownloadFailed(
            f"{repo} could not be fetched: what the hub answers is not what its client expects "
            f"({type(error).__name__}: {_first_line(error)}) - try later, or upgrade "
            "huggingface_hub"
        ) from None
    # `HTTPError` is of the HTTP library that the hub's client uses. Its connection errors are not
    # `OSError`.
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        reason = _first_line(error) or type(error).__name__
        advice = IN_USE if is_held(error) else "check the network"
        raise DownloadFailed(f"{repo} could not be fetched: {reason} - {advice}") from None
    return Path(path)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def has_repository(repo: str) -> bool:
    """Whether the hub's cache has something of a repository. Nothing is asked of the hub."""
    from huggingface_hub import constants, file_download

    folder = file_download.repo_folder_name(repo_id=repo, repo_type="model")
    return Path(constants.HF_HUB_CACHE, folder, "snapshots").is_dir()


def _fetched_bytes(repo: str) -> int:
    """The bytes fetched so far, from the size of the incomplete file in the hub's cache.

    Used for clients below 1.1, which report no progress.
    """
    from huggingface_hub import constants, file_download

    folder = file_download.repo_folder_name(repo_id=repo, repo_type="model")
    parts = Path(constants.HF_HUB_CACHE, folder, "blobs").glob("*.incomplete")
    with suppress(OSError, ValueError):  # there is no such file, or it has just been completed
        return max((path.stat() for path in parts), key=lambda stat: stat.st_mtime).st_size
    return 0


def _hub_answers(check: Callable[[], None]) -> bool:
    """Whether the hub answers within `HUB_SECONDS`. The hub's client would try for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    deadline = time.monotonic() + HUB_SECONDS

    def ask() -> bool:
        with suppress(Exception):  # of several HTTP libraries, and of the offline mode
            get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
            return True
        return False

    def wait() -> None:
        check()
        if time.monotonic() > deadline:  # a look-up of the host's name has no time limit
            raise TimeoutError

    try:
        return in_background(ask, wait, 0.2, "llmwit-hub")
    except TimeoutError:
        return False


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep what the hub's client logs in this thread out of the cell, but for errors."""
    thread = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.ERROR

    handlers = list(logging.getLogger("huggingface_hub").handlers)
    for handler in handlers:
        handler.addFilter(keep)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)


def _files_of(repo: str, revision: str | None, here_alone: bool) -> list[str]:
    """The files of a repository. Without a network, its GGUF files in the hub's cache."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        if not here_alone:
            return list(huggingface_hub.list_repo_files(repo, revision=revision))
    except (errors.HfHubHTTPError, json.JSONDecodeError):
        raise  # the hub has answered
    except (errors.HTTPError, OSError):
        pass
    folder = huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)
    return [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.gguf")]


def _only_model_file(repo: str, files: list[str]) -> str:
    paths = [PurePosixPath(name) for name in files if name.endswith(".gguf")]
    # llama.cpp's name for a projector of images. It lies beside the model that it belongs to.
    others = [path for path in paths if not path.name.lower().startswith("mmproj")]
    models = [path.as_posix() for path in one_of_each(others or paths)]
    if len(models) == 1:
        return models[0]
    if not models:
        raise ModelNotFound(
            f"{repo} has no GGUF file: look for a repository with 'GGUF' in its name"
        )
    raise ModelNotFound(f"{repo} has {len(models)} models: name one, as in {repo}:{models[0]}")


def _progress_bar(report: Report, note: str) -> Any:
    """A tqdm class that calls `report` instead of drawing. What `report` raises ends the download."""
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # the hub's own argument
            super().__init__(*args, **(kwargs | {"disable": False, "file": io.StringIO()}))

        def display(self, *args: Any, **kwargs: Any) -> None:
            """Draw nothing."""

        def update(self, n: float | None = 1) -> bool | None:
            drawn = super().update(n)
            report(Progress("fetch", int(self.n), int(self.total) if self.total else None, note))
            return drawn

    return Bar
