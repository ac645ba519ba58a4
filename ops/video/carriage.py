"""Plans what an edited video carries of its source: a plan made before the first frame, and held when the file is finished.

    contents (probe)  x  codec and container (user)  =>  Carriage: every stream, tag and property kept, converted or dropped

A plan is a function of values that travel, so the command that shows it, the worker that encodes and the one that finishes
the file make the same one. Content that a viewer would miss counts as a loss, and a source with losses is not begun unless they
are allowed; facts about the container and not the content are dropped with a note.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import av

from ops.video.contents import StreamFacts, has_alpha
from ops.video.convert import is_addable, is_rgb
from ops.video.encode import HDR_CODECS, EncodeOptions, VideoCodec, coded_size, fits_size
from ops.video.image import image_items
from ops.video.probe import SourceInfo
from ops.video.spherical import can_carry

Fate = Literal["kept", "converted", "dropped"]

SUFFIXES_OF_CODEC: dict[str, tuple[str, ...]] = {
    "libx264": (".mp4", ".mov", ".mkv"),
    "libx265": (".mp4", ".mov", ".mkv"),
    "libsvtav1": (".mp4", ".mkv", ".webm"),
    "libvpx-vp9": (".mp4", ".mkv", ".webm"),
    "ffv1": (".mkv",),
    "prores_ks": (".mov", ".mkv"),
    "qtrle": (".mov",),
}
"""Containers that hold a codec, the usual one first."""

# Written by muxers about themselves or their file; wrong once copied.
_MUXER_TAGS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate", "timecode"})
_MUXER_PREFIXES = ("_statistics", "bps", "number_of_")
# MXF's (SMPTE ST 377-1): the program that packed the file, the time, and identifiers that must be a file's own.
_MXF_TAGS = frozenset(
    {"uid", "generation_uid", "company_name", "product_name", "product_version", "product_version_num", "product_uid"}
    | {"application_platform", "toolkit_version", "toolkit_version_num", "modification_date", "material_package_umid"}
    | {"material_package_name", "file_package_umid", "file_package_name", "operational_pattern_ul", "reel_umid"}
)
_ASSUMED_RATE = frozenset({"m4v", "mjpeg", "obu", "h261", "h263"})
"""Raw streams that state no rate, of which FFmpeg shows 25 frames a second."""
# Tags that have an atom of their own in an mp4 or mov file; all others need QuickTime's list of keys and values.
_ATOM_TAGS = frozenset(
    {"title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping", "lyrics"}
    | {"description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc", "creation_time"}
)
# These encoders were made to keep two fields a frame; the others would weave them into one picture by tag.
_INTERLACED_CODECS = frozenset({"libx264", "ffv1", "prores_ks"})
_CAPTION_CODECS = frozenset({"libx264", "libx265"})
_FIELD_WORDS = {2: "top field first", 3: "bottom field first", 4: "bottom field first", 5: "top field first"}
# VP9 and HEVC encoders list formats with alpha whose alpha FFmpeg's own decoders do not give back.
_ALPHA_CODECS = frozenset({"ffv1", "prores_ks", "qtrle"})


@dataclass(frozen=True)
class Item:
    """One thing that a source has, and whether the output keeps it."""

    what: str
    fate: Fate
    how: str = ""
    """The way in which it is converted, or the reason why it is dropped."""
    loss: bool = False
    """True if a viewer would miss it, so that it needs to be allowed."""

    def __str__(self) -> str:
        return f"{self.what}: {self.fate}" + (f" ({self.how})" if self.how else "")


@dataclass(frozen=True)
class Carriage:
    """Plan for all that a source has: kept, converted or dropped."""

    suffix: str
    """The output container's suffix."""
    encode: EncodeOptions
    """Options with the pixel format, field order and codec that lose least of this source."""
    items: tuple[Item, ...] = ()
    copied: tuple[int, ...] = ()
    """Streams whose packets are copied, by their index in the source."""
    timecode: str | None = None
    """Time code, written anew by the muxer, which keeps a track of its own for it."""
    keys: bool = False
    """True if the tags need QuickTime's list of keys and values, because mp4 has no atom for some."""

    @property
    def losses(self) -> tuple[Item, ...]:
        """Items that are lost and that a viewer would miss."""
        return tuple(item for item in self.items if item.loss)


