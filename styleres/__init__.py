"""Inverting and editing faces from Python: a small surface over the same functions as the commands. Start at docs/python.md.

import styleres

store = styleres.invert("clip.mp4", "store")
styleres.render(store, "out", "smile=1.3")
for track in store.tracks():
    print(track.source, track.number, track.codes().shape)      # numpy [N, L, D]
"""

from __future__ import annotations

from styleres.crops import EditedCrops, edit_crops
from styleres.jobs import Lost, Rendered, invert, render
from styleres.opened import FaceStore, Source, Still, Track, open_store

__all__ = [
    "EditedCrops",
    "FaceStore",
    "Lost",
    "Rendered",
    "Source",
    "Still",
    "Track",
    "edit_crops",
    "invert",
    "open_store",
    "render",
]
