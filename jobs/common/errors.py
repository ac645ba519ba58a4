"""A mistake of the user's that ends a command before it starts: one sentence, exit code 2, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ops.data.faces import DataError
from ops.device import DeviceError
from ops.editing.editor import EditError
from ops.editing.recipe import RecipeError
from ops.editing.smoothing import SmoothingError
from ops.face.detect import DetectorError
from ops.files.errors import CheckpointError
from ops.training.trainer import TrainingError
from pipeline.engine.course import OutOfSpace
from pipeline.engine.runner import ResourceError, WorkersDie
from pipeline.engine.stage import is_full
from pipeline.on_ray.cluster import NoCluster
from pipeline.sources.inputs import InputError
from pipeline.store.places import PlaceError
from pipeline.store.tables import StoreError

FAILED, USAGE = 1, 2


class UsageError(ValueError):
    """A mistake in a call. The message says what was expected, what came, what to do next."""


MISTAKES = (
    UsageError,
    CheckpointError,
    EditError,
    RecipeError,
    SmoothingError,
    DataError,
    DetectorError,
    DeviceError,
    InputError,
    NoCluster,
    PlaceError,
    ResourceError,
    StoreError,
    TrainingError,
)


CUT_SHORT = (OutOfSpace, WorkersDie)
"""Errors that end a run in the middle: exit code 1. What was finished stays, and the same command continues."""


@contextmanager
def explained(code: int = USAGE) -> Iterator[None]:
    """Our own errors become their sentence on stderr and the exit code; anything else is a bug and keeps its traceback."""
    try:
        yield
    except MISTAKES as error:
        print(f"styleres: error: {error}", file=sys.stderr)
        raise SystemExit(code) from error
    except CUT_SHORT as error:
        print(f"styleres: stopped: {error}", file=sys.stderr)
        raise SystemExit(FAILED) from error
    except OSError as error:
        if not is_full(error):
            raise
        said = "the disk or quota is full. What is finished stays: make room and run the same command again"
        print(f"styleres: stopped: {error}; {said}", file=sys.stderr)
        raise SystemExit(FAILED) from error