def carriage_of(info: SourceInfo, options: EncodeOptions, suffix: str) -> Carriage:
    """Plan the output of a source in a container or image format.

    `suffix`: for a video one of `SUFFIXES_OF_CODEC` of the codec that `options_for` chooses, for an image one of its formats'.
    """
    if info.kind == "image":
        return _image_carriage(info, options, suffix)
    chosen = options_for(info, options)
    contents = info.contents
    items = [*_picture_items(info, chosen)]
    copied: list[int] = []
    for stream in contents.streams:
        if stream.role == "edited":
            items.append(Item(str(stream), "converted", f"edited and encoded by {chosen.codec}"))
        elif stream.role in ("timecode", "chapters"):
            continue  # below: they are written anew
        elif suffix in stream.suffixes:
            items.append(Item(str(stream), "kept"))
            copied.append(stream.index)
        else:
            items.append(Item(str(stream), "dropped", _why_not(stream, suffix), loss=True))
    if contents.chapters:
        items.append(Item(f"{contents.chapters} chapters", "kept"))
    timecode = None
    if contents.timecode is not None:
        if suffix in contents.timecode_suffixes:
            timecode = contents.timecode
            items.append(Item(f"time code {timecode}", "kept"))
        else:
            items.append(Item(f"time code {contents.timecode}", "dropped", f"{suffix} takes none of this form and frame rate"))
    if (moved := shift_ticks(info, copied) * info.time_base) != 0:
        items.append(Item(f"clock that begins at {float(moved):.3f} s", "converted", "begins at 0, all streams moved alike"))
    if info.container in _ASSUMED_RATE:
        rate = f"a raw stream states none: {float(contents.rate or 25):g} a second are assumed"
        items.append(Item("frame times", "converted", rate))
    tags = kept_tags(dict(contents.tags))
    if tags:
        items.append(Item(f"tags {', '.join(sorted(tags))}", "kept"))
    return Carriage(
        suffix=suffix,
        encode=chosen,
        items=tuple(items),
        copied=tuple(copied),
        timecode=timecode,
        keys=suffix in (".mp4", ".mov") and any(name.lower() not in _ATOM_TAGS for name in tags),
    )


def _image_carriage(info: SourceInfo, options: EncodeOptions, suffix: str) -> Carriage:
    if info.contents.picture is None:
        return Carriage(suffix, options)
    fates: dict[str, Fate] = {"kept": "kept", "converted": "converted", "dropped": "dropped"}
    found = image_items(info.contents.picture, suffix)
    return Carriage(suffix, options, tuple(Item(what, fates[fate], how, loss) for what, fate, how, loss in found))


def shift_ticks(info: SourceInfo, copied: Sequence[int]) -> int:
    """Return the time by which all streams are moved so that the first begins at 0, in units of `info.time_base`."""
    starts = [int(info.pts[0]) * info.time_base]
    starts += [s.start for s in info.contents.streams if s.index in copied and s.start is not None and s.kind != "subtitle"]
    earliest = min(starts)
    # Sound that begins before 0 is an encoder's priming, which players leave out; only a broadcast's clock means nothing.
    if earliest < 0 and "mpeg" not in info.container:
        return 0
    return math.floor(earliest / info.time_base)


def options_for(info: SourceInfo, options: EncodeOptions) -> EncodeOptions:
    """Return the options with which a source's pictures lose least: codec (unless the user named one), format, fields."""
    codec = _codec_for(info, options)
    quality = options.quality if codec == options.codec else None
    chosen = replace(options, codec=codec, quality=quality, native=True)
    fields = info.contents.field_order if info.contents.field_order > 1 else 2
    keeps_fields = info.contents.interlaced and codec in _INTERLACED_CODECS and not options.deinterlace
    pix_fmt = options.pix_fmt
    if pix_fmt is None:
        pix_fmt = nearest_format(codec, info.pix_fmt, *coded_size(info, chosen), alpha=info.contents.alpha)
    return replace(chosen, pix_fmt=pix_fmt, field_order=fields if keeps_fields else 0)


def _codec_for(info: SourceInfo, options: EncodeOptions) -> VideoCodec:
    """Return the codec that the user named; else the first that keeps transparency, depth, colour resolution and fields."""
    if not options.codec_is_default or options.pix_fmt is not None:
        return options.codec
    alpha = info.contents.alpha
    possible: list[VideoCodec] = [options.codec, "libx265", "ffv1"]
    if alpha:
        possible = ["qtrle" if is_rgb(info.pix_fmt) and _bits(info.pix_fmt) == 8 else "prores_ks", "ffv1"]
    size = coded_size(info, replace(options, native=True))
    for codec in possible:
        lost = _format_losses(info.pix_fmt, nearest_format(codec, info.pix_fmt, *size, alpha=alpha), alpha=alpha)
        woven = info.contents.interlaced and not options.deinterlace and codec not in _INTERLACED_CODECS
        if not (lost and not _is_prores_again(info, codec, lost)) and not (woven and codec != possible[0]):
            return codec
    return possible[0]


