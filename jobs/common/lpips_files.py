"""Files of LPIPS, of which the heads are nothing without AlexNet."""

from __future__ import annotations

from pathlib import Path

from jobs.common.errors import UsageError


def require_alexnet(lpips_weights: Path | None, lpips_heads: Path | None) -> None:
    """Raise UsageError for LPIPS's heads without the network that they stand on."""
    if lpips_heads is not None and lpips_weights is None:
        raise UsageError("--lpips-heads holds only LPIPS's heads; give AlexNet's file with --lpips-weights too")
