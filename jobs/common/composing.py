"""A recipe in the making: what the studio's controls change, and the recipe that it is. Knows nothing of pages.

A draft is a value: every change gives another one, so undo is a list of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from ops.editing.recipe import Easing, Edit, EditRecipe

SAME_INSTANT = 0.02
"""Seconds: a keyframe so near another takes its place."""


@final
@dataclass(frozen=True)
class Lane:
    """One edit on all tracks or on one: a strength, or strengths at instants."""

    edit: str
    track: int | None = None
    """None: every track."""
    strength: float = 0.0
    keyframes: tuple[tuple[float, float], ...] = ()
    """(seconds, strength), in order of time; then `strength` has no meaning."""
    easing: Easing = "smooth"

    def at(self, seconds: float) -> float:
        """The strength at an instant."""
        return float(self.entry().strengths([seconds])[0])  # type: ignore[arg-type]

    def entry(self) -> Edit:
        """The entry of the recipe."""
        tracks = None if self.track is None else (self.track,)
        fields = {"edit": self.edit, "tracks": tracks, "easing": self.easing}
        if self.keyframes:
            return Edit.model_validate(fields | {"keyframes": [{"at": at, "strength": value} for at, value in self.keyframes]})
        return Edit.model_validate(fields | {"strength": self.strength})


@final
@dataclass(frozen=True)
class Draft:
    """Lanes in the order in which they are applied, after the entries that no lane can show."""

    lanes: tuple[Lane, ...] = ()
    kept: tuple[Edit, ...] = ()
    """Entries of a loaded recipe with spans, fades or several tracks: they act, and are not changed here."""

    def lane(self, edit: str, track: int | None) -> Lane | None:
        return next((one for one in self.lanes if (one.edit, one.track) == (edit, track)), None)

    def set(self, edit: str, track: int | None, seconds: float, strength: float) -> Draft:
        """Move a slider: of a lane with keyframes the one at that instant, made if there is none; else the strength."""
        lane = self.lane(edit, track) or Lane(edit, track)
        if not lane.keyframes:
            return self._with(replace(lane, strength=strength))
        return self._with(replace(lane, keyframes=placed(lane.keyframes, seconds, strength)))

    def keyframe(self, edit: str, track: int | None, seconds: float) -> Draft:
        """Put a keyframe where the lane has its strength now, or take the one away that is there."""
        lane = self.lane(edit, track) or Lane(edit, track)
        if any(abs(at - seconds) < SAME_INSTANT for at, _ in lane.keyframes):
            left = tuple(one for one in lane.keyframes if abs(one[0] - seconds) >= SAME_INSTANT)
            return self._with(replace(lane, keyframes=left, strength=lane.at(seconds)))
        return self._with(replace(lane, keyframes=placed(lane.keyframes, seconds, lane.at(seconds))))

    def eased(self, edit: str, track: int | None, easing: Easing) -> Draft:
        lane = self.lane(edit, track)
        return self if lane is None else self._with(replace(lane, easing=easing))

    def without(self, edit: str, track: int | None) -> Draft:
        return replace(self, lanes=tuple(one for one in self.lanes if (one.edit, one.track) != (edit, track)))

    def _with(self, lane: Lane) -> Draft:
        there = self.lane(lane.edit, lane.track)
        if there is None:
            return replace(self, lanes=(*self.lanes, lane))
        return replace(self, lanes=tuple(lane if one is there else one for one in self.lanes))

    def recipe(self, base: EditRecipe | None = None) -> EditRecipe | None:
        """None where nothing is edited. base: whose clock and editors it has."""
        entries = (*self.kept, *(lane.entry() for lane in self.lanes))
        if not entries:
            return None
        if base is not None:
            return base.model_copy(update={"edits": entries})
        return EditRecipe(edits=entries)


def placed(keyframes: Sequence[tuple[float, float]], seconds: float, strength: float) -> tuple[tuple[float, float], ...]:
    """Keyframes with one more, or another strength for the one that is there."""
    others = [one for one in keyframes if abs(one[0] - seconds) >= SAME_INSTANT]
    return tuple(sorted([*others, (round(seconds, 3), strength)]))


def draft_of(recipe: EditRecipe) -> Draft:
    """Lanes of the entries that a lane can show; the others are kept as they are."""
    draft = Draft()
    for entry in recipe.edits:
        plain = entry.from_seconds is None and entry.to_seconds is None and (entry.tracks is None or len(entry.tracks) == 1)
        track = None if entry.tracks is None else entry.tracks[0]
        if not plain or draft.lane(entry.name, track) is not None:
            draft = replace(draft, kept=(*draft.kept, entry))
            continue
        keyframes = tuple((one.at_seconds, one.strength) for one in entry.keyframes)
        draft = replace(draft, lanes=(*draft.lanes, Lane(entry.name, track, entry.strength or 0.0, keyframes, entry.easing)))
    return draft


@final
class History:
    """Drafts, with undo and redo. Moves of one slider that follow each other are one step."""

    def __init__(self, draft: Draft) -> None:
        self.now = draft
        self._before: list[Draft] = []
        self._after: list[Draft] = []
        self._what: object = None

    def change(self, draft: Draft, what: object = None) -> None:
        """what: the control that was moved; None for a step of its own."""
        if draft == self.now:
            return
        if what is None or what != self._what:
            self._before.append(self.now)
        self._what, self._after, self.now = what, [], draft

    def undo(self) -> bool:
        return self._move(self._before, self._after)

    def redo(self) -> bool:
        return self._move(self._after, self._before)

    def _move(self, origin: list[Draft], target: list[Draft]) -> bool:
        if not origin:
            return False
        target.append(self.now)
        self.now, self._what = origin.pop(), None
        return True

    @property
    def can_undo(self) -> bool:
        return bool(self._before)

    @property
    def can_redo(self) -> bool:
        return bool(self._after)