def _is_prores_again(info: SourceInfo, codec: str, lost: Sequence[str]) -> bool:
    """Return whether ProRes is encoded as ProRes: it is decoded to 12 bits and encoded from 10, all that it keeps."""
    return info.codec == "prores" and codec == "prores_ks" and list(lost) == ["depth"]


def container_for(info: SourceInfo, options: EncodeOptions, own: str, wanted: str | None = None) -> str:
    """Return the suffix of a source's output: the wanted one, its own if that holds the codec, else the first that loses least.

    Raises `ValueError` if the wanted container does not hold the codec.
    """
    chosen = options_for(info, options)
    possible = SUFFIXES_OF_CODEC[chosen.codec]
    if wanted is not None:
        if wanted not in possible:
            raise ValueError(
                f"{info.uri}: a {wanted} file cannot hold {chosen.codec} video; use {', '.join(possible)}, or another --codec"
            )
        return wanted
    if own in possible:
        return own
    return min(possible, key=lambda suffix: len(carriage_of(info, options, suffix).losses))


def kept_tags(tags: dict[str, str]) -> dict[str, str]:
    """Return the tags that describe the content and not the file that held it."""
    is_mxf = any(k.lower() in ("operational_pattern_ul", "file_package_umid") for k in tags)
    packed = _MUXER_TAGS | (_MXF_TAGS if is_mxf else frozenset())
    return {
        k: v
        for k, v in tags.items()
        if k.lower() not in packed
        and not k.lower().startswith(_MUXER_PREFIXES)
        and not (k.lower() == "software" and v.startswith("Lavf"))  # AVI's name of the program that packed it
    }


def _why_not(stream: StreamFacts, suffix: str) -> str:
    if not stream.suffixes:
        named = "FFmpeg does not know its format" if stream.codec == "unknown" else f"no container here takes {stream.codec}"
        return f"{named}, so it cannot be copied"
    return f"a {suffix} file cannot hold it; {' and '.join(stream.suffixes)} can"


def _picture_items(info: SourceInfo, chosen: EncodeOptions) -> list[Item]:
    contents, items = info.contents, []
    assert chosen.pix_fmt is not None
    items.append(_format_item(info, chosen.codec, chosen.pix_fmt))
    if contents.coded_alpha:
        why = "FFmpeg's decoder leaves out the alpha channel that this stream keeps beside its pictures"
        items.append(Item("transparency", "dropped", why, loss=True))
    if contents.interlaced:
        words = _FIELD_WORDS.get(contents.field_order, "interlaced")
        if chosen.deinterlace:
            items.append(Item(f"fields, {words}", "converted", "deinterlaced: the second field's lines are drawn anew"))
        elif chosen.field_order:
            items.append(Item(f"fields, {words}", "kept"))
        else:
            holders = ", ".join(sorted(_INTERLACED_CODECS))
            why = f"{chosen.codec} would show both fields as one picture; {holders} keep them, --deinterlace makes one of them"
            items.append(Item(f"fields, {words}", "dropped", why, loss=True))
    if info.rotation_degrees or info.mirrored:
        mirror = ", mirrored" if info.mirrored else ""
        items.append(Item(f"rotation {info.rotation_degrees} degrees{mirror}", "kept"))
    if contents.spherical is not None or (contents.stereo is not None and contents.stereo[0]):
        named = "360° projection" if contents.spherical is not None else "stereo 3D layout"
        if can_carry(contents.spherical, contents.stereo):
            items.append(Item(named, "kept"))
        else:
            items.append(Item(named, "dropped", "no container here has words for this one", loss=True))
    if contents.captions:
        if chosen.codec in _CAPTION_CODECS:
            items.append(Item("closed captions", "kept"))
        else:
            items.append(Item("closed captions", "dropped", f"{chosen.codec} writes none; libx264 does", loss=True))
    if contents.mastering is not None or contents.light is not None:
        if chosen.codec in HDR_CODECS:
            items.append(Item("HDR mastering metadata", "kept"))
        else:
            why = f"{chosen.codec} writes none; {' and '.join(sorted(HDR_CODECS))} do"
            items.append(Item("HDR mastering metadata", "dropped", why))
    return items


