"""Edited crop + frame => frame. Pixels where the mask is 0 are the frame's own, bit for bit.

delta     frame + mask · warp(edited - reference). The frame's own detail and grain stay; no difference, no
          change: where edited equals reference the result is the frame, bit for bit.
composite frame + mask · (m · (warp(edited + L(source - reference)) - frame) + (1 - m) · warp(L(edited - reference))). Where
          the edit changed structure, m, what the model drew in the tone of the source: a mouth that `delta` would add to
          the old one takes its place. Elsewhere the frame, with the edit's change of tone, L; no difference, no change.
          Detail that is merely lost in the edited picture, as at hair and background, is not counted as structure.
          In the face, a model of 128 px and more adds its change of detail too, as `delta` does: wrinkles are detail;
          and what it draws is sharpened by as much as its reconstruction is softer than the source, or a little where the
          edited face is: the old detail goes with what it was on.
replace   frame + mask · (warp(edited) - frame). Shows exactly what the model drew, at the model's resolution.

Convention: as in `align` (TL BL BR TR, integer coordinate = pixel centre). The warp is made so that a crop
larger than the face in the frame is averaged, not sampled, and a smaller one is interpolated bicubically
(Keys, a = -0.75).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import cv2
import numpy as np

from ops.face.align import crop_face, crop_from_source, quad_height_pixels, quad_side_pixels, transform_points
from ops.face.framing import Crop
from ops.face.mask import MaskSettings, Sides, around_face, build_mask

MASK_SIZE: Final = 256  # masks are smooth: this is fine enough for any face, and independent of the model's size
GAIN_LIMITS: Final = (0.5, 2.0)  # a colour match may not do more than this to the contrast of a channel


class PasteError(ValueError):
    """A paste that cannot be made as asked. The message says what was expected and what came."""


PasteMode = Literal["delta", "composite", "replace"]
# Widths in `_composite_change`, in shares of the crop's side: finer is detail, which a model loses wherever it draws; what is
# wider is tone; how far around a changed edge is changed.
DRAWS_DETAIL: Final = 128  # side in pixels of pictures whose own detail is worth showing
DETAIL_SHARE, OWN_DETAIL_SHARE = 3 / 64, 1 / 64  # of smaller pictures, and of those
TONE_SHARE: Final = 9 / 64
EDGE_SHARE: Final = 5 / 64
STRUCTURE_FROM, STRUCTURE_TO = 0.02 * 127.5, 0.06 * 127.5  # grey levels; lower than in training: what moved at all is redrawn
SHARPENED_SHARE: Final = 1 / 256  # standard deviation of the blur whose loss is given back to what a large model draws
SHARPEN_LIMIT: Final = 1.5  # where the reconstruction is softer than the source
CRISPEN_LIMIT: Final = 0.5  # where only the edited face is, which may have a reason to
AROUND_FACTOR: Final = 3.0  # of both, beyond the face: what an edit drags along at ears, collar and background stays as it is


@dataclass(frozen=True)
class PasteSettings:
    """How an edited crop goes back into its frame."""

    mode: PasteMode = "composite"
    """delta: add only what the edit changed; composite: where it changed structure, show the generated face instead; replace:
    the generated face."""
    mask: MaskSettings = field(default_factory=MaskSettings)
    within: Literal["person", "crop"] = "person"
    """person: only where face, hair and neck are seen, so that a hand before the face and the background stay; crop: all of the
    mask."""
    color_match: bool = False
    """Scale (and, in replace, shift) each channel so that the *reconstruction* has the source crop's mean and
    spread under the mask. Measured on the reconstruction, not on the edit, so an edited hair colour survives.
    Without a reference (replace only) it is measured on the edit itself."""

    def fitted(self, crop: Crop) -> PasteSettings:
        """Fit the settings to crops of that kind: without faces the mask has no rim of one.

        Raises PasteError for a mask in the shape of a face with crops without faces.
        """
        if crop == "ffhq":
            return self
        if self.mask.kind == "face":
            raise PasteError(f"mask: 'face' needs faces, and this model's crop is {crop!r}; use 'soft'.")
        return replace(self, mask=replace(self.mask, kind="edges"), within="crop")


def paste(
    frame: np.ndarray,
    edited: np.ndarray,
    reference: np.ndarray | None,
    quad_42: np.ndarray,
    settings: PasteSettings,
    landmarks: np.ndarray | None = None,
    fade: float = 1.0,
    person: np.ndarray | None = None,
) -> np.ndarray:
    """A new frame with the edit in it; `frame` is not written to.

    frame       uint8 [H, W, 3] RGB.
    edited      float [h, w, 3] RGB in 0..255, unclipped values allowed; square for faces.
    reference   the model's reconstruction without an edit, like `edited`; needed by mode "delta". None in mode "composite": the
                model's reconstruction is the source, which then stands for it.
    quad_42     where the crop was cut.
    landmarks   [5, 2] or [68, 2] in source pixels; needed by mask kind "face".
    person      float32 [S, S] in crop space, 0..1, multiplies the mask: where the edit may show (`ops.face.person`).
    fade        0..1, multiplies the mask (at gaps, at a track's ends); 0 returns a copy of the frame.

    Raises PasteError for shapes that do not fit, crops with values that are not finite, and what is needed
    but missing.
    """
    _check(frame, edited, reference, settings, fade)
    out = frame.copy()
    window = _window(quad_42, frame.shape)
    if window is None or fade == 0.0:
        return out
    x0, y0, x1, y1 = window
    shift = np.array([[1.0, 0.0, x0], [0.0, 1.0, y0], [0.0, 0.0, 1.0]])  # source_from_window

    layer = np.asarray(edited, np.float32)
    gain, offset = np.ones(3, np.float32), np.zeros(3, np.float32)
    if settings.color_match:
        measured = layer if reference is None else np.asarray(reference, np.float32)
        gain, offset = _colour_match(frame, measured, quad_42, settings.mask, landmarks)
    size = (x1 - x0, y1 - y0)
    source = frame[y0:y1, x0:x1].astype(np.float32)
    match settings.mode:
        case "delta":
            assert reference is not None  # _check has seen to it
            change = _warp_layer((layer - np.asarray(reference, np.float32)) * gain, quad_42, shift, size)
        case "composite":
            if reference is not None:
                reference = np.asarray(reference, np.float32)
            faces = settings.mask.kind != "edges"
            change = _composite_change(frame, source, layer, reference, gain, quad_42, shift, size, faces=faces)
        case "replace":
            change = _warp_layer(layer * gain + offset, quad_42, shift, size) - source

    mask = _mask(MASK_SIZE, frame, quad_42, settings.mask, landmarks)
    if person is not None:
        mask = mask * cv2.resize(person, mask.shape, interpolation=cv2.INTER_LINEAR)
    weight = _warp_mask(mask, quad_42, shift, size, beyond_is_zero=settings.mask.kind != "edges")
    change *= _per_channel(weight * np.float32(fade))
    # The change is 0 where the weight is, and the sum is the source's own integer: no select is needed to
    # keep it. Rounds to nearest, half to even, and saturates.
    out[y0:y1, x0:x1] = cv2.add(source, change, dtype=cv2.CV_8U)
    return out


def _composite_change(
    frame: np.ndarray,
    source: np.ndarray,
    edited: np.ndarray,
    reference: np.ndarray | None,
    gain: np.ndarray,
    quad_42: np.ndarray,
    source_from_window: np.ndarray,
    wh: tuple[int, int],
    *,
    faces: bool,
) -> np.ndarray:
    """Return what mode "composite" adds to the window's pixels, float32 [h, w, 3]; `source` are those pixels.

    reference: None where the source's own crop stands for it. faces: these are FFHQ crops.
    """
    crop = None
    if reference is None:
        crop = reference = crop_face(frame, quad_42, edited.shape[:2]).astype(np.float32)
    difference = (edited - reference) * gain
    tone = _smoothed(difference, TONE_SHARE)
    side = min(edited.shape[:2])
    detailed = _smoothed(difference, OWN_DETAIL_SHARE if side >= DRAWS_DETAIL else DETAIL_SHARE)
    structure = _smoothed(np.abs(detailed - tone).mean(axis=2), EDGE_SHARE)
    around = around_face(edited.shape[0]) if faces else np.zeros(edited.shape[:2], np.float32)
    factor = 1 + (AROUND_FACTOR - 1) * around
    rest = tone + (1 - around[:, :, None]) * (difference - tone) if side >= DRAWS_DETAIL else tone
    changed = np.clip((structure / factor - STRUCTURE_FROM) / (STRUCTURE_TO - STRUCTURE_FROM), 0.0, 1.0)
    if not changed.any():
        return _warp_layer(rest, quad_42, source_from_window, wh)
    if crop is None:
        crop = crop_face(frame, quad_42, edited.shape[:2]).astype(np.float32)
    where = changed[:, :, None]
    drawn = edited if reference is crop else edited + _smoothed(crop - reference, TONE_SHARE)
    if side >= DRAWS_DETAIL:
        fine, shown = _fine(drawn), where * drawn + (1 - where) * (crop + rest)
        missing = _missing_sharpness(crop, shown, where * fine, 1 - around, CRISPEN_LIMIT)
        if reference is not crop:
            missing = max(missing, _missing_sharpness(crop, reference, _fine(reference), 1 - around, SHARPEN_LIMIT))
        drawn = drawn + missing * fine
    # One warp of what is added and, as a fourth channel, of the share of the source that goes: they move together.
    layer = _warp_layer(np.dstack([where * drawn + (1 - where) * rest, changed]), quad_42, source_from_window, wh)
    return cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB) - _per_channel(cv2.extractChannel(layer, 3)) * source


def _fine(picture: np.ndarray) -> np.ndarray:
    """Return what is finer than a 256th of the side."""
    deviation = SHARPENED_SHARE * min(picture.shape[:2])
    return picture - cv2.GaussianBlur(picture, (0, 0), deviation, borderType=cv2.BORDER_REPLICATE)


def _missing_sharpness(source: np.ndarray, soft: np.ndarray, fine: np.ndarray, weight: np.ndarray, limit: float) -> float:
    """k with which soft + k fine has the source's gradient energy under a weight, 0 to a limit.

    With g the gradients, sum w |g(r) + k g(f)|^2 = sum w |g(s)|^2 is a quadratic equation in k.
    """
    size = (MASK_SIZE, MASK_SIZE)
    s, r, f, w = (
        cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in (source.mean(2), soft.mean(2), fine.mean(2), weight)
    )
    of_s, of_r, of_f = (np.stack(np.gradient(one)) for one in (s, r, f))
    a, b, c = (float((w * one).sum()) for one in (of_f**2, of_r * of_f, of_r**2 - of_s**2))
    if a <= 0.0 or c >= 0.0:
        return 0.0
    return min((-b + math.sqrt(b * b - a * c)) / a, limit)


def _per_channel(plane: np.ndarray) -> np.ndarray:
    """[h, w] => [h, w, 3]; numpy's own broadcast over a last axis of three is several times slower than the copy."""
    return cv2.merge((plane, plane, plane))


def _smoothed(layer: np.ndarray, share: float) -> np.ndarray:
    """Box mean over `share` of the shorter side, an odd number of pixels, twice."""
    side = 2 * round((share * min(layer.shape[:2]) - 1) / 2) + 1
    for _ in range(2):
        layer = cv2.blur(layer, (side, side), borderType=cv2.BORDER_REPLICATE)
    return layer


def _window(quad_42: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """x0, y0, x1, y1 (exclusive) of the pixels whose centres the quad can reach; None outside the frame."""
    low, high = np.ceil(quad_42.min(0)).astype(int), np.floor(quad_42.max(0)).astype(int)
    x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
    x1, y1 = min(int(high[0]) + 1, shape[1]), min(int(high[1]) + 1, shape[0])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _warp_layer(layer: np.ndarray, quad_42: np.ndarray, source_from_window: np.ndarray, wh: tuple[int, int]) -> np.ndarray:
    """float32 crop => float32 [h, w, 3] on the window's pixels. Border: the outermost pixels go on."""
    height, width = layer.shape[:2]
    # Average first if the frame has fewer pixels than the crop, or fine detail would alias.
    reduced_height = min(height, max(1, math.ceil(quad_height_pixels(quad_42))))
    reduced_width = min(width, max(1, math.ceil(quad_side_pixels(quad_42))))
    if (reduced_height, reduced_width) != (height, width):
        layer = cv2.resize(layer, (reduced_width, reduced_height), interpolation=cv2.INTER_AREA)
    crop_from_window = crop_from_source(quad_42, (reduced_height, reduced_width)) @ source_from_window
    return cv2.warpAffine(
        layer,
        crop_from_window[:2],
        wh,
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _warp_mask(
    mask: np.ndarray, quad_42: np.ndarray, source_from_window: np.ndarray, wh: tuple[int, int], *, beyond_is_zero: bool
) -> np.ndarray:
    """float32 [S, S] => float32 [h, w], bilinear (never leaves 0..1); outside the crop 0, or as its outermost pixels."""
    crop_from_window = crop_from_source(quad_42, mask.shape[0]) @ source_from_window
    return cv2.warpAffine(
        mask,
        crop_from_window[:2],
        wh,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT if beyond_is_zero else cv2.BORDER_REPLICATE,
        borderValue=0.0,
    )


def _mask(
    size: int, frame: np.ndarray, quad_42: np.ndarray, settings: MaskSettings, landmarks: np.ndarray | None
) -> np.ndarray:
    points = None
    if landmarks is not None and settings.kind == "face":
        points = transform_points(crop_from_source(quad_42, size), landmarks)
    return build_mask(size, settings, points, sides_inside(frame, quad_42))


def sides_inside(frame: np.ndarray, quad_42: np.ndarray) -> Sides:
    """Return the sides of an upright quad that lie inside the frame, where a seam could show; the frame's edge has none."""
    (left, top), (right, bottom) = quad_42.min(0), quad_42.max(0)
    height, width = frame.shape[:2]
    return bool(left > 0.0), bool(top > 0.0), bool(right < width - 1.0), bool(bottom < height - 1.0)


def _colour_match(
    frame: np.ndarray,
    measured: np.ndarray,
    quad_42: np.ndarray,
    mask: MaskSettings,
    landmarks: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Per channel gain and offset, float32 [3], that give `measured` the source crop's mean and spread."""
    height, width = measured.shape[:2]
    square = _mask(max(height, width), frame, quad_42, mask, landmarks)
    shaped = square if height == width else cv2.resize(square, (width, height), interpolation=cv2.INTER_AREA)
    weight = shaped.astype(np.float64)
    weight = (weight / max(weight.sum(), 1e-12))[:, :, None]
    source = crop_face(frame, quad_42, (height, width)).astype(np.float64)

    def moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = (weight * image).sum((0, 1))
        return mean, np.sqrt((weight * (image - mean) ** 2).sum((0, 1)))

    mean_source, spread_source = moments(source)
    mean, spread = moments(measured.astype(np.float64))
    # One grey level of spread is noise: without it a flat picture would be stretched to the limit.
    gain = np.clip((spread_source + 1.0) / (spread + 1.0), *GAIN_LIMITS)
    return gain.astype(np.float32), (mean_source - gain * mean).astype(np.float32)


def _check(
    frame: np.ndarray,
    edited: np.ndarray,
    reference: np.ndarray | None,
    settings: PasteSettings,
    fade: float,
) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise PasteError(f"paste: expected a frame uint8 [H, W, 3] RGB, got {frame.dtype} {list(frame.shape)}.")
    if edited.ndim != 3 or edited.shape[2] != 3 or 0 in edited.shape:
        raise PasteError(f"paste: expected an edited crop [h, w, 3] in 0..255, got {list(edited.shape)}.")
    if settings.mode == "delta" and reference is None:
        raise PasteError("paste: mode 'delta' needs the reconstruction as reference; pass it, or use mode 'replace'.")
    if reference is not None and reference.shape != edited.shape:
        raise PasteError(f"paste: expected a reference of shape {list(edited.shape)}, got {list(reference.shape)}.")
    if not (np.isfinite(edited).all() and (reference is None or np.isfinite(reference).all())):
        raise PasteError("paste: the edited crop or its reference has values that are not finite; do not paste this frame.")
    if not 0.0 <= fade <= 1.0:
        raise PasteError(f"paste: expected a fade between 0 and 1, got {fade}.")
