"""Errors of every reader of model files."""

from __future__ import annotations

from collections.abc import Iterable


class CheckpointError(ValueError):
    """A model file that is not what it should be; the message lists what is missing or unknown."""


def listing(names: Iterable[str], limit: int = 20) -> str:
    """Names for a message: sorted, the first `limit` of them, and how many more."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more