def _format_item(info: SourceInfo, codec: str, made: str) -> Item:
    had = info.pix_fmt
    what = f"pixels {had}"
    if made == had:
        return Item(what, "kept")
    losses = _format_losses(had, made, alpha=info.contents.alpha)
    if not losses:
        return Item(what, "converted", f"to {made}, which holds the same")
    if _is_prores_again(info, codec, losses):
        return Item(what, "converted", f"to {made}: FFmpeg encodes ProRes from 10 bits")
    return Item(what, "converted", f"to {made}: {codec} does not keep its {' and '.join(losses)}", loss=True)


@dataclass(frozen=True)
class _Layout:
    bits: int
    alpha: bool
    rgb: bool
    chroma: tuple[int, int]
    """Pixels per sample of chroma, across and down; (0, 0) for grey."""


def _layout(pix_fmt: str) -> _Layout:
    if pix_fmt == "pal8":
        return _Layout(8, True, True, (1, 1))
    shape = av.VideoFormat(pix_fmt, 64, 64)
    if is_rgb(pix_fmt):
        chroma = (1, 1)
    elif len([c for c in shape.components if not c.is_alpha]) < 3:
        chroma = (0, 0)
    else:
        chroma = (64 // shape.chroma_width(64), 64 // shape.chroma_height(64))
    return _Layout(max(c.bits for c in shape.components), has_alpha(pix_fmt), is_rgb(pix_fmt), chroma)


def _bits(pix_fmt: str) -> int:
    return _layout(pix_fmt).bits


def _format_losses(had: str, made: str, *, alpha: bool) -> list[str]:
    """Name what `made` cannot hold of `had`."""
    old, new = _layout(had), _layout(made)
    losses = []
    if alpha and not new.alpha:
        losses.append("transparency")
    if new.bits < old.bits:
        losses.append("depth")
    if old.chroma != (0, 0) and (new.chroma == (0, 0) or new.chroma[0] > old.chroma[0] or new.chroma[1] > old.chroma[1]):
        losses.append("colour resolution")
    return losses


def nearest_format(codec: str, had: str, width: int, height: int, *, alpha: bool) -> str:
    """Return the encoder's pixel format that keeps most of `had` for pictures of this size, and adds least to it."""
    offered = [f.name for f in av.Codec(codec, "w").video_formats or ()]
    usable = [
        name
        for name in offered
        if is_addable(name)
        and fits_size(codec, name, width, height)
        and (codec in _ALPHA_CODECS or not has_alpha(name))
        and not name.startswith("nv")
        and (codec == "ffv1" or not name.startswith("gray"))  # FFmpeg's decoders give H.264 in grey back as 4:2:0
    ]
    old = _layout(had)

    def cost(name: str) -> tuple[object, ...]:
        new, lost = _layout(name), _format_losses(had, name, alpha=alpha)
        return (
            "transparency" in lost,
            "depth" in lost,
            "colour resolution" in lost,
            new.rgb != old.rgb,
            name.startswith("yuvj") != had.startswith("yuvj"),
            new.alpha and not alpha,
            abs(new.bits - old.bits),
            abs(new.chroma[0] - old.chroma[0]) + abs(new.chroma[1] - old.chroma[1]),
        )

    return had if had in usable else min(usable, key=cost)


def losing_less(info: SourceInfo, options: EncodeOptions, suffix: str) -> str | None:
    """Return another container for the same codec that loses nothing; None if there is none."""
    codec = options_for(info, options).codec
    for other in SUFFIXES_OF_CODEC[codec]:
        if other != suffix and not carriage_of(info, options, other).losses:
            return other
    return None


def refusal(info: SourceInfo, carriage: Carriage, options: EncodeOptions) -> str:
    """Return the message for a source with losses: why it is not begun, and what the user can do."""
    if info.kind == "image":
        said = "; ".join(f"{item.what} would be {item.fate} ({item.how})" for item in carriage.losses)
        keeps = [suffix for suffix in (".png", ".tif") if not carriage_of(info, options, suffix).losses]
        advice = f", or write {' or '.join(keeps)}, which keep it" if keeps else ""
        return f"{info.uri}: {said}. Allow it with --drop-unsupported{advice}"
    said = "; ".join(f"{item.what} would be {item.fate} ({item.how})" for item in carriage.losses)
    other = losing_less(info, options, carriage.suffix)
    advice = f", or write --container {other[1:]}, which loses nothing" if other is not None else ""
    return f"{info.uri}: {said}. Allow it with --drop-unsupported{advice}"
