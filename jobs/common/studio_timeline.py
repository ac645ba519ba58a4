"""The time line as SVG: shots, tracks with their faces, keyframes, and where one is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from markupsafe import Markup

from jobs.common.composing import Draft
from jobs.common.screen import Clip

TRACKS_DRAWN: Final = 12


def timeline(clip: Clip, draft: Draft, seconds: float, chosen: int | None, faces: Mapping[int, str]) -> str:
    """HTML: a row for shots and all-track keyframes, and one for each track. Positions are shares of the width in percent."""
    total = max(clip.duration, 1e-6)

    def share(at: float) -> str:
        return f"{100 * min(max(at / total, 0.0), 1.0):.3f}%"

    def diamonds(track: int | None) -> Markup:
        mark = Markup(
            '<button type="button" class="key{}" style="left:{}" data-at="{:.6f}" title="{} {:g} at {:.2f} s"></button>'
        )
        return Markup("").join(
            mark.format(" here" if abs(at - seconds) < 0.02 else "", share(at), at / total, lane.edit, value, at)
            for lane in draft.lanes
            if lane.track == track
            for at, value in lane.keyframes
        )

    def row(track: int | None, who: Markup, inside: Markup) -> Markup:
        kind = " chosen" if chosen == track else ""
        return Markup(
            '<div class="lane{}" data-track="{}"><button type="button" class="who">{}</button>'
            '<div class="track">{}{}</div></div>'
        ).format(kind, -1 if track is None else track, who, inside, diamonds(track))

    def bar(kind: str, first: float, last: float, title: str) -> Markup:
        # A picture's one instant has a width, too.
        width = share(max(last - first, total / 400))
        return Markup('<i class="{}" style="left:{};width:{}" title="{}"></i>').format(kind, share(first), width, title)

    shots = [bar(f"shot{' odd' if n % 2 else ''}", *shot, f"shot {n + 1}") for n, shot in enumerate(clip.shots())]
    rows = [row(None, Markup("every face"), Markup("").join(shots))]
    spans = clip.spans()
    for track in clip.codes.tracks[:TRACKS_DRAWN]:
        face = Markup('<img alt="" src="{}">').format(faces[track]) if track in faces else Markup("")
        rows.append(row(track, Markup("{}track {}").format(face, track), bar("span", *spans[track], f"track {track}")))
    left = len(clip.codes.tracks) - TRACKS_DRAWN
    more = Markup('<p class="more">and {} more tracks</p>').format(left) if left > 0 else Markup("")
    head = Markup('<div class="playhead"><i style="left:{}"></i></div>').format(share(seconds))
    return str(Markup('<div class="lanes">{}{}</div>{}').format(Markup("").join(rows), head, more))
