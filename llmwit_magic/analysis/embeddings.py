"""Vectors of texts for work: as an array, and as a column of a DataFrame."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput
from ..running.embedding_calls import embed_texts, embedding_request, normalized
from ..running.row_settings import known_columns
from ..running.session import current_session

if TYPE_CHECKING:
    import numpy
    import pandas
    from numpy.typing import NDArray


def embed(
    texts: Sequence[str] | str,
    model: str | os.PathLike[str] | None = None,
    *,
    normalize: bool = False,
    truncate: bool = False,
    progress: bool = True,
    **options: Any,
) -> NDArray[numpy.float32]:
    """The vectors of texts as one array: float32 of shape (texts, embedding length).

    The vectors are those of `generate_embeddings`, which also says what `options` there are, and
    what is raised. Texts that are equal are evaluated once. A plain string is one text, and no text
    at all gives an array of shape (0, 0).

    - `normalize=True` divides each vector by its Euclidean length. A dot product of two vectors is
      then their cosine similarity. A vector of zeros stays so, with a warning.
    - `truncate=True` cuts the end of a text that does not fit into the context.
    - `progress=False` shows no bar. There is none for a call that takes less than half a second.

    Each call is one row of the log, whose `kind` is `embedding`. It has neither the vectors nor any
    text but the first one.

    An interrupt raises `Interrupted`. The vectors so far are kept in this process: the same call
    goes on there, and a call with the texts that are done gives theirs at once. They are kept after
    an error, too.
    """
    request, checked = embedding_request(texts, model, options)
    vectors = embed_texts(current_session(), request, checked, truncate=truncate, progress=progress)
    return normalized(vectors) if normalize else vectors


def embed_frame(
    frame: pandas.DataFrame,
    column: Hashable,
    model: str | os.PathLike[str] | None = None,
    *,
    name: str = "embedding",
    normalize: bool = False,
    truncate: bool = False,
    progress: bool = True,
    **options: Any,
) -> pandas.DataFrame:
    """A copy of the DataFrame with a column of vectors of the texts in `column`.

    The new column is called `name`. Each of its cells is a float32 array of shape (embedding
    length,), or None where the text is missing. `numpy.stack(frame["embedding"])` makes a matrix of
    a column without missing values. `to_parquet` writes it as lists of numbers.

    Everything else is as for `embed`. A message names a row by its place: `text 3` is that of the
    third row. Raises `InvalidInput` where there is no such column, or
    already one called `name`.
    """
    import pandas

    if not isinstance(frame, pandas.DataFrame):
        raise InvalidInput(
            f"{type(frame).__name__} is not a DataFrame: give one, with a row a text"
        )
    if column not in frame.columns:
        raise InvalidInput(
            f"{column!r} is no column of the DataFrame{known_columns(frame.columns, column)}"
        )
    if name in frame.columns:
        raise InvalidInput(
            f"the DataFrame has a column {name} already: give another name=, or drop it"
        )
    texts = frame[column]
    there = texts.notna().to_numpy()
    numbers = [number for number, known in enumerate(there, 1) if known]
    request, checked = embedding_request(
        [text for text, known in zip(texts, there, strict=True) if known], model, options, numbers
    )
    found: list[Any] = [None] * len(frame)
    if checked:
        vectors = embed_texts(
            current_session(),
            request,
            checked,
            truncate=truncate,
            progress=progress,
            numbers=numbers,
        )
        each = iter(normalized(vectors, numbers) if normalize else vectors)
        found = [next(each) if known else None for known in there]
    joined = frame.copy()
    joined[name] = pandas.Series(found, index=frame.index, dtype=object)
    return joined
