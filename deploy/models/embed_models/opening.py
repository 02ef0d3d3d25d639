"""Opens the checkpoint directory of any SOURCE, that of the distilled student included."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embed_models.distill.student import LAYERS, build_student
from embed_models.sources import STUDENT_PREFIX, Source, resolve_source

_STUDENT_NAME = "distilled-MiniLM-L3-v2"
_STUDENT_ID = f"akidb-embed/{_STUDENT_NAME}"


@contextmanager
def open_source(source: str, *, model_name: str | None, model_id: str | None) -> Iterator[Source]:
    """Yield the directory and the names for SOURCE; names that the caller gave win.

    A student's directory exists only as long as this is open.
    """
    if not source.startswith(STUDENT_PREFIX):
        yield resolve_source(source, model_name=model_name, model_id=model_id)
        return
    with tempfile.TemporaryDirectory(prefix="embed-models-") as temporary:
        out = Path(temporary) / _STUDENT_NAME
        build_student(source.removeprefix(STUDENT_PREFIX), LAYERS, out)
        yield Source(
            directory=out,
            model_name=model_name or (model_id or _STUDENT_ID).rsplit("/", 1)[-1],
            model_id=model_id or _STUDENT_ID,
            origin=source,
        )
